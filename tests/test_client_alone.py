"""The client as a distribution of its own, and what a release is made of."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings

from .makers import ROOMS, ROOT
from .test_operate import listening

USE = """
import sys

sys.path[:0] = sys.argv[1:3]
import index
import model
from tercet_client import AsyncClient, Client, Refused

assert model.OWN and index.OWN
with Client(sys.argv[3], key="root") as tercet:
    print(tercet.add("default", "red", "a")["id"], tercet.collections()[0]["items"])
    try:
        tercet.item("none", "a")
    except Refused as error:
        print(error.code)
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"service", "media", "export", "evaluation"}, loaded
assert "tercet_client" in loaded
"""

DOCTOR = """
import sys

sys.path.insert(0, sys.argv.pop(1))
from service.cli import main

sys.exit(main())
"""


def project(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    return read


def test_its_code_is_that_of_the_service() -> None:
    client = ROOT / "client" / "tercet_client" / "client.py"
    assert client.is_symlink() and client.resolve() == ROOT / "service" / "client.py"


def test_its_version_and_its_needs_are_those_of_tercet() -> None:
    alone, whole = project(ROOT / "client"), project(ROOT)
    assert alone["version"] == whole["version"]
    assert alone["dependencies"] == whole["optional-dependencies"]["client"]


def test_it_works_beside_others_packages_of_our_names(tmp_path: Path) -> None:
    source = tmp_path / "client"
    shutil.copytree(ROOT / "client", source)  # a build leaves files; links become files
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, timeout=300)
    [wheel] = tmp_path.glob("tercet_client-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name.split("/")[0] for name in archive.namelist() if "dist-info" not in name} == {
            "tercet_client"
        }
        archive.extractall(tmp_path / "installed")
    own = tmp_path / "own"
    own.mkdir()
    for name in ("model", "index"):
        (own / f"{name}.py").write_text("OWN = True\n")
    with listening(Settings(data=tmp_path / "data", api_keys="root")) as port:
        paths = [str(own), str(tmp_path / "installed"), f"http://127.0.0.1:{port}"]
        ran = subprocess.run(
            [sys.executable, "-I", "-c", USE, *paths], capture_output=True, text=True, timeout=60
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["a", "1", "unknown_collection"]


@pytest.mark.parametrize(
    ("changelog", "version", "said"),
    [
        ("## [0.9.0]\n", "0.9.0", ""),
        ("## [Unreleased]\n", "0.9.0", "CHANGELOG.md has no heading ## [0.9.0]"),
        ("## [0.9.0]\n", "0.8.0", "client/pyproject.toml has another version than 0.9.0"),
    ],
)
def test_a_release_is_of_one_version_that_the_changelog_has(
    tmp_path: Path, changelog: str, version: str, said: str
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{changelog}")
    (tmp_path / "client").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.9.0"\n')
    (tmp_path / "client" / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
    ran = subprocess.run(
        ["make", "release-check"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode == 0) == (not said) and said in ran.stderr


ENGINE = """#!/bin/sh
echo {name} "$@" >> "{log}"
exit {status}
"""


@pytest.mark.parametrize(
    ("docker", "buildah", "said"),
    [
        (0, 0, "docker save --output dist/tercet-0.9.0-gpu-image.tar tercet:0.9.0-gpu"),
        (1, 0, "buildah push tercet:0.9.0-gpu docker-archive:dist/tercet-0.9.0-gpu-image.tar"),
        (1, None, "neither a Docker daemon nor buildah"),
    ],
)
def test_an_image_is_built_by_what_there_is(
    tmp_path: Path, docker: int, buildah: int | None, said: str
) -> None:
    """Docker without a daemon builds nothing. With neither, it fails and says so."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.9.0"\n')
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    for name in ("sh", "make", "mkdir", "rm", "sed"):
        program = shutil.which(name)
        assert program
        (programs / name).symlink_to(program)
    for name, status in (("docker", docker), ("buildah", buildah)):
        if status is not None:
            (programs / name).write_text(ENGINE.format(name=name, log=log, status=status))
            (programs / name).chmod(0o755)
    ran = subprocess.run(
        ["make", "image", "TARGET=gpu", "BASE=debian-python"],
        cwd=tmp_path,
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    built = buildah is not None
    assert (ran.returncode == 0) == built, ran.stderr
    assert said in (log.read_text() if built else ran.stderr)
    if built:
        flags = "--target gpu --build-arg BASE=debian-python --tag tercet:0.9.0-gpu ."
        assert f"build {flags}" in log.read_text()


@pytest.mark.slow
def test_the_wheel_has_its_page_and_its_encoder(tmp_path: Path) -> None:
    """Installed elsewhere, without the checkout: the packages that serving needs are those here."""
    source = tmp_path / "source"
    for name in (*ROOMS, "bundles"):
        unpacked = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=unpacked)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(tmp_path / "installed"), str(source)]
    subprocess.run(command, check=True, timeout=600)
    doctor = [sys.executable, "-I", "-c", DOCTOR, str(tmp_path / "installed"), "doctor"]
    ran = subprocess.run(
        [*doctor, "--data", "data", "--port", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"default in {tmp_path}/installed/bundles/default" in ran.stdout
    page = tmp_path / "installed" / "service" / "page"
    assert {path.name for path in page.iterdir()} >= {"index.html", "page.js", "sign-in.html"}
    world = tmp_path / "installed" / "bundles" / "world"
    assert not world.exists()
