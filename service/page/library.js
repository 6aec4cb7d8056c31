// The library at first sight: its collections, its tags, what to ask for, saved searches; or how to add something.

import { FIRST, asks, filterOf, follows, go, state, write } from "./address.js";
import { $, button, el, icon, say } from "./dom.js";
import { collectionName, forgetSearch, plainName, saved, setOpened, setTags } from "./query.js";
import { ask, collectionPath, send } from "./service.js";
import { t } from "./texts.js";

const TAGS = 14; // that are shown to begin with
const EXAMPLES = 5;
const MANY_SHARE = 0.04; // of the items: a tag of more of them is too general to ask for

let collections = [];
let tagged = null; // the tags of which collection are shown
let reading = null; // what is read of them, until it is
const TAGS_SOON_MS = 300; // a list waits for its tags no longer

/** Learn which collections there are, and open one. */
export async function readCollections() {
  ({ collections } = await ask("v1/collections"));
  const filled = collections.find(({ name, items }) => name === "default" && items) ?? collections.find(({ items }) => items);
  setOpened((filled ?? collections[0])?.name ?? "default");
  showCollections();
}

export function showCollections() {
  const name = collectionName();
  const known = collections.some((each) => each.name === name);
  const all = known ? collections : [...collections, { name, items: 0 }];
  $("collection").replaceChildren(...all.map((each) => new Option(`${each.name} (${each.items})`, each.name)));
  $("collection").value = name;
  const one = collections.find((each) => each.name === name);
  $("empty").hidden = Boolean(!one || one.items) || asks(state) || Boolean(state.item);
  $("collections").replaceChildren(
    ...collections.map((each) => {
      const place = { ...FIRST, collection: each.name, view: state.view };
      const link = { href: write(place), onclick: follows(place), "aria-current": each.name === name ? "true" : null, class: "tag" };
      return el("li", {}, el("a", link, el("bdi", {}, each.name), el("small", {}, t("items", { count: each.items }))));
    }),
    el("li", {}, button({ class: "quiet to-delete", onclick: makeCollection }, t("new_collection"))),
  );
}

async function makeCollection() {
  const name = prompt(t("new_collection_name"));
  if (!name) return;
  try {
    await send("POST", "v1/collections", { name });
    await readCollections();
    go({ ...FIRST, collection: name });
  } catch (error) {
    say(error.message, true);
  }
}

/** Show or hide the sections of the library: they stand where nothing is asked for. */
export function showLibrary() {
  const home = !asks(state) && !state.item && !filterOf(state);
  const one = collections.find(({ name }) => name === collectionName());
  const empty = Boolean(one && !one.items);
  $("library").hidden = !home || empty;
  $("empty").hidden = !home || !empty;
  if (home) showSaved();
  if (!empty) reading = readTags();
}

/** Wait for the tags of the collection, unless they take long. */
export const tagsSoon = () => Promise.race([reading, new Promise((over) => setTimeout(over, TAGS_SOON_MS))]);

let whenRead = () => {};

/** What to do when the tags of a collection have been read. */
export const whenTagged = (does) => (whenRead = does);

/** The tags of the collection, once: they are for suggestions, too. */
async function readTags() {
  const name = collectionName();
  if (tagged === name) return;
  tagged = name;
  if (!$("tags").children.length) $("tags").append(el("li", { class: "soft" }, t("reading_tags")));
  const { tags } = await ask(`${collectionPath(name)}/tags?limit=500`).catch(() => ({ tags: [] }));
  if (tagged !== name) return;
  const items = collections.find((one) => one.name === name)?.items ?? 0;
  setTags(tags, items, name);
  whenRead();
  $("tags-section").hidden = !tags.length;
  $("tags").replaceChildren(...tags.slice(0, TAGS).map(tagLink));
  const examples = examplesOf(tags, items);
  $("examples-section").hidden = !examples.length;
  $("examples").replaceChildren(...examples.map(exampleLink));
}

/** Have the tags read anew: the collection has changed. */
export const forgetTags = () => (tagged = null);

/** A tag leads to its items, those that show it best first. */
function tagLink({ name, items }) {
  const place = { ...FIRST, collection: state.collection, view: state.view, q: plainName(name), tags: [name] };
  const link = { class: "tag", href: write(place), onclick: follows(place) };
  return el("li", {}, el("a", link, el("bdi", {}, plainName(name)), el("small", {}, el("span", { class: "unseen" }, ", "), t(items === 1 ? "one_item" : "items", { count: items }))));
}

/** Queries that something in the library answers: of what is seen and what is heard in turn, no word twice. What much of it is tagged with says little. */
function examplesOf(tags, items) {
  const most = Math.max(MANY_SHARE * items, 2);
  const telling = tags.filter((tag) => tag.items <= most);
  const of = (modality) => telling.filter(({ modalities }) => modalities[modality]).map(({ name }) => plainName(name).toLowerCase());
  const seen = of("video"), heard = of("audio");
  const used = new Set(), found = [];
  for (let n = 0; n < telling.length && found.length < EXAMPLES; n += 1) {
    for (const name of [seen[n], heard[n]]) {
      const words = name?.split(" ") ?? [];
      if (!words.length || words.some((word) => used.has(word)) || found.length === EXAMPLES) continue;
      words.forEach((word) => used.add(word));
      found.push(name);
    }
  }
  return found;
}

function exampleLink(text) {
  const place = { ...FIRST, collection: state.collection, view: state.view, q: text };
  return el("li", {}, el("a", { class: "example", href: write(place), onclick: follows(place) }, text));
}

export function showSaved() {
  const rows = saved().map(({ name, address }) => {
    const forget = () => {
      forgetSearch(address);
      showSaved();
    };
    const remove = button({ class: "bare", "aria-label": t("remove", { name }), onclick: forget }, icon("close"));
    return el("li", { class: "pair" }, el("a", { class: "example", href: address }, el("bdi", {}, name)), remove);
  });
  $("saved").replaceChildren(...rows);
  $("saved-section").hidden = !rows.length;
}
