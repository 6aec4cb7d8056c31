// What the page shows, in its address: a link shows another person the same, and back and forward work.

export const FIRST = {
  collection: "", // "" is the collection that is opened by itself
  q: "", // the words
  sign: "", // how the words count: "" as the first part, else as the last one, like a sign of `parts`
  parts: [], // what else the query has: {sign, weight, kind, modality, value}
  look: ["video", "audio"], // what is searched
  tags: [],
  kind: "",
  length: "",
  from: "", // when it was recorded, as dates
  to: "",
  added_from: "", // when it was added, as dates
  added_to: "",
  where: [], // conditions on metadata: {field, operator, value}
  sort: "",
  view: "",
  item: "",
  t: null, // the second of the item
};
const TEXTS = ["collection", "q", "sign", "kind", "length", "from", "to", "added_from", "added_to", "sort", "view", "item"];
export const SIGNS = ["and", "without", "then"];
const LOOK = ["video", "audio", "text"];
const OPERATORS = ["$eq", "$ne", "$lt", "$gt", "$exists"];

/** The state that an address tells. What it does not understand it leaves out. */
export function read(search) {
  const fields = new URLSearchParams(search);
  const state = { ...FIRST };
  for (const name of TEXTS) state[name] = fields.get(name) ?? FIRST[name];
  if (!SIGNS.includes(state.sign)) state.sign = FIRST.sign;
  state.tags = fields.getAll("tag");
  state.parts = fields.getAll("part").map(readPart).filter(Boolean);
  state.where = fields.getAll("where").map(readCondition).filter(Boolean);
  const look = fields.get("look");
  if (look !== null) state.look = LOOK.filter((name) => look.split(",").includes(name));
  const second = Number(fields.get("t"));
  state.t = fields.has("t") && Number.isFinite(second) && second >= 0 ? second : null;
  return state;
}

/** The address of a state, relative to the page. */
export function write(state) {
  const fields = new URLSearchParams();
  for (const name of TEXTS) if (state[name] !== FIRST[name]) fields.set(name, state[name]);
  for (const part of state.parts) fields.append("part", [part.sign, part.weight, part.kind, part.modality, part.value].join("~"));
  if (state.look.join() !== FIRST.look.join()) fields.set("look", state.look.join());
  for (const tag of state.tags) fields.append("tag", tag);
  for (const { field, operator, value } of state.where) fields.append("where", [operator, encodeURIComponent(field), value].join("~"));
  if (state.t !== null) fields.set("t", Math.round(1000 * state.t) / 1000);
  const text = fields.toString();
  return text ? `?${text}` : "./";
}

function readPart(text) {
  const [sign, weight, kind, modality, ...value] = text.split("~");
  const known = SIGNS.includes(sign) && ["text", "item", "file"].includes(kind) && Number(weight) > 0;
  return known && value.length ? { sign, weight: Number(weight), kind, modality, value: value.join("~") } : null;
}

function readCondition(text) {
  const [operator, field, ...value] = text.split("~");
  if (!OPERATORS.includes(operator) || !value.length) return null;
  try {
    return { operator, field: decodeURIComponent(field), value: value.join("~") };
  } catch {
    return null;
  }
}

export let state = read(location.search);
let shown = () => {};

/** Show what the address says now, and each time it changes. */
export function follow(show) {
  shown = show;
  window.addEventListener("popstate", () => change(read(location.search)));
  show(state, null);
}

function change(next) {
  const before = state;
  state = next;
  shown(state, before);
}

/** Change what is shown, and the address with it. `replace` puts it in the place of the last step. */
export function go(changes, replace = false) {
  const next = { ...state, ...changes };
  const address = write(next);
  if (address === write(state)) return change(next);
  history[replace ? "replaceState" : "pushState"](history.state, "", address);
  change(next);
}

/** Whether the item that is opened next is to play: somebody asked for it by a click, not by a link. */
export const wish = { play: false };

/** A click that the page follows by itself: not one that opens a new tab. */
export const plain = (event) => !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button > 0);

/** A listener that follows a link within the page. */
export const follows = (changes) => (event) => {
  if (!plain(event)) return;
  event.preventDefault();
  go(changes);
};

/** Whether there is anything to search by. */
export const asks = (state) => Boolean(state.q.trim()) || state.parts.length > 0;

/** All parts of the query in their order, the typed words among them. */
export function partsOf({ q, sign, parts }) {
  const words = { sign: sign || "and", weight: 1, kind: "text", modality: "text", value: q.trim() };
  if (!words.value) return parts;
  return sign ? [...parts, words] : [words, ...parts];
}

/** What tells one list of items from another: all but what is open, and how the list looks. */
export const listed = (state) => write({ ...state, item: "", t: null, view: "", sort: "" });

// ------------------------------------------------------------------ filters, as the service takes them

export const LENGTHS = { moment: [0, 10], short: [10, 60], medium: [60, 600], long: [600, null] };
export const KINDS = ["video", "image", "audio", "text"];
const DATES = ["date", "tags.creation_time", "tags.date"]; // where metadata tell when something was recorded

/** The filter of a state; null where it has none. */
export function filterOf(state) {
  const wanted = state.tags.map((tag) => ({ tag }));
  if (KINDS.includes(state.kind)) wanted.push({ kind: state.kind });
  if (state.length in LENGTHS) {
    const [least, most] = LENGTHS[state.length];
    wanted.push({ duration_s: most === null ? { $gte: least } : { $gte: least, $lt: most } });
  }
  if (state.from || state.to) wanted.push({ $or: DATES.map((field) => ({ [field]: between(state.from, state.to) })) });
  if (state.added_from || state.added_to) wanted.push({ added: addedBetween(state.added_from, state.added_to) });
  wanted.push(...state.where.filter(({ field }) => field).map(condition));
  return wanted.length ? { $and: wanted } : null;
}

/** Dates are texts that begin with year, month and day. What comes on the last day begins with it. */
function between(from, to) {
  return { ...(from && { $gte: from }), ...(to && { $lte: `${to}~` }) };
}

/** From the first moment of a day here to the last of another, in UTC as the service keeps times. */
function addedBetween(from, to) {
  const after = new Date(`${to}T00:00`);
  after.setDate(after.getDate() + 1);
  return { ...(from && { $gte: inUtc(new Date(`${from}T00:00`)) }), ...(to && { $lt: inUtc(after) }) };
}

/** A time to the second, in UTC; a text that is no time stays unmatched. */
const inUtc = (date) => (Number.isNaN(date.valueOf()) ? "" : date.toISOString().replace(/\.\d+Z$/, "Z"));

function condition({ field, operator, value }) {
  if (operator === "$exists") return { [field]: { $exists: true } };
  if (operator === "$eq") return { [field]: valueOf(value) };
  if (operator === "$ne") return { $not: { [field]: valueOf(value) } };
  return { [field]: { [operator]: valueOf(value) } };
}

/** A number, true, false or null where the text is one, else the text. */
export function valueOf(text) {
  if (text === "true" || text === "false") return text === "true";
  if (text === "null") return null;
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}
