// The search bar: words, examples and recordings as parts of one query, suggestions, history, saved searches.

import { FIRST, asks, go, state, write } from "./address.js";
import { $, button, el, icon, recall, remember, say } from "./dom.js";
import { t } from "./texts.js";

const WEIGHTS = { 0.5: "weight_little", 1: "weight_normal", 2: "weight_strong" };
const AGAINST = 0.5; // what a part that is not wanted weighs beside one that is
const SUGGESTED = 8;
const KEPT = 20; // searches of the history
const files = new Map(); // the files that parts of queries are, by number: an address cannot hold them

const words = () => $("words");
const PAUSE_MS = 200; // after a keystroke, before it is searched for
let soon = 0; // the timer of the last keystroke, until its words are searched for

function settle() {
  clearTimeout(soon);
  soon = 0;
}

// ------------------------------------------------------------------ what the service is asked

/** The body of a search; it may have a file of this page. Tags are asked for once they are known. Throws an Error that says what is missing, with `hint` where nothing is wrong yet. */
export function compose(top_k, filter) {
  if (!state.look.length) throw new Error(t("nowhere"));
  const parts = [], form = new FormData();
  if (state.q.trim()) parts.push({ text: state.q.trim() });
  state.parts.forEach((part, n) => parts.push(partOf(part, parts.length === 0, form, `file${n}`)));
  if (!parts.some(({ weight }) => weight === undefined || weight > 0)) throw Object.assign(new Error(t("only_without")), { hint: true });
  const both = state.look.includes("video") && state.look.includes("audio");
  const targets = both ? ["any", ...state.look.filter((name) => name === "text")] : state.look;
  form.append("request", JSON.stringify({ parts, targets, collection: state.collection || opened, top_k, filter, tags: tagged() }));
  return form;
}

function partOf({ sign, weight, kind, modality, value }, first, form, name) {
  const part = { weight: sign === "without" ? -AGAINST * weight : weight };
  if (sign === "then" && !first) part.then = true;
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

/** What a part is called. */
function nameOf({ kind, value }) {
  if (kind === "text") return value;
  return t("like", { name: kind === "file" ? fileName(value) : value });
}

/** The whole query in words. */
export function inWords(of) {
  const names = of.parts.map((part) => `${t(`sign_${part.sign}`)} ${nameOf(part)}`);
  const [first = ""] = of.parts.map(nameOf);
  return of.q ? [of.q, ...names].join(", ") : [first, ...names.slice(1)].join(", ");
}

// ------------------------------------------------------------------ the bar

/** Show the query that the address tells. */
export function showQuery() {
  if (!soon && words().value.trim() !== state.q.trim()) words().value = state.q; // not while somebody types
  $("chips").replaceChildren(...state.parts.map(chip));
  $("chips").hidden = !state.parts.length;
  $("clear").hidden = !asks(state);
}

function chip(part, n) {
  const change = (changes) => go({ parts: state.parts.map((other, at) => (at === n ? { ...other, ...changes } : other)) });
  const remove = () => go({ parts: state.parts.filter((_, at) => at !== n) });
  const name = nameOf(part);
  const signs = ["and", "without", "then"].map((sign) => el("option", { value: sign, selected: sign === part.sign }, t(`sign_${sign}`)));
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

/** Make the words that are typed a part of their own. */
function addWords(sign) {
  settle();
  const text = words().value.trim();
  if (!text) {
    words().focus();
    return say(t("type_first"));
  }
  words().value = "";
  go({ q: "", parts: [...state.parts, { sign, weight: 1, kind: "text", modality: "text", value: text }], item: "", t: null });
  words().focus();
}

/** Search by a file: alone, or beside what is asked for already. */
export function searchByFile(file, beside = false) {
  if (!file) return;
  const modality = file.type.startsWith("audio/") ? "audio" : "video";
  const value = `${files.size + 1}/${file.name ?? t("the_recording")}`;
  files.set(value, file);
  const part = { sign: "and", weight: 1, kind: "file", modality, value };
  const parts = beside ? [...state.parts, part] : [part];
  const look = modality === "audio" && !state.look.includes("audio") ? [...state.look, "audio"] : state.look;
  go({ q: beside ? state.q : "", parts, look, item: "", t: null });
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

/** The first of a tag's words for the same thing. */
export const plainName = (name) => name.split(/[,(]/)[0].trim();

let tags = []; // names of the tags of the collection
let tagsOf = ""; // the collection that they are of
let active = -1;

export function setTags(names, collection) {
  tags = names;
  tagsOf = collection;
}

/** Whether the collection has been tagged. The first time takes a while, and a search with tags would wait for it. */
export const tagged = () => tagsOf === collectionName();

export const saved = () => recall("saved") ?? [];
const history = () => recall("history") ?? [];

/** Keep the search that is shown under a name, or forget it. */
export function keepSearch(name, address) {
  remember("saved", [{ name, address }, ...saved().filter((other) => other.address !== address)]);
}

export const forgetSearch = (address) => remember("saved", saved().filter((other) => other.address !== address));

function noteSearch() {
  const text = words().value.trim();
  if (text) remember("history", [text, ...history().filter((other) => other !== text)].slice(0, KEPT));
}

/** What could be meant, the likeliest first: {kind, text, address?}. */
function suggestions(text) {
  const wanted = text.trim().toLowerCase();
  const fits = (name) => name.toLowerCase().includes(wanted);
  const begins = (name) => Number(!name.toLowerCase().startsWith(wanted));
  const named = tags.filter((name) => wanted && fits(name) && name.toLowerCase() !== wanted);
  named.sort((one, other) => begins(one) - begins(other));
  return [
    ...saved().filter(({ name }) => fits(name)).slice(0, 3).map(({ name, address }) => ({ kind: "saved", text: name, address })),
    ...named.slice(0, 5).map((name) => ({ kind: "tag", text: name })),
    ...history().filter((name) => fits(name) && name !== text.trim()).slice(0, wanted ? 3 : 6).map((name) => ({ kind: "history", text: name })),
  ].slice(0, SUGGESTED);
}

function showSuggestions() {
  const found = suggestions(words().value);
  active = -1;
  $("suggestions").replaceChildren(
    ...found.map(({ kind, text, address }, n) =>
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
        el("bdi", {}, text),
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
  settle();
  if (option.dataset.address) {
    window.history.pushState(null, "", option.dataset.address);
    return window.dispatchEvent(new PopStateEvent("popstate"));
  }
  words().value = option.dataset.text;
  noteSearch();
  go({ q: option.dataset.text, item: "", t: null });
}

// ------------------------------------------------------------------ what people do

/** Search for the words as they stand. A step back leads to what was there before they were typed. */
function searchWords() {
  settle();
  const text = words().value;
  if (text.trim() === state.q.trim() && !state.item) return;
  go({ q: text.trim(), item: "", t: null }, asks(state) && !state.item);
}

export function listenToQuery() {
  words().addEventListener("input", () => {
    showSuggestions();
    settle();
    soon = setTimeout(searchWords, PAUSE_MS);
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
    } else if (event.key === "Backspace" && !words().value && state.parts.length) {
      go({ parts: state.parts.slice(0, -1) });
    }
  });
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    settle();
    const chosen = $("suggestions").hidden ? null : $("suggestions").children[active];
    if (chosen) return take(chosen);
    open(false);
    noteSearch();
    const text = words().value.trim();
    if (text.startsWith("-") && text.length > 1) {
      words().value = text.slice(1);
      return addWords("without");
    }
    if (text === state.q.trim() && !state.item) go({}); // once more
    else searchWords();
  });
  $("clear").addEventListener("click", () => {
    settle();
    words().value = "";
    go({ ...FIRST, collection: state.collection, view: state.view });
    words().focus();
  });
  $("and").addEventListener("click", () => addWords("and"));
  $("without").addEventListener("click", () => addWords("without"));
  $("then").addEventListener("click", () => addWords("then"));
  $("example").addEventListener("change", (event) => {
    searchByFile(event.target.files[0], true);
    event.target.value = "";
  });
  $("record").addEventListener("click", record);
}

/** The address of the search that is shown, without what is open in it. */
export const searchAddress = () => write({ ...state, item: "", t: null });
