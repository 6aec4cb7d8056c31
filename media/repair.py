"""Works around valid files that FFmpeg reads wrongly: it gets patched bytes, or parts of a file.

- WAV, W64 and CAF whose samples are padded (24 bits in 32, say). FFmpeg takes the valid bits for
  the sample size. The right size follows from the header's block size.
- RIFX, a WAV whose numbers begin with their highest byte. FFmpeg takes most samples for those of a
  WAV. It gets the header of AU, which has such samples, in place of RIFX's.
- WAV without the byte that pads a chunk of odd length before its samples. FFmpeg finds no samples.
  It gets a header that stands right before them.
- RF64, W64 and AIFF that were written into a pipe. Their headers never got the size of the samples.
- GIF pictures shown for one hundredth of a second. Browsers show them for ten hundredths; FFmpeg
  since 7.0 does not.
- GIF that clears what a picture covered, or does not cover all with the first. FFmpeg shows the
  background colour there, browsers show what is behind the GIF.
- MP4 and QuickTime with edits without media, see `edits`.
- Chained Ogg: several Ogg streams joined into one file (RFC 3533). FFmpeg stops where the number
  of channels changes.
"""

from __future__ import annotations

import io
import struct
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .edits import Patch, find_edit_patches
from .errors import BeyondBudget
from .mediatypes import tag_bytes

Span = tuple[int, int]  # bytes of a file, [start, end)
# format tags of WAVEFORMATEX
PCM = 1
IEEE_FLOAT = 3
EXTENSIBLE = 0xFFFE
# places in a format chunk
BITS_AT = 14
VALID_BITS_AT = 18
SUBFORMAT_AT = 24
CHUNKS_MOST = 64  # chunks searched for one
FORMAT_MOST = 1024  # bytes of a format chunk
CAF_BITS_AT = 28  # in a description chunk
AU_HEADER = 24  # bytes
AU_UNKNOWN_SIZE = 0xFFFFFFFF  # a size that is not told
# AU's number for samples of a RIFX, by their format tag and bits
AU_KINDS = {(1, 16): 3, (1, 24): 4, (1, 32): 5, (3, 32): 6, (3, 64): 7, (6, 8): 27, (7, 8): 1}
RF64_SIZE_AT = 28  # of its samples, in chunk ds64
W64_UNTOLD = 2**62  # a size that stands for none
GIF_EXTENSION = b"\x21"
GIF_IMAGE = b"\x2c"
GIF_CONTROL = b"\xf9"
GIF_CONTROL_BYTES = 4  # its size, flags and delay
GIF_BACKGROUND_AT = 11  # in its header, before the shape of its pixels
LAST_COLOUR = 255
# in hundredths of a second
GIF_TOO_SHORT = (1).to_bytes(2, "little")
GIF_TENTH = (10).to_bytes(2, "little")
LINKS_MOST = 4096
TAG_BYTES = 32  # of a file, which tell how long a tag is
PAGE = b"OggS"  # how a page of Ogg begins
SEARCH_BYTES = 2**16  # searched for one at once
BOS = 2  # an Ogg page's flag: the first page of a stream


class PatchedFile(io.RawIOBase):
    """A span of a file with some bytes replaced. `patches` ascend and have one length."""

    def __init__(self, file: BinaryIO, span: Span, patches: list[Patch]) -> None:
        self._file, (self._start, self._end), self._patches = file, span, patches
        self._at = self._start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: self._start, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        self._at = max(base + offset, self._start)
        return self.tell()

    def tell(self) -> int:
        return self._at - self._start

    def read(self, size: int = -1) -> bytes:
        left = max(self._end - self._at, 0)
        self._file.seek(self._at)
        data = bytearray(self._file.read(left if size < 0 else min(size, left)))
        longest = len(self._patches[0][1]) if self._patches else 0
        first = bisect_left(self._patches, (self._at - longest, b""))
        last = bisect_left(self._patches, (self._at + len(data), b""))
        for offset, patch in self._patches[first:last]:
            for i, byte in enumerate(patch, offset - self._at):
                if 0 <= i < len(data):
                    data[i] = byte
        self._at += len(data)
        return bytes(data)


@contextmanager
def open_repaired(path: Path, span: Span | None) -> Iterator[PatchedFile | None]:
    """The patched file that FFmpeg should read; None if it can read the file itself."""
    try:
        file = path.open("rb")
    except OSError:  # FFmpeg says what is wrong
        yield None
        return
    with file:
        whole = 0, path.stat().st_size
        headed = find_rifx_samples(file, whole[1]) or find_unpadded_samples(file, whole[1])
        if headed is not None:
            yield PatchedFile(file, *headed)
            return
        patches = (
            find_wave_patches(file)
            or find_caf_patches(file)
            or find_gif_patches(file)
            or find_size_patches(file, whole[1])
            or find_edit_patches(file, whole[1])
        )
        if span is None and not patches:
            yield None
        else:
            yield PatchedFile(file, span or whole, patches)


def find_wave_patches(file: BinaryIO) -> list[Patch]:
    """Patches of the bits a sample in a WAV or W64 header that contradict the block size."""
    file.seek(0)
    head = file.read(40)
    order = ">" if head[:4] == b"RIFX" else "<"
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX") and head[8:12] == b"WAVE":
        at, _ = find_chunk(file, b"fmt ", at=12, header=f"{order}4sI", align=2)
    elif head[:4] == b"riff" and head[24:28] == b"wave":
        at, _ = find_chunk(file, b"fmt ", at=40, header="<4s12xQ", align=8)
    else:
        return []
    file.seek(at)
    chunk = file.read(40)
    if at == 0 or len(chunk) < 16:
        return []
    tag, channels, _, _, block, bits = struct.unpack_from(f"{order}HHIIHH", chunk)
    valid = bits
    if tag == EXTENSIBLE and len(chunk) >= SUBFORMAT_AT + 2:
        valid = struct.unpack_from(f"{order}H", chunk, VALID_BITS_AT)[0] or bits
        tag = struct.unpack_from(f"{order}H", chunk, SUBFORMAT_AT)[0]
        places = [at + BITS_AT, at + VALID_BITS_AT]
    else:
        places = [at + BITS_AT]
    if tag not in (PCM, IEEE_FLOAT) or not channels or block % channels:
        return []
    held = 8 * block // channels
    if held == bits == valid or held not in (8, 16, 24, 32, 64):
        return []
    return [(place, struct.pack(f"{order}H", held)) for place in places]


def find_chunk(file: BinaryIO, wanted: bytes, at: int, header: str, align: int) -> tuple[int, int]:
    """Offset of a chunk's contents, 0 if there is none, and the size that its header tells."""
    length = struct.calcsize(header)
    for _ in range(CHUNKS_MOST):
        file.seek(at)
        head = file.read(length)
        if len(head) < length:
            break
        name, size = struct.unpack(header, head)
        if name == wanted:
            return at + length, size
        whole = size if align == 8 else length + size  # W64 counts the header, too
        if whole < length:
            break
        at += -(-whole // align) * align
    return 0, 0


def find_rifx_samples(file: BinaryIO, end: int) -> tuple[Span, list[Patch]] | None:
    """The span of a RIFX's samples with the bytes before them, and the header of AU that takes the
    place of those bytes; None for other files, and for kinds of samples that FFmpeg reads itself.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFX" or head[8:12] != b"WAVE":
        return None
    at, _ = find_chunk(file, b"fmt ", at=12, header=">4sI", align=2)
    start, size = find_chunk(file, b"data", at=12, header=">4sI", align=2)
    file.seek(at)
    chunk = file.read(16)
    if at == 0 or start < AU_HEADER or len(chunk) < 16:
        return None
    tag, channels, rate, _, block, _ = struct.unpack(">HHIIHH", chunk)
    kind = AU_KINDS.get((tag, 8 * block // channels)) if channels else None
    if kind is None:
        return None
    header = struct.pack(">4s5I", b".snd", AU_HEADER, AU_UNKNOWN_SIZE, kind, rate, channels)
    end = min(start + size, end) if size else end
    return (start - AU_HEADER, end), [(start - AU_HEADER, header)]


def find_unpadded_samples(file: BinaryIO, end: int) -> tuple[Span, list[Patch]] | None:
    """The span of a WAV's samples with the bytes before them, and the header that takes the place
    of those bytes, if chunks before the samples are not padded to even lengths; None for others.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    if find_chunk(file, b"data", at=12, header="<4sI", align=2)[0]:
        return None
    at, length = find_chunk(file, b"fmt ", at=12, header="<4sI", align=1)
    start, size = find_chunk(file, b"data", at=12, header="<4sI", align=1)
    if not 0 < at < start or length > FORMAT_MOST:
        return None
    file.seek(at)
    form = file.read(length)
    size = min(size or end - start, end - start)
    chunks = b"WAVEfmt " + struct.pack("<I", length) + form + b"\0" * (length % 2)
    chunks += b"data" + struct.pack("<I", size)
    header = b"RIFF" + struct.pack("<I", min(len(chunks) + size, 2**32 - 1)) + chunks
    first = start - len(header)
    return ((first, start + size), [(first, header)]) if first >= 0 else None


def find_caf_patches(file: BinaryIO) -> list[Patch]:
    """The same as `find_wave_patches`, of a CAF of PCM."""
    file.seek(0)
    if file.read(4) != b"caff":
        return []
    at, _ = find_chunk(file, b"desc", at=8, header=">4sq", align=1)
    file.seek(at)
    description = file.read(32)
    if at == 0 or len(description) < 32:
        return []
    _, kind, _, block, frames, channels, bits = struct.unpack(">d4s5I", description)
    if kind != b"lpcm" or not channels or not frames or block % (frames * channels):
        return []
    held = 8 * block // (frames * channels)
    if held == bits or held not in (8, 16, 24, 32, 64):
        return []
    return [(at + CAF_BITS_AT, struct.pack(">I", held))]


def find_size_patches(file: BinaryIO, end: int) -> list[Patch]:
    """Patches of sizes that a header does not tell: those of all samples up to the file's `end`."""
    file.seek(0)
    head = file.read(40)
    if head[:4] in (b"RF64", b"BW64") and head[12:16] == b"ds64":
        at, _ = find_chunk(file, b"data", at=12, header="<4sI", align=2)
        untold = not any(head[RF64_SIZE_AT : RF64_SIZE_AT + 8])
        return [(RF64_SIZE_AT, struct.pack("<Q", end - at))] if at and untold else []
    if head[:4] == b"riff" and head[24:28] == b"wave":
        at, size = find_chunk(file, b"data", at=40, header="<4s12xQ", align=8)
        # the header of a chunk counts
        return [(at - 8, struct.pack("<Q", end - at + 24))] if at and size >= W64_UNTOLD else []
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        at, size = find_chunk(file, b"SSND", at=12, header=">4sI", align=2)
        places = [(4, end - 8)] if not any(head[4:8]) else []
        places += [(at - 4, end - at)] if at and not size else []
        return [(place, struct.pack(">I", min(held, 2**32 - 1))) for place, held in places]
    return []


def find_gif_patches(file: BinaryIO) -> list[Patch]:
    """Patches that turn a GIF's delays of a hundredth of a second into a tenth, as in browsers, and
    its background into transparency, or its lightest colour.
    """
    file.seek(0)
    head = file.read(13)
    if head[:4] != b"GIF8" or len(head) < 13:
        return []
    background = find_clear_colour(file.read(colour_table_bytes(head[10])))
    patches: list[Patch] = []
    if background is not None:
        patches.append((GIF_BACKGROUND_AT, bytes([background]) + head[12:13]))
    while kind := file.read(1):
        if kind == GIF_EXTENSION:
            label = file.read(1)
            at = file.tell()
            control = file.read(GIF_CONTROL_BYTES)
            if label == GIF_CONTROL and control[2:4] == GIF_TOO_SHORT:
                patches.append((at + 2, GIF_TENTH))
            file.seek(at)
        elif kind == GIF_IMAGE:
            descriptor = file.read(9)
            if len(descriptor) < 9:
                break
            file.seek(colour_table_bytes(descriptor[8]) + 1, io.SEEK_CUR)  # and the size of a code
        else:
            break
        while size := file.read(1)[:1]:  # blocks, the last of them empty
            if size == b"\0":
                break
            file.seek(size[0], io.SEEK_CUR)
    return patches


def find_clear_colour(table: bytes) -> int | None:
    """The number of a colour that the table [3 * colours] lacks, which FFmpeg takes for
    transparent; of a full table, that of its lightest colour. None without a table.
    """
    if not table:
        return None
    if len(table) < 3 * (LAST_COLOUR + 1):
        return LAST_COLOUR
    return max(range(LAST_COLOUR + 1), key=lambda colour: sum(table[3 * colour : 3 * colour + 3]))


def colour_table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def find_ogg_links(path: Path) -> list[Span | None]:
    """The spans of the streams in a chained Ogg file; [None], the whole file, for any other.

    Raises:
        BeyondBudget: there are more than LINKS_MOST.
    """
    starts: list[int] = []
    with path.open("rb") as file:
        began = True  # whether pages that begin no stream have been met since the last link began
        for at, flags in read_ogg_pages(file):
            if flags & BOS and began:
                starts.append(at)
                if len(starts) > LINKS_MOST:
                    raise BeyondBudget("links of an Ogg file", len(starts), LINKS_MOST)
            began = not flags & BOS
    if len(starts) < 2:
        return [None]
    return list(zip(starts, [*starts[1:], path.stat().st_size], strict=True))


def read_ogg_pages(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(offset, flags) of the pages of an Ogg file, whatever lies between them; nothing for other
    files. It may begin with an ID3 tag.
    """
    at: int | None = tag_bytes(file.read(TAG_BYTES))
    file.seek(at or 0)
    if file.read(4) != PAGE:
        return
    while at is not None:
        file.seek(at)
        head = file.read(27)
        if head[:4] != PAGE:
            at = find_page(file, at)
            continue
        if len(head) < 27:
            return
        table = file.read(head[26])
        yield at, head[5]
        at += 27 + len(table) + sum(table)


def find_page(file: BinaryIO, at: int) -> int | None:
    """Where the next page of an Ogg file begins, from `at` on; None without one."""
    file.seek(at)
    while data := file.read(SEARCH_BYTES):
        found = data.find(PAGE)
        if found >= 0:
            return at + found
        at += len(data) - len(PAGE) + 1
        if len(data) < SEARCH_BYTES:
            return None
        file.seek(at)
    return None
