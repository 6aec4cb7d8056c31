// Draws what items look and sound like: pictures, waveforms, spectrograms, and where a query matches.

import { el, note, shape } from "./dom.js";
import { send } from "./service.js";
import { t } from "./texts.js";

/** A picture. `alt` is empty where its place is named already. */
export function picture(path, alt = "") {
  const image = new Image();
  image.alt = alt;
  image.decoding = "async";
  image.addEventListener("error", () => image.remove()); // an item that was added before there were any
  image.src = path;
  return image;
}

/** Peaks, 0 to 255, as a shape that fills its place. */
export function waveform(peaks) {
  const up = peaks.map((peak, n) => `${n},${-Math.max(peak, 2)} ${n + 1},${-Math.max(peak, 2)}`);
  const down = peaks.map((peak, n) => `${n + 1},${Math.max(peak, 2)} ${n},${Math.max(peak, 2)}`).reverse();
  const line = shape("path", { d: `M${up.join(" ")} ${down.join(" ")}Z` });
  const box = { viewBox: `0 -256 ${peaks.length} 512`, preserveAspectRatio: "none", "aria-hidden": "true", class: "waveform" };
  return shape("svg", box, line);
}

// ------------------------------------------------------------------ where it matches

const SECONDS = 5; // about those of a window

/** Draw where words match the middle of a moment, on an item's picture and its timeline. */
export async function showWhere(node, item, moment, path, query) {
  const start_s = Math.max(moment.start_s, (moment.start_s + moment.end_s - SECONDS) / 2);
  note(node, t("looking_where"));
  const found = await send("POST", `${path}/where`, { query, start_s });
  note(node, "");
  node.querySelectorAll(".map").forEach((old) => old.remove());
  const image = node.querySelector(".media img"), line = node.querySelector(".timeline .sound");
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
    const { times_s, map } = found.audio;
    const step = times_s.length > 1 ? times_s[1] - times_s[0] : found.end_s - found.start_s;
    const place = { left: times_s[0] - step / 2, width: step * times_s.length, height: 1, whole: item.duration_s };
    line.append(drawMap([...map].reverse(), place));
  }
}

/** Rows of scores as a shape of so many units, `whole` with what lies beside it; the highest is opaque, the mean and below clear. */
function drawMap(rows, { left, width, height, whole }) {
  const scores = rows.flat();
  const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length, most = Math.max(...scores);
  const cell = { width: width / rows[0].length, height: height / rows.length };
  const svg = shape("svg", {
    class: "map",
    viewBox: `0 0 ${whole} ${height}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": t("where_label"),
  });
  rows.forEach((row, down) =>
    row.forEach((score, across) => {
      const opacity = (0.7 * Math.max(score - mean, 0)) / (most - mean || 1);
      svg.append(shape("rect", { x: left + across * cell.width, y: down * cell.height, ...cell, "fill-opacity": opacity }));
    }),
  );
  return svg;
}

// ------------------------------------------------------------------ spectrograms

const HERTZ = 16_000;
const SIZE = 512; // samples of a column's window
const COLUMNS = 900;
const BANDS = 96;
const LOWEST_HZ = 60;
const DEEP_DB = 70; // what is quieter than the loudest by so much is not drawn
export const SPECTROGRAM_MOST_S = 900; // a longer sound would not fit into a browser's memory

/** A spectrogram of an item's sound as a canvas, computed from its media. Throws an Error where the browser cannot. */
export async function spectrogram(path) {
  const answer = await fetch(`${path}/media`);
  if (!answer.ok) throw new Error(t("loading_failed", { status: answer.status }));
  const bytes = await answer.arrayBuffer();
  const decoder = new OfflineAudioContext(1, 1, HERTZ);
  const sound = await decoder.decodeAudioData(bytes).catch(() => {
    throw new Error(t("no_spectrogram"));
  });
  return drawSpectrogram(mono(sound));
}

function mono(sound) {
  const mixed = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel += 1) {
    sound.getChannelData(channel).forEach((sample, n) => (mixed[n] += sample / sound.numberOfChannels));
  }
  return mixed;
}

/** Loudness by time and pitch; low tones are at the bottom, each octave is as high as the others. */
function drawSpectrogram(samples) {
  const columns = Math.max(1, Math.min(COLUMNS, Math.floor(samples.length / 128)));
  const levels = new Float32Array(columns * BANDS);
  const hann = Float32Array.from({ length: SIZE }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / SIZE));
  const edges = Array.from({ length: BANDS + 1 }, (_, n) => LOWEST_HZ * (HERTZ / 2 / LOWEST_HZ) ** (n / BANDS));
  for (let column = 0; column < columns; column += 1) {
    const from = Math.floor(((column + 0.5) * samples.length) / columns) - SIZE / 2;
    const real = Float32Array.from(hann, (weight, n) => weight * (samples[from + n] ?? 0));
    const power = powerOf(real);
    for (let band = 0; band < BANDS; band += 1) {
      const first = Math.floor((edges[band] * SIZE) / HERTZ), end = Math.max(first + 1, Math.ceil((edges[band + 1] * SIZE) / HERTZ));
      let most = 0;
      for (let bin = first; bin < end && bin < power.length; bin += 1) most = Math.max(most, power[bin]);
      levels[band * columns + column] = 10 * Math.log10(most + 1e-12);
    }
  }
  return paint(levels, columns);
}

function paint(levels, columns) {
  const canvas = el("canvas", { class: "spectrogram", role: "img", "aria-label": t("spectrogram_label") });
  canvas.width = columns;
  canvas.height = BANDS;
  const ink = canvas.getContext("2d"), image = ink.createImageData(columns, BANDS);
  const loudest = levels.reduce((most, level) => Math.max(most, level), -120);
  for (let band = 0; band < BANDS; band += 1) {
    for (let column = 0; column < columns; column += 1) {
      const share = Math.max(0, 1 + (levels[band * columns + column] - loudest) / DEEP_DB);
      const at = 4 * ((BANDS - 1 - band) * columns + column);
      image.data.set([255 * share ** 1.4, 225 * share ** 2, 90 + 60 * share - 60 * share ** 3, 255], at);
    }
  }
  ink.putImageData(image, 0, 0);
  return canvas;
}

/** The power of each frequency of SIZE samples, by the fast Fourier transform of Cooley and Tukey. */
function powerOf(real) {
  const imaginary = new Float32Array(SIZE);
  for (let n = 1, reversed = 0; n < SIZE; n += 1) {
    let bit = SIZE >> 1;
    for (; reversed & bit; bit >>= 1) reversed ^= bit;
    reversed ^= bit;
    if (n < reversed) [real[n], real[reversed]] = [real[reversed], real[n]];
  }
  for (let length = 2; length <= SIZE; length *= 2) {
    for (let place = 0; place < length / 2; place += 1) {
      const angle = (-2 * Math.PI * place) / length, c = Math.cos(angle), s = Math.sin(angle);
      for (let start = place; start < SIZE; start += length) {
        const other = start + length / 2;
        const re = real[other] * c - imaginary[other] * s, im = real[other] * s + imaginary[other] * c;
        real[other] = real[start] - re;
        imaginary[other] = imaginary[start] - im;
        real[start] += re;
        imaginary[start] += im;
      }
    }
  }
  return Float32Array.from({ length: SIZE / 2 }, (_, n) => real[n] ** 2 + imaginary[n] ** 2);
}
