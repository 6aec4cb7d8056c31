"""Words of files: read from their streams and from what lies beside them, kept, and found at the
second they are said.
"""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from export.encoder import Encoder
from index.collection import Collection
from index.ingest.build import build
from index.ingest.encoding import embed_rows
from index.ingest.plan import BuildOptions, Report
from index.ingest.reembed import reembed, swap
from index.library import Collections
from index.records.passages import Candidate, Candidates
from index.search import Hit, Options, TargetQuery, search
from index.search.words import SCATTERED, rate
from media.containers import Budget, read_clock
from media.passages import Kind, Passage, fold_words, join_cues, list_meanings
from media.readers import NO_READERS, WordReaders
from media.sandbox import Decoders
from media.subtitles import Sidecars, decode_text, parse_subtitles, read_file_words, read_sidecar
from service.app import create_app
from service.settings import Settings

from .makers import RED, FakeEncoder, make_clip, make_spoken_film

CUES = [(1.0, 2.5, "Hello <b>there</b>"), (4.0, 6.0, r"{\i1}it is{\i0} rain\Ntoday")]
SRT = "1\n00:00:01,500 --> 00:00:03,000\n<i>Bonjour</i> {\\an8}l'été\n"
VTT = "WEBVTT\n\nNOTE made by hand\n\n00:01.500 --> 00:03.000 align:start\n<v Ann>Tea &amp; cake\n"
# What pysubs2 would take for words, or lose: a number as the last line, a note, the name of a cue.
NAMED_VTT = (
    "WEBVTT - a title\n\n00:01.000 --> 00:02.000\nThe year was\n1984\n\nNOTE\nnot checked yet\n\n"
    "last\n00:03.000 --> 00:04.000\nGoodbye\n"
)


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
    film = make_spoken_film(tmp_path / name, CUES, codec=codec)
    found = read_file_words(film, Budget())
    assert spoken(found.passages) == [(1.0, 2.5, "Hello there"), (4.0, 6.0, "it is rain today")]
    assert {passage.kind for passage in found.passages} == {Kind.SUBTITLE}
    assert found.metadata == {}


def test_subtitles_after_a_joint_are_where_their_pictures_are(tmp_path: Path) -> None:
    """Two films of ten seconds, joined byte by byte: the clock starts anew."""
    film = make_spoken_film(tmp_path / "a.mkv", CUES)
    second = make_spoken_film(tmp_path / "b.mkv", [(2.5, 3.5, "After the joint")])
    film.write_bytes(film.read_bytes() + second.read_bytes())
    [[(_, joint_s)]] = read_clock(film, Budget()).steps.values()
    assert joint_s == pytest.approx(10.0, abs=0.5)  # the last pictures are decoded early
    found = spoken(read_file_words(film, Budget()).passages)
    assert found == [
        (1.0, 2.5, "Hello there"),
        (4.0, 6.0, "it is rain today"),
        (joint_s + 2.5, joint_s + 3.5, "After the joint"),
    ]


def test_tags_and_chapters_become_words_and_metadata(tmp_path: Path) -> None:
    film = make_spoken_film(
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
        (".vtt", NAMED_VTT, [(1.0, 2.0, "The year was 1984"), (3.0, 4.0, "Goodbye")]),
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


@pytest.mark.parametrize("piece", ["<a", "{\\\\", "&#", " "])
def test_a_hostile_cue_takes_no_hours(piece: str) -> None:
    cue = f"1\n00:00:01,000 --> 00:00:02,000\nwell{piece * 500_000} yes\n"
    (found,) = parse_subtitles(cue, ".srt")
    assert found.text.startswith("well")
    assert len(found.text) < 10_000


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


SAID = {
    "Où étais-tu hier soir ?\nJe t'ai attendu jusqu'à minuit.\nÇa m'est égal, répondit-elle.": (
        "cp1252",
        "latin-1",
    ),
    "Var var du i går kväll?\nFlickan åt ett äpple på ön.\nÄr du säker på det?": ("cp1252",),
    "Onde você estava ontem à noite?\nNão há pão na cozinha.\nA irmã dele é médica.": ("cp1252",),
    "Gdzie byłeś wczoraj wieczorem?\nCzekałem na ciebie do północy.\nPies szczeka, pada deszcz.": (
        "cp1250",
        "iso8859-2",
    ),
    "Πού ήσουν χθες το βράδυ;\nΣε περίμενα μέχρι τα μεσάνυχτα.\nΟ σκύλος γαβγίζει.": ("cp1253",),
    "Где ты был вчера вечером?\nЯ ждал тебя до полуночи.\nСобака лает на улице.": (
        "cp1251",
        "koi8-r",
        "cp866",
    ),
    "昨日の夜はどこにいましたか。\n真夜中まで待っていました。": ("shift_jis", "euc_jp"),
    "你昨天晚上在哪里？\n我等你等到半夜。\n狗在街上叫，下雨了。": ("gb18030",),
}


@pytest.mark.parametrize(
    ("text", "encoding"), [(text, each) for text, of in SAID.items() for each in of]
)
def test_subtitles_of_a_few_lines_are_read_in_their_encoding(text: str, encoding: str) -> None:
    """With numbers and times between them, as SubRip has them."""
    cues = [
        f"{n}\n00:00:{2 * n:02},000 --> 00:00:{2 * n + 1:02},000\n{line}\n"
        for n, line in enumerate(text.splitlines(), 1)
    ]
    whole = "\n".join(cues)
    assert decode_text(whole.encode(encoding)) == whole


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_needs_no_mark(encoding: str) -> None:
    assert decode_text("1\n00:00:01,000 --> Größe".encode(encoding)) == "1\n00:00:01,000 --> Größe"


def test_a_broken_byte_does_not_make_another_encoding_of_utf_8() -> None:
    text = "Größere Häuser stehen draußen an der Straße.\n" * 3
    assert decode_text(text.encode() + b"\xff!\n") == text + "\ufffd!\n"
    assert decode_text((text + "ö").encode()[:-1]) == text + "\ufffd"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_lines_may_end_in_three_ways(tmp_path: Path, line_end: str) -> None:
    lines = ["1", "00:00:01,000 --> 00:00:02,500", "one", "two", "", ""]
    (tmp_path / "a.srt").write_bytes(line_end.join(lines).encode())
    (cue,) = read_sidecar(tmp_path / "a.srt")
    assert (cue.start_s, cue.end_s, cue.text.split()) == (1.0, 2.5, ["one", "two"])


def test_subtitles_without_styles_are_those_that_their_suffix_says(tmp_path: Path) -> None:
    (tmp_path / "a.ass").write_text(
        "[Script Info]\nScriptType: v4.00+\n\n[Events]\nFormat: Layer, Start, End, Style, Name,"
        " MarginL, MarginR, MarginV, Effect, Text\n"
        "Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\i1}one{\\i0}, two\n"
    )
    (cue,) = read_sidecar(tmp_path / "a.ass")
    assert (cue.start_s, cue.end_s, cue.text) == (1.0, 2.5, "one, two")


def test_sidecars_belong_to_a_film_by_name(tmp_path: Path) -> None:
    belong = ["film.srt", "film.en.srt", "film.pt-BR.forced.vtt", "film.LRC"]
    for name in [*belong, "film2.srt", "film.txt", "other.en.srt", "film.the end.srt", "film.mp4"]:
        (tmp_path / name).touch()
    found = Sidecars().beside(tmp_path / "film.mp4")
    assert sorted(path.name for path in found) == sorted(belong)


def test_a_sidecar_that_cannot_be_read_costs_its_words_alone(tmp_path: Path) -> None:
    assert read_sidecar(tmp_path / "missing.srt") == []
    film = make_spoken_film(tmp_path / "a.mkv", CUES[:1])
    found = read_file_words(film, Budget(), (tmp_path / "missing.srt",))
    assert spoken(found.passages) == [(1.0, 2.5, "Hello there")]


def test_two_tracks_stay_apart_and_count_once_where_they_agree(tmp_path: Path) -> None:
    film = make_spoken_film(tmp_path / "a.mkv", CUES[:1])
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


# ---------------------------------------------------------------- kept and found


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Collection]:
    collection = Collection(tmp_path / "box", "fake", FakeEncoder().manifest.dims)
    yield collection
    collection.close()


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    pool = Decoders(1, 2048, 60.0)
    yield pool
    pool.close()


def build_box(
    box: Collection, decoders: Decoders, folder: Path, readers: WordReaders = NO_READERS
) -> Report:
    options = BuildOptions(readers=readers)
    (*_, (_, _, report)) = build(FakeEncoder(), box, [folder], decoders, Budget(), options)
    return report


def ask(
    box: Collection, words: str, target: str = "text", encoder: Encoder | None = None, **more: Any
) -> list[Hit]:
    encoder = encoder or FakeEncoder()
    queries = []
    for route in encoder.manifest.routes(["text"], target):
        (reading,) = encoder.read([words], "text")
        vector = embed_rows(encoder, "text", reading.rows[:1])
        queries.append(TargetQuery.along(route, "text", vector))
    return search(box, queries, Options(words=words, target_name=target, **more)).hits


def write_srt(path: Path, cues: Sequence[tuple[float, float, str]]) -> None:
    def clock(time_s: float) -> str:
        return f"00:{int(time_s) // 60:02d}:{int(time_s) % 60:02d},{round(time_s % 1 * 1000):03d}"

    blocks = [f"{n}\n{clock(a)} --> {clock(b)}\n{text}\n" for n, (a, b, text) in enumerate(cues, 1)]
    path.write_text("\n".join(blocks), encoding="utf-8")


def test_a_phrase_is_found_where_it_is_said(
    tmp_path: Path, box: Collection, decoders: Decoders
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    make_spoken_film(folder / "a.mkv", [(1, 3, "A quiet morning"), (3, 5, "by the wide lake")])
    make_clip(folder / "red.mp4", [RED, RED])
    assert build_box(box, decoders, folder).indexed == 2
    for target in ("text", "any"):
        best = ask(box, "quiet morning", target)[0]
        assert (best.id, best.target, best.start_s, best.end_s) == ("films/a.mkv", "text", 1.0, 3.0)
        assert best.text == best.moments[0].text == "A quiet morning"
        across = ask(box, "morning by the wide", target)[0]
        assert (across.id, across.start_s) == ("films/a.mkv", 1.0)
    assert ask(box, "red", "any")[0].id == "films/red.mp4"
    assert ask(box, "red", "video")[0].text is None
    assert ask(box, "quiet morning", filter={"duration_s": {"$lt": 5}}) == []


def test_words_are_removed_with_their_item(
    tmp_path: Path, box: Collection, decoders: Decoders
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    make_spoken_film(folder / "a.mkv", [(1, 3, "A quiet morning")])
    build_box(box, decoders, folder)
    box.delete("films/a.mkv")
    assert ask(box, "quiet morning") == []
    with closing(sqlite3.connect(box.folder / "records.sqlite")) as db:
        for table in ("passages", "passage_words", "passage_terms"):
            assert db.execute(f"select count(*) from {table}").fetchone() == (0,)


def test_subtitles_that_change_are_read_again(
    tmp_path: Path, box: Collection, decoders: Decoders
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    make_spoken_film(folder / "a.mkv")
    assert build_box(box, decoders, folder).indexed == 1
    write_srt(folder / "a.srt", [(2, 4, "Good evening")])
    assert build_box(box, decoders, folder).indexed == 1
    assert ask(box, "good evening")[0].start_s == 2.0
    assert build_box(box, decoders, folder).unchanged == 1
    write_srt(folder / "a.srt", [(5, 6, "Farewell then")])
    assert build_box(box, decoders, folder).indexed == 1
    assert [passage.text for passage in box.passages("films/a.mkv")] == ["Farewell then"]
    (folder / "a.srt").unlink()
    assert build_box(box, decoders, folder).indexed == 1
    assert box.passages("films/a.mkv") == ()


def test_a_film_that_is_moved_or_copied_with_its_subtitles_keeps_its_words(
    tmp_path: Path, box: Collection, decoders: Decoders
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    make_spoken_film(folder / "a.mkv", tags={"title": "Dusk"})
    write_srt(folder / "a.srt", [(2, 4, "Good evening")])
    build_box(box, decoders, folder)
    for suffix in (".mkv", ".srt"):
        shutil.copy2(folder / f"a{suffix}", folder / f"b{suffix}")
    report = build_box(box, decoders, folder)
    assert (report.indexed, report.copied) == (1, 1)
    words = box.passages("films/a.mkv")
    assert box.passages("films/b.mkv") == words and "Good evening" in [p.text for p in words]
    assert box.item("films/b.mkv").metadata == {"tags": {"title": "Dusk"}}
    assert {hit.id for hit in ask(box, "good evening")} == {"films/a.mkv", "films/b.mkv"}
    for suffix in (".mkv", ".srt"):
        (folder / f"a{suffix}").rename(folder / f"c{suffix}")
    report = build_box(box, decoders, folder)
    assert (report.indexed, report.unchanged) == (0, 2)
    assert box.item("films/a.mkv").filename == "c.mkv" and box.passages("films/a.mkv") == words
    # a copy with other subtitles is decoded
    shutil.copy2(folder / "c.mkv", folder / "d.mkv")
    write_srt(folder / "d.srt", [(5, 6, "Farewell then")])
    assert build_box(box, decoders, folder).copied == 0
    assert ask(box, "farewell then")[0].id == "films/d.mkv"


def test_the_users_metadata_win_over_the_files(
    tmp_path: Path, box: Collection, decoders: Decoders
) -> None:
    make_spoken_film(tmp_path / "a.mkv", tags={"title": "Dusk"}, chapters=[(0, 5, "One")])
    row = {"path": "a.mkv", "metadata": {"tags": ["mine"], "year": 1999}}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    build_box(box, decoders, tmp_path / "m.jsonl")
    assert box.item("a.mkv").metadata == {"tags": ["mine"], "year": 1999, "chapters": ["One"]}


def test_another_bundle_keeps_the_words(tmp_path: Path, decoders: Decoders) -> None:
    library = Collections(tmp_path / "data", "fake", FakeEncoder().manifest.dims)
    folder = tmp_path / "films"
    folder.mkdir()
    make_spoken_film(folder / "a.mkv", [(1, 3, "A green morning")], chapters=[(0, 5, "Dawn")])
    write_srt(folder / "a.srt", [(6, 8, "Red noise")])
    build_box(library.ensure("default"), decoders, folder)
    before = library.get("default").passages("films/a.mkv")
    library.close()
    (folder / "a.srt").unlink()
    new = FakeEncoder("new")
    for progress in reembed(tmp_path / "data", "default", new, decoders, Budget()):
        assert progress.failed == {}
    swap(tmp_path / "data", "default")
    library = Collections(tmp_path / "data", "new", new.manifest.dims)
    try:
        after = library.get("default")
        assert after.passages("films/a.mkv") == before
        assert len(before) == 3
        assert ask(after, "noise red")[0].start_s == 6.0
        assert ask(after, "green morning", "any")[0].start_s == 1.0
    finally:
        library.close()


def test_words_that_the_encoder_does_not_know_are_found_by_themselves(
    tmp_path: Path, box: Collection, decoders: Decoders
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    make_spoken_film(folder / "a.mkv", [(1, 3, "собака лает"), (4, 6, "red")])
    build_box(box, decoders, folder)
    assert box.counts().vectors["text"] == 1
    for target in ("text", "any"):
        (best,) = ask(box, "Собака лает", target, known_share=0.0)
        assert (best.target, best.start_s, best.text) == ("text", 1.0, "собака лает")
    assert ask(box, "🐶", "any", known_share=0.0) == []


def test_without_words_nothing_is_asked_of_them(
    tmp_path: Path, box: Collection, decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    make_clip(folder / "red.mp4", [RED, RED])
    build_box(box, decoders, folder)

    def fail(*_: object) -> None:
        raise AssertionError("the words were searched")

    monkeypatch.setattr("index.records.passages.Passages.match", fail)
    assert [hit.id for hit in ask(box, "red", "any")] == ["films/red.mp4"]


def test_of_rare_words_a_match_is_sure_and_of_common_ones_it_is_not() -> None:
    def confidence(query: str, text: str, counts: dict[str, int], total: int = 99) -> float:
        words = fold_words(text)
        candidate = Candidate(window=1, item=1, start_s=0, end_s=1, text=text, words=words)
        return rate(fold_words(query), candidate, Candidates([], counts, total))

    # (0 + 0.5) / 100, (49 + 0.5) / 100
    assert confidence("bees", "My bees.", {"bees": 0}) == pytest.approx(0.995)
    assert confidence("the", "The bees", {"the": 49}) == pytest.approx(0.505)
    both = {"the": 49, "bees": 0}
    assert confidence("the bees", "The bees", both) == pytest.approx(1 - 0.005 * 0.495)
    scattered = confidence("the bees", "Bees in the barn", both)
    assert scattered == pytest.approx(SCATTERED * (1 - 0.005 * 0.495))
    part = math.log2(0.495) / math.log2(0.005 * 0.495)
    assert confidence("the bees", "The barn", both) == pytest.approx(SCATTERED * part**2 * 0.505)


# ---------------------------------------------------------------- over HTTP


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    place = tmp_path_factory.mktemp("words")
    film = make_spoken_film(
        place / "a.mkv",
        [(1, 3, "a green morning"), (5, 7, "собака лает")],
        tags={"title": "Dusk"},
        chapters=[(0, 5, "One"), (5, 10, "Two")],
    )
    app = create_app(Settings(data=place / "data"), encoder=FakeEncoder())
    with TestClient(app, base_url="http://localhost") as client:
        answer = client.post(
            "/v1/collections/default/items",
            files={"file": ("a.mkv", film.read_bytes())},
            data={"id": "a", "metadata": '{"year": 1999}'},
        )
        assert answer.status_code == 201, answer.text
        assert answer.json()["modalities"] == ["text", "video"]
        yield client


def test_an_uploaded_film_is_found_by_its_words(client: TestClient) -> None:
    for route, body in (
        ("search/text-any", {"query": "green morning"}),
        ("search/text-text", {"query": "green morning"}),
        ("search", {"parts": [{"text": "green morning"}], "targets": ["any"]}),
    ):
        found = client.post(f"/v1/{route}", json=body).json()
        (hit,) = found["hits"]
        assert (hit["id"], hit["target"], hit["start_s"]) == ("a", "text", 1.0)
        assert hit["text"] == hit["moments"][0]["text"] == "a green morning"
        assert "words" in found["plan"]["ways"]
    body = {"query": "green", "filter": {"tags.title": "Dusk", "chapters": "Two"}}
    assert len(client.post("/v1/search/text-any", json=body).json()["hits"]) == 1


def test_words_that_the_encoder_does_not_know_are_asked_for_over_http(client: TestClient) -> None:
    found = client.post("/v1/search/text-any", json={"query": "собака лает"}).json()
    assert [(hit["start_s"], hit["text"]) for hit in found["hits"]] == [(5.0, "собака лает")]
    body = {"parts": [{"text": "собака лает"}], "targets": ["any", "text"]}
    assert client.post("/v1/search", json=body).json()["hits"][0]["start_s"] == 5.0
    assert client.post("/v1/search/text-any", json={"query": "🐶"}).json()["hits"] == []
    answer = client.post("/v1/search/text-video", json={"query": "собака"})
    assert answer.json()["error"]["code"] == "bad_text"


def test_an_item_tells_its_words_if_it_is_asked(client: TestClient) -> None:
    path = "/v1/collections/default/items/a"
    assert client.get(path).json()["words"] is None
    item = client.get(path, params={"words": True}).json()
    assert item["metadata"] == {"year": 1999, "tags": {"title": "Dusk"}, "chapters": ["One", "Two"]}
    assert [(each["start_s"], each["text"], each["kind"]) for each in item["words"]] == [
        (0.0, "Dusk", "tag"),
        (0.0, "One", "chapter"),
        (5.0, "Two", "chapter"),
        (1.0, "a green morning", "subtitle"),
        (5.0, "собака лает", "subtitle"),
    ]
