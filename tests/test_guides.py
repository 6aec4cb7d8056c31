"""The guides' commands, as they stand but for the ports, and the links of every page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .makers import BLUE, GREEN, RED, ROOT, free_port, make_clip, make_wav
from .test_pretrained import clip as clip_weights

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
NOT_RUN = "# not run here\n"


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, fragment = link.partition("#")
            there = (page.parent / file).resolve() if file else page
            assert there.exists(), (page.name, link)
            if fragment:
                found = re.findall(r"^#+ (.+)$", there.read_text("utf-8"), re.M)
                assert fragment in map(anchor, found), (page.name, link)


def sections() -> dict[str, list[str]]:
    """The boxes of commands that can be run here, in order, under each heading of the guides that
    has any.
    """
    parts = re.split(r"^## (.+)$", (ROOT / "docs" / "guides.md").read_text("utf-8"), flags=re.M)[1:]
    found = {}
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        boxes = re.findall(r"```sh\n(.*?)```", text, re.S)
        if runnable := [box for box in boxes if not box.startswith(NOT_RUN)]:
            found[name] = runnable
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are typed: an environment, the default bundle, some clips, a published
    encoder's weights.
    """
    place = tmp_path_factory.mktemp("guides")
    (place / ".venv").symlink_to(sys.prefix)
    for name in ("bundles", "clips", "captioned", "weights/clip"):
        (place / name).mkdir(parents=True)
    (place / "bundles" / "default").symlink_to(ROOT / "bundles" / "default")
    make_wav(place / "clips" / "tone.wav", 3.0)
    for n, colours in enumerate(([RED] * 2, [GREEN, BLUE], [BLUE] * 7)):
        make_clip(place / "clips" / f"{n}.mp4", colours)
    for n, (colour, word) in enumerate([(RED, "red"), (GREEN, "green"), (BLUE, "blue")] * 3):
        make_clip(place / "captioned" / f"{n}.mp4", [colour], hz=200.0 + 50 * n)
        (place / "captioned" / f"{n}.txt").write_text(f"something {word}, number {n}\n")
    clip_weights(place / "weights" / "clip")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("section", sections())
def test_every_command_of_the_guides(folder: Path, section: str) -> None:
    """Section by section: what one has made, later ones use."""
    ports = {"8000": str(free_port()), "19530": str(free_port())}
    script = re.sub(
        r"\b(8000|19530)\b", lambda found: ports[found.group()], "\n".join(sections()[section])
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("TERCET_")}
    env |= {
        "PYTHONPATH": str(ROOT),
        "TERCET_PORT": ports["8000"],
        "RAY_TMPDIR": "/tmp",
        "TERCET_THREADS": "1",
    }
    (folder / "script.sh").write_text(
        "set -euxo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n" + script
    )
    ran = subprocess.run(
        ["bash", "script.sh"], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
