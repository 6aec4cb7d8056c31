"""Works around valid files that FFmpeg reads wrongly: it gets patched bytes, or parts of a file.

- WAV and W64 whose samples are padded (24 bits in 32, say). FFmpeg takes the valid bits for the
  sample size. The right size follows from the header's block size.
- GIF pictures shown for one hundredth of a second. Browsers show them for ten hundredths; FFmpeg
  since 7.0 does not.
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

from .errors import BeyondBudget

Span = tuple[int, int]  # bytes of a file, [start, end)
Patch = tuple[int, bytes]  # an offset in a file, and the bytes to read there instead
PCM, IEEE_FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # format tags of WAVEFORMATEX
BITS_AT, VALID_BITS_AT, SUBFORMAT_AT = 14, 18, 24  # in a format chunk
CHUNKS_MOST = 64  # chunks searched for the format chunk
GIF_EXTENSION, GIF_IMAGE, GIF_CONTROL = b"\x21", b"\x2c", b"\xf9"
GIF_CONTROL_BYTES = 4  # its size, flags and delay
# in hundredths of a second
GIF_TOO_SHORT, GIF_TENTH = (1).to_bytes(2, "little"), (10).to_bytes(2, "little")
LINKS_MOST = 4096
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
        patches = find_wave_patches(file) or find_gif_patches(file)
        if span is None and not patches:
            yield None
        else:
            yield PatchedFile(file, span or (0, path.stat().st_size), patches)


def find_wave_patches(file: BinaryIO) -> list[Patch]:
    """Patches of the bits a sample in a WAV or W64 header that contradict the block size."""
    file.seek(0)
    head = file.read(40)
    order = ">" if head[:4] == b"RIFX" else "<"
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX") and head[8:12] == b"WAVE":
        at = find_format_chunk(file, at=12, header=f"{order}4sI", align=2)
    elif head[:4] == b"riff" and head[24:28] == b"wave":
        at = find_format_chunk(file, at=40, header="<4s12xQ", align=8)
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


def find_format_chunk(file: BinaryIO, at: int, header: str, align: int) -> int:
    """Offset of the format chunk's contents; 0 if there is none."""
    length = struct.calcsize(header)
    for _ in range(CHUNKS_MOST):
        file.seek(at)
        head = file.read(length)
        if len(head) < length:
            return 0
        name, size = struct.unpack(header, head)
        if name == b"fmt ":
            return at + length
        whole = size if align == 8 else length + size  # W64 counts the header, too
        if whole < length:
            return 0
        at += -(-whole // align) * align
    return 0


def find_gif_patches(file: BinaryIO) -> list[Patch]:
    """Patches that turn a GIF's delays of a hundredth of a second into a tenth, as in browsers."""
    file.seek(0)
    head = file.read(13)
    if head[:4] != b"GIF8" or len(head) < 13:
        return []
    patches: list[Patch] = []
    file.seek(colour_table_bytes(head[10]), io.SEEK_CUR)
    while kind := file.read(1):
        if kind == GIF_EXTENSION:
            label, at = file.read(1), file.tell()
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
    """(offset, flags) of the pages of an Ogg file, up to the first gap; nothing for other files."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            return
        table = file.read(head[26])
        yield at, head[5]
        at += 27 + len(table) + sum(table)
