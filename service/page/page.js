// The search page: puts its parts together. Everything it shows comes from the HTTP contract, nothing from elsewhere.

import { FIRST, KINDS, LENGTHS, asks, follow, follows, go, listed, state } from "./address.js";
import { $, button, el, icon, recall, remember, say } from "./dom.js";
import { followJobs, listenToDrops, whenAdded } from "./imports.js";
import { forgetTags, readCollections, showCollections, showLibrary, showSaved, whenTagged } from "./library.js";
import { forgetHistory, inWords, keepSearch, listenToQuery, searchAddress, searchByFile, showQuery } from "./query.js";
import { askForTags, copyLink, draw, exportHits, forgetList, isShown, showList, tellAgain } from "./results.js";
import { ask, signOut } from "./service.js";
import { LANGUAGES, language, setLanguage, t, translate } from "./texts.js";

let items = null; // the view of one item, which is loaded when one is first opened
let scrolled = 0; // where the list was left for an item

// ------------------------------------------------------------------ showing a state

function show(now, before) {
  const leaves = before && !before.item && now.item;
  if (leaves) scrolled = window.scrollY;
  showQuery();
  showFilters();
  showCollections();
  showLibrary();
  $("item").hidden = !now.item;
  $("list").hidden = Boolean(now.item);
  $("tools").hidden = !asks(now) || Boolean(now.item);
  $("home-title").textContent = asks(now) ? t("results") : t("recent");
  $("home-title").classList.toggle("unseen", asks(now));
  if (!now.item) {
    items?.closeItem();
    document.title = asks(now) ? `${inWords(now)} · Tercet` : "Tercet";
  }
  showListOf(now, before);
  if (now.item && now.item !== before?.item) window.scrollTo({ top: 0 });
  else if (!now.item && before?.item) {
    tellAgain();
    window.scrollTo({ top: listed(now) === listed(before) ? scrolled : 0 });
  }
}

/** The list is asked for where it changes, and drawn anew where its order or look does. An item waits for it: it has its matches. */
async function showListOf(now, before) {
  const again = before && listed(before) === listed(now) && before.item === now.item && before.t === now.t;
  const looks = before && (before.view !== now.view || before.sort !== now.sort);
  if (looks && isShown() && !(now.sort && !before.sort)) draw();
  else if (!isShown() || (again && !now.item)) {
    if (!now.item) return showList();
    if (asks(now)) await showList();
  }
  if (!state.item) return;
  items ??= await import("./item.js");
  if (state.item) items.openItem();
}

// ------------------------------------------------------------------ filters

const CHOICES = ["kind", "length", "from", "to", "added_from", "added_to"]; // fields of the panel, named as in the state

/** What the chip of two dates says and takes away; none where neither is set. */
function datesChip(text, first, last) {
  const [from, to] = [state[first], state[last]];
  if (!from && !to) return [];
  return [[t(text, { from: from || "…", to: to || "…" }), { [first]: "", [last]: "" }]];
}

/** Show the filters that the address tells: as chips, and in the panel. */
function showFilters() {
  const chips = [
    ...state.tags.map((tag) => [tag, { tags: state.tags.filter((other) => other !== tag) }]),
    ...(state.kind ? [[t(`kind_${state.kind}`), { kind: "" }]] : []),
    ...(state.length ? [[t(`length_${state.length}`), { length: "" }]] : []),
    ...datesChip("recorded_when", "from", "to"),
    ...datesChip("added_when", "added_from", "added_to"),
  ].map(([name, changes]) =>
    el("li", { class: "chip" }, el("bdi", {}, name), button({ class: "bare", "aria-label": t("remove", { name }), onclick: () => go(changes) }, icon("close"))),
  );
  $("active").replaceChildren(...chips);
  $("active").hidden = !chips.length;
  for (const name of [...CHOICES, "sort"]) $(name).value = state[name];
  for (const box of document.querySelectorAll("[name=look]")) box.checked = state.look.includes(box.value);
  const rows = [...document.querySelectorAll(".condition")].map(readRow).filter(({ field }) => field);
  if (JSON.stringify(rows) !== JSON.stringify(state.where)) $("conditions").replaceChildren(...state.where.map(conditionRow));
  if (!$("conditions").children.length) $("conditions").append(conditionRow({ field: "", operator: "$eq", value: "" }));
  const count = chips.length + state.where.length;
  $("filter-count").textContent = count ? `(${count})` : "";
  $("list-view").setAttribute("aria-pressed", String(state.view === "list"));
}

function conditionRow({ field, operator, value }) {
  const row = $("condition").content.cloneNode(true).firstElementChild;
  translate(row);
  row.querySelector("[name=field]").value = field;
  row.querySelector("[name=operator]").value = operator;
  row.querySelector("[name=value]").value = value;
  row.querySelector("[name=remove]").addEventListener("click", () => {
    row.remove();
    readConditions();
  });
  return row;
}

const readRow = (row) => Object.fromEntries(["field", "operator", "value"].map((name) => [name, row.querySelector(`[name=${name}]`).value.trim()]));

function readConditions() {
  const rows = [...document.querySelectorAll(".condition")].map(readRow);
  go({ where: rows.filter(({ field }) => field), item: "", t: null });
}

function listenToFilters() {
  $("kind").append(...["", ...KINDS].map((kind) => new Option(t(kind ? `kind_${kind}` : "any_kind"), kind)));
  $("length").append(...["", ...Object.keys(LENGTHS)].map((name) => new Option(t(name ? `length_${name}` : "any_length"), name)));
  $("sort").append(...["", "name", "longest", "shortest", "latest"].map((name) => new Option(t(`sort_${name || "best"}`), name)));
  for (const name of [...CHOICES, "sort"]) $(name).addEventListener("change", () => go({ [name]: $(name).value }));
  $("filters").addEventListener("change", (event) => {
    if (event.target.name === "look") go({ look: [...document.querySelectorAll("[name=look]:checked")].map(({ value }) => value) });
    if (event.target.closest(".condition")) readConditions();
  });
  $("another").addEventListener("click", () => $("conditions").append(conditionRow({ field: "", operator: "$eq", value: "" })));
  $("filter").addEventListener("click", toggleFilters);
  $("collection").addEventListener("change", () => go({ ...FIRST, collection: $("collection").value, view: state.view }));
}

function toggleFilters() {
  const open = $("filters").hidden;
  $("filters").hidden = !open;
  $("filter").setAttribute("aria-expanded", String(open));
  if (open) $("filters").querySelector("input").focus();
}

// ------------------------------------------------------------------ tools of the list

function listenToTools() {
  $("list-view").addEventListener("click", () => go({ view: state.view === "list" ? "" : "list" }, true));
  for (const format of ["csv", "json", "edl"]) $(`export-${format}`).addEventListener("click", () => closeMenu(() => exportHits(format)));
  $("copy-link").addEventListener("click", copyLink);
  $("keep").addEventListener("click", () => {
    keepSearch(inWords(state), searchAddress());
    showSaved();
    say(t("search_saved"));
  });
}

/** Close the menus that are open, but for that in which something happens. Whether there was one. */
function closeMenus(target) {
  const open = [...document.querySelectorAll("details.menu[open]")].filter((menu) => !menu.contains(target));
  for (const menu of open) {
    if (menu.contains(document.activeElement)) menu.querySelector("summary").focus();
    menu.open = false;
  }
  return open.length > 0;
}

function closeMenu(then) {
  $("menu").open = false;
  $("menu").querySelector("summary").focus();
  then();
}

// ------------------------------------------------------------------ keyboard

const KEYS = {
  "/": () => $("words").focus(),
  f: toggleFilters,
  g: () => go({ view: state.view === "list" ? "" : "list" }, true),
  j: () => (state.item ? items?.neighbour(1) : step(1)),
  k: () => (state.item ? items?.neighbour(-1) : step(-1)),
  n: () => items?.nextMatch(1),
  p: () => items?.nextMatch(-1),
  "?": () => $("help").showModal(),
};

/** Move the focus to the next card of the list, or the one before. */
function step(by) {
  const covers = [...document.querySelectorAll("#hits .cover")];
  const at = covers.findIndex((cover) => cover.closest("li").contains(document.activeElement));
  covers[Math.max(0, Math.min(at + by, covers.length - 1))]?.focus();
}

function listenToKeys() {
  const single = $("single-keys");
  single.checked = recall("single-keys") ?? true;
  single.addEventListener("change", () => remember("single-keys", single.checked));
  window.addEventListener("keydown", (event) => {
    const types = event.target.matches("input, select, textarea, video, audio");
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key === "Escape" && closeMenus(null)) return;
    if (event.key === "Escape" && state.item && !types) return go({ item: "", t: null });
    if (types || !single.checked || !(event.key in KEYS)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  $("help-open").addEventListener("click", () => $("help").showModal());
  document.addEventListener("click", (event) => closeMenus(event.target));
}

// ------------------------------------------------------------------ to begin with

function changeLanguage(event) {
  setLanguage(event.target.value);
  location.reload();
}

/** Who is signed in, and only what they may do. */
async function showAccount() {
  const { key, role, by } = await ask("v1/session").catch(() => ({}));
  document.body.dataset.role = role ?? "";
  $("account").hidden = by !== "session";
  $("account-name").textContent = t("signed_in", { name: key ?? "" });
  remember("signed-in", by === "session");
}

async function refresh() {
  forgetTags();
  forgetList();
  await readCollections();
  if (!state.item && !asks(state)) go({}, true);
}

translate(document);
$("language").append(...Object.entries(LANGUAGES).map(([code, { name }]) => el("option", { value: code, lang: code, selected: code === language }, name)));
$("language").addEventListener("change", changeLanguage);
$("brand").addEventListener("click", (event) => follows({ ...FIRST, collection: state.collection })(event));
listenToQuery();
listenToFilters();
listenToTools();
listenToKeys();
$("sign-out").addEventListener("click", () => {
  forgetHistory();
  signOut().catch((error) => say(error.message, true));
});
$("account").hidden = !recall("signed-in"); // in its place from the start, so that nothing moves
listenToDrops(searchByFile);
whenTagged(askForTags);
let due = 0;
whenAdded(() => {
  clearTimeout(due);
  due = setTimeout(refresh, 300);
});
try {
  await readCollections();
  follow(show);
  followJobs();
} catch (error) {
  say(error.message, true);
}
document.body.classList.remove("unready");
if (!state.item) $("words").focus({ preventScroll: true });
showAccount();
