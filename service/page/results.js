// The list: what a search finds, or what was added last; as cards or lines, sorted, narrowed, and taken along as files.

import { asks, filterOf, follows, go, listed, partsOf, plain, state, wish, write } from "./address.js";
import { $, button, clock, el, named, say, seen, sentence, still } from "./dom.js";
import { tagsSoon } from "./library.js";
import { picture, waveform } from "./pictures.js";
import { beginSearch, collectionName, compose, endSearch, inWords, noteName, plainName, searchLike, share, tagged } from "./query.js";
import { ask, collectionPath, itemPath, request, save } from "./service.js";
import { t } from "./texts.js";

const PAGE = 24; // hits or items that are asked for at once
const MOST = 480;
const SORTED_AMONG = 96; // hits, where they are not in the order of their match
const LEAST_SHARE = 0.35; // of a hit's score, what pictures or sound contribute to be named
const LIKELY = 0.8; // how sure a best hit is that is shown without advice
const SENSES = { video: "seen", audio: "heard", text: "said" };

let run = 0; // the last list asked for; answers to earlier ones are late
let list = nothing();

function nothing() {
  return { address: null, hits: [], asked: 0, more: false, after: "", loading: false, answer: null };
}

/** The hits that are shown, as the service gave them. */
export const hits = () => list.hits;

// ------------------------------------------------------------------ asking

/** Show the list of the state, from its beginning. */
export async function showList() {
  const mine = ++run;
  list = { ...nothing(), address: listed(state), loading: true };
  if (asks(state)) beginSearch();
  if (!asks(state)) say("");
  else say(state.parts.some(({ kind }) => kind === "file") ? t("encoding") : t("searching"));
  try {
    if (asks(state)) await search(mine, state.sort ? SORTED_AMONG : PAGE);
    else await listItems(mine);
  } catch (error) {
    if (mine !== run) return;
    clear();
    say(error.message, !error.hint);
    $("english").hidden = error.code !== "bad_text";
  }
  if (mine !== run) return;
  list.loading = false;
  endSearch();
}

/** Whether the list on the page is that of the state. */
export const isShown = () => list.address === listed(state) && !list.stale;

/** Ask for hits anew that were asked for before their collection was tagged. */
export function askForTags() {
  if (list.untagged && asks(state) && !state.item) showList();
}

/** Have the list asked for anew when it is shown next. */
export const forgetList = () => (list.stale = true);

async function search(mine, top_k) {
  if (!tagged()) await tagsSoon();
  if (mine !== run) return;
  list.untagged = !tagged();
  const found = await ask("v1/search", { method: "POST", body: compose(top_k, filterOf(state)) });
  if (mine !== run) return;
  const grown = list.asked > 0;
  const before = new Set(list.hits.map(({ id }) => id));
  list.answer = found;
  list.asked = top_k;
  list.more = found.hits.length >= top_k && top_k < MOST;
  list.hits = grown ? [...list.hits, ...found.hits.filter(({ id }) => !before.has(id))] : found.hits;
  if (grown && !state.sort) append(list.hits.slice(before.size));
  else draw();
  tell(found);
}

async function listItems(mine) {
  const name = collectionName();
  const filter = filterOf(state);
  const fields = new URLSearchParams({ order: "newest", limit: PAGE });
  if (filter) fields.set("filter", JSON.stringify(filter));
  if (list.after) fields.set("after", list.after);
  const page = await ask(`${collectionPath(name)}/items?${fields}`);
  if (mine !== run) return;
  const grown = list.hits.length > 0;
  const items = page.items.map(unasked);
  list.hits.push(...items);
  list.after = page.next ?? "";
  list.more = page.next !== null;
  if (grown) append(items);
  else draw();
  $("english").hidden = $("advice").hidden = true;
  if (filter) say(countOfItems(list.hits.length));
}

/** How many items have the filters of the state. */
function countOfItems(count) {
  if (!count) return t("no_items");
  if (list.more) return t("items_so_far", { count });
  return count === 1 ? `${t("one_item")}.` : t("items_found", { count });
}

/** An item as a hit of no query. Its moments, its highlights, are not known yet. */
const unasked = (item) => ({
  ...item,
  start_s: 0,
  end_s: item.duration_s,
  target: "any",
  scores: {},
  confidence: null,
  tags: [],
  moments: null,
});

/** More of the list, when its end comes into view. */
async function goOn() {
  if (!list.more || list.loading || state.item || !isShown()) return;
  const mine = run;
  list.loading = true;
  try {
    if (asks(state)) await search(mine, Math.min(list.asked + PAGE, MOST));
    else await listItems(mine);
  } catch (error) {
    list.more = false;
    if (mine === run) say(error.message, true);
  }
  if (mine !== run) return;
  list.loading = false;
  watchEnd();
}

// ------------------------------------------------------------------ what is said of it

function tell(found) {
  const count = list.hits.length;
  const warnings = (found.warnings ?? []).map(sentence).join(" ");
  const unsure = found.good_match === false;
  const likely = list.hits.some(({ confidence }) => confidence !== null && confidence >= LIKELY);
  const match = count && unsure ? t(likely ? "likely_match" : "no_match") : "";
  const query = partsOf(state).length > 1 ? t("asked_for", { query: inWords(state) }) : "";
  say([countOfMoments(count), match, query, warnings].filter(Boolean).join(" "));
  $("english").hidden = !looksForeign(found.warnings ?? []);
  advise(!count || (unsure && !likely));
}

function countOfMoments(count) {
  if (!count) return t("no_moments");
  if (list.more) return t("moments_so_far", { count });
  return t(count === 1 ? "one_moment" : "moments", { count });
}

/** Say once more what was found, when an item is left. */
export function tellAgain() {
  if (isShown() && list.answer) tell(list.answer);
}

/** Whether a query is likely not English: it has letters of other scripts, or words that nobody knows. */
function looksForeign(warnings) {
  const text = [state.q, ...state.parts.filter(({ kind }) => kind === "text").map(({ value }) => value)].join(" ");
  return /[^\u0000-\u024f\u2000-\u206f]/u.test(text) || warnings.some((warning) => warning.includes("word"));
}

/** What to try where nothing fits. */
function advise(needed) {
  $("advice").hidden = !needed;
  if (!needed) return;
  const tries = [];
  if (filterOf(state)) {
    const none = { tags: [], kind: "", length: "", from: "", to: "", added_from: "", added_to: "", where: [] };
    tries.push(button({ onclick: () => go(none) }, t("try_no_filters")));
  }
  if (state.look.length < 3) tries.push(button({ onclick: () => go({ look: ["video", "audio", "text"] }) }, t("try_everywhere")));
  const words = state.q.trim().split(/\s+/);
  if (words.length > 2) tries.push(button({ onclick: () => go({ q: words.slice(-1)[0] }) }, t("try_fewer", { words: words.slice(-1)[0] })));
  const text = words.some(Boolean) ? t("try_plain") : t("try_these");
  $("advice").hidden = !tries.length && !words.some(Boolean);
  $("advice").replaceChildren(el("p", {}, text), el("div", { class: "row" }, tries));
}

// ------------------------------------------------------------------ drawing

function clear() {
  $("hits").replaceChildren();
  $("facets").replaceChildren();
  $("advice").hidden = true;
}

const SORTS = {
  name: (one, other) => named(one).localeCompare(named(other)),
  longest: (one, other) => other.duration_s - one.duration_s,
  shortest: (one, other) => one.duration_s - other.duration_s,
  latest: (one, other) => recorded(other).localeCompare(recorded(one)),
};
const recorded = ({ metadata }) => String(metadata.date ?? metadata.tags?.creation_time ?? metadata.tags?.date ?? "");

let before = new Map(); // what the cards showed that are drawn anew, by `depictionOf`

/** Draw the whole list, in the order and the look of the state. */
export function draw() {
  before = new Map([...document.querySelectorAll("#hits .picture")].map((media) => [media.dataset.of, media]));
  const order = SORTS[state.sort];
  const shown = order && asks(state) ? [...list.hits].sort(order) : list.hits;
  $("hits").classList.toggle("lines", state.view === "list");
  $("hits").replaceChildren(...shown.map((hit) => el("li", {}, card(hit))));
  before = new Map();
  drawFacets();
  watchEnd();
}

function append(added) {
  $("hits").append(...added.map((hit) => el("li", {}, card(hit))));
}

let watcher = null;

function watchEnd() {
  watcher?.disconnect();
  watcher = new IntersectionObserver((entries) => entries.some(({ isIntersecting }) => isIntersecting) && goOn(), { rootMargin: "600px" });
  watcher.observe($("end"));
}

/** Tags of what was found, to narrow it by. */
function drawFacets() {
  const counts = new Map();
  for (const { tags } of list.hits) {
    for (const name of new Set((tags ?? []).map(({ name }) => name))) counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const useful = [...counts].filter(([name, count]) => count > 1 && count < list.hits.length && !state.tags.includes(name));
  useful.sort(([, one], [, other]) => other - one);
  const buttons = useful.slice(0, 8).map(([name, count]) =>
    button({ class: "tag", onclick: () => go({ tags: [...state.tags, name] }) }, el("bdi", {}, plainName(name)), el("small", {}, String(count))),
  );
  $("facets").replaceChildren(...(buttons.length ? [el("span", { class: "soft" }, t("narrow")), ...buttons] : []));
}

/** What an item, or a moment of it, looks or sounds like, and why it is here. */
export function card(hit, name = collectionName()) {
  noteName(hit);
  const path = itemPath(name, hit.id);
  const place = () => ({ item: hit.id, t: hit.moments === null || hit.kind === "image" || hit.kind === "text" ? null : hit.start_s });
  const where = el("span", { class: "when" }, when(hit));
  const media = el("span", { class: "picture" });
  const cover = el("a", { class: `cover ${hit.kind}`, href: write({ ...state, ...place() }), "aria-label": label(hit) }, media, where);
  cover.addEventListener("click", (event) => {
    wish.play = plain(event) && (hit.kind === "video" || hit.kind === "audio");
    follows(place())(event);
  });
  const text = [el("h2", {}, el("bdi", {}, named(hit))), why(hit), more(hit)].filter(Boolean);
  const node = el("article", { class: "card" }, cover, text);
  fill(cover, media, where, hit, path).catch(() => {});
  preview(cover, hit, path);
  return node;
}

const label = (hit) => {
  if (hit.kind === "image" || hit.kind === "text") return t("open_item", { name: named(hit) });
  return t("play_item", { name: named(hit), time: clock(hit.start_s) });
};

/** Which stretch of an item a card is about. */
function when(hit) {
  if (hit.kind === "image" || hit.kind === "text") return t(`kind_${hit.kind}`);
  if (hit.moments === null) return clock(hit.duration_s);
  return `${clock(hit.start_s)} – ${clock(hit.end_s)}`;
}

/** By which senses a hit matches: those that contribute to its score. */
function sensesOf(hit) {
  if (hit.text) return ["text"];
  if (hit.target in SENSES) return [hit.target];
  const scores = Object.entries(hit.scores).filter(([modality]) => modality in SENSES);
  const total = scores.reduce((sum, [, score]) => sum + Math.max(score, 0), 0);
  return scores.filter(([, score]) => score >= LEAST_SHARE * total).map(([modality]) => modality);
}

/** Why a hit is here, in words: seen, heard or said, and what is there by its tags. */
function why(hit) {
  if (hit.kind === "text") return null;
  if (hit.text) return el("p", { class: "why" }, el("b", { class: "said" }, t("said")), " ", el("q", { class: "words", dir: "auto" }, hit.text));
  const asked = inWords(state).toLowerCase();
  const parts = sensesOf(hit).map((modality) => {
    const there = (hit.tags ?? []).filter((tag) => tag.modality === modality && tag.start_s < hit.end_s + 1e-6 && tag.end_s > hit.start_s - 1e-6);
    const asks = ({ name }) => Number(asked.includes(plainName(name).toLowerCase()));
    const tells = ({ name, score }) => -score * Math.log(share(plainName(name))); // rare ones tell more
    there.sort((one, other) => asks(other) - asks(one) || tells(other) - tells(one));
    const names = [...new Set(there.map(({ name }) => plainName(name)))].slice(0, 2).join(", ");
    return { modality, names };
  });
  const named = parts.filter(({ names }) => names);
  const lines = (named.length ? named : parts).map(({ modality, names }) =>
    el("span", { class: "sense" }, el("b", { class: SENSES[modality] }, t(SENSES[modality])), " ", el("bdi", {}, names || (hit.tags ? t("no_tag") : ""))),
  );
  return lines.length ? el("p", { class: "why" }, lines) : null;
}

/** What else can be done, and the numbers, for whoever wants them. */
function more(hit) {
  const shown = hit.modalities.find((modality) => modality === "video") ?? hit.modalities[0];
  const modality = hit.target === "any" || hit.text ? shown : hit.target;
  const like = button({ class: "quiet like", onclick: () => searchLike(hit.id, modality) }, t("more_like_this"));
  if (hit.moments === null) return el("div", { class: "actions" }, modality ? like : ""); // of some, nothing was encoded
  const numbers = el("dl", { class: "scores" });
  if (hit.confidence !== null) numbers.append(...measure(t("sure"), hit.confidence, `${Math.round(100 * hit.confidence)} %`));
  for (const [name, score] of Object.entries(hit.scores)) {
    if (name in SENSES) numbers.append(...measure(t(`look_${name}`), Math.max(score, 0), score.toFixed(2)));
  }
  const facts = el("p", { class: "soft" }, t(hit.moments.length === 1 ? "one_stretch" : "stretches", { count: hit.moments.length }));
  const details = el("details", {}, el("summary", {}, t("details")), numbers, facts);
  return el("div", { class: "actions" }, like, details);
}

function measure(name, value, shown) {
  const meter = el("meter", { "aria-label": name });
  meter.value = value;
  return [el("dt", {}, name), el("dd", {}, meter), el("dd", {}, shown)];
}

/** What a card shows of an item, as an address; empty where only its highlights will tell. */
function depictionOf(hit, path) {
  if (hit.kind === "text") return `${path}?text=${hit.text ?? ""}`;
  if (hit.kind === "image") return `${path}/poster`;
  if (hit.moments === null) return "";
  return hit.kind === "video" ? `${path}/poster?at_s=${(hit.start_s + hit.end_s) / 2}` : `${path}/waveform`;
}

/** Put what an item looks or sounds like into its card, when that comes into view; at once where the card before it had the same. */
async function fill(cover, media, where, hit, path) {
  media.dataset.of = depictionOf(hit, path);
  const same = media.dataset.of && before.get(media.dataset.of)?.querySelector(":scope > :not(.preview)");
  if (same) return media.append(same);
  await seen(cover);
  if (hit.kind === "text") {
    const text = hit.text ?? (await ask(path)).text ?? "";
    return media.append(el("span", { class: "excerpt", dir: "auto" }, text.slice(0, 240)));
  }
  if (hit.kind === "image") return media.append(picture(`${path}/poster`));
  if (hit.moments === null) {
    const highlights = await ask(`${path}/highlights`);
    Object.assign(hit, highlights[0], { moments: null, lit: true });
    cover.setAttribute("aria-label", label(hit));
    where.textContent = clock(hit.duration_s);
  }
  if (hit.kind === "video") media.append(picture(`${path}/poster?at_s=${(hit.start_s + hit.end_s) / 2}`));
  if (hit.kind !== "audio") return;
  const { peaks } = await ask(`${path}/waveform`).catch(() => ({ peaks: [] })); // an item that was added before there were any
  media.append(waveform(peaks));
}

// ------------------------------------------------------------------ moving previews

const REST_MS = 250; // on a card, before it moves

/** While one points at a film or reaches it by keyboard, its moment plays without sound. */
function preview(cover, hit, path) {
  if (hit.kind !== "video") return;
  let soon = 0, film = null;
  const stop = () => {
    clearTimeout(soon);
    film?.remove();
    film?.removeAttribute("src");
    film = null;
  };
  const start = () => {
    stop();
    if (still()) return;
    const mine = (film = el("video", { class: "preview", muted: true, playsinline: true, tabindex: "-1", "aria-hidden": "true" }));
    mine.muted = true;
    mine.addEventListener("error", stop); // the picture stays
    mine.addEventListener("loadedmetadata", () => (mine.currentTime = Math.min(hit.start_s, mine.duration || 0)));
    mine.addEventListener("timeupdate", () => mine.currentTime >= hit.end_s && (mine.currentTime = hit.start_s));
    if (!cover.checkVisibility()) return;
    mine.src = `${path}/media`;
    cover.querySelector(".picture").append(mine);
    mine.play().catch(() => {});
  };
  const begin = () => {
    clearTimeout(soon);
    soon = setTimeout(start, REST_MS);
  };
  cover.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && begin());
  cover.addEventListener("pointerleave", stop);
  cover.addEventListener("click", stop); // the item is opened, and its card leaves without the pointer
  cover.addEventListener("focus", () => cover.matches(":focus-visible") && begin());
  cover.addEventListener("blur", stop);
}

// ------------------------------------------------------------------ files for other programs

/** Save the hits that are shown in a format of the service: csv, json or edl. */
export async function exportHits(format) {
  const top_k = Math.max(list.asked, 1);
  say(t("exporting"));
  try {
    const answer = await request(`v1/search?format=${format}`, { method: "POST", body: compose(top_k, filterOf(state)) });
    save(await answer.blob(), `tercet-${fileStem()}.${format}`);
    say(t("exported"));
  } catch (error) {
    say(error.message, true);
  }
}

const fileStem = () => inWords(state).toLowerCase().replaceAll(/[^\p{L}\p{N}]+/gu, "-").replaceAll(/^-|-$/g, "").slice(0, 40) || "hits";

export async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    say(t("link_copied"));
  } catch {
    say(t("link_in_address"));
  }
}
