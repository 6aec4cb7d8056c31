// Plays an item from a second on: as it is, or, where the browser cannot, a version that the service converts.

import { clock, named, note, sentence } from "./dom.js";
import { signIn } from "./service.js";
import { t } from "./texts.js";

/** Play an item from a second on, in its view; where one asks again before it is there, from the last. */
export function player(node, hit, path, at) {
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
  media.setAttribute("aria-label", named(hit));
  if (still && hit.kind === "video") media.poster = still.src;
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

function load(node, media, path) {
  note(node, "");
  media.src = `${path}/media`;
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
    note(node, t("whole_file"));
    const whole = await withTable(media.src).catch(() => null);
    note(node, "");
    if (whole) {
      media.src = URL.createObjectURL(whole);
      return;
    }
  }
  if (hit.kind === "video" && media.videoWidth === 0) {
    const why = { cannot: "show", still: true };
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

/** Why it does not play. Where a session has ended, a key is asked for. */
async function failed(node, media, hit, path, still) {
  const own = media.src.startsWith("blob:"), version = versions.get(media);
  if (version?.making) return;
  const answer = own ? null : await fetch(media.src, { method: "HEAD" }).catch(() => null);
  if (!own && !answer) note(node, t("unreachable"));
  else if (answer?.status === 401) {
    await signIn();
    if (media.currentTime) media.dataset.at = media.currentTime + begins(media);
    if (version) convert(node, media, hit, path, version);
    else load(node, media, path);
  } else if (!own && !answer.ok) note(node, t("loading_failed", { status: answer.status }));
  else if (!version) {
    if (still) media.before(still);
    convert(node, media, hit, path, { cannot: "play", still: false, picture: still });
  } else {
    versions.delete(media);
    media.controls = false;
    if (still) media.before(still);
    note(node, t("plays_neither", { name: named(hit) }), original(hit, path, "play"));
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
  convert(node, media, hit, path, { cannot: "hear", still: true });
}

/** Whether there is any sound in a stretch of an item; true where that is not known. */
function sounds(node, hit, from, to) {
  const peaks = loudness.get(node) ?? [];
  const [first, end] = [from, to].map((s) => Math.floor((s / hit.duration_s) * peaks.length));
  return !peaks.length || peaks.slice(first, end).some((peak) => peak > 0);
}

// ------------------------------------------------------------------ versions for browsers

export const loudness = new WeakMap(); // of an item's view, the peaks of its item
const versions = new WeakMap(); // of a player, the converted stretch that it plays, and why: see `convert`

/** Where what a player has begins, in the item's seconds. */
export const begins = (media) => versions.get(media)?.begins ?? 0;

let converting = null; // what stops the conversion that is waited for: one at a time

/** Have the service convert an item, from the second asked for on, and play that. `why` says what this browser cannot do
with the original (`cannot`: show its pictures, hear its sound, or play it), and whether it plays the rest (`still`). */
async function convert(node, media, hit, path, why) {
  const { cannot, still, picture } = why;
  const name = named(hit);
  const at = Number(media.dataset.at), rest = original(hit, path, cannot);
  const playing = media.readyState > 0 && !media.paused;
  converting?.abort();
  const mine = (converting = new AbortController());
  versions.set(media, { ...why, begins: begins(media), making: true });
  note(node, `${t(`cannot_${cannot}`, { name })} ${t("is_converted")}`, rest);
  try {
    const version = await converted(path, at, mine.signal);
    if (!media.isConnected) return;
    const now = media.currentTime + begins(media); // it has gone on meanwhile
    if (playing && Number(media.dataset.at) === at && now < version.ends) media.dataset.at = now;
    const said = [`${t(`cannot_${cannot}`, { name })} ${t("converted_plays")}`, rest];
    versions.set(media, { ...why, begins: version.begins, ends: version.ends, said });
    picture?.remove();
    media.src = version.address;
    settle(node, media);
  } catch (error) {
    versions.delete(media);
    if (mine.signal.aborted) return note(node, "");
    const cause = t(still ? `cannot_${cannot}_rest` : `cannot_${cannot}`, { name });
    note(node, `${cause} ${t("not_converted")} ${sentence(error.message)}`, rest);
    if (!still) media.controls = false;
    else if (!playing) start(node, media, hit, path);
  }
}

/** The address of a version that browsers play and that has a second, once it is there; and where it begins and ends. */
async function converted(path, at, signal) {
  const address = new URL(`${path}/playable`, document.baseURI);
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

/** A link to an item's own file. */
export function original(hit, path, cannot) {
  const link = document.createElement("a"), said = document.createElement("span");
  link.textContent = t("download_original");
  link.download = named(hit);
  link.href = `${path}/media`;
  said.append(" ", link, cannot ? ` ${t(`another_player_${cannot}`)}` : "");
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
    note(node, t("loading_up_to", { time: clock(at + begins(media)) }));
    const idle = media.networkState !== HTMLMediaElement.NETWORK_LOADING;
    if (known(media) > tried && (idle || known(media) >= at)) go();
    else if (idle) patience = setTimeout(() => play(t("no_further", { time: clock(media.currentTime + begins(media)) })), 3000);
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

/** Stop what plays and what is converted for it: its view goes away. */
export function leave(node) {
  converting?.abort();
  for (const media of node.querySelectorAll("video, audio")) {
    media.pause();
    stopAhead(media);
    jumps.get(media)?.abort();
    if (media.src.startsWith("blob:")) URL.revokeObjectURL(media.src);
    media.removeAttribute("src");
    media.remove();
  }
}
