"""Hits as files for other programs: a table (CSV), and a list of marks for video editors (EDL)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Literal

from media.modality import AUDIO, RECORDED, VIDEO

from .search import Hit

TITLE = "Tercet"  # of a list whose query has no words
Format = Literal["csv", "json", "edl"]

COLUMNS = (
    "id",
    "filename",
    "kind",
    "start_s",
    "end_s",
    "target",
    "score",
    "confidence",
    "text",
)
# What spreadsheets take for the beginning of a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
FPS = 25  # of the time codes
STILL_S = 1.0  # how long a picture stands on the time line
EVENTS_MAX = 999  # an event's number has three digits
STARTS_S = 3600  # the time line begins at 01:00:00:00, as is usual
CHANNELS: dict[tuple[str, ...], str] = {(VIDEO,): "V", (AUDIO,): "A"}


def format_csv(hits: Sequence[Hit]) -> str:
    """A row for each hit, of its best moment. An apostrophe stands before texts that a spreadsheet
    would take for a formula.
    """
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\r\n")
    rows.writerow(COLUMNS)
    for hit in hits:
        rows.writerow([format_cell(getattr(hit, column)) for column in COLUMNS])
    return out.getvalue()


def format_cell(value: object) -> object:
    """A value as a cell of a table.

    >>> format_cell("=1+1"), format_cell(-0.5), format_cell(None)
    ("'=1+1", -0.5, '')
    """
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value


def format_edl(hits: Sequence[Hit], title: str) -> str:
    """The best moment of each hit as an event of a CMX 3600 list, one after another on the time
    line, each with a mark at its beginning. Time codes count 25 frames a second.

    Hits of words alone have no media and are left out, as are those after the 999th.
    """
    lines = [f"TITLE: {one_line(title)}", "FCM: NON-DROP FRAME", ""]
    shown = [hit for hit in hits if hit.kind != "text"]
    at = STARTS_S * FPS
    for number, hit in enumerate(shown[:EVENTS_MAX], 1):
        first = round(hit.start_s * FPS)
        end_s = hit.start_s + STILL_S if hit.kind == "image" else hit.end_s
        length = max(round(end_s * FPS) - first, 1)
        recorded = tuple(part for part in RECORDED if part in hit.modalities)
        channel = CHANNELS.get(recorded, "B")
        name = one_line(hit.filename or hit.id)
        times = " ".join(map(timecode, (first, first + length, at, at + length)))
        lines += [
            f"{number:03d}  AX       {channel:<5} C        {times}",
            f"* FROM CLIP NAME: {name}",
            f"* LOC: {timecode(at)} CYAN    {one_line(hit.text or name)}",
            "",
        ]
        at += length
    return "\n".join(lines)


def timecode(frames: int) -> str:
    """Hours, minutes, seconds and frames.

    >>> timecode(90_000 + 126)
    '01:00:05:01'
    """
    seconds, rest = divmod(frames, FPS)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}:{rest:02d}"


def one_line(text: str) -> str:
    """A text whose line breaks and other white space are single spaces."""
    return " ".join(text.split())
