// The search page. Everything it shows comes from the HTTP contract, nothing from elsewhere.

const $ = (id) => document.getElementById(id);
const words = $("words"), hits = $("hits"), status = $("status"), collection = $("collection");
const NAMES = { any: "pictures and sound", video: "pictures", audio: "sound", text: "words" };
let example = null; // what is searched by, where it is not words: {file, modality} or {item, modality}
let latest = 0; // the last search asked for; answers to earlier ones are late

// ------------------------------------------------------------------ asking

const key = () => sessionStorage.getItem("key");
const headers = () => (key() ? { Authorization: `Bearer ${key()}` } : {});
const itemPath = (name, id) => `/v1/collections/${encodeURIComponent(name)}/items/${id.split("/").map(encodeURIComponent).join("/")}`;

/** The JSON of an answer. Throws an Error that says what the service says. */
async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch {
    throw new Error("The service does not answer.");
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
  if (!text && !example) {
    hits.replaceChildren();
    return say("");
  }
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
    const found = await ask("/v1/search", { method: "POST", body: form });
    if (mine === latest) show(found, performance.now() - began);
  } catch (error) {
    if (mine === latest) {
      hits.replaceChildren();
      say(error.message, true);
    }
  }
}

function show(found, ms) {
  hits.querySelectorAll("video, audio").forEach((old) => URL.revokeObjectURL(old.src));
  hits.replaceChildren(...found.hits.map((hit) => card(hit, found.collection)));
  const by = example ? ` like ${example.name}` : "";
  const moments = `${found.hits.length} ${found.hits.length === 1 ? "moment" : "moments"}${by}, ${Math.round(ms)} ms.`;
  const warnings = (found.warnings ?? []).map((warning) => ` ${sentence(warning)}`).join("");
  if (!found.hits.length) say(`Nothing is there to be found.${warnings}`);
  else if (found.good_match === false) say(`No confident match. The nearest ${moments}${warnings}`);
  else say(`${moments}${warnings}`);
}

// ------------------------------------------------------------------ a moment

const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

function card(hit, name) {
  const node = $("hit").content.cloneNode(true).firstElementChild;
  node.querySelector("h2").textContent = hit.filename || hit.id;
  const where = hit.target === "any" ? "" : ` in its ${NAMES[hit.target]}`;
  node.querySelector(".where").textContent = `${clock(hit.start_s)} – ${clock(hit.end_s)}${where}`;
  const scores = node.querySelector(".scores");
  if (hit.confidence !== null) scores.append(...measure("sure", hit.confidence, `${Math.round(100 * hit.confidence)} %`));
  for (const [modality, score] of Object.entries(hit.scores)) {
    scores.append(...measure(NAMES[modality], Math.max(score, 0), score.toFixed(2)));
  }
  const shown = hit.modalities.includes("video") ? "video" : "audio";
  const modality = hit.target === "any" ? shown : hit.target;
  node.querySelector(".like").addEventListener("click", () => searchBy({ item: hit.id, modality, name: hit.id }));
  fill(node, hit, name).catch((error) => (node.querySelector(".where").textContent = error.message));
  return node;
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
  const whole = Math.max(hit.duration_s, ...hit.moments.map((moment) => moment.end_s), 1e-3);
  const play = (at) => player(node, hit.kind, path, at);
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
    mark.title = `${clock(moment.start_s)} – ${clock(moment.end_s)}, ${moment.score.toFixed(2)}`;
    mark.style.setProperty("left", `${(100 * moment.start_s) / whole}%`);
    mark.style.setProperty("width", `${(100 * (moment.end_s - moment.start_s)) / whole}%`);
    mark.addEventListener("click", () => play(moment.start_s));
    line.append(mark);
  }
  await shown(node);
  if (hit.kind === "video") cover.append(await picture(`${path}/poster?at_s=${(hit.start_s + hit.end_s) / 2}`));
  if (!hit.modalities.includes("audio")) return;
  const { peaks } = await ask(`${path}/waveform`).catch(() => ({ peaks: [] })); // an item that was added before there were any
  line.prepend(waveform(peaks));
  if (hit.kind === "audio") cover.append(waveform(peaks));
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

/** A picture; behind a key, a copy, as pictures send none. */
async function picture(path) {
  const image = new Image();
  image.alt = "";
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
async function player(node, kind, path, at) {
  let found = node.querySelector("video, audio");
  if (found) {
    found.dataset.at = at;
    if (found.readyState === 0) return;
  } else {
    found = document.createElement(kind === "video" ? "video" : "audio");
    found.controls = true;
    found.dataset.at = at;
    found.setAttribute("aria-label", node.querySelector("h2").textContent);
    found.addEventListener("play", () => document.querySelectorAll("video, audio").forEach((other) => other !== found && other.pause()));
    found.addEventListener("error", () => (node.querySelector(".where").textContent = "This browser cannot play it."));
    if (kind === "video") node.querySelector(".media").replaceChildren(found);
    else node.querySelector(".media").append(found);
    try {
      found.src = key() ? await copyOf(`${path}/media`) : `${path}/media`;
    } catch (error) {
      node.querySelector(".where").textContent = error.message;
      return;
    }
    await new Promise((ready) => found.addEventListener("loadedmetadata", ready, { once: true }));
    found.focus();
  }
  found.currentTime = Number(found.dataset.at);
  await found.play().catch(() => {}); // it was stopped before it began
}

/** What lies there as an address of this page's own. Throws an Error that says what the service says. */
async function copyOf(path) {
  const answer = await fetch(path, { headers: headers() }).catch(() => null);
  if (!answer?.ok) throw new Error(answer ? `It could not be fetched: ${answer.status}.` : "The service does not answer.");
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
    return say("This browser gives no microphone.", true);
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

/** Add a file to the collection, and show how far it is and what became of it. */
function add(file) {
  const row = document.createElement("li"), bar = document.createElement("progress"), said = document.createElement("span");
  row.append(file.name, bar, said);
  bar.max = 1;
  bar.value = 0;
  bar.setAttribute("aria-label", `${file.name}, sent`);
  $("uploads").append(row);
  const form = new FormData();
  form.append("file", file, file.name);
  const request = new XMLHttpRequest();
  const ended = (text, bad) => {
    bar.remove();
    said.textContent = text;
    row.classList.toggle("bad", bad);
    say(`${file.name}: ${text}`, bad);
  };
  request.upload.addEventListener("progress", (event) => {
    bar.value = event.loaded / event.total;
    if (event.loaded === event.total) said.textContent = "Being looked at …";
  });
  request.addEventListener("load", () => {
    let body = {};
    try {
      body = JSON.parse(request.responseText);
    } catch {
      // an answer of something between here and the service
    }
    if (request.status === 201) {
      ended(`Added, ${clock(body.duration_s)}.`, false);
      setTimeout(() => row.remove(), 8000);
    } else ended(sentence(body.error?.message ?? request.statusText), true);
  });
  request.addEventListener("error", () => ended("It could not be sent.", true));
  request.open("POST", `/v1/collections/${encodeURIComponent(collection.value)}/items`);
  for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
  request.send(form);
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
  [...event.target.files].forEach(add);
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
  const files = [...event.dataTransfer.files];
  if (event.target.dataset?.drop === "add") files.forEach(add);
  else searchByFile(files[0]);
});

// ------------------------------------------------------------------ to begin with

condition();
try {
  const { collections } = await ask("/v1/collections");
  collection.replaceChildren(...collections.map(({ name, items }) => new Option(`${name} (${items})`, name)));
  const asked = new URLSearchParams(location.search).get("collection");
  const filled = collections.find(({ name, items }) => name === "default" && items) ?? collections.find(({ items }) => items);
  const first = collections.some(({ name }) => name === asked) ? asked : filled?.name;
  if (first) collection.value = first;
} catch (error) {
  say(error.message, true);
}
