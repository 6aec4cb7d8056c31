// MP3 with a table of its frames, as MP4: browsers guess where a second of an MP3 is, and read it from an MP4.

const KBITS = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]; // MPEG-1, layer III
const HALF_KBITS = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160]; // MPEG-2 and 2.5
const HERTZ = [44100, 48000, 32000];
const LEAST = 0.9; // of a file that is MP3, so much is frames

/** An MP3 (ArrayBuffer) as a Blob of an MP4 with the same frames; null where it is none. */
export function indexed(buffer) {
  const bytes = new Uint8Array(buffer);
  const { first, offsets, sizes } = frames(bytes);
  const whole = sizes.reduce((sum, size) => sum + size, 0);
  if (!first || whole < LEAST * (bytes.length - start(bytes))) return null;
  const media = boxHead("mdat", bytes.length);
  const length = head(first, offsets, sizes, 0).length + media.length;
  return new Blob([head(first, offsets, sizes, length), media, buffer], { type: "audio/mp4" });
}

/** Where an MP3 begins: after its ID3 tag, if it has one. */
function start(bytes) {
  if (text(bytes, 0, 3) !== "ID3") return 0;
  const footer = bytes[5] & 0x10 ? 10 : 0;
  return 10 + footer + ((bytes[6] << 21) | (bytes[7] << 14) | (bytes[8] << 7) | bytes[9]);
}

const text = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));

/** The frame that begins there: {hertz, samples, channels, size}, or null. */
function frame(bytes, at) {
  if (bytes[at] !== 0xff || (bytes[at + 1] & 0xe6) !== 0xe2) return null; // layer III
  const version = (bytes[at + 1] >> 3) & 3; // 3: MPEG-1, 2: MPEG-2, 0: 2.5
  const rate = (bytes[at + 2] >> 2) & 3, kbits = (version === 3 ? KBITS : HALF_KBITS)[bytes[at + 2] >> 4];
  if (version === 1 || rate === 3 || !kbits) return null;
  const hertz = HERTZ[rate] >> { 3: 0, 2: 1, 0: 2 }[version];
  const samples = version === 3 ? 1152 : 576;
  const size = Math.floor((samples * 125 * kbits) / hertz) + ((bytes[at + 2] >> 1) & 1);
  return { hertz, samples, channels: bytes[at + 3] >> 6 === 3 ? 1 : 2, size };
}

/** All frames of one kind. One is believed where another follows, or the end. */
function frames(bytes) {
  const offsets = [], sizes = [];
  let at = start(bytes), first = null;
  const fits = (found) => found && (!first || (found.hertz === first.hertz && found.samples === first.samples));
  while (at + 4 <= bytes.length) {
    const found = frame(bytes, at), next = found ? at + found.size : 0;
    const ends = next === bytes.length || text(bytes, next, next + 3) === "TAG";
    if (fits(found) && (ends || fits(frame(bytes, next)))) {
      first ??= found;
      offsets.push(at);
      sizes.push(found.size);
      at = next;
    } else at += 1;
  }
  return { first, offsets, sizes };
}

// ------------------------------------------------------------------ ISO 14496-12 and -14

/** Numbers of 32 bits. */
function words(values) {
  const view = new DataView(new ArrayBuffer(4 * values.length));
  values.forEach((value, n) => view.setUint32(4 * n, value));
  return new Uint8Array(view.buffer);
}

const numbers = (...values) => words(values);

const ascii = (word) => Uint8Array.from(word, (letter) => letter.charCodeAt(0));

const boxHead = (kind, length) => joined(numbers(8 + length), ascii(kind));

function box(kind, ...parts) {
  const inside = joined(...parts);
  return joined(boxHead(kind, inside.length), inside);
}

function joined(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const UNMOVED = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000]; // the matrix

/** What stands before the media: one track, each frame a chunk of its own, `length` bytes further than in the MP3. */
function head({ hertz, samples, channels }, offsets, sizes, length) {
  const count = sizes.length, lasts = count * samples, kind = hertz >= 32000 ? 0x6b : 0x69;
  const decoder = [0x04, 13, kind, 0x15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
  const esds = box("esds", numbers(0), Uint8Array.from([0x03, 21, 0, 1, 0, ...decoder, 0x06, 1, 2]));
  const entry = box("mp4a", numbers(0, 1, 0, 0, (channels << 16) | 16, 0, hertz << 16), esds);
  const places = offsets.map((offset) => offset + length);
  const table = box(
    "stbl",
    box("stsd", numbers(0, 1), entry),
    box("stts", numbers(0, 1, count, samples)),
    box("stsc", numbers(0, 1, 1, 1, 1)),
    box("stsz", joined(numbers(0, 0, count), words(sizes))),
    box("stco", joined(numbers(0, count), words(places))),
  );
  const source = box("dinf", box("dref", numbers(0, 1), box("url ", numbers(1))));
  const sound = box("minf", box("smhd", numbers(0, 0)), source, table);
  const handler = box("hdlr", numbers(0, 0), ascii("soun"), numbers(0, 0, 0), ascii("\0"));
  const track = box(
    "trak",
    box("tkhd", numbers(7, 0, 0, 1, 0, lasts, 0, 0, 0, 0x1000000, ...UNMOVED, 0, 0)),
    box("mdia", box("mdhd", numbers(0, 0, 0, hertz, lasts, 0x55c40000)), handler, sound),
  );
  const movie = numbers(0, 0, 0, hertz, lasts, 0x10000, 0x1000000, 0, 0, ...UNMOVED, 0, 0, 0, 0, 0, 0, 2);
  return joined(box("ftyp", ascii("isom"), numbers(0x200), ascii("isommp41")), box("moov", box("mvhd", movie), track));
}
