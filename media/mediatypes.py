"""The media type of a stored file, by its first bytes. A file's suffix only counts where the bytes
do not tell; the machine's table of types never does.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

HEAD_BYTES = 4096
TAGS_MOST = 8  # tags in front of a file that are skipped
UNKNOWN = "application/octet-stream"

Pair = tuple[str, str]  # media type with pictures, and with sound alone


def same(name: str) -> Pair:
    return name, name


# QuickTime has no registered type for sound alone, so it gets that of MP4
MP4 = ("video/mp4", "audio/mp4")
QUICKTIME = ("video/quicktime", "audio/mp4")
MPEG = ("video/mpeg", "audio/mpeg")
TRANSPORT = same("video/mp2t")
AAC = same("audio/aac")
AC3 = same("audio/ac3")
EAC3 = same("audio/eac3")
DTS = same("audio/vnd.dts")
MXF = same("application/mxf")

STARTS: tuple[tuple[int, bytes, Pair], ...] = (
    (0, b"OggS", ("video/ogg", "audio/ogg")),
    (0, b"fLaC", same("audio/flac")),
    (8, b"WAVE", same("audio/x-wav")),
    (8, b"AVI ", same("video/x-msvideo")),
    (8, b"AVIX", same("video/x-msvideo")),
    (8, b"AMV ", same("video/x-amv")),
    (8, b"CDXA", MPEG),  # a file of a Video CD, AVSEQ01.DAT
    (8, b"AIFF", same("audio/x-aiff")),
    (8, b"AIFC", same("audio/x-aiff")),
    (0, b"riff\x2e\x91\xcf\x11", same("audio/x-w64")),
    (0, b"caff", same("audio/x-caf")),
    (0, b".snd", same("audio/basic")),
    (0, b"wvpk", same("audio/x-wavpack")),
    (0, b"TTA", same("audio/x-tta")),
    (0, b"MAC ", same("audio/x-ape")),
    (0, b"MPCK", same("audio/x-musepack")),
    (0, b"MP+", same("audio/x-musepack")),
    (0, b"DSD ", same("audio/x-dsf")),
    (0, b"FRM8", same("audio/x-dff")),
    (0, b"#!AMR-WB", same("audio/amr-wb")),
    (0, b"#!AMR", same("audio/amr")),
    (0, b"0&\xb2u\x8ef\xcf\x11", ("video/x-ms-wmv", "audio/x-ms-wma")),
    (0, b"FLV", same("video/x-flv")),
    (0, b"GIF8", same("image/gif")),
    (0, b"\xff\xd8\xff", same("image/jpeg")),
    (8, b"WEBP", same("image/webp")),
    (0, b".RMF", ("application/vnd.rn-realmedia", "audio/x-pn-realaudio")),
    (0, b".ra\xfd", same("audio/x-pn-realaudio")),
    (0, b"DKIF", same("video/x-ivf")),
    (4, b"\xf8\x72\x6f\xba", same("audio/vnd.dolby.mlp")),
    (4, b"\xf8\x72\x6f\xbb", same("audio/vnd.dolby.mlp")),
    (0, b"\x1f\x07\x00", same("video/dv")),
    (0, b"DTSHDHDR", same("audio/vnd.dts.hd")),
    (0, b"\x7f\xfe\x80\x01", DTS),
    (0, b"\xfe\x7f\x01\x80", DTS),
    (0, b"\x1f\xff\xe8\x00", DTS),
    (0, b"\xff\x1f\x00\xe8", DTS),
    (0, b"\x00\x00\x01\xba", MPEG),
    (0, b"\x00\x00\x01\xb3", MPEG),
    (0, b"\x00\x00\x01\xb0", same("video/mp4v-es")),
    (0, b"\x12\x00\x0a", same("video/av1")),
    (0, b"nut/multimedia container", ("video/x-nut", "audio/x-nut")),
    (0, b"YUV4MPEG2 ", same("video/x-yuv4mpeg")),
    (0, b"\x00\x00\x00\x00\x01\xbc", same("application/gxf")),
    (0, b"\xb7\xd8\x00\x20\x37\x49\xda\x11", same("video/x-ms-wtv")),
    (0, b"Creative Voice File\x1a", same("audio/x-voc")),
    (0, b"NIST_1A", same("audio/x-nist")),
    (0, b".SoX", same("audio/x-sox")),
    (0, b"XoS.", same("audio/x-sox")),
)
BRANDS: tuple[tuple[bytes, Pair], ...] = (  # by the beginning of an ISO file's main brand
    (b"qt", QUICKTIME),
    (b"3g2", ("video/3gpp2", "audio/3gpp2")),
    (b"3g", ("video/3gpp", "audio/3gpp")),
    (b"mjp2", same("video/mj2")),
    (b"avif", same("image/avif")),
    (b"avis", same("image/avif")),
    (b"hei", same("image/heic")),
    (b"hev", same("image/heic")),
    (b"mif1", same("image/heif")),
    (b"msf1", same("image/heif")),
)
# first atoms of QuickTime files from before there were brands
OLD_ATOMS = {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
SEGMENTS = {b"styp", b"moof", b"sidx"}
# a key of MXF, which may have other bytes in front
PARTITION = b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02"
BY_SUFFIX = {
    ".mp3": MPEG,
    ".mpg": MPEG,
    ".mpeg": MPEG,
    ".ts": TRANSPORT,
    ".mts": TRANSPORT,
    ".m2ts": TRANSPORT,
    ".aac": AAC,
    ".ac3": AC3,
    ".eac3": EAC3,
    ".dts": DTS,
    ".mxf": MXF,
}


def media_type(path: Path, pictures: bool) -> str:
    """The media type of a file that has `pictures`, or sound alone. Raises OSError."""
    with path.open("rb") as file:
        head, tagged = after_tags(file)
    found = (
        by_start(head)
        or by_chunk(head)
        or by_brand(head)
        or by_frames(head)
        or BY_SUFFIX.get(path.suffix.lower())
    )
    if found is None:
        found = MPEG if tagged else same(UNKNOWN)
    return found[0] if pictures else found[1]


def is_recording(path: Path) -> bool:
    """Whether the first bytes of a file are those of video or sound, whatever its name. Frames of
    MPEG sound and AAC only count where a second one follows. Raises OSError.
    """
    with path.open("rb") as file:
        head, tagged = after_tags(file)
    found = by_start(head) or by_brand(head)
    if found is None and (is_transport(head) or has_frames(head)):
        return True
    if found is None:
        return tagged
    return not found[0].startswith("image/") or found == same("image/gif")


def after_tags(file: BinaryIO) -> tuple[bytes, bool]:
    """The first bytes of a file behind its ID3 and APE tags, and whether there were any."""
    head = file.read(HEAD_BYTES)
    at = 0
    for _ in range(TAGS_MOST):
        size = tag_bytes(head)
        if not size:
            break
        at += size
        file.seek(at)
        head = file.read(HEAD_BYTES)
    return (head.lstrip(b"\0"), True) if at else (head, False)


def tag_bytes(head: bytes) -> int:
    """The size in bytes of the tag that a file begins with; 0 without one."""
    if head.startswith(b"ID3") and len(head) >= 10:
        size = 0
        for byte in head[6:10]:
            size = size << 7 | byte & 0x7F
        footer = 10 if head[5] & 0x10 else 0
        return 10 + size + footer
    if head.startswith(b"APETAGEX") and len(head) >= 32:
        return 32 + int.from_bytes(head[12:16], "little")
    return 0


def by_start(head: bytes) -> Pair | None:
    return next((pair for at, start, pair in STARTS if head.startswith(start, at)), None)


def by_chunk(head: bytes) -> Pair | None:
    """A PNG is animated if a chunk before its pictures says so."""
    if not head.startswith(b"\x89PNG"):
        return None
    return same("image/apng") if b"acTL" in head.partition(b"IDAT")[0] else same("image/png")


def by_brand(head: bytes) -> Pair | None:
    """By the brand or document type in the first box: Matroska, ISO files, QuickTime, MXF."""
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        at = head.find(b"\x42\x82")  # the element that names the kind
        return (
            ("video/webm", "audio/webm")
            if b"webm" in head[at : at + 16]
            else ("video/x-matroska", "audio/x-matroska")
        )
    box = head[4:8]
    if box == b"ftyp":
        return next((pair for start, pair in BRANDS if head.startswith(start, 8)), MP4)
    if box in SEGMENTS:
        return MP4
    if box in OLD_ATOMS:
        return QUICKTIME
    return MXF if PARTITION in head else None


def by_frames(head: bytes) -> Pair | None:
    """Of streams without a container, by the first bytes of their frames."""
    if len(head) < 8:
        return None
    if is_transport(head):
        return TRANSPORT
    if head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return AAC
    if head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06 and head[2] & 0xF0 != 0xF0:
        return MPEG
    if head.startswith(b"\x0b\x77"):
        return EAC3 if head[5] >> 3 > 10 else AC3
    if head.lstrip(b"\0")[:1] == b"\x01" and head.startswith(b"\0\0"):
        unit = head.lstrip(b"\0")[1]
        if unit in (0x40, 0x42, 0x44, 0x46):
            return same("video/h265")
        if unit & 0x1F in (7, 9):
            return same("video/h264")
    return None


def is_transport(head: bytes) -> bool:
    """Whether packets of MPEG-TS follow one another, each beginning with 0x47."""
    for size in (188, 192, 204):
        for first in range(size):
            starts = head[first : first + 5 * size : size]
            if len(starts) >= 3 and starts.count(0x47) == len(starts):
                return True
    return False


# kbit/s by version (1, or 2 and 2.5) and layer, from index 1 on; samples a second of version 1
RATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SAMPLE_RATES = (44_100, 48_000, 32_000)


def has_frames(head: bytes) -> bool:
    """Whether two frames of AAC (ADTS) or MPEG sound follow one another."""
    size = frame_bytes(head)
    return bool(size) and bool(frame_bytes(head[size:]))


def frame_bytes(head: bytes) -> int:
    """The length of the frame of AAC or MPEG sound that begins here; 0 where none does."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    if head[1] & 0xF6 == 0xF0:  # ADTS: the length is in its head
        return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    version = {3: 1.0, 2: 2.0, 0: 2.5}.get(head[1] >> 3 & 3)
    layer = 4 - (head[1] >> 1 & 3)
    rate = head[2] >> 4
    sampling = head[2] >> 2 & 3
    if version is None or layer == 4 or not 0 < rate < 15 or sampling == 3:
        return 0
    later = version > 1
    kbits = RATES[2 if later else 1, min(layer, 2) if later else layer][rate - 1]
    hz = SAMPLE_RATES[sampling] / {1.0: 1, 2.0: 2, 2.5: 4}[version]
    padding = head[2] >> 1 & 1
    if layer == 1:
        return (int(12_000 * kbits / hz) + padding) * 4
    samples = 72_000 if later and layer == 3 else 144_000
    return int(samples * kbits / hz) + padding
