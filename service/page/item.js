// One item, at its own address: its player, its timeline, what is said and seen in it, its metadata, what is like it.

import { asks, follows, go, state, valueOf, wish, write } from "./address.js";
import { $, button, clock, el, icon, named, note, say } from "./dom.js";
import { begins, leave, loudness, original, player } from "./player.js";
import { forgetTags, readCollections } from "./library.js";
import { SPECTROGRAM_MOST_S, picture, showWhere, spectrogram, waveform } from "./pictures.js";
import { collectionName, plainName, searchLike } from "./query.js";
import { card, copyLink, forgetList, hits } from "./results.js";
import { ask, itemPath, send } from "./service.js";
import { language, t } from "./texts.js";

const LANES = 6; // tags that get a line of the timeline
const ALIKE = 8;
const UNDO_S = 8;

let shown = null; // {id, collection, node, item, seek}
const leaving = new Map(); // items that are about to be deleted: by path, the timer

/** Show the item of the state, from its second on. */
export async function openItem() {
  const collection = collectionName(), id = state.item;
  const play = wish.play;
  wish.play = false;
  if (shown?.id === id && shown.collection === collection) {
    if (state.t !== null) shown.seek?.(state.t, play);
    return;
  }
  closeItem();
  const path = itemPath(collection, id);
  const node = el("article", { class: "item" });
  shown = { id, collection, node };
  $("item").replaceChildren(back(), node);
  try {
    const item = await ask(`${path}?words=true`);
    if (shown.node !== node) return;
    draw(node, item, path, play);
  } catch (error) {
    if (shown.node === node) node.replaceChildren(el("h2", {}, id), el("p", { class: "bad" }, error.message));
  }
}

export function closeItem() {
  if (shown) leave(shown.node);
  shown = null;
  $("item").replaceChildren();
}

function back() {
  const changes = { item: "", t: null };
  const text = t(asks(state) ? "back_to_results" : "back_to_library");
  return el("a", { class: "back", href: write({ ...state, ...changes }), onclick: follows(changes) }, icon("back"), text);
}

/** Go to the item before or after this one in the list. */
export function neighbour(by) {
  const list = hits(), at = list.findIndex(({ id }) => id === state.item);
  const next = list[at + by];
  if (at >= 0 && next) go({ item: next.id, t: next.moments === null ? null : next.start_s });
}

// ------------------------------------------------------------------ drawing

function draw(node, item, path, play) {
  const hit = hits().find(({ id, moments }) => id === item.id && moments !== null) ?? null;
  const moment = hit ?? { start_s: 0, end_s: item.duration_s };
  const start_s = state.t ?? moment.start_s;
  const title = el("h2", { tabindex: "-1", class: "title" }, el("bdi", {}, named(item)));
  const media = el("div", { class: `media ${item.kind}` });
  const main = el("div", { class: "main" }, media, el("p", { class: "note", "aria-live": "polite" }));
  const side = el("div", { class: "side" });
  node.replaceChildren(el("header", {}, title, el("p", { class: "facts soft" }, facts(item))), main, side);
  document.title = `${named(item)} · Tercet`;
  title.focus({ preventScroll: true });
  say("");
  main.append(actions(node, item, hit, path));
  if (item.kind === "text") media.append(el("blockquote", { dir: "auto" }, item.text ?? ""));
  else if (item.kind === "image") drawImage(media, item, path);
  else drawPlayer(node, main, media, item, hit, path, start_s, play);
  drawWords(side, item);
  drawMetadata(side, item, path);
  drawAlike(node, item);
}

function facts(item) {
  const parts = [t(`kind_${item.kind}`)];
  if (item.duration_s) parts.push(clock(item.duration_s));
  if (item.partial) parts.push(t("partial"));
  const date = item.metadata.date ?? item.metadata.tags?.creation_time ?? item.metadata.tags?.date;
  if (typeof date === "string" || typeof date === "number") parts.push(String(date).slice(0, 10));
  if (item.added) parts.push(t("added_on", { date: new Date(item.added).toLocaleDateString(language, { dateStyle: "medium" }) }));
  return parts.join(" · ");
}

/** The picture itself, or, where the browser does not know its format, a small one. */
function drawImage(media, item, path) {
  const image = picture(`${path}/media`, named(item));
  image.addEventListener("error", () => media.append(picture(`${path}/poster`, named(item))));
  media.append(image);
}

function drawPlayer(node, main, media, item, hit, path, start_s, play) {
  const cover = button({ class: "cover", "aria-label": t("play_item", { name: named(item), time: clock(start_s) }) });
  const seek = (at, wanted = true) => {
    if (wanted) player(node, item, path, at);
  };
  shown.seek = seek;
  cover.addEventListener("click", () => seek(start_s));
  media.append(cover);
  const line = el("div", { class: "timeline", role: "group", "aria-label": t("timeline"), dir: "ltr" });
  main.append(line);
  drawTimeline(node, line, item, hit, path, seek);
  if (item.kind === "video") cover.append(picture(`${path}/poster?at_s=${hit ? (hit.start_s + hit.end_s) / 2 : start_s}`));
  media.addEventListener("timeupdate", (event) => moveHead(line, item, event.target.currentTime + begins(event.target)), true);
  if (play) seek(start_s);
}

function moveHead(line, item, at_s) {
  line.style.setProperty("--head", String(Math.min(at_s / (item.duration_s || 1), 1)));
}

// ------------------------------------------------------------------ the timeline

/** Lanes of the same time: the sound, what matches, highlights, tags. */
async function drawTimeline(node, line, item, hit, path, seek) {
  const lane = (name, kind, stretches) => {
    const track = el("div", { class: `track ${kind}` }, stretches.map((stretch) => mark(stretch, item, seek)));
    line.append(el("div", { class: "lane" }, el("span", { class: "name" }, name), track));
    return track;
  };
  if (item.modalities.includes("audio")) {
    const track = lane(t("lane_sound"), "sound", []);
    ask(`${path}/waveform`)
      .catch(() => ({ peaks: [] })) // an item that was added before there were any
      .then(({ peaks }) => {
        loudness.set(node, peaks);
        track.prepend(waveform(peaks));
        if (item.kind === "audio") node.querySelector(".cover")?.append(waveform(peaks));
      });
  }
  if (hit) lane(t("lane_matches"), "matches", hit.moments);
  const highlights = await ask(`${path}/highlights`).catch(() => []);
  const about = (stretch) => ({ ...stretch, said: stretch.why.map((why) => t(`why_${why.replaceAll(" ", "_")}`)).join(", ") });
  if (highlights.length) lane(t("lane_highlights"), "highlights", highlights.map(about));
  const tags = await tagsOf(item, path);
  const names = [...new Set(tags.map(({ name }) => name))].slice(0, LANES);
  for (const name of names) {
    const stretches = tags.filter((tag) => tag.name === name);
    lane(plainName(name), `tags ${stretches[0].modality}`, stretches.map((stretch) => ({ ...stretch, said: name })));
  }
  if (names.length) drawTags(node, names);
}

function mark(stretch, item, seek) {
  const whole = Math.max(item.duration_s, stretch.end_s, 1e-3);
  const from = clock(stretch.start_s);
  const said = stretch.said ?? stretch.text ?? "";
  const name = said ? t("play_from_what", { time: from, what: said }) : t("play_from", { time: from });
  const node = button({ "aria-label": name, title: `${from} – ${clock(stretch.end_s)}${said ? `, ${said}` : ""}`, onclick: () => jumpTo(stretch.start_s, seek) });
  node.style.setProperty("left", `${(100 * stretch.start_s) / whole}%`);
  node.style.setProperty("width", `${(100 * (stretch.end_s - stretch.start_s)) / whole}%`);
  return node;
}

/** Play from a second on, and have the address say it. */
function jumpTo(at_s, seek) {
  seek(at_s);
  if (state.t !== at_s) go({ t: at_s }, true);
}

/** Go to the match before or after the second that plays. */
export function nextMatch(by) {
  const hit = hits().find(({ id }) => id === state.item);
  if (!hit?.moments || !shown?.seek) return;
  const starts = hit.moments.map(({ start_s }) => start_s).sort((one, other) => one - other);
  const media = shown.node.querySelector("video, audio");
  const now = media ? media.currentTime + begins(media) : (state.t ?? -1);
  const at = by > 0 ? starts.find((start_s) => start_s > now + 0.5) : starts.findLast((start_s) => start_s < now - 0.5);
  if (at !== undefined) jumpTo(at, shown.seek);
}

/** An item's tags with their stretches: those of the search, or of its description. */
async function tagsOf(item, path) {
  const hit = hits().find(({ id }) => id === item.id);
  if (hit?.tags?.length) return hit.tags;
  const { sentences } = await ask(`${path}/description?limit=3`).catch(() => ({ sentences: [] }));
  return sentences.filter(({ score }) => score >= 0.5).flatMap(({ moments }) => moments);
}

function drawTags(node, names) {
  const chips = names.map((name) => button({ class: "tag", onclick: () => go({ q: plainName(name), sign: "", parts: [], tags: [], item: "", t: null }) }, plainName(name)));
  node.querySelector(".side").prepend(el("section", {}, el("h3", {}, t("in_it")), el("div", { class: "row" }, chips)));
}

// ------------------------------------------------------------------ what can be done with it

function actions(node, item, hit, path) {
  const row = el("div", { class: "actions row" });
  const moment = hit ?? { start_s: 0, end_s: item.duration_s };
  if (state.q && item.kind !== "text") {
    row.append(button({ onclick: () => showWhere(node, item, moment, path, state.q).catch((error) => note(node, error.message)) }, t("show_where")));
  }
  const sounds = item.modalities.includes("audio") && (item.kind === "audio" || item.kind === "video");
  if (sounds && item.duration_s <= SPECTROGRAM_MOST_S) row.append(spectrogramButton(node, path));
  const modality = item.modalities.includes("video") ? "video" : item.modalities[0];
  if (modality) row.append(button({ onclick: () => searchLike(item.id, modality) }, t("more_like_this")));
  row.append(button({ onclick: copyLink }, icon("link"), t("copy_link")));
  if (item.kind !== "text") row.append(downloads(item, hit, path));
  row.append(button({ class: "danger to-delete", onclick: () => remove(item, path) }, icon("delete"), t("delete")));
  return row;
}

function spectrogramButton(node, path) {
  const knob = button({ "aria-pressed": "false" }, t("spectrogram"));
  knob.addEventListener("click", async () => {
    const there = node.querySelector(".spectrogram");
    knob.setAttribute("aria-pressed", String(!there));
    if (there) return there.remove();
    note(node, t("computing"));
    try {
      const canvas = await spectrogram(path);
      if (knob.getAttribute("aria-pressed") === "true") node.querySelector(".track.sound").prepend(canvas);
      note(node, "");
    } catch (error) {
      knob.setAttribute("aria-pressed", "false");
      note(node, error.message);
    }
  });
  return knob;
}

/** What can be saved: the moment that was found, and the whole file. */
function downloads(item, hit, path) {
  const plays = item.kind === "video" || item.kind === "audio";
  const clip = `${path}/clip?start_s=${hit?.start_s}&end_s=${hit?.end_s}`;
  const moment = hit && plays ? el("a", { href: clip, download: true }, t("download_moment")) : null;
  const summary = el("summary", { class: "button" }, icon("more"), t("download"));
  return el("details", { class: "menu" }, summary, el("div", {}, moment, original(item, path)));
}

/** Delete an item, some seconds from now: until then nothing has happened, and it can be kept. */
function remove(item, path) {
  const row = el("li", { class: "undo" }, el("span", { role: "alert" }, t("deleted_soon", { name: named(item), seconds: UNDO_S })));
  const keep = () => {
    clearTimeout(leaving.get(path));
    leaving.delete(path);
    row.remove();
    say(t("kept", { name: named(item) }));
  };
  row.append(button({ onclick: keep }, t("undo")));
  $("uploads").append(row);
  leaving.set(path, setTimeout(() => deleteNow(item, path, row), 1000 * UNDO_S));
  go({ item: "", t: null });
}

async function deleteNow(item, path, row) {
  leaving.delete(path);
  try {
    await ask(path, { method: "DELETE" });
    row.remove();
    forgetList();
    forgetTags();
    await readCollections();
    if (!state.item) go({}, true);
    say(t("deleted", { name: named(item) }));
  } catch (error) {
    row.replaceChildren(`${named(item)}: ${error.message}`);
    row.classList.add("bad");
  }
}

// ------------------------------------------------------------------ words, metadata, what is alike

function drawWords(side, item) {
  if (!item.words?.length) return;
  const rows = item.words.map(({ start_s, text, kind }) =>
    el(
      "li",
      {},
      button({ class: "bare time", "aria-label": t("play_from_what", { time: clock(start_s), what: text }), onclick: () => shown.seek && jumpTo(start_s, shown.seek) }, clock(start_s)),
      el("span", { dir: "auto" }, text),
      el("small", { class: "soft" }, t(`words_${kind}`)),
    ),
  );
  side.append(el("section", {}, el("h3", {}, t("words_said")), el("ol", { class: "transcript", tabindex: "0", "aria-label": t("words_said") }, rows)));
}

/** Metadata as a table, and a form to change them. Lists and objects are shown and changed as JSON. */
function drawMetadata(side, item, path) {
  const section = el("section", { class: "metadata" });
  side.append(section);
  const show = (metadata) => {
    const rows = Object.entries(metadata).flatMap(([name, value]) => [el("dt", {}, el("bdi", {}, name)), el("dd", { dir: "auto" }, asText(value))]);
    const list = rows.length ? el("dl", {}, rows) : el("p", { class: "soft" }, t("no_metadata"));
    section.replaceChildren(el("h3", {}, t("metadata")), list, button({ class: "quiet to-add", onclick: () => edit(metadata) }, t("edit")));
  };
  const edit = (metadata) => {
    const rows = el("div", { class: "rows" }, Object.entries(metadata).map(([name, value]) => field(name, value)));
    const failure = el("p", { class: "bad", role: "alert" });
    const form = el(
      "form",
      {},
      rows,
      button({ class: "quiet", onclick: () => rows.append(field("", undefined)) }, t("add_field")),
      failure,
      el("div", { class: "row" }, el("button", { class: "strong" }, t("save")), button({ onclick: () => show(metadata) }, t("cancel"))),
    );
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        const changed = await send("PATCH", path, { metadata: readFields(rows) });
        say(t("saved"));
        show(changed.metadata);
        section.querySelector("button").focus();
      } catch (error) {
        failure.textContent = error.message;
      }
    });
    section.replaceChildren(el("h3", {}, t("metadata")), form);
    (rows.querySelector("input") ?? form.querySelector("button")).focus();
  };
  show(item.metadata);
}

const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function field(name, before) {
  const row = el("div", { class: "field-row" });
  const value = before === undefined ? "" : asText(before);
  row.append(
    el("input", { name: "name", value: name, "aria-label": t("field"), placeholder: t("field") }),
    el("input", { name: "value", value, "aria-label": t("value"), placeholder: t("value"), dir: "auto" }),
    button({ class: "bare", "aria-label": t("remove", { name: name || t("field") }), onclick: () => row.remove() }, icon("close")),
  );
  befores.set(row, before);
  return row;
}

const befores = new WeakMap(); // of a row of the form, the value it began with

function readFields(rows) {
  const found = [...rows.children].map((row) => {
    const [name, text] = ["name", "value"].map((part) => row.querySelector(`[name=${part}]`).value);
    const before = befores.get(row);
    const same = before !== undefined && text === asText(before); // a text that looks like a number stays one
    return [name.trim(), same ? before : readValue(text.trim())];
  });
  return Object.fromEntries(found.filter(([name]) => name));
}

/** Lists and objects as JSON, numbers, true, false and null as such, else a text. */
function readValue(text) {
  if (/^[[{]/.test(text)) {
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }
  return valueOf(text);
}

async function drawAlike(node, item) {
  const modality = ["video", "audio", "text"].find((name) => item.modalities.includes(name));
  if (!modality) return; // nothing of it was encoded
  const target = modality === "text" ? "text" : "any";
  const request = { parts: [{ item: item.id, modality }], targets: [target], collection: collectionName(), top_k: ALIKE + 1, tags: true };
  const found = await send("POST", "v1/search", request).catch(() => ({ hits: [] }));
  const others = found.hits.filter(({ id }) => id !== item.id).slice(0, ALIKE);
  if (!others.length || shown?.node !== node) return;
  const cards = others.map((hit) => el("li", {}, card(hit)));
  node.append(el("section", { class: "alike" }, el("h3", {}, t("similar")), el("ol", { class: "cards" }, cards)));
}
