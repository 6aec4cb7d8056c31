"""Hits as tables and as lists of marks for video editors: written, over HTTP and by the command."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from index.formats import COLUMNS, format_csv, format_edl
from index.search.answer import Hit
from service.app import create_app

from .makers import BLUE, GREEN, RED, FakeEncoder, make_clip, make_wav
from .test_cli import tercet
from .test_service import Client, add, refused, settings


def hit(id: str, start_s: float, end_s: float, **more: Any) -> Hit:
    values: dict[str, Any] = {
        "kind": "video",
        "duration_s": 10.0,
        "filename": f"{id}.mp4",
        "modalities": ["audio", "video"],
        "score": 0.5,
        "confidence": None,
        "target": "any",
        "scores": {},
        "evidence": {},
        "metadata": {},
        "moments": [],
    }
    return Hit(id=id, start_s=start_s, end_s=end_s, **values | more)


def test_a_table_has_a_row_for_each_hit_and_no_formula() -> None:
    said = hit("b", 1.0, 2.5, text='a "quiet", old\nsong', filename="=cmd()", confidence=0.25)
    rows = list(csv.reader(io.StringIO(format_csv([hit("a", 0.0, 5.0), said]), newline="")))
    assert rows[0] == list(COLUMNS)
    assert rows[1] == ["a", "a.mp4", "video", "0.0", "5.0", "any", "0.5", "", ""]
    assert rows[2][1] == "'=cmd()" and rows[2][3:5] == ["1.0", "2.5"]
    assert rows[2][7:] == ["0.25", 'a "quiet", old\nsong']


def test_moments_follow_one_another_on_the_time_line_of_an_edl() -> None:
    """At 25 frames a second: 4.04 s are 101 frames, 4 s and one frame."""
    hits = [
        hit("film", 61.0, 65.04),
        hit("note", 0.0, 0.0, kind="text", modalities=["text"]),
        hit("song", 0.0, 2.0, kind="audio", modalities=["audio"], text="two\nlines"),
        hit("still", 0.0, 0.0, kind="image", modalities=["video"], filename=None),
    ]
    assert format_edl(hits, "a\nquery").split("\n") == [
        "TITLE: a query",
        "FCM: NON-DROP FRAME",
        "",
        "001  AX       B     C        00:01:01:00 00:01:05:01 01:00:00:00 01:00:04:01",
        "* FROM CLIP NAME: film.mp4",
        "* LOC: 01:00:00:00 CYAN    film.mp4",
        "",
        "002  AX       A     C        00:00:00:00 00:00:02:00 01:00:04:01 01:00:06:01",
        "* FROM CLIP NAME: song.mp4",
        "* LOC: 01:00:04:01 CYAN    two lines",
        "",
        "003  AX       V     C        00:00:00:00 00:00:01:00 01:00:06:01 01:00:07:01",
        "* FROM CLIP NAME: still",
        "* LOC: 01:00:06:01 CYAN    still",
        "",
    ]


def test_a_search_answers_in_the_format_asked_for(tmp_path: Path) -> None:
    story = make_clip(tmp_path / "story.mp4", [GREEN] * 4 + [BLUE] * 4)
    with Client(create_app(settings(tmp_path / "data"), FakeEncoder())) as client:
        add(client, story, id="story")
        add(client, make_clip(tmp_path / "red.mp4", [RED, RED]), id="red")
        query = {"parts": [{"text": "blue"}], "targets": ["video"], "top_k": 1}
        found = client.post("/v1/search", json=query).json()["hits"][0]
        table = client.post("/v1/search?format=csv", json=query)
        assert table.headers["content-type"].startswith("text/csv")
        assert table.headers["content-disposition"] == 'attachment; filename="hits.csv"'
        (row,) = csv.DictReader(io.StringIO(table.text, newline=""))
        assert row["id"] == "story" and float(row["start_s"]) == found["start_s"]
        marks = client.post("/v1/search?format=edl", json=query)
        assert marks.headers["content-type"].startswith("text/plain")
        assert marks.text.startswith("TITLE: blue\n") and "00:00:04:00 00:00:08:00" in marks.text
        assert client.post("/v1/search?format=json", json=query).json()["hits"] == [found]
        refused(client.post("/v1/search?format=xml", json=query), 400, "bad_request")


def test_the_command_prints_the_same_formats(tmp_path: Path) -> None:
    make_wav(tmp_path / "tone.wav", 3.0)
    data = ("--data", tmp_path / "data")
    assert tercet("build", *data, tmp_path / "tone.wav").returncode == 0
    begins = {"csv": "id,filename,kind", "edl": "TITLE: a bell\n", "json": "{"}
    for format, begin in begins.items():
        ran = tercet("search", *data, "--text", "a bell", "--format", format)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith(begin) and "tone.wav" in ran.stdout
