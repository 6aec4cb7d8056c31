// Adds files and folders, says how far that is and what failed, and tells of the imports that the service does.

import { follows, state, write } from "./address.js";
import { $, button, clock, el, recall, remember, say, sentence } from "./dom.js";
import { collectionName } from "./query.js";
import { ask, collectionPath, send as sendJson } from "./service.js";
import { t } from "./texts.js";

const TOGETHER = 2; // files that are sent at once
const AGAIN_S = 60; // a service that is busy for longer is not waited for
const READ_MS = 20_000; // what went well is told for so long, and while somebody points at it

let added = () => {};

/** What to do when something was added. */
export const whenAdded = (does) => (added = does);

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
  const bar = el("progress", { "aria-label": of, max: "1", value: "0" }), said = el("span");
  const row = el("li", {}, el("bdi", {}, name), bar, said);
  $("uploads").append(row);
  const ended = (text, bad, again) => {
    bar.remove();
    said.textContent = text;
    row.classList.toggle("bad", bad);
    if (!bad) return;
    const retry = () => {
      row.remove();
      again();
    };
    if (again) row.append(button({ onclick: retry }, t("retry")));
    row.append(button({ class: "quiet", "aria-label": t("remove", { name }), onclick: () => row.remove() }, t("dismiss")));
  };
  return { row, bar, said, ended };
}

/** Add files to the collection, and say what became of each. */
function addFiles(files) {
  return inTurn(files, async (file) => {
    if (await addFile(file, file.name)) setTimeout(added, 0);
  });
}

/** Add a file; whether it was. One that was not keeps its line, from which it can be sent again. */
async function addFile(file, name, quiet = false) {
  const shown = line(name, t("sent", { name }));
  const collection = collectionName();
  const { done, text, id } = await send(file, shown, collection);
  shown.ended(text, !done, () => addFile(file, name).then((now) => now && added()));
  if (!quiet) say(`${name}: ${text}`, !done);
  if (done && quiet) shown.row.remove();
  else if (done) {
    shown.row.firstChild.replaceWith(itemLink(name, id, collection));
    removeLater(shown.row);
  }
  return done;
}

/** A file's name that leads to its item. */
function itemLink(name, id, collection) {
  const place = { collection, item: id, t: null };
  return el("a", { href: write({ ...state, ...place }), onclick: follows(place) }, el("bdi", {}, name));
}

/** Take a line away once it has been read. */
function removeLater(row) {
  setTimeout(() => (row.matches(":hover, :focus-within") ? removeLater(row) : row.remove()), READ_MS);
}

/** Send a file to a collection, again where the service is busy: {done, text, id}. */
async function send(file, shown, collection) {
  for (let tries = 1; ; tries += 1) {
    const { status, body, retry_s } = await sendOnce(file, shown, collection);
    if (status === 0) return { done: false, text: t("upload_failed") };
    const length = body.duration_s ? t("added_length", { length: clock(body.duration_s) }) : t("added");
    if (status === 201) return { done: true, text: length, id: body.id };
    const busy = (status === 429 || status === 503) && retry_s <= AGAIN_S && tries < 5;
    if (!busy) return { done: false, text: sentence(body.error?.message ?? t("service_answers", { status })) };
    shown.said.textContent = t("waiting_busy");
    await new Promise((again) => setTimeout(again, 1000 * retry_s));
  }
}

function sendOnce(file, shown, collection) {
  const form = new FormData(), request = new XMLHttpRequest();
  form.append("file", file, file.name);
  request.upload.addEventListener("progress", (event) => {
    shown.bar.value = event.loaded / event.total;
    if (event.loaded === event.total) shown.said.textContent = t("processing");
  });
  request.responseType = "json"; // null of what is none, an answer of something between here and the service
  request.open("POST", `${collectionPath(collection)}/items`);
  return new Promise((answered) => {
    const end = () =>
      answered({ status: request.status, body: request.response ?? {}, retry_s: Number(request.getResponseHeader("retry-after") ?? 1) });
    request.addEventListener("load", end);
    request.addEventListener("error", end);
    request.send(form);
  });
}

// ------------------------------------------------------------------ folders

/** The files below a folder that was dropped, as {name, file()}; `unread` gets the names of what cannot be read. */
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
const listed = (names) => names.slice(0, 3).join(", ") + (names.length > 3 ? ` ${t("and_more", { count: names.length - 3 })}` : "");

/** Add the media below a folder that was dropped to the collection. */
function addFolder(folder) {
  const unread = [];
  const list = async () => {
    const entries = await entriesBelow(folder, unread);
    return entries.map((entry) => ({
      name: entry.fullPath.slice(folder.fullPath.length + 1),
      file: () => new Promise((given) => entry.file(given, () => given(null))),
    }));
  };
  return addAll(folder.name, list, unread);
}

/** Add the media of a folder that was chosen. */
function addChosenFolder(files) {
  if (!files.length) return null;
  const name = files[0].webkitRelativePath.split("/")[0];
  const list = async () => files.map((file) => ({ name: file.webkitRelativePath.slice(name.length + 1), file: async () => file }));
  return addAll(name, list, []);
}

/** Add what is media among the files of a folder, and say what was left out. */
async function addAll(folder, list, unread) {
  const shown = line(folder, t("files_added_of", { name: folder }));
  const end = (text, bad) => {
    shown.ended(text, bad);
    say(`${folder}: ${text}`, bad);
  };
  shown.said.textContent = t("reading_folder");
  let files, suffixes;
  try {
    files = await list();
    suffixes = (await ask("v1/models")).data[0].limits.suffixes;
  } catch (error) {
    return end(error.message, true);
  }
  const media = files.filter(({ name }) => suffixes.includes(suffixOf(name)));
  const others = files.filter((file) => !media.includes(file)).map(({ name }) => name.slice(name.lastIndexOf("/") + 1));
  let done = 0, ended = 0;
  const tell = () => {
    shown.bar.value = ended / media.length;
    shown.said.textContent = t("of_files", { done: ended, count: media.length });
  };
  tell();
  await inTurn(media, async ({ name, file }) => {
    const there = await file();
    if (!there) unread.push(name);
    else if (await addFile(there, name, true)) done += 1;
    ended += 1;
    tell();
  });
  const failed = media.length - done;
  const parts = [done === 1 ? t("one_file_added") : t("files_added", { count: done })];
  if (failed) parts.push(t("not_added", { count: failed }));
  if (unread.length) parts.push(t("not_readable", { names: listed(unread) }));
  if (others.length) parts.push(t("skipped", { count: others.length, names: listed(others) }));
  const bad = done === 0 || failed > 0 || unread.length > 0;
  end(`${parts.join("; ")}.`, bad);
  if (!others.length && !bad) removeLater(shown.row);
  if (done) added();
}

// ------------------------------------------------------------------ imports by the service

const LOOK_MS = 2000; // how often a running import is asked for
const TOLD_KEPT = 200;
const toldJobs = new Set(recall("told-jobs") ?? []); // imports that failed, and that nobody wants to read of again

/** Tell of the imports of the collection that run, and of those that fail while the page is open. */
export async function followJobs() {
  const { jobs } = await ask("v1/jobs").catch(() => ({ jobs: [] }));
  const ours = jobs.filter(({ collection }) => collection === collectionName());
  const running = ours.filter(({ state: at }) => at === "queued" || at === "running");
  const failed = ours.filter((job) => !running.includes(job) && (job.failed || job.error) && !toldJobs.has(job.id));
  $("jobs").replaceChildren(...[...running, ...failed].map(jobLine));
  $("jobs").hidden = !$("jobs").children.length;
  if (running.length) setTimeout(followJobs, LOOK_MS);
  if (followJobs.before && !running.length) added();
  followJobs.before = running.length > 0;
}

function forgetJob({ id }) {
  toldJobs.add(id);
  remember("told-jobs", [...toldJobs].slice(-TOLD_KEPT));
}

function jobLine(job) {
  const running = job.state === "queued" || job.state === "running";
  const text = running ? t("job_running", { done: job.done, total: job.total }) : t("job_ended", { indexed: job.indexed, failed: job.failed });
  const bar = running ? el("progress", { max: "1", value: String(job.total ? job.done / job.total : 0), "aria-label": job.path }) : null;
  const why = job.failures.map(({ source, reason }) => el("li", {}, el("bdi", {}, source), `: ${sentence(reason)}`));
  const again = async () => {
    forgetJob(job);
    try {
      await sendJson("POST", "v1/jobs", { kind: "import", collection: job.collection, path: job.path });
    } catch (error) {
      say(error.message, true);
    }
    followJobs();
  };
  const forget = () => {
    forgetJob(job);
    followJobs();
  };
  return el(
    "li",
    { class: running ? "" : "bad" },
    el("bdi", {}, job.path),
    bar,
    el("span", {}, job.error ? sentence(job.error) : text),
    running ? null : button({ onclick: again }, t("retry")),
    running ? null : button({ class: "quiet", onclick: forget }, t("dismiss")),
    why.length ? el("details", {}, el("summary", {}, t("what_failed")), el("ul", {}, why)) : null,
  );
}

// ------------------------------------------------------------------ dropping

const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

/** Take what is dropped on the page: to be added, or, by `search`, to be searched by. */
export function listenToDrops(search) {
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
    } else if (files.length) search(files[0]);
    else if (folders.length) say(t("no_folder_search"), true);
  });
  for (const name of ["add", "add-empty"]) {
    $(name).addEventListener("change", (event) => {
      addFiles([...event.target.files]);
      event.target.value = "";
    });
  }
  $("add-folder").addEventListener("change", (event) => {
    addChosenFolder([...event.target.files]);
    event.target.value = "";
  });
}
