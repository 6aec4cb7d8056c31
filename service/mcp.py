"""A server of the Model Context Protocol in front of a running service. It lets an assistant search
and fill an archive.

    tercet mcp [--url http://127.0.0.1:8000] [--key KEY] [--files FOLDER]

It speaks on standard input and output. Files are added only from the folder given by --files.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
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


def create_server(url: str, key: str | None, files: Path | None) -> MCPServer:
    """A server whose tools ask the service at `url`. Without `files`, none can add files."""
    tercet = Client(url, key)
    tools = MCPServer("tercet", instructions=INSTRUCTIONS)

    @tools.tool()
    @tool_errors()
    def search(
        words: str,
        target: Target = "any",
        collection: str = "default",
        limit: int = 5,
        filter: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Find moments by words, in what is seen, heard and said (any), only seen (video), only
        heard (audio) or said and written (text). A filter is over metadata:
        {"year": {"$gte": 2020}}.
        """
        found = tercet.search(words, target, collection=collection, top_k=limit, filter=filter)
        kept = (
            "id",
            "kind",
            "score",
            "confidence",
            "start_s",
            "end_s",
            "text",
            "metadata",
            "moments",
        )
        hits = [{k: hit.get(k) for k in (*kept, "metadata", "moments")} for hit in found["hits"]]
        return {"good_match": found["good_match"], "warnings": found["warnings"], "hits": hits}

    @tools.tool()
    @tool_errors()
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

    @tools.tool()
    @tool_errors()
    def rank(
        id: str,
        texts: list[str],
        collection: str = "default",
        target: Literal["any", "video", "audio"] = "any",
    ) -> dict[str, Any]:
        """Which of several texts fits an item best, with probabilities over these choices."""
        return tercet.rank(texts, id, collection=collection, target=target)

    @tools.tool()
    @tool_errors()
    def collections() -> list[dict[str, Any]]:
        """List the collections and how much each holds."""
        return tercet.collections()

    @tools.tool()
    @tool_errors()
    def tags(
        collection: str = "default",
        modality: Literal["video", "audio"] | None = None,
        limit: int = 50,
    ) -> dict[str, Any]:
        """What is in a collection: names of what is seen and heard, those of most items first. A
        search finds such items alone by the filter {"tag": NAME}.
        """
        return tercet.tags(collection, modality, limit)

    if files is not None:
        root = files.resolve()

        @tools.tool()
        @tool_errors()
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

    return tools


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
    create_server(args.url, args.key, args.files).run()
    return 0
