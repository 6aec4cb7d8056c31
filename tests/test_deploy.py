"""The deployment files: what they name is there, what they set is a setting, what they ask for is measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from service.app import create_app
from service.settings import Settings

from .makers import ROOT, FakeEncoder, make_clip
from .test_service import Client, add, search

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SETTINGS = {f"TERCET_{name.upper()}" for name in Settings.model_fields} | {"TERCET_ENV_FILE"}


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text("utf-8")


def test_the_image_holds_what_serving_needs_and_no_more() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(), re.M)
    there = [name for line in copied for name in line.split()]
    assert all((ROOT / name).exists() for name in there), there
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(there) == let_in
    assert "USER tercet" in dockerfile() and not re.search(
        r"torch|train|gcc|build-essential", re.sub("#.*", "", dockerfile())
    )
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", dockerfile(), re.M)
    names = [name for _, name in stages]
    assert all(base in names[:n] for n, (base, _) in enumerate(stages) if ":" not in base)
    assert {"cpu", "gpu"} <= set(names) and names[-1] == "cpu"
    for name in re.findall(r"TERCET_\w+(?==)", dockerfile()):
        assert name in SETTINGS, name


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
    assert {service["profiles"][0] for service in services.values() if "profiles" in service} == {"gpu", "milvus"}
    targets = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"]
    assert targets == [{"targets": ["tercet:8000"]}]


def test_the_dashboard_asks_for_what_is_measured(tmp_path: Path) -> None:
    """Every metric of every query is given by a service that has been used."""
    clip = make_clip(tmp_path / "red.mp4", [(220, 20, 20)])
    settings = Settings(data=tmp_path / "data", recall_sample=1.0)
    with Client(create_app(settings, FakeEncoder())) as client:
        add(client, clip, id="red")
        search(client, "text-video", "red")
        client.get("/v1/none")
        given = set(re.findall(r"^(tercet_\w+)[{ ]", client.get("/metrics").text, re.M))
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "tercet.json").read_text("utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"tercet_\w+", query)}
    assert len(queries) > 10 and asked <= given, asked - given
    source = yaml.safe_load((ROOT / "deploy" / "grafana" / "datasource.yml").read_text())["datasources"][0]["uid"]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source}
