"""The documentation's site builds without a warning; its references say what the code has."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from argparse import Action, ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from media import errors as media_errors
from model.__main__ import arguments as model_arguments
from service.cli import COMMANDS
from service.error_responses import HTTP_CODES, INTERNAL, STATUS
from service.metrics import CollectionMetrics, Metrics
from service.schemas import SearchOptions
from service.settings import Settings

from .makers import ROOMS, ROOT
from .test_operate import listening

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CODE = re.compile(r"```.*?```", re.S)


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site. With --strict, MkDocs ends with an error where there is a warning."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra 'docs')")
    site = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr[-4000:]
    return site


def test_the_site_has_every_page(site: Path) -> None:
    for page in PAGES:
        html = site / page.relative_to(DOCS).with_suffix(".html")
        assert html.is_file(), page
        assert "<!-- generated" not in html.read_text("utf-8"), page
    assert not list(site.rglob("*.py"))


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img)[^>]+(?:src|href)=\"?([^\" >]+)", page.read_text("utf-8")
        )
        assert loaded and not [a for a in loaded if re.match(r"(https?:)?//", a)], page


def test_every_setting_is_in_the_reference(hooks: ModuleType) -> None:
    reference = hooks.settings_reference()
    for name, field in Settings.model_fields.items():
        row = next(row for row in reference.splitlines() if f"`TERCET_{name.upper()}`" in row)
        assert f"`--{name.replace('_', '-')}`" in row
        assert field.description and hooks.cell(field.description) in row


def test_every_route_and_search_option_is_described(hooks: ModuleType) -> None:
    for path, method, operation in hooks.operations():
        assert operation.get("description"), (method, path)
    reference = hooks.http_reference()
    for name in ("min_score", "exact", "rerank", "learned", "tags"):
        described = SearchOptions.model_fields[name].description
        rows = [row for row in reference.splitlines() if row.startswith(f"| `{name}` | form |")]
        assert described and rows and all(described in row for row in rows)


def test_every_command_is_in_the_reference(hooks: ModuleType) -> None:
    reference = hooks.commands_reference()
    for name in COMMANDS:
        assert f"### tercet {name}\n" in reference
    search = reference.split("### tercet search\n")[1].split("### ")[0]
    assert "`--text TEXT`" in search and "tercet search --data mine" in search


def test_every_argument_has_a_help_text(hooks: ModuleType) -> None:
    def arguments(parser: ArgumentParser) -> Iterator[tuple[str, Action]]:
        for action in parser._actions:
            yield parser.prog, action
        for inner in hooks.commands_of(parser).values():
            yield from arguments(inner)

    parsers = [model_arguments("tercet"), *map(hooks.parser_behind, COMMANDS)]
    found = [pair for parser in parsers if parser for pair in arguments(parser)]
    bare = [
        (prog, action.dest)
        for prog, action in found
        if not action.help and not isinstance(action, _SubParsersAction)
    ]
    assert len(found) > 100 and not bare


def test_every_metric_is_in_the_monitoring_guide() -> None:
    guide = (DOCS / "guides" / "monitoring.md").read_text("utf-8")
    rows = [row.strip("| ").split(" | ") for row in guide.splitlines() if row.startswith("| `")]
    listed = {name.strip("`"): (labels.replace("`", ""), help) for name, labels, help in rows}
    measured = {}
    for metric in [*vars(Metrics()).values(), *vars(CollectionMetrics()).values()]:
        if isinstance(metric, MetricWrapperBase):
            name = metric._name + ("_total" if isinstance(metric, Counter) else "")
            measured[name] = (", ".join(metric._labelnames), metric._documentation)
    assert len(measured) > 10 and listed == measured


def test_every_route_has_an_example_that_works(hooks: ModuleType, tmp_path: Path) -> None:
    """Each is run by a shell against a service that has the item `mine`. Deletions come last."""
    components = hooks.document()["components"]["schemas"]
    examples = [
        (method, path, command)
        for path, method, operation in hooks.operations()
        for command in hooks.example_commands(path, method, operation, components)
    ]
    examples.sort(key=lambda example: (example[0] == "DELETE", example[0] != "POST"))
    examples.sort(key=lambda example: not example[1].endswith(("/items", "/v1/collections")))
    (tmp_path / "sample").symlink_to(ROOT / "sample")
    (tmp_path / "clips").mkdir()
    settings = Settings(data=tmp_path / "data", imports=tmp_path / "clips")
    with listening(settings) as port:
        job = ""
        for method, path, command in examples:
            command = command.replace("8000", str(port)).replace("/JOB", f"/{job}")
            command = command.replace("/models/default", "/models/fake")
            asked = command.replace("curl -s ", "curl -s -w '\\n%{http_code}' ", 1)
            ran = subprocess.run(asked, shell=True, cwd=tmp_path, capture_output=True, text=True)
            answer, _, status = ran.stdout.rpartition("\n")
            # a reload needs the process that `tercet serve` starts
            expected = "409" if path.endswith("/reload") else "2"
            assert status.startswith(expected), (method, path, command, ran.stdout)
            if (method, path) == ("POST", "/v1/jobs"):
                job = re.findall(r'"id": ?"([^"]+)"', answer)[0]


def test_troubleshooting_has_every_code() -> None:
    """A heading for every code that an answer can have."""
    codes = {code for _, code in STATUS.values() if code} | {INTERNAL["code"]}
    codes |= set(HTTP_CODES.values())
    codes |= {
        kind.code
        for kind in vars(media_errors).values()
        if isinstance(kind, type) and issubclass(kind, media_errors.BadMedia)
    }
    codes -= {STATUS[media_errors.DecodersClosed][1], "decoders_closed"}
    page = (DOCS / "troubleshooting.md").read_text("utf-8")
    headed = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^### (.+)$", page, re.M))))
    assert codes <= headed, codes - headed


def test_lines_of_prose_are_wrapped() -> None:
    """At 100 characters, but for tables and what a shell or a browser reads."""
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES]:
        for line in CODE.sub("", page.read_text("utf-8")).splitlines():
            assert len(line) <= 100 or line.startswith(("|", "![", "<")), (page.name, line)


def test_files_that_pages_name_are_there() -> None:
    for page in PAGES:
        text = CODE.sub("", page.read_text("utf-8"))
        for name in re.findall(r"`([\w-]+/[\w/.-]+\.(?:py|json|yml|toml))`", text):
            if name.split("/")[0] in {*ROOMS, "tests", "bench", "docs", "deploy"}:
                assert (ROOT / name).exists() or "NAME" in name or "SUBJECT" in name, (page, name)


def test_tests_that_pages_name_are_there() -> None:
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").glob("*.py"))
    for page in PAGES:
        for name in re.findall(r"`(test_\w+)`", page.read_text("utf-8")):
            assert f"def {name}(" in tests, (page, name)
