"""The deployment files: what they name is there, what they set is a setting, what they ask for is
measured.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.settings import Settings

from .makers import ROOT, free_port, make_clip, only_installed_by, serving
from .test_operate import listening

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SETTINGS = {f"TERCET_{name.upper()}" for name in Settings.model_fields} | {"TERCET_ENV_FILE"}


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text("utf-8")


def test_the_image_holds_what_serving_needs_and_no_more() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(), re.M)
    there = [name for line in copied for name in line.split()]
    assert all((ROOT / name).exists() for name in there), there
    let_in = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert set(there) == let_in
    assert "USER tercet" in dockerfile() and not re.search(
        r"torch|train|gcc|build-essential", re.sub("#.*", "", dockerfile())
    )
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", dockerfile(), re.M)
    names = [name for _, name in stages]
    assert stages[0] == ("${BASE}", "python")
    assert all(base in names[:n] for n, (base, _) in enumerate(stages) if n > 0)
    assert {"cpu", "gpu"} <= set(names) and names[-1] == "cpu"
    for name in re.findall(r"TERCET_\w+(?==)", dockerfile()):
        assert name in SETTINGS, name


# A root that cannot be written, but for one folder, one of memory for /tmp, and the 64 MiB of
# /dev/shm that an engine gives to every container; no capabilities, none to be gained.
CONFINED = """mount --bind "$1" "$1" && mount -t tmpfs tmpfs "$2" &&
mount -t tmpfs -o size=64m shm /dev/shm && mount -o remount,bind,ro / && shift 2 &&
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@" """


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder of a short name: one of pytest's is too long for the sockets of processes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_the_service_needs_no_more_than_compose_gives_it(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `read_only`, `tmpfs`, `cap_drop` and `no-new-privileges` say: it adds, finds, and stops
    cleanly.
    """
    data = tmp_path / "data"
    data.mkdir()
    within = ["unshare", "--mount", "sh", "-c", CONFINED, "sh", str(data), str(memory)]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*within, "true"], capture_output=True).returncode
    ):
        pytest.skip("no mounts of its own can be given to a process here")
    assert subprocess.run(
        [*within, "touch", str(tmp_path / "elsewhere")], capture_output=True
    ).returncode
    assert not subprocess.run(
        [*within, "touch", str(data / "here"), str(memory / "here")]
    ).returncode
    monkeypatch.setenv("TMPDIR", str(memory))
    clip = make_clip(tmp_path / "clip.mp4", [(220, 20, 20)] * 2, hz=300.0).read_bytes()
    with serving(data, port=free_port(), within=within) as (client, process):
        added = client.post(
            "/v1/collections/default/items", files={"file": ("clip.mp4", clip)}, data={"id": "a"}
        )
        assert added.status_code == 201, added.text
        hits = client.post("/v1/search/video-video", files={"file": ("clip.mp4", clip)}).json()[
            "hits"
        ]
        assert [hit["id"] for hit in hits] == ["a"] and hits[0]["score"] > 0.999
        process.send_signal(2)
        assert process.wait(30) == 0


def test_the_health_check_asks_no_proxy(tmp_path: Path) -> None:
    """Many a container has `http_proxy` set."""
    (found,) = re.findall(r'^  CMD (\["python", "-c", .+\])$', dockerfile(), re.M)
    _, *arguments = json.loads(found)
    port = free_port()
    command = [sys.executable, *(argument.replace("8000", str(port)) for argument in arguments)]
    environment = os.environ | {
        "http_proxy": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }

    def check() -> int:
        return subprocess.run(command, env=environment, capture_output=True).returncode

    with serving(tmp_path / "data", port=port):
        assert check() == 0
    assert check() != 0


def test_compose_names_what_is_there() -> None:
    services, volumes = COMPOSE["services"], COMPOSE["volumes"]
    stages = set(re.findall(r"AS (\S+)$", dockerfile(), re.M))
    for name, service in services.items():
        assert "image" in service, name
        if "build" in service:
            assert service["build"]["target"] in stages
            assert set(service["environment"]) <= SETTINGS
            assert service["read_only"] and service["cap_drop"] == ["ALL"]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source.startswith("${") or source in volumes or (ROOT / source).is_file(), volume
        for other in service.get("depends_on", []):
            assert other in services
    assert {service["profiles"][0] for service in services.values() if "profiles" in service} == {
        "gpu",
        "milvus",
    }
    targets = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"][0][
        "static_configs"
    ]
    assert targets == [{"targets": ["tercet:8000"]}]


def test_compose_keeps_to_the_specification() -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        "docker-compose.yml",
    ]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.foreign
def test_prometheus_answers_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """Debian's Prometheus with the shipped configuration, but for the address and a shorter
    interval.
    """
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("prometheus is not installed")
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "tercet.json").read_text("utf-8"))
    source = yaml.safe_load((ROOT / "deploy" / "grafana" / "datasource.yml").read_text())[
        "datasources"
    ][0]["uid"]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source}
    queries = {target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}
    config, port = (ROOT / "deploy" / "prometheus.yml").read_text(), free_port()
    clip = make_clip(tmp_path / "red.mp4", [(220, 20, 20)])
    with listening(Settings(data=tmp_path / "data", recall_sample=1.0, index="hnsw")) as service:
        assert "tercet:8000" in config and "10s" in config
        shipped = config.replace("tercet:8000", f"127.0.0.1:{service}").replace("10s", "1s")
        (tmp_path / "prometheus.yml").write_text(shipped)
        command = [
            prometheus,
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/tsdb",
        ]
        command.append(f"--web.listen-address=127.0.0.1:{port}")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            silent, end = queries, time.monotonic() + 60
            while silent and time.monotonic() < end:
                use(f"http://127.0.0.1:{service}", clip)
                with suppress(httpx.HTTPError):  # it is still starting: no answer, or 503
                    silent = {query for query in queries if not values(port, query)}
            assert silent == set()
        finally:
            process.terminate()
            process.wait()


def use(address: str, clip: Path) -> None:
    with httpx.Client(base_url=address) as client, clip.open("rb") as file:
        client.post(
            "/v1/collections/default/items", files={"file": file}, data={"id": "red"}
        ).raise_for_status()
        client.post("/v1/search/text-video", json={"query": "red"}).raise_for_status()
        assert client.get("/v1/none").status_code == 404


def values(port: int, query: str) -> list[float]:
    """What Prometheus gives for a query now, without what is no number."""
    answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query})
    answer.raise_for_status()
    found = [float(series["value"][1]) for series in answer.json()["data"]["result"]]
    return [value for value in found if math.isfinite(value)]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("export evaluate --help", 0),
        ("index report --help", 0),
        ("export checkpoint runs/none --out bundles/none", 2),
        ("export stems --open . --teachers . --out bundles/none", 2),
    ],
)
def test_what_trains_is_not_in_the_image(tmp_path: Path, command: str, status: int) -> None:
    """What serves, builds and measures works without it; what needs it says what to install."""
    assert "COPY model" not in dockerfile()
    env = only_installed_by(tmp_path, "cpu", without=("model",))
    ran = [sys.executable, "-m", *command.split()]
    done = subprocess.run(ran, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert status == 0 or ("extra '" in done.stderr and len(done.stderr.splitlines()) == 1)
