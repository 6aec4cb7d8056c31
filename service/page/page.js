// The search page. Everything it shows comes from the HTTP contract, nothing from elsewhere.

const $ = (id) => document.getElementById(id);
const words = $("words"), hits = $("hits"), status = $("status"), collection = $("collection");
const NAMES = { any: "pictures and sound", video: "pictures", audio: "sound", text: "words" };
let example = null; // what is searched by, where it is not words: {file, modality} or {item, modality}
let latest = 0; // the last search asked for; answers to earlier ones are late

// ------------------------------------------------------------------ asking

const key = () => sessionStorage.getItem("key");
const headers = () => (key() ? { Authorization: `Bearer ${key()}` } : {});
const itemPath = (name, id) => `v1/collections/${encodeURIComponent(name)}/items/${id.split("/").map(encodeURIComponent).join("/")}`;

/** The JSON of an answer. Throws an Error that says what the service says. */
async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch {
    throw new Error("The service cannot be reached.");
  }
  if (answer.status === 401) {
    await askForKey();
    return ask(path, options);
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(sentence(body.error?.message ?? answer.statusText));
  return body;
}

let keyAsked = null;

function askForKey() {
  keyAsked ??= new Promise((resolve) => {
    $("key").addEventListener(
      "close",
      () => {
        sessionStorage.setItem("key", $("key-value").value);
        keyAsked = null;
        resolve();
      },
      { once: true },
    );
    $("key").showModal();
  });
  return keyAsked;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

function say(text, bad = false) {
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

// ------------------------------------------------------------------ searching

function filter() {
  const rows = [...document.querySelectorAll(".condition")].map((row) => {
    const [field, operator, text] = ["field", "operator", "value"].map((name) => row.querySelector(`[name=${name}]`).value.trim());
    if (!field) return null;
    if (operator === "$exists") return { [field]: { $exists: true } };
    const value = valueOf(text);
    if (operator === "$eq") return { [field]: value };
    if (operator === "$ne") return { $not: { [field]: value } };
    return { [field]: { [operator]: value } };
  });
  const wanted = rows.filter(Boolean);
  return wanted.length ? { $and: wanted } : null;
}

/** A number, true, false or null where the text is one, else the text. */
function valueOf(text) {
  if (text === "true" || text === "false") return text === "true";
  if (text === "null") return null;
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

// Pictures and sound together are one target, in which both count.
function chosenTargets() {
  const chosen = [...document.querySelectorAll("[name=target]:checked")].map((box) => box.value);
  const both = chosen.includes("video") && chosen.includes("audio");
  return both ? ["any", ...chosen.filter((target) => target === "text")] : chosen;
}

async function search() {
  const mine = ++latest;
  const targets = chosenTargets();
  const text = words.value.trim();
  if (!text && !example) return overview(mine);
  if (!targets.length) return say("Choose where to look: pictures, sound or words.", true);
  const parts = text ? [{ text }] : [];
  const form = new FormData();
  if (example?.file) {
    parts.push({ file: "example", modality: example.modality });
    form.append("example", example.file, example.file.name ?? "recording");
  } else if (example) parts.push({ item: example.item, modality: example.modality });
  form.append("request", JSON.stringify({ parts, targets, collection: collection.value, top_k: 24, filter: filter() }));
  say(example?.file ? "Listening and looking …" : "Searching …");
  const began = performance.now();
  try {
    const found = await ask("v1/search", { method: "POST", body: form });
    if (mine === latest) show(found, performance.now() - began);
  } catch (error) {
    if (mine === latest) {
      hits.replaceChildren();
      say(error.message, true);
    }
  }
}

const OVERVIEW = 24; // items that are shown before anything is asked for

/** The collection's first items, each by its best highlight. */
async function overview(mine) {
  const name = collection.value;
  if (!name) return;
  try {
    const { items } = await ask(`v1/collections/${encodeURIComponent(name)}/items?limit=${OVERVIEW}`);
    if (mine !== latest) return;
    showCards(items.map(unasked), name);
    say("");
  } catch (error) {
    if (mine === latest) say(error.message, true);
  }
}

/** An item as a hit of no query. Its moments, its highlights, are not known yet. */
const unasked = (item) => ({ ...item, start_s: 0, end_s: item.duration_s, target: "any", scores: {}, confidence: null, text: null, moments: null });

function showCards(found, name) {
  converting?.abort();
  hits.querySelectorAll("video, audio").forEach((old) => {
    stopAhead(old);
    URL.revokeObjectURL(old.src);
  });
  hits.replaceChildren(...found.map((hit) => card(hit, name)));
}

function show(found, ms) {
  showCards(found.hits, found.collection);
  const by = example ? ` like ${example.name}` : "";
  const moments = `${found.hits.length} ${found.hits.length === 1 ? "moment" : "moments"}${by}, ${Math.round(ms)} ms.`;
  const warnings = (found.warnings ?? []).map((warning) => ` ${sentence(warning)}`).join("");
  if (!found.hits.length) say(`No moments found.${warnings}`);
  else if (found.good_match === false) say(`No confident match. The nearest ${moments}${warnings}`);
  else say(`${moments}${warnings}`);
}

// ------------------------------------------------------------------ a moment

const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

function card(hit, name) {
  const node = $("hit").content.cloneNode(true).firstElementChild;
  node.querySelector("h2").textContent = hit.filename || hit.id;
  node.querySelector(".when").textContent = when(hit);
  const said = node.querySelector(".said");
  said.textContent = hit.text ?? "";
  said.hidden = !hit.text;
  const scores = node.querySelector(".scores");
  if (hit.confidence !== null) scores.append(...measure("sure", hit.confidence, `${Math.round(100 * hit.confidence)} %`));
  for (const [modality, score] of Object.entries(hit.scores)) {
    scores.append(...measure(NAMES[modality], Math.max(score, 0), score.toFixed(2)));
  }
  const shown = hit.modalities.includes("video") ? "video" : "audio";
  const modality = hit.target === "any" || hit.text ? shown : hit.target;
  node.querySelector(".like").addEventListener("click", () => searchBy({ item: hit.id, modality, name: hit.id }));
  const locate = node.querySelector(".locate"), asked = words.value.trim();
  locate.hidden = !asked || Boolean(example) || hit.kind === "text" || hit.moments === null;
  locate.addEventListener("click", () => showWhere(node, hit, itemPath(name, hit.id), asked).catch((error) => note(node, error.message)));
  fill(node, hit, name).catch((error) => note(node, error.message));
  return node;
}

/** Which stretch of an item a card is about, in words. */
function when(hit) {
  if (hit.kind === "image") return "picture";
  const where = hit.target === "any" ? "" : ` in its ${NAMES[hit.target]}`;
  const why = hit.why?.length ? `, ${hit.why.join(", ")}` : "";
  return `${clock(hit.start_s)} – ${clock(hit.end_s)}${where}${why}`;
}

function measure(name, value, shown) {
  const [term, bar, said] = ["dt", "dd", "dd"].map((tag) => document.createElement(tag));
  const meter = document.createElement("meter");
  meter.value = value;
  meter.setAttribute("aria-label", name);
  term.textContent = name;
  bar.append(meter);
  said.textContent = shown;
  return [term, bar, said];
}

/** Put what an item looks or sounds like, and its timeline, into its card. Its media come when it is played. */
async function fill(node, hit, name) {
  const path = itemPath(name, hit.id);
  const place = node.querySelector(".media"), line = node.querySelector(".timeline");
  if (hit.kind === "text") {
    const quote = document.createElement("blockquote");
    place.append(quote);
    line.remove();
    await shown(node);
    quote.textContent = (await ask(path)).text;
    return;
  }
  if (hit.kind === "image") {
    line.remove();
    await shown(node);
    return place.append(await picture(`${path}/poster`, hit.filename || hit.id));
  }
  if (hit.moments === null) {
    await shown(node);
    hit.moments = await ask(`${path}/highlights`);
    Object.assign(hit, hit.moments[0]);
    node.querySelector(".when").textContent = when(hit);
  }
  const whole = Math.max(hit.duration_s, ...hit.moments.map((moment) => moment.end_s), 1e-3);
  const play = (at) => player(node, hit, path, at);
  const cover = document.createElement("button");
  cover.type = "button";
  cover.className = "cover";
  cover.setAttribute("aria-label", `Play ${hit.filename || hit.id} from ${clock(hit.start_s)}`);
  cover.addEventListener("click", () => play(hit.start_s));
  place.append(cover);
  for (const moment of hit.moments) {
    const mark = document.createElement("button");
    mark.type = "button";
    mark.setAttribute("aria-label", `Play from ${clock(moment.start_s)}`);
    mark.title = `${clock(moment.start_s)} – ${clock(moment.end_s)}, ${moment.text ?? moment.why?.join(", ") ?? moment.score.toFixed(2)}`;
    mark.style.setProperty("left", `${(100 * moment.start_s) / whole}%`);
    mark.style.setProperty("width", `${(100 * (moment.end_s - moment.start_s)) / whole}%`);
    mark.addEventListener("click", () => play(moment.start_s));
    line.append(mark);
  }
  await shown(node);
  if (hit.kind === "video") cover.append(await picture(`${path}/poster?at_s=${(hit.start_s + hit.end_s) / 2}`));
  if (!hit.modalities.includes("audio")) return;
  const { peaks } = await ask(`${path}/waveform`).catch(() => ({ peaks: [] })); // an item that was added before there were any
  loudness.set(node, peaks);
  line.prepend(waveform(peaks));
  if (hit.kind === "audio") cover.append(waveform(peaks));
}

// ------------------------------------------------------------------ where it matches

const SECONDS = 5; // about those of a window

/** Draw where words match the middle of a hit, on its picture and its timeline. */
async function showWhere(node, hit, path, query) {
  const start_s = Math.max(hit.start_s, (hit.start_s + hit.end_s - SECONDS) / 2);
  note(node, "Looking where it matches …");
  const body = JSON.stringify({ query, start_s });
  const found = await ask(`${path}/where`, { method: "POST", body, headers: { "content-type": "application/json" } });
  note(node, "");
  node.querySelectorAll(".map").forEach((old) => old.remove());
  const image = node.querySelector(".media img"), line = node.querySelector(".timeline");
  if (found.video && image && !node.querySelector("video")) {
    const middle = (found.start_s + found.end_s) / 2;
    const away = (frame) => Math.abs(frame.at_s - middle);
    const frame = found.video.frames.reduce((best, other) => (away(other) < away(best) ? other : best));
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const map = drawMap(frame.map, { left: 0, width, height, whole: width });
    map.setAttribute("preserveAspectRatio", "xMidYMid meet");
    image.parentElement.append(map);
  }
  if (found.audio && line) {
    const { times_s, map } = found.audio, step = times_s.length > 1 ? times_s[1] - times_s[0] : found.end_s - found.start_s;
    line.append(drawMap([...map].reverse(), { left: times_s[0] - step / 2, width: step * times_s.length, height: 1, whole: hit.duration_s }));
  }
}

/** Rows of scores as a shape of so many units, `whole` with what lies beside it; the highest is opaque, the mean and below clear. */
function drawMap(rows, { left, width, height, whole }) {
  const svg = document.createElementNS(SVG, "svg"), scores = rows.flat();
  const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length, most = Math.max(...scores);
  svg.setAttribute("class", "map");
  svg.setAttribute("viewBox", `0 0 ${whole} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "where it matches");
  const cell = { width: width / rows[0].length, height: height / rows.length };
  rows.forEach((row, down) =>
    row.forEach((score, across) => {
      const rect = document.createElementNS(SVG, "rect");
      const shape = { x: left + across * cell.width, y: down * cell.height, ...cell, "fill-opacity": (0.7 * Math.max(score - mean, 0)) / (most - mean || 1) };
      for (const [name, value] of Object.entries(shape)) rect.setAttribute(name, value);
      svg.append(rect);
    }),
  );
  return svg;
}

/** When a card comes into view, or nearly. */
function shown(node) {
  return new Promise((seen) => {
    const watcher = new IntersectionObserver(
      (moments) => {
        if (!moments.some((moment) => moment.isIntersecting)) return;
        watcher.disconnect();
        seen();
      },
      { rootMargin: "200px" },
    );
    watcher.observe(node);
  });
}

/** A picture; behind a key, a copy, as pictures send none. `alt` is empty where its place is named already. */
async function picture(path, alt = "") {
  const image = new Image();
  image.alt = alt;
  image.addEventListener("error", () => image.remove()); // an item that was added before there were any
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  image.src = key() ? await copyOf(path).catch(() => "") : path;
  return image;
}

const SVG = "http://www.w3.org/2000/svg";

/** Peaks, 0 to 255, as a shape that fills its place. */
function waveform(peaks) {
  const svg = document.createElementNS(SVG, "svg"), shape = document.createElementNS(SVG, "path");
  const up = peaks.map((peak, n) => `${n},${-Math.max(peak, 2)} ${n + 1},${-Math.max(peak, 2)}`);
  const down = peaks.map((peak, n) => `${n + 1},${Math.max(peak, 2)} ${n},${Math.max(peak, 2)}`).reverse();
  svg.setAttribute("viewBox", `0 -256 ${peaks.length} 512`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  shape.setAttribute("d", `M${up.join(" ")} ${down.join(" ")}Z`);
  svg.append(shape);
  return svg;
}

/** Play an item from a second on, in its card; where one asks again before it is there, from the last. */
function player(node, hit, path, at) {
  const before = node.querySelector("video, audio");
  if (before && (!before.error || versions.has(before))) {
    before.dataset.at = at;
    if (!versions.get(before)?.making && before.readyState > 0) start(node, before, hit, path);
    return;
  }
  const media = document.createElement(hit.kind === "video" ? "video" : "audio");
  const still = node.querySelector(".cover img");
  media.controls = true;
  media.dataset.at = at;
  media.setAttribute("aria-label", node.querySelector("h2").textContent);
  media.addEventListener("play", () => document.querySelectorAll("video, audio").forEach((other) => other !== media && other.pause()));
  media.addEventListener("loadedmetadata", () => loaded(node, media, hit, path, still));
  media.addEventListener("error", () => failed(node, media, hit, path, still));
  media.addEventListener("timeupdate", () => checkSound(node, media, hit, path));
  media.addEventListener("timeupdate", () => lookAhead(media, hit, path));
  media.addEventListener("pause", () => stopAhead(media));
  media.addEventListener("ended", () => goOn(node, media, hit, path));
  if (before) before.replaceWith(media);
  else if (hit.kind === "video") node.querySelector(".media").replaceChildren(media);
  else node.querySelector(".media").append(media);
  load(node, media, path);
}

async function load(node, media, path) {
  note(node, "");
  try {
    media.src = await addressOf(path);
  } catch (error) {
    note(node, error.message);
  }
}

/** Where an item's media lie, or another part of it; behind a key by a link that opens it for a while, as players send none. */
async function addressOf(path, part = "media") {
  return key() ? (await ask(`${path}/link`, { method: "POST" }))[part] : `${path}/${part}`;
}

/** Go to the second that was asked for, in what is loaded or in the converted stretch that has it. */
function start(node, media, hit, path) {
  const at = Number(media.dataset.at), version = versions.get(media);
  if (version && !(at >= version.begins && at < version.ends)) convert(node, media, hit, path, version);
  else jump(node, media, at - begins(media));
}

/** Browsers guess where the seconds of an MP3 without a table are by its first bytes: it gets a table. */
async function loaded(node, media, hit, path, still) {
  const converted = versions.has(media);
  const wrong = Math.abs(media.duration - hit.duration_s) > Math.max(0.5, 0.005 * hit.duration_s);
  if (hit.kind === "audio" && wrong && !converted && !media.src.startsWith("blob:")) {
    note(node, "Loading the whole file, as it has no time index …");
    const whole = await withTable(media.src).catch(() => null);
    note(node, "");
    if (whole) {
      media.src = URL.createObjectURL(whole);
      return;
    }
  }
  if (hit.kind === "video" && media.videoWidth === 0) {
    const why = { cannot: `show the pictures of ${named(hit)}`, still: "only its sound plays", verb: "watch" };
    if (!converted) return convert(node, media, hit, path, why);
    if (still) media.before(still);
  }
  media.focus();
  start(node, media, hit, path);
}

async function withTable(address) {
  const { indexed } = await import("./seekable.js");
  const answer = await fetch(address), kind = answer.headers.get("content-type");
  if (answer.ok && (kind === "audio/mpeg" || kind === "application/octet-stream")) return indexed(await answer.arrayBuffer());
  await answer.body.cancel();
  return null;
}

const named = (hit) => hit.filename || hit.id;

/** Why it does not play. A link that has ended is followed by another. */
async function failed(node, media, hit, path, still) {
  const own = media.src.startsWith("blob:"), version = versions.get(media);
  if (version?.making) return;
  const answer = own ? null : await fetch(media.src, { method: "HEAD" }).catch(() => null);
  if (!own && !answer) note(node, "The service cannot be reached.");
  else if (answer?.status === 401) {
    if (media.currentTime) media.dataset.at = media.currentTime + begins(media);
    if (version) convert(node, media, hit, path, version);
    else load(node, media, path);
  } else if (!own && !answer.ok) note(node, `Loading failed: ${answer.status}.`);
  else if (!version) {
    if (still) media.before(still);
    convert(node, media, hit, path, { cannot: `play ${named(hit)}`, still: "", verb: "open", picture: still });
  } else {
    versions.delete(media);
    media.controls = false;
    if (still) media.before(still);
    note(node, `This browser can play neither ${named(hit)} nor a version that was made for it.`, original(hit, path, "open"));
  }
}

/** A browser plays a film whose sound it cannot decode without a word: it shows once a second has been played, in which there is sound. */
function checkSound(node, media, hit, path) {
  if (hit.kind !== "video" || media.videoWidth === 0 || !hit.modalities.includes("audio") || !media.played.length) return;
  if (media.dataset.unheard || versions.has(media)) return;
  const unheard = media.mozHasAudio === false || media.webkitAudioDecodedByteCount === 0;
  const from = media.played.start(0), now = media.currentTime;
  if (!unheard || now - from < 1 || !sounds(node, hit, from, now)) return;
  media.dataset.unheard = "yes";
  media.dataset.at = now;
  convert(node, media, hit, path, { cannot: `play the sound of ${named(hit)}`, still: "only its pictures show", verb: "hear" });
}

/** Whether there is any sound in a stretch of an item; true where that is not known. */
function sounds(node, hit, from, to) {
  const peaks = loudness.get(node) ?? [];
  const [first, end] = [from, to].map((s) => Math.floor((s / hit.duration_s) * peaks.length));
  return !peaks.length || peaks.slice(first, end).some((peak) => peak > 0);
}

// ------------------------------------------------------------------ versions for browsers

const loudness = new WeakMap(); // of a card, the peaks of its item
const versions = new WeakMap(); // of a player, the converted stretch that it plays, and why: see `convert`

/** Where what a player has begins, in the item's seconds. */
const begins = (media) => versions.get(media)?.begins ?? 0;

let converting = null; // what stops the conversion that is waited for: one at a time

/** Have the service convert an item, from the second asked for on, and play that. `why` says what this browser cannot do
with the original (`cannot`), what it does instead (`still`), and what another player is good for (`verb`). */
async function convert(node, media, hit, path, why) {
  const { cannot, still, verb, picture } = why;
  const at = Number(media.dataset.at), rest = original(hit, path, verb);
  const playing = media.readyState > 0 && !media.paused;
  converting?.abort();
  const mine = (converting = new AbortController());
  versions.set(media, { ...why, begins: begins(media), making: true });
  note(node, `This browser cannot ${cannot}. It is being converted …`, rest);
  try {
    const version = await converted(path, at, mine.signal);
    if (!media.isConnected) return;
    const now = media.currentTime + begins(media); // it has gone on meanwhile
    if (playing && Number(media.dataset.at) === at && now < version.ends) media.dataset.at = now;
    const said = [`This browser cannot ${cannot}. A converted version plays.`, rest];
    versions.set(media, { ...why, begins: version.begins, ends: version.ends, said });
    picture?.remove();
    media.src = version.address;
    settle(node, media);
  } catch (error) {
    versions.delete(media);
    if (mine.signal.aborted) return note(node, "");
    const instead = still ? `; ${still}` : "";
    note(node, `This browser cannot ${cannot}${instead}. It could not be converted: ${sentence(error.message)}`, rest);
    if (!still) media.controls = false;
    else if (!playing) start(node, media, hit, path);
  }
}

/** The address of a version that browsers play and that has a second, once it is there; and where it begins and ends. */
async function converted(path, at, signal) {
  const address = new URL(await addressOf(path, "playable"), document.baseURI);
  address.searchParams.set("start_s", at);
  const answer = await fetch(address, { headers: { Range: "bytes=0-0" }, signal });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const [first, ends] = ["start", "end"].map((name) => Number(answer.headers.get(`tercet-${name}-s`)));
  return { address, begins: first, ends };
}

const AHEAD = 0.25; // how much of a stretch is played before the next one is asked for

/** Have the next stretch of a long item converted while this one plays; given up where it is stopped. */
function lookAhead(media, hit, path) {
  const version = versions.get(media);
  if (!version || version.making || version.ahead || version.ends >= hit.duration_s || media.paused) return;
  if (media.currentTime < AHEAD * (version.ends - version.begins)) return;
  version.ahead = new AbortController();
  converted(path, version.ends, version.ahead.signal).catch(() => {});
}

function stopAhead(media) {
  const version = versions.get(media);
  if (!version?.ahead || media.ended) return;
  version.ahead.abort();
  version.ahead = null;
}

/** Where a converted stretch of a long item ends, the next one follows. */
function goOn(node, media, hit, path) {
  const version = versions.get(media);
  if (!version || version.making || version.ends >= hit.duration_s) return;
  media.dataset.at = version.ends;
  convert(node, media, hit, path, version);
}

/** Say what there is to say of a player that plays. */
const settle = (node, media) => note(node, ...(versions.get(media)?.said ?? [""]));

/** Say something in a card below its times. */
function note(node, text, ...more) {
  node.querySelector(".note").replaceChildren(text && ` ${text}`, ...more);
}

/** A link to an item's own file, renewed when it is followed: behind a key it does not stay open. */
function original(hit, path, verb) {
  const link = document.createElement("a"), said = document.createElement("span");
  link.textContent = "Download the original";
  link.download = named(hit);
  link.href = `${path}/media`;
  const renew = () => addressOf(path).then((address) => (link.href = address));
  let fresh = !key();
  link.addEventListener("click", async (event) => {
    if (fresh) return;
    event.preventDefault();
    await renew();
    fresh = true;
    link.click();
    fresh = false;
  });
  if (key()) renew();
  said.append(" ", link, ` to ${verb} it in another player.`);
  return said;
}

const jumps = new WeakMap(); // of a player, the jump under way

/** How far a player knows its media, in seconds. */
function known(media) {
  const ends = [media.buffered, media.seekable].map((ranges) => (ranges.length ? ranges.end(ranges.length - 1) : 0));
  return Math.max(...[...ends, media.duration].filter(Number.isFinite), 0);
}

/** Play from a second on. Of a file that tells no length, Firefox takes what has come for the whole and ends a jump
there: it is repeated as more comes, until it is reached, nothing more comes, or somebody goes elsewhere. */
function jump(node, media, at) {
  jumps.get(media)?.abort();
  const ended = new AbortController();
  jumps.set(media, ended);
  const on = (name, does) => media.addEventListener(name, does, { signal: ended.signal });
  let tried = 0, own = 0, patience = 0, waiting = false;
  const go = () => {
    tried = known(media);
    own += 1;
    media.currentTime = at;
  };
  const play = (text) => {
    ended.abort();
    if (text) note(node, text);
    if (!media.ended) media.play().catch(() => {}); // it was stopped before it began
  };
  const look = () => {
    clearTimeout(patience);
    if (media.seeking || media.error) return;
    if (media.currentTime > at - 0.25) return play("");
    waiting = true;
    note(node, `Loading up to ${clock(at + begins(media))}: the file does not state its length …`);
    const idle = media.networkState !== HTMLMediaElement.NETWORK_LOADING;
    if (known(media) > tried && (idle || known(media) >= at)) go();
    else if (idle) patience = setTimeout(() => play(`Playback cannot go beyond ${clock(media.currentTime + begins(media))}.`), 3000);
  };
  ended.signal.addEventListener("abort", () => {
    clearTimeout(patience);
    if (waiting) settle(node, media);
  });
  for (const name of ["seeked", "progress", "durationchange", "canplay", "suspend"]) on(name, look);
  on("seeking", () => {
    if (own === 0) ended.abort();
    else own -= 1;
  });
  media.pause();
  go();
}

/** What lies there as an address of this page's own. Throws an Error that says what the service says. */
async function copyOf(path) {
  const answer = await fetch(path, { headers: headers() }).catch(() => null);
  if (!answer?.ok) throw new Error(answer ? `Loading failed: ${answer.status}.` : "The service cannot be reached.");
  return URL.createObjectURL(await answer.blob());
}

// ------------------------------------------------------------------ examples, recordings, additions

const modalityOf = (file) => (file.type.startsWith("audio/") ? "audio" : "video");

function searchBy(by) {
  example = by;
  words.value = "";
  if (by.file && by.modality === "audio") document.querySelector("[name=target][value=audio]").checked = true;
  window.scrollTo({ top: 0 });
  search();
}

function searchByFile(file) {
  if (file) searchBy({ file, modality: modalityOf(file), name: file.name ?? "the recording" });
}

let recorder = null;

async function record() {
  const button = $("record");
  if (recorder) return recorder.stop();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch {
    return say("The microphone is not available. Allow it in the browser.", true);
  }
  const pieces = [];
  recorder = new MediaRecorder(stream);
  recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
  recorder.addEventListener("stop", () => {
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    button.setAttribute("aria-pressed", "false");
    button.textContent = "By a recording";
    searchByFile(new Blob(pieces, { type: "audio/webm" }));
  });
  recorder.start();
  button.setAttribute("aria-pressed", "true");
  button.textContent = "Stop, and search";
  say("Recording …");
}

const TOGETHER = 2; // files that are sent at once
const AGAIN_S = 60; // a service that is busy for longer is not waited for

/** Do something with each, a few at once. */
function inTurn(things, work) {
  const rest = things.values();
  const worker = async () => {
    for (const thing of rest) await work(thing);
  };
  return Promise.all(Array.from({ length: TOGETHER }, worker));
}

/** A line below the search that tells how far something is, and how it ended. */
function line(name, of) {
  const row = document.createElement("li"), bar = document.createElement("progress"), said = document.createElement("span");
  row.append(name, bar, said);
  bar.max = 1;
  bar.value = 0;
  bar.setAttribute("aria-label", of);
  $("uploads").append(row);
  const ended = (text, bad) => {
    bar.remove();
    said.textContent = text;
    row.classList.toggle("bad", bad);
  };
  return { row, bar, said, ended };
}

/** Add files to the collection, one by one, and say what became of each. */
function addFiles(files) {
  return inTurn(files, async (file) => {
    const shown = line(file.name, `${file.name}, sent`);
    const { added, text } = await send(file, shown);
    shown.ended(text, !added);
    say(`${file.name}: ${text}`, !added);
    if (added) setTimeout(() => shown.row.remove(), 8000);
  });
}

/** Send a file to the collection, again where the service is busy: {added, text}. */
async function send(file, shown) {
  for (let tries = 1; ; tries += 1) {
    const { status, body, retry_s } = await sendOnce(file, shown);
    if (status === 0) return { added: false, text: "Upload failed. Try again." };
    if (status === 201) return { added: true, text: body.duration_s ? `Added, ${clock(body.duration_s)}.` : "Added." };
    const busy = (status === 429 || status === 503) && retry_s <= AGAIN_S && tries < 5;
    if (!busy) return { added: false, text: sentence(body.error?.message ?? `The service answers ${status}`) };
    shown.said.textContent = "Waiting, as the service is busy …";
    await new Promise((again) => setTimeout(again, 1000 * retry_s));
  }
}

function sendOnce(file, shown) {
  const form = new FormData(), request = new XMLHttpRequest();
  form.append("file", file, file.name);
  request.upload.addEventListener("progress", (event) => {
    shown.bar.value = event.loaded / event.total;
    if (event.loaded === event.total) shown.said.textContent = "Processing …";
  });
  request.responseType = "json"; // null of what is none, an answer of something between here and the service
  request.open("POST", `v1/collections/${encodeURIComponent(collection.value)}/items`);
  for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
  return new Promise((answered) => {
    const end = () => answered({ status: request.status, body: request.response ?? {}, retry_s: Number(request.getResponseHeader("retry-after") ?? 1) });
    request.addEventListener("load", end);
    request.addEventListener("error", end);
    request.send(form);
  });
}

/** The files below a folder that was dropped, as entries; `unread` gets the names of what cannot be read. */
async function entriesBelow(folder, unread) {
  const reader = folder.createReader(), found = [];
  try {
    for (;;) {
      const some = await new Promise((given, refused) => reader.readEntries(given, refused)); // Chromium gives a hundred
      if (!some.length) return found;
      for (const entry of some) found.push(...(entry.isDirectory ? await entriesBelow(entry, unread) : [entry]));
    }
  } catch {
    unread.push(folder.name);
    return found;
  }
}

const suffixOf = (name) => name.slice(Math.max(name.lastIndexOf("."), 0)).toLowerCase();

/** Some names, and how many more there are. */
const listed = (names) => names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");

/** Add the media below a folder to the collection, and say what was left out. */
async function addFolder(folder) {
  const shown = line(folder.name, `${folder.name}, files added`);
  const end = (text, bad) => {
    shown.ended(text, bad);
    say(`${folder.name}: ${text}`, bad);
  };
  shown.said.textContent = "Reading the folder …";
  const unread = [];
  let entries, suffixes;
  try {
    entries = await entriesBelow(folder, unread);
    suffixes = (await ask("v1/models")).data[0].limits.suffixes;
  } catch (error) {
    return end(error.message, true);
  }
  const media = entries.filter((entry) => suffixes.includes(suffixOf(entry.name)));
  const others = entries.filter((entry) => !media.includes(entry)).map((entry) => entry.name);
  let added = 0, ended = 0;
  const tell = () => {
    shown.bar.value = ended / media.length;
    shown.said.textContent = `${ended} of ${media.length} files`;
  };
  tell();
  await inTurn(media, async (entry) => {
    if (await addEntry(entry, folder, unread)) added += 1;
    ended += 1;
    tell();
  });
  const failed = media.length - added;
  const parts = [added === 1 ? "1 file added" : `${added} files added`];
  if (failed) parts.push(`${failed} not added`);
  if (unread.length) parts.push(`not readable: ${listed(unread)}`);
  if (others.length) parts.push(`${others.length} skipped, not audio, video or pictures: ${listed(others)}`);
  end(`${parts.join("; ")}.`, added === 0 || failed > 0 || unread.length > 0);
  if (!others.length && !shown.row.classList.contains("bad")) setTimeout(() => shown.row.remove(), 8000);
}

/** Add a file of a folder; whether it was. One that was not keeps its line. */
async function addEntry(entry, folder, unread) {
  const file = await new Promise((given) => entry.file(given, () => given(null)));
  if (!file) {
    unread.push(entry.name);
    return false;
  }
  const name = entry.fullPath.slice(folder.fullPath.length + 1);
  const shown = line(name, `${name}, sent`);
  const { added, text } = await send(file, shown);
  shown.ended(text, !added);
  if (added) shown.row.remove();
  return added;
}

// ------------------------------------------------------------------ what people do

let soon = 0;

words.addEventListener("input", () => {
  if (words.value.trim()) example = null;
  clearTimeout(soon);
  soon = setTimeout(search, 200);
});
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(soon);
  search();
});
$("search").addEventListener("change", (event) => {
  if (event.target.matches("[name=target], .condition *")) search();
});
collection.addEventListener("change", search);
$("example").addEventListener("change", (event) => {
  searchByFile(event.target.files[0]);
  event.target.value = "";
});
$("add").addEventListener("change", (event) => {
  addFiles([...event.target.files]);
  event.target.value = "";
});
$("record").addEventListener("click", record);
$("another").addEventListener("click", condition);

function condition() {
  const row = $("condition").content.cloneNode(true).firstElementChild;
  row.querySelector("[name=remove]").addEventListener("click", () => {
    row.remove();
    search();
  });
  $("filters").append(row);
}

const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
window.addEventListener("dragenter", (event) => carriesFiles(event) && ($("drop").hidden = false));
window.addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  document.querySelectorAll("[data-drop]").forEach((place) => place.classList.toggle("over", place === event.target));
});
window.addEventListener("dragleave", (event) => event.relatedTarget === null && ($("drop").hidden = true));
window.addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  $("drop").hidden = true;
  const dropped = [...event.dataTransfer.items].filter((item) => item.kind === "file");
  const folders = dropped.map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry?.isDirectory);
  const files = dropped.filter((item) => !item.webkitGetAsEntry?.()?.isDirectory).map((item) => item.getAsFile());
  if (event.target.dataset?.drop === "add") {
    addFiles(files);
    folders.forEach(addFolder);
  } else if (files.length) searchByFile(files[0]);
  else if (folders.length) say("A folder cannot be searched by. Drop one of its files, or add the folder to the collection.", true);
});

// ------------------------------------------------------------------ to begin with

condition();
try {
  const { collections } = await ask("v1/collections");
  collection.replaceChildren(...collections.map(({ name, items }) => new Option(`${name} (${items})`, name)));
  const asked = new URLSearchParams(location.search).get("collection");
  const filled = collections.find(({ name, items }) => name === "default" && items) ?? collections.find(({ items }) => items);
  const first = collections.some(({ name }) => name === asked) ? asked : filled?.name;
  if (first) collection.value = first;
  search();
} catch (error) {
  say(error.message, true);
}
