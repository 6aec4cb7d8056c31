"""The design's promises, kept by reading the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

import evaluation
import export
import index
import media
import model
import service
from service import routes
from service.app import create_app
from service.error_responses import STATUS, status_and_code
from service.routes.router import CheckedRoute
from service.settings import Settings

from .makers import ROOMS, ROOT, FakeEncoder, installed_by

TORCH = {
    "model.network.transformer",
    "model.network.masking",
    "model.network.language",
    "model.training.losses",
    "model.training.step",
    "model.training.distributed",
    "model.training.loop",
    "model.network.pretrained_vit",
    "model.training.ablation",
    "model.training.tables",
    "model.beds.real",
    "model.beds.plan",
    "model.network.fusion",
    "model.beds.gate",
    "model.methods.experts",
    "model.methods.captioning",
    "model.methods.coconut",
    "model.methods.masked_windows",
    "model.methods.masked_answers",
    "model.methods.valor",
    "model.methods.gap",
    "model.methods.cwcl",
    "model.methods.gram",
    "model.methods.triangle",
    "model.methods.mil_nce",
    "model.methods.compa",
    "model.methods.hard_matching",
    "model.methods.harmonise",
    "model.methods.vip_ant",
    "model.methods.comix",
    "model.methods.pixpro",
    "model.methods.xclip",
    "model.methods.vatt",
    "model.methods.bound_halves",
    "model.data.batches",
    "model.training.checkpoint",
    "export.to_onnx",
    "export.pretrained",
    "export.stems",
    "export.spoken_digits",
    "export.features",
    "model.network.stems",
    "model.network.spoken_digits",
    "model.network.sound_classifier",
    "model.network.yamnet",
    "model.class_vectors",
    "model.wheels",
    "model.distil.examples",
    "model.distil.mixtures",
    "model.distil.train",
}


def modules() -> list[str]:
    rooms = (media, evaluation, model, export, index, service)
    found = [
        m.name for room in rooms for m in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
    ]
    return [name for name in found if not name.endswith("__main__")]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    later = set(ROOMS[ROOMS.index(room) + 1 :])
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += (
                [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            )
            assert not later.intersection(name.split(".")[0] for name in names), path


@pytest.mark.parametrize(
    "entrance",
    ["service.app", "index.__main__", "export.encoder", "evaluation.world", "evaluation.retrieval"],
)
def test_serving_loads_no_torch(entrance: str) -> None:
    code = (
        f"import {entrance}, sys; assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_serving_loads_nothing_of_training() -> None:
    code = (
        "import service.app, sys;"
        " assert not [name for name in sys.modules if name.split('.')[0] == 'model']"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_serves_is_installed_without_what_trains() -> None:
    there = installed_by("cpu")
    assert {"onnxruntime", "onnx", "uvicorn", "anyio"} <= there
    assert not {"torch", "sympy", "onnxscript", "httpx", "pytest", "matplotlib"} & there


def test_torch_stays_where_it_is_said_to_be() -> None:
    users = set()
    for path in (p for room in ROOMS for p in (ROOT / room).rglob("*.py")):
        if re.search(r"^(import|from) torch", path.read_text("utf-8"), re.MULTILINE):
            users.add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert users == TORCH


def test_every_error_has_a_status() -> None:
    elsewhere = {
        "Diverged",
        "BadPretrained",
        "CannotFetch",
        "UnknownFamily",
        "Refused",
        "MissingData",
        "CannotFetchWheel",
        "CannotFetchPackage",
        "OutOfTime",
        "BodyProblem",
    }  # in training, in a client; the last carries one of the others
    for name in modules():
        for _, cls in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            if (
                issubclass(cls, Exception)
                and cls.__module__ == name
                and cls.__name__ not in elsewhere
            ):
                assert status_and_code(cls)[1] != "internal", cls
    assert all(400 <= status < 600 for status, _ in STATUS.values())


def test_the_contract_is_in_the_api_document() -> None:
    paths = create_app(Settings(), FakeEncoder()).openapi()["paths"]
    listed = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    item = "/v1/collections/{name}/items/{id}"
    assert listed >= {
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /v1/models",
        "GET /v1/models/{model}",
        "POST /v1/embeddings",
        *(f"POST /v1/embed/{m}" for m in ("text", "audio", "video")),
        *(
            f"POST /v1/search/{q}-{t}"
            for q in ("text", "audio", "video")
            for t in ("text", "audio", "video", "any")
        ),
        "POST /v1/collections",
        "GET /v1/collections",
        "GET /v1/collections/{name}",
        "DELETE /v1/collections/{name}",
        "GET /v1/collections/{name}/tags",
        "POST /v1/collections/{name}/items",
        "GET /v1/collections/{name}/items",
        f"GET {item}",
        f"DELETE {item}",
        f"GET {item}/description",
        "POST /v1/rank",
        f"GET {item}/media",
        f"POST {item}/link",
    }


def test_routes_of_every_subject_lie_in_one_list() -> None:
    """A router within a router would look for its routes twice as long."""
    app = create_app(Settings(), FakeEncoder())
    assert {type(route) for route in app.routes} == {CheckedRoute, APIRoute, Route}
    subjects = [
        importlib.import_module(f"service.routes.{m.name}")
        for m in pkgutil.iter_modules(routes.__path__)
    ]
    routers = [subject.router for subject in subjects if hasattr(subject, "router")]
    assert len(routers) == 17
    assert all(route in app.routes for router in routers for route in router.routes)


def test_no_dependency_of_a_route_takes_a_thread() -> None:
    """FastAPI has a plain function run by another thread. One cost a third to a half of what a
    request takes beside its encoding.
    """
    waiting = [
        route.dependant.dependencies for route in routes.ROUTES if isinstance(route, APIRoute)
    ]
    functions = set[Any]()
    while waiting:
        for dependency in waiting.pop():
            functions.add(dependency.call)
            waiting.append(dependency.dependencies)
    assert len(functions) > 5
    assert [each for each in functions if not inspect.iscoroutinefunction(each)] == []


def test_the_readmes_tree_is_true() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    tree = readme.split("```text\n")[1].split("```")[0]
    folders = [ROOT]  # the one that a line lies in, last, below those that hold it
    named = set()
    for line in tree.splitlines():
        name = line.split()[0] if line.split() else ""
        depth = (len(line) - len(line.lstrip())) // 2
        folders = folders[: depth + 1]
        if name.endswith("/"):
            folders.append(folders[-1] / name)
            assert folders[-1].is_dir(), line
        for word in re.findall(r"[\w./]+\.(?:py|md|toml)\b", line):
            found = [base / word for base in (folders[-1], ROOT) if (base / word).exists()]
            assert found, f"{word} is not in {folders[-1]}"
            named.add(found[0])
    for place in ROOMS:
        for path in (ROOT / place).rglob("*.py"):
            if not path.name.startswith("__"):
                assert path in named, f"{path} is not in the tree"


def test_the_service_stays_on_this_machine_unless_told(capfd: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "service", "--host", "0.0.0.0"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and "--allow-open" in result.stderr
    unknown = subprocess.run(
        [*command, "--nonsense"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert unknown.returncode == 2
