// The search bar: words, examples and recordings as parts of one query, suggestions, history, saved searches.

import { FIRST, SIGNS, asks, go, partsOf, state, write } from "./address.js";
import { $, button, el, icon, named, recall, remember, say } from "./dom.js";
import { ask, itemPath } from "./service.js";
import { t } from "./texts.js";

const WEIGHTS = { 0.5: "weight_little", 1: "weight_normal", 2: "weight_strong" };
const AGAINST = 0.5; // what a part that is not wanted weighs beside one that is
const SUGGESTED = 8;
const RARE_SHARE = 0.001; // of a tag that is not among those that are known
const KEPT = 20; // searches of the history
const files = new Map(); // the files that parts of queries are, by number: an address cannot hold them

const words = () => $("words");
let sign = ""; // how the words count that are typed next, as in `state.sign`
const PATIENCE_MS = 500; // that typed words wait for a search under way
let searching = false; // whether a search is under way
let waiting = false; // whether words were typed meanwhile, to be searched for when it has ended

/** Note that a search begins. What is typed until it ends waits for it. */
export function beginSearch() {
  searching = true;
}

/** Note that a search has ended, and search for what was typed meanwhile. */
export function endSearch() {
  searching = false;
  if (waiting) searchWords();
}

// ------------------------------------------------------------------ what the service is asked

/** The body of a search; it may have a file of this page. Tags are asked for once they are known. Throws an Error that says what is missing, with `hint` where nothing is wrong yet. */
export function compose(top_k, filter) {
  if (!state.look.length) throw new Error(t("nowhere"));
  const form = new FormData();
  const parts = partsOf(state).map((part, n) => partOf(part, n === 0, form, `file${n}`));
  if (!parts.some(({ weight }) => weight > 0)) throw Object.assign(new Error(t("only_without")), { hint: true });
  const both = state.look.includes("video") && state.look.includes("audio");
  const targets = both ? ["any", ...state.look.filter((name) => name === "text")] : state.look;
  form.append("request", JSON.stringify({ parts, targets, collection: state.collection || opened, top_k, filter, tags: tagged() }));
  return form;
}

function partOf({ sign: as, weight, kind, modality, value }, first, form, name) {
  const part = { weight: as === "without" ? -AGAINST * weight : weight };
  if (as === "then" && !first) part.then = true;
  if (kind === "text") return { text: value, ...part };
  if (kind === "item") return { item: value, modality, ...part };
  const file = files.get(value);
  if (!file) throw new Error(t("file_missing", { name: fileName(value) }));
  form.append(name, file, fileName(value));
  return { file: name, modality, ...part };
}

let opened = "default"; // the collection that is shown where the address names none

export function setOpened(name) {
  opened = name;
}

export const collectionName = () => state.collection || opened;

const fileName = (value) => value.slice(value.indexOf("/") + 1);

const itemNames = new Map(); // what items are called, by their ids

/** Note what an item is called, for queries by it. */
export const noteName = (item) => itemNames.set(item.id, named(item));

/** Learn what the items are called that the query has, and show it. Of a link only their ids are known. */
async function learnNames() {
  const unknown = state.parts.filter(({ kind, value }) => kind === "item" && !itemNames.has(value)).map(({ value }) => value);
  if (!unknown.length) return;
  for (const id of unknown) {
    itemNames.set(id, id); // asked once
    await ask(itemPath(collectionName(), id)).then(noteName, () => {});
  }
  showQuery();
}

/** What a part is called. */
function nameOf({ kind, value }) {
  if (kind === "text") return value;
  return t("like", { name: kind === "file" ? fileName(value) : (itemNames.get(value) ?? value) });
}

/** The whole query in words. */
export function inWords(of) {
  const plain = (part, n) => n === 0 && part.sign !== "without";
  return partsOf(of)
    .map((part, n) => (plain(part, n) ? nameOf(part) : `${t(`sign_${part.sign}`)} ${nameOf(part)}`))
    .join(", ");
}

// ------------------------------------------------------------------ the bar

/** Show the query that the address tells. */
export function showQuery() {
  if (!waiting && words().value.trim() !== state.q.trim()) words().value = state.q; // not while somebody types
  if (state.q) sign = state.sign;
  else if (!state.parts.length) sign = "";
  $("chips").replaceChildren(...state.parts.map(chip));
  $("chips").hidden = !state.parts.length;
  $("clear").hidden = !asks(state);
  showSign();
  learnNames();
}

/** Say before the field how its words count, where that is not plain. */
function showSign() {
  $("sign").hidden = !sign && !state.parts.length;
  $("sign").value = sign || "and";
  words().placeholder = t(sign ? `placeholder_${sign}` : "placeholder");
}

function chip(part, n) {
  const change = (changes) => go({ parts: state.parts.map((other, at) => (at === n ? { ...other, ...changes } : other)) });
  const remove = () => go({ parts: state.parts.filter((_, at) => at !== n) });
  const name = nameOf(part);
  const signs = SIGNS.map((name) => el("option", { value: name, selected: name === part.sign }, t(`sign_${name}`)));
  const weights = Object.entries(WEIGHTS).map(([weight, said]) =>
    el("option", { value: weight, selected: Number(weight) === part.weight }, t(said)),
  );
  return el(
    "li",
    { class: `chip ${part.sign}` },
    el("select", { "aria-label": t("sign_of", { name }), onchange: (event) => change({ sign: event.target.value }) }, signs),
    el("bdi", {}, name),
    el("select", { "aria-label": t("weight_of", { name }), onchange: (event) => change({ weight: Number(event.target.value) }) }, weights),
    button({ class: "bare", "aria-label": t("remove", { name }), onclick: remove }, icon("close")),
  );
}

/** The parts of the query with the words as they stand in the field, which is empty then. */
function takeWords(as = sign) {
  waiting = false;
  const parts = partsOf({ ...state, q: words().value, sign: as });
  words().value = "";
  return parts;
}

/** Have the words that are typed next count in another way. Those that are typed already become a part as they are. */
function nextWords(as) {
  const typed = words().value.trim();
  const parts = takeWords();
  sign = as;
  if (typed) go({ q: "", sign: "", parts, item: "", t: null });
  showSign();
  words().focus();
}

/** Search by a file: alone, or beside what is asked for already. Words that are typed are shown as a part beside it. */
export function searchByFile(file, beside = false) {
  if (!file) return;
  const modality = file.type.startsWith("audio/") ? "audio" : "video";
  const value = `${files.size + 1}/${file.name ?? t("the_recording")}`;
  files.set(value, file);
  const part = { sign: "and", weight: 1, kind: "file", modality, value };
  const others = takeWords();
  sign = "";
  const parts = beside ? [...others, part] : [part];
  const look = modality === "audio" && !state.look.includes("audio") ? [...state.look, "audio"] : state.look;
  go({ q: "", sign: "", parts, look, item: "", t: null });
}

/** Search for what is like an item. */
export const searchLike = (id, modality) =>
  go({ ...FIRST, collection: state.collection, view: state.view, parts: [{ sign: "and", weight: 1, kind: "item", modality, value: id }] });

let recorder = null;

async function record() {
  const knob = $("record");
  if (recorder) return recorder.stop();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch {
    return say(t("no_microphone"), true);
  }
  const pieces = [];
  recorder = new MediaRecorder(stream);
  recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
  recorder.addEventListener("stop", () => {
    stream.getTracks().forEach((track) => track.stop());
    const kind = (recorder.mimeType || "audio/webm").split(";")[0];
    recorder = null;
    knob.setAttribute("aria-pressed", "false");
    knob.querySelector("span").textContent = t("record");
    searchByFile(new Blob(pieces, { type: kind }), true);
  });
  recorder.start();
  knob.setAttribute("aria-pressed", "true");
  knob.querySelector("span").textContent = t("record_stop");
  say(t("recording"));
}

// ------------------------------------------------------------------ suggestions

/** The first of a tag's words for the same thing, with a capital. */
export function plainName(name) {
  const first = name.split(/[,(]/)[0].trim();
  return first.charAt(0).toUpperCase() + first.slice(1);
}

let tags = []; // names of the tags of the collection
let shares = new Map(); // in which share of the items each is
let tagsOf = ""; // the collection that they are of
let active = -1;

/** Keep the tags of a collection, `{name, items}`, of so many items in all. */
export function setTags(found, items, collection) {
  shares = new Map(found.map((tag) => [plainName(tag.name), tag.items / Math.max(items, 1)]));
  tags = [...shares.keys()];
  tagsOf = collection;
}

/** In which share of the collection's items a tag is, above 0; that of a rare one is not known. */
export const share = (name) => Math.min(shares.get(name) ?? RARE_SHARE, 1);

/** Whether the collection has been tagged. The first time takes a while, and a search with tags would wait for it. */
export const tagged = () => tagsOf === collectionName();

export const saved = () => recall("saved") ?? [];
const history = () => recall("history") ?? [];

/** Keep the search that is shown under a name, or forget it. */
export function keepSearch(name, address) {
  remember("saved", [{ name, address }, ...saved().filter((other) => other.address !== address)]);
}

export const forgetSearch = (address) => remember("saved", saved().filter((other) => other.address !== address));

/** Forget what was searched for in this browser, as somebody else may come to it. */
export const forgetHistory = () => remember("history", []);

function noteSearch() {
  const text = words().value.trim();
  if (text) remember("history", [text, ...history().filter((other) => other !== text)].slice(0, KEPT));
}

/** Tags that the last word could begin, where there are others before it: {kind, text, head}. */
function lastWordSuggestions(text) {
  const last = /\S+$/.exec(text)?.[0] ?? "";
  const head = text.slice(0, text.length - last.length);
  if (last.length < 2 || !head.trim()) return [];
  const wanted = last.toLowerCase();
  const begins = (name) => name.toLowerCase().split(" ").some((word) => word.startsWith(wanted) && word !== wanted);
  const lower = (name) => (/^.[^A-Z]*$/.test(name) ? name.toLowerCase() : name);
  return tags.filter(begins).map((name) => ({ kind: "tag", text: head + lower(name), head }));
}

/** What could be meant, the likeliest first: {kind, text, address?, head?}; a `head` is words that stay as they are. */
function suggestions(text) {
  const wanted = text.trim().toLowerCase();
  const fits = (name) => name.toLowerCase().includes(wanted);
  const begins = (name) => Number(!name.toLowerCase().startsWith(wanted));
  const named = tags.filter((name) => wanted && fits(name) && name.toLowerCase() !== wanted);
  named.sort((one, other) => begins(one) - begins(other));
  return [
    ...saved().filter(({ name }) => fits(name)).slice(0, 3).map(({ name, address }) => ({ kind: "saved", text: name, address })),
    ...named.slice(0, 5).map((name) => ({ kind: "tag", text: name })),
    ...lastWordSuggestions(text).slice(0, 5),
    ...history().filter((name) => fits(name) && name !== text.trim()).slice(0, wanted ? 3 : 6).map((name) => ({ kind: "history", text: name })),
  ].slice(0, SUGGESTED);
}

function showSuggestions() {
  const found = suggestions(words().value);
  active = -1;
  $("suggestions").replaceChildren(
    ...found.map(({ kind, text, address, head = "" }, n) =>
      el(
        "li",
        {
          role: "option",
          id: `suggestion-${n}`,
          "aria-selected": "false",
          "data-text": text,
          "data-address": address,
          onpointerdown: (event) => {
            event.preventDefault(); // the words keep the focus
            take(event.currentTarget);
          },
        },
        icon(kind === "tag" ? "tag" : kind === "saved" ? "star" : "clock"),
        el("bdi", {}, head && el("span", { class: "soft" }, head), text.slice(head.length)),
        el("small", {}, t(`suggested_${kind}`)),
      ),
    ),
  );
  open(found.length > 0);
}

function open(shown) {
  $("suggestions").hidden = !shown;
  words().setAttribute("aria-expanded", String(shown));
  if (!shown) words().removeAttribute("aria-activedescendant");
}

function move(by) {
  const options = [...$("suggestions").children];
  if ($("suggestions").hidden) showSuggestions();
  if (!options.length) return;
  active = (active + by + options.length + (active < 0 && by < 0 ? 1 : 0)) % options.length;
  options.forEach((option, n) => option.setAttribute("aria-selected", String(n === active)));
  words().setAttribute("aria-activedescendant", options[active].id);
}

function take(option) {
  open(false);
  waiting = false;
  if (option.dataset.address) {
    window.history.pushState(null, "", option.dataset.address);
    return window.dispatchEvent(new PopStateEvent("popstate"));
  }
  words().value = option.dataset.text;
  noteSearch();
  go({ q: option.dataset.text, sign, item: "", t: null });
}

// ------------------------------------------------------------------ what people do

/** Search for the words as they stand. A step back leads to what was there before they were typed. */
function searchWords() {
  waiting = false;
  const text = words().value;
  if (text.trim() === state.q.trim() && !state.item) return;
  go({ q: text.trim(), sign: text.trim() ? sign : "", item: "", t: null }, asks(state) && !state.item);
}

export function listenToQuery() {
  words().addEventListener("input", () => {
    showSuggestions();
    if (!searching) return searchWords();
    waiting = true;
    setTimeout(() => waiting && searchWords(), PATIENCE_MS);
  });
  words().addEventListener("click", () => $("suggestions").hidden && showSuggestions());
  words().addEventListener("blur", () => {
    open(false);
    noteSearch();
  });
  words().addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Escape" && !$("suggestions").hidden) {
      event.preventDefault();
      event.stopPropagation();
      open(false);
    } else if (event.key === "Backspace" && !words().value && sign) {
      sign = "";
      showSign();
    } else if (event.key === "Backspace" && !words().value && state.parts.length) {
      go({ parts: state.parts.slice(0, -1) });
    }
  });
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    waiting = false;
    const chosen = $("suggestions").hidden ? null : $("suggestions").children[active];
    if (chosen) return take(chosen);
    open(false);
    noteSearch();
    const text = words().value.trim();
    if (text.startsWith("-") && text.length > 1) {
      words().value = text.slice(1);
      return go({ q: "", sign: "", parts: takeWords("without"), item: "", t: null });
    }
    if (text === state.q.trim() && !state.item) go({}); // once more
    else searchWords();
  });
  $("clear").addEventListener("click", () => {
    waiting = false;
    words().value = "";
    go({ ...FIRST, collection: state.collection, view: state.view });
    words().focus();
  });
  for (const name of SIGNS) {
    $("sign").append(new Option(t(`sign_${name}`), name));
    $(name).addEventListener("click", () => nextWords(name));
  }
  $("sign").addEventListener("change", () => {
    sign = $("sign").value;
    if (state.q) go({ sign });
    showSign();
    words().focus();
  });
  $("example").addEventListener("change", (event) => {
    searchByFile(event.target.files[0], true);
    event.target.value = "";
  });
  $("record").addEventListener("click", record);
}

/** The address of the search that is shown, without what is open in it. */
export const searchAddress = () => write({ ...state, item: "", t: null });
