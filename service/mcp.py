"""A server of the Model Context Protocol in front of a running service. It lets an assistant search
and fill an archive.

    tercet mcp [--url http://127.0.0.1:8000] [--key KEY] [--files FOLDER]

It speaks on standard input and output. Files are added only from the folder given by --files.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from media.commands import epilog

from .client import Client, Refused, Target

DESCRIPTION = """Let an assistant search and fill an archive: a server of the Model Context
Protocol in front of a running service. It speaks on standard input and output."""
INSTRUCTIONS = """Tercet finds pictures and moments of video and sound by words. Describe plainly
what is seen or heard, as a caption would: "a dog barking far away", "waves on a beach at night". A
hit has the id of its item, its kind, the stretch that matches, in seconds (0 to 0 of a picture,
whose kind is image), and a confidence in [0, 1] where it is known. good_match is
false where nothing matches well. warnings name words that are not known."""


Tool = Callable[..., Any]  # what an assistant may call, by its parameters' names


@contextmanager
def tool_errors() -> Iterator[None]:
    """Pass the service's own message on to the assistant. Other errors tell it nothing.

    Raises:
        ToolError: with the message of the service, or of the connection to it.
    """
    try:
        yield
    except (Refused, ValueError) as error:
        raise ToolError(str(error)) from None
    except httpx.HTTPError as error:
        raise ToolError(f"The service could not be reached: {error}") from None


def make_marks(ids: list[str] | None) -> list[dict[str, str]]:
    return [{"id": id} for id in ids or []]


def make_search(tercet: Client) -> Tool:
    def search(
        words: str,
        target: Target = "any",
        collection: str = "default",
        limit: int = 5,
        filter: dict[str, Any] | None = None,
        then: list[str] | None = None,
        also: list[str] | None = None,
        right: list[str] | None = None,
        wrong: list[str] | None = None,
        tags: bool = False,
    ) -> dict[str, Any]:
        """Find moments by words, in what is seen, heard and said (any), only seen (video), only
        heard (audio) or said and written (text). A filter is over metadata:
        {"year": {"$gte": 2020}}. What comes after, one thing after another, goes in `then`:
        "a dog barks", ["a car passes"]. What must occur as well, anywhere in the same item, goes in
        `also`. `right` and `wrong` are ids of hits of an earlier search:
        more like the first, less like the others. They do not go with `then` or
        `also`. With `tags`, hits tell what their items show and sound like.
        """
        parts: list[dict[str, Any]] = [{"text": words}]
        parts += ({"text": step, "then": True} for step in then or [])
        parts += ({"text": thing} for thing in also or [])
        marks = {"right": make_marks(right), "wrong": make_marks(wrong)}
        options: dict[str, Any] = {"collection": collection, "top_k": limit, "filter": filter}
        options["tags"] = tags
        if right or wrong:
            options["feedback"] = marks
        if also:
            options["aggregate"] = "item"
        if then or also:
            found = tercet.compose(parts, [target], **options)
        else:
            found = tercet.search(words, target, None, **options)
        return shorten(found)

    return search


# What an assistant is told of a hit.
KEPT = ("id", "kind", "score", "confidence", "start_s", "end_s", "text", "metadata", "moments")


def shorten(found: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a search, as an assistant gets it."""
    hits = []
    for hit in found["hits"]:
        told = {key: hit.get(key) for key in KEPT}
        if hit.get("tags") is not None:
            told["tags"] = hit["tags"]
        hits.append(told)
    return {"good_match": found["good_match"], "warnings": found["warnings"], "hits": hits}


def make_similar(tercet: Client) -> Tool:
    def similar(
        id: str,
        modality: Literal["video", "audio"],
        target: Target = "any",
        words: str | None = None,
        collection: str = "default",
        limit: int = 5,
    ) -> dict[str, Any]:
        """Find moments like what an item shows (modality video) or sounds like (audio). Words may
        say more of what is wanted: sound for a silent film is modality video, target audio and
        words such as "a bell".
        """
        parts: list[dict[str, Any]] = [{"item": id, "modality": modality}]
        if words:
            parts.append({"text": words})
        found = tercet.compose(parts, [target], collection=collection, top_k=limit + 1)
        others = [hit for hit in found["hits"] if hit["id"] != id]
        return shorten(found | {"hits": others[:limit]})

    return similar


def make_describe(tercet: Client) -> Tool:
    def describe(id: str, collection: str = "default", limit: int = 5) -> dict[str, Any]:
        """An item's record, the sentences that fit it best with where they hold, and the texts of
        the collection that match its pictures and its sound.
        """
        item = tercet.item(collection, id)
        texts = {}
        for modality in item["modalities"]:
            if modality != "text":
                found = tercet.compose(
                    [{"item": id, "modality": modality}],
                    ["text"],
                    collection=collection,
                    top_k=limit,
                )
                texts[modality] = [
                    tercet.item(collection, hit["id"])["text"] for hit in found["hits"]
                ]
        described = tercet.description(collection, id, limit)["sentences"]
        return {"item": item, "sentences": described, "like": texts}

    return describe


def make_rank(tercet: Client) -> Tool:
    def rank(
        id: str,
        texts: list[str],
        collection: str = "default",
        target: Literal["any", "video", "audio"] = "any",
    ) -> dict[str, Any]:
        """Which of several texts fits an item best, with probabilities over these choices."""
        return tercet.rank(texts, id, collection=collection, target=target)

    return rank


def make_tags(tercet: Client) -> Tool:
    def tags(
        collection: str = "default",
        modality: Literal["video", "audio"] | None = None,
        limit: int = 50,
    ) -> dict[str, Any]:
        """What is in a collection: names of what is seen and heard, those of most items first. A
        search finds such items alone by the filter {"tag": NAME}.
        """
        return tercet.tags(collection, modality, limit)

    return tags


def make_highlights(tercet: Client) -> Tool:
    def highlights(id: str, collection: str = "default", limit: int = 5) -> dict[str, Any]:
        """The stretches of a video or a sound worth looking at first, in seconds, and why."""
        return {"highlights": tercet.highlights(collection, id, limit)}

    return highlights


def make_where(tercet: Client) -> Tool:
    def where(id: str, words: str, start_s: float = 0.0, collection: str = "default") -> Any:
        """Where in the frames (a grid of scores, from the top left on), and where in time and
        frequency, words match the few seconds of an item that begin at start_s.
        """
        return tercet.where(collection, id, words, start_s)

    return where


def make_agreement(tercet: Client) -> Tool:
    def agreement(
        collection: str = "default",
        first: Literal["lowest", "highest"] = "lowest",
        limit: int = 20,
    ) -> dict[str, Any]:
        """Items by how well their sound and pictures agree: 0.5 is chance, 1 the best. The lowest
        have voices or music over their pictures. A search finds such items alone by the filter
        {"agreement": {"$lt": 0.3}}.
        """
        return tercet.agreement(collection, first, limit)

    return agreement


def make_mark(tercet: Client) -> Tool:
    def mark(
        words: str,
        right: list[str] | None = None,
        wrong: list[str] | None = None,
        collection: str = "default",
        target: Target = "any",
    ) -> dict[str, Any]:
        """Keep which hits of a search were right and which were wrong, by their ids. The owner of
        the archive has it learn from such marks.
        """
        numbers = tercet.mark(
            words,
            [{"id": id} for id in right or []],
            [{"id": id} for id in wrong or []],
            collection=collection,
            target=target,
        )
        return {"numbers": numbers}

    return mark


def make_unmark(tercet: Client) -> Tool:
    def unmark(numbers: list[int], collection: str = "default") -> dict[str, Any]:
        """Take back marks that were kept, by their numbers."""
        for number in numbers:
            tercet.delete_mark(number, collection)
        return {"numbers": numbers}

    return unmark


def make_collections(tercet: Client) -> Tool:
    def collections() -> list[dict[str, Any]]:
        """List the collections and how much each holds."""
        return tercet.collections()

    return collections


def make_add(tercet: Client, files: Path) -> Tool:
    root = files.resolve()

    def add(
        path: str,
        collection: str = "default",
        id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Add a video, picture or sound from the folder that this server was started with."""
        file = (root / path).resolve()
        if not file.is_relative_to(root) or not file.is_file():
            raise ValueError(f"No file {path!r} in the folder.")
        return dict(tercet.add(collection, file, id, metadata))

    return add


# Each makes a tool that asks a service. A tool's name and description are those of its function.
TOOLS: tuple[Callable[[Client], Tool], ...] = (
    make_search,
    make_similar,
    make_describe,
    make_rank,
    make_tags,
    make_highlights,
    make_where,
    make_agreement,
    make_mark,
    make_unmark,
    make_collections,
)


def create_server(tercet: Client, files: Path | None) -> MCPServer:
    """A server whose tools ask a service. Without `files`, none can add files."""
    tools = [make(tercet) for make in TOOLS]
    if files is not None:
        tools.append(make_add(tercet, files))
    server = MCPServer("tercet", instructions=INSTRUCTIONS)
    for tool in tools:
        server.add_tool(tool_errors()(tool))
    return server


def main(argv: Sequence[str], prog: str) -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=DESCRIPTION,
        epilog=epilog("--url http://127.0.0.1:8000 --files FOLDER"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--url", default="http://127.0.0.1:8000", help="address of the running service"
    )
    parser.add_argument(
        "--key", default=os.environ.get("TERCET_KEY"), help="API key; default $TERCET_KEY"
    )
    parser.add_argument("--files", type=Path, help="folder that files may be added from")
    args = parser.parse_args(argv)
    with Client(args.url, args.key) as tercet:
        create_server(tercet, args.files).run()
    return 0
