"""Words of files: read from their streams and from what lies beside them, kept, and found at the
second they are said.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from media.containers import Budget
from media.passages import Kind, Passage, fold_words, join_cues, list_meanings
from media.subtitles import Sidecars, decode_text, parse_subtitles, read_file_words, read_sidecar

from .makers import make_film

CUES = [(1.0, 2.5, "Hello <b>there</b>"), (4.0, 6.0, r"{\i1}it is{\i0} rain\Ntoday")]
SRT = "1\n00:00:01,500 --> 00:00:03,000\n<i>Bonjour</i> {\\an8}l'été\n"
VTT = "WEBVTT\n\nNOTE made by hand\n\n00:01.500 --> 00:03.000 align:start\n<v Ann>Tea &amp; cake\n"


def spoken(passages: tuple[Passage, ...] | list[Passage]) -> list[tuple[float, float, str]]:
    return [
        (round(passage.start_s, 2), round(passage.end_s, 2), passage.text) for passage in passages
    ]


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", "srt"), ("a.mkv", "ass"), ("a.mp4", "mov_text"), ("a.webm", "webvtt")],
)
def test_subtitle_streams_tell_their_words_and_times(tmp_path: Path, name: str, codec: str) -> None:
    film = make_film(tmp_path / name, CUES, codec=codec)
    found = read_file_words(film, Budget())
    assert spoken(found.passages) == [(1.0, 2.5, "Hello there"), (4.0, 6.0, "it is rain today")]
    assert {passage.kind for passage in found.passages} == {Kind.SUBTITLE}
    assert found.metadata == {}


def test_tags_and_chapters_become_words_and_metadata(tmp_path: Path) -> None:
    film = make_film(
        tmp_path / "a.mkv",
        tags={"title": "Große Fahrt", "artist": "Ann", "encoder": "x"},
        chapters=[(0, 4, "Harbour"), (4, 10, "Open sea")],
    )
    found = read_file_words(film, Budget())
    assert found.metadata == {
        "tags": {"title": "Große Fahrt", "artist": "Ann"},
        "chapters": ["Harbour", "Open sea"],
    }
    assert spoken(found.passages) == [
        (0.0, 10.0, "Große Fahrt"),
        (0.0, 10.0, "Ann"),
        (0.0, 4.0, "Harbour"),
        (4.0, 10.0, "Open sea"),
    ]


@pytest.mark.parametrize(
    ("suffix", "text", "expected"),
    [
        (".srt", SRT, [(1.5, 3.0, "Bonjour l'été")]),
        (".vtt", VTT, [(1.5, 3.0, "Tea & cake")]),
        (".srt", VTT, [(1.5, 3.0, "Tea & cake")]),
        (".lrc", "[ar:X]\n[00:01.50]la <00:02.0>la\n[00:04.00]\n", [(1.5, 4.0, "la la")]),
        (".lrc", "[offset:500]\n[00:01.50][00:09]oh\n", [(1.0, 6.0, "oh"), (8.5, 13.5, "oh")]),
        (".srt", "no subtitles at all", []),
        (".ass", "\0\1\2", []),
    ],
)
def test_subtitles_and_lyrics_lose_their_markup(
    suffix: str, text: str, expected: list[tuple[float, float, str]]
) -> None:
    assert spoken(join_cues(parse_subtitles(text, suffix))) == expected


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Grüße aus Köln, es war schön", "utf-8-sig"),
        ("Grüße aus Köln, es war schön", "utf-16"),
        ("Wir grüßen aus Köln, es war schön und für alle möglich", "cp1252"),
        ("Это было давно, и никто уже не помнит, как всё началось", "cp1251"),
    ],
)
def test_encodings_are_guessed(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding)) == text


def test_sidecars_belong_to_a_film_by_name(tmp_path: Path) -> None:
    belong = ["film.srt", "film.en.srt", "film.pt-BR.forced.vtt", "film.LRC"]
    for name in [*belong, "film2.srt", "film.txt", "other.en.srt", "film.the end.srt", "film.mp4"]:
        (tmp_path / name).touch()
    found = Sidecars().beside(tmp_path / "film.mp4")
    assert sorted(path.name for path in found) == sorted(belong)


def test_a_sidecar_that_cannot_be_read_costs_its_words_alone(tmp_path: Path) -> None:
    assert read_sidecar(tmp_path / "missing.srt") == []
    film = make_film(tmp_path / "a.mkv", CUES[:1])
    found = read_file_words(film, Budget(), (tmp_path / "missing.srt",))
    assert spoken(found.passages) == [(1.0, 2.5, "Hello there")]


def test_two_tracks_stay_apart_and_count_once_where_they_agree(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mkv", CUES[:1])
    (tmp_path / "a.en.srt").write_text("1\n00:00:01,000 --> 00:00:02,500\nHello there\n")
    (tmp_path / "a.de.srt").write_text("1\n00:00:01,000 --> 00:00:02,500\nHallo du\n")
    found = read_file_words(film, Budget(), Sidecars().beside(film))
    assert spoken(found.passages) == [(1.0, 2.5, "Hallo du"), (1.0, 2.5, "Hello there")]


# ---------------------------------------------------------------- passages


def said(start_s: float, end_s: float, text: str) -> Passage:
    return Passage(start_s, end_s, text, Kind.SUBTITLE)


def test_cues_join_only_if_they_begin_together() -> None:
    cues = [said(0, 3, "- Who?"), said(0.5, 3, "- Me."), said(3, 5, "Come in."), said(9, 10, "♪")]
    assert spoken(join_cues(cues)) == [(0, 3, "- Who? - Me."), (3, 5, "Come in.")]


def test_a_sentence_that_goes_on_is_encoded_whole() -> None:
    cues = [said(0, 2, "If it rains,"), said(2, 4, "we stay."), said(4, 5, "Fine.")]
    assert list_meanings(cues) == ["If it rains, we stay.", "we stay.", "Fine."]
    lyrics = [said(0, 2, "down by the river"), said(2, 4, "we used to swim")]
    assert list_meanings(lyrics) == ["down by the river", "we used to swim"]


def test_words_are_compared_without_case_and_accents() -> None:
    assert fold_words("L'ÉTÉ, Straße Ёлка") == ["l", "ete", "strasse", "елка"]
    assert fold_words("狗叫 2") == ["狗", "叫", "2"]
