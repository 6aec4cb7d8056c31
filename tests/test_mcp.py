"""An assistant's tools, asked by the package's own client over a process of their own."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from service.settings import Settings

from .makers import BLUE, RED, ROOT, make_clip
from .test_operate import listening


@pytest.mark.foreign
def test_an_assistant_looks_through_an_archive(tmp_path: Path) -> None:
    make_clip(tmp_path / "story.mp4", [BLUE, BLUE, RED, RED])
    make_clip(tmp_path / "other.mp4", [RED, RED])
    (tmp_path.parent / "secret.mp4").write_bytes(b"x")

    async def work(port: int) -> None:
        command = [
            "-m",
            "service",
            "mcp",
            "--url",
            f"http://127.0.0.1:{port}",
            "--key",
            "k",
            "--files",
            str(tmp_path),
        ]
        async with Client(
            StdioServerParameters(command=sys.executable, args=command, cwd=str(ROOT))
        ) as assistant:
            tools = {tool.name for tool in (await assistant.list_tools()).tools}
            assert tools == {
                "search",
                "similar",
                "describe",
                "rank",
                "tags",
                "highlights",
                "where",
                "agreement",
                "mark",
                "unmark",
                "collections",
                "add",
            }

            async def ask(name: str, **arguments: Any) -> Any:
                result = await assistant.call_tool(name, arguments)
                assert not result.is_error, result
                return json.loads(result.content[0].text)  # type: ignore[union-attr]

            async def told(name: str, **arguments: Any) -> str:
                result = await assistant.call_tool(name, arguments)
                assert result.is_error
                return str(result.content[0].text)  # type: ignore[union-attr]

            added = await ask("add", path="story.mp4", id="story", metadata={"year": 2024})
            assert sorted(added["modalities"]) == ["audio", "video"]
            found = await ask("search", words="red", filter={"year": 2024})
            assert [(hit["id"], hit["start_s"], hit["end_s"]) for hit in found["hits"]] == [
                ("story", 2.0, 4.0)
            ]
            found = await ask("search", words="red", wrong=["story"])
            assert found["hits"][0]["confidence"] is None
            (agreed,) = (await ask("agreement"))["items"]
            assert agreed["id"] == "story"
            kept = await ask("mark", words="red", wrong=["story"])
            assert await ask("unmark", numbers=kept["numbers"]) == kept
            assert "no mark" in await told("unmark", numbers=kept["numbers"])
            assert "tags" not in (await ask("search", words="red"))["hits"][0]
            (hit,) = (await ask("search", words="red", tags=True))["hits"]
            assert isinstance(hit["tags"], list)
            await ask("add", path="other.mp4", id="other")
            like = await ask("similar", id="other", modality="video", words="red", target="video")
            assert [(hit["id"], hit["start_s"]) for hit in like["hits"]] == [("story", 2.0)]
            found = await ask("search", words="blue", then=["red"])
            assert [moment["start_s"] for moment in found["hits"][0]["moments"]] == [0.0, 2.0]
            found = await ask("search", words="red", also=["blue"])
            assert [moment["start_s"] for moment in found["hits"][0]["moments"]] == [2.0, 0.0]
            found = await ask("search", words="red собака")
            assert found["good_match"] is False and "собака" in found["warnings"][0]
            assert "none of its words is known" in await told("search", words="собака")
            described = await ask("describe", id="story")
            assert described["item"]["duration_s"] == pytest.approx(4.0, abs=0.2)
            assert described["like"].keys() == {"video", "audio"}
            (first,) = (await ask("highlights", id="story", limit=1))["highlights"]
            assert 0.0 <= first["start_s"] < first["end_s"] <= 4.5
            found = await ask("where", id="story", words="red", start_s=2.0)
            assert len(found["video"]["frames"]) == 4
            for path in ("../secret.mp4", "/etc/passwd", "none.mp4"):
                assert "in the folder" in await told("add", path=path)
            assert "no item 'none'" in await told("describe", id="none")
            assert "no collection 'holidays'" in await told(
                "search", words="red", collection="holidays"
            )
            assert "top_k" in await told("search", words="red", limit=0)

    with listening(Settings(data=tmp_path / "data", api_keys="k")) as port:
        asyncio.run(asyncio.wait_for(work(port), 60))
