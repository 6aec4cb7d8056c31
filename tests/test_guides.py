"""Commands of README and of every page, as they stand but for the ports; every page's links."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from .makers import BLUE, GREEN, RED, ROOT, free_port, make_clip, make_wav
from .test_pretrained import clip as clip_weights

PAGES = [*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/**/*.md"))]
NOT_RUN = re.compile(r"# not run here: \S")
BOX = re.compile(r"^```(sh|python)\n(.*?)^```", re.S | re.M)


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
            assert there.is_file(), (page.name, link)
            if fragment:
                found = re.findall(r"^#+ (.+)$", there.read_text("utf-8"), re.M)
                assert fragment in map(anchor, found), (page.name, link)


def boxes_of(page: Path) -> list[str]:
    """The commands of a page in order, those of Python behind `python`; without what is not run."""
    found = []
    for language, box in BOX.findall(page.read_text("utf-8")):
        if NOT_RUN.match(box):
            continue
        found.append(box if language == "sh" else f"python - <<'PYTHON'\n{box}PYTHON\n")
    return found


RUN = {str(page.relative_to(ROOT)): page for page in PAGES if boxes_of(page)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are typed: an environment, the shipped bundles, the sample library, some
    clips, a published encoder's weights.
    """
    place = tmp_path_factory.mktemp("guides")
    (place / ".venv").symlink_to(sys.prefix)
    for name in ("bin", "bundles", "clips", "captioned", "weights/clip"):
        (place / name).mkdir(parents=True)
    for name, command in {"tercet": " -m service.cli", "python": ""}.items():
        script = place / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable}{command} "$@"\n')
        script.chmod(0o755)
    for name in ("bundles/default", "bundles/world", "sample"):
        (place / name).symlink_to(ROOT / name)
    make_wav(place / "clips" / "tone.wav", 3.0)
    for n, colours in enumerate(([RED] * 2, [GREEN, BLUE], [BLUE] * 7)):
        make_clip(place / "clips" / f"{n}.mp4", colours)
    Image.new("RGB", (64, 64), BLUE).save(place / "clips" / "scene.png")
    for n, (colour, word) in enumerate([(RED, "red"), (GREEN, "green"), (BLUE, "blue")] * 3):
        make_clip(place / "captioned" / f"{n}.mp4", [colour], hz=200.0 + 50 * n)
        (place / "captioned" / f"{n}.txt").write_text(f"something {word}, number {n}\n")
    clip_weights(place / "weights" / "clip")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_every_command_of_a_page(folder: Path, page: str) -> None:
    """A page makes what it uses. Where another has made it before, it is there already."""
    ports = {"8000": str(free_port()), "19530": str(free_port())}
    script = re.sub(
        r"\b(8000|19530)\b", lambda found: ports[found.group()], "\n".join(boxes_of(RUN[page]))
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("TERCET_")}
    env |= {
        "PATH": f"{folder / 'bin'}:{env['PATH']}",
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
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]


def test_what_is_not_run_says_why() -> None:
    for page in PAGES:
        for _, box in BOX.findall(page.read_text("utf-8")):
            assert "# not run here" not in box or NOT_RUN.match(box), (page.name, box)


def test_every_guide_has_a_command_that_is_run() -> None:
    guides = {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/guides/*.md")}
    without = {f"docs/guides/{name}.md" for name in ("docker", "page", "sizing")}
    assert guides - RUN.keys() == without
