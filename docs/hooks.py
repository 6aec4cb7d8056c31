"""What MkDocs does beside rendering: the references, written from the code they describe.

A page names a reference in a line of its own, `<!-- generated: settings -->`, and this puts it
there. On GitHub such a page shows what stands around that line.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # MkDocs loads this file from wherever it was started

from pydantic.fields import FieldInfo  # noqa: E402

from export.encoder import Encoder  # noqa: E402
from service.app import create_app  # noqa: E402
from service.cli import COMMANDS, GROUPS, main  # noqa: E402
from service.settings import Settings, write_default  # noqa: E402

MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
ADDRESS = "http://127.0.0.1:8000"
Schema = dict[str, Any]


def on_config(config: Any) -> None:
    """Anchors are those that GitHub makes, so that a link holds in both places."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = github_anchor


def github_anchor(heading: str, separator: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs asks this for the text of every page. Raises KeyError for an unknown reference."""
    return MARKER.sub(lambda found: REFERENCES[found[1]](), markdown)


def cell(text: object) -> str:
    """A text in a table: one line, without a column of its own."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
    return ["", *lines, ""]


# ---------------------------------------------------------------- settings


def settings_reference() -> str:
    rows = (
        (
            f"`TERCET_{name.upper()}`",
            f"`--{name.replace('_', '-')}`",
            f"`{write_default(name)}`" if write_default(name) else "none",
            cell(field.description or "") + setting_choices(field),
        )
        for name, field in Settings.model_fields.items()
    )
    return "\n".join(table(("variable", "flag", "default", "what"), rows))


def setting_choices(field: FieldInfo) -> str:
    if get_origin(field.annotation) is not Literal:
        return ""
    return " (" + ", ".join(f"`{choice}`" for choice in get_args(field.annotation)) + ")"


# ---------------------------------------------------------------- commands


class Captured(Exception):
    """A parser that was about to read arguments."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def parser_behind(command: str) -> argparse.ArgumentParser | None:
    """The parser of `tercet COMMAND`, or None where the command's packages are not installed."""

    def stop(parser: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        if parser.prog != "tercet" or commands_of(parser):  # not the one that reads the name
            raise Captured(parser)
        return original(parser, *given, **named)

    original = argparse.ArgumentParser.parse_known_args
    try:
        with patch.object(argparse.ArgumentParser, "parse_known_args", stop):
            main([command])
    except Captured as captured:
        within = commands_of(captured.parser)
        return within.get(command, captured.parser)
    return None


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def commands_reference() -> str:
    lines: list[str] = []
    for title, commands in GROUPS.items():
        lines += ["", f"## {title}", ""]
        for name in commands:
            lines += command_section(name)
    return "\n".join(lines)


def command_section(name: str) -> list[str]:
    lines = ["", f"### tercet {name}", ""]
    parser = parser_behind(name)
    if parser is None:
        summary = COMMANDS[name].summary
        needs = f"Needs the extra `{COMMANDS[name].extra}`."
        return [*lines, f"{summary[0].upper()}{summary[1:]}.", "", needs, ""]
    within = commands_of(parser)
    if not within:
        return lines + parser_section(parser, COMMANDS[name].extra)
    lines += [cell(parser.description or COMMANDS[name].summary), ""]
    for inner, inner_parser in within.items():
        lines += ["", f"#### tercet {name} {inner}", ""]
        lines += parser_section(inner_parser, COMMANDS[name].extra)
    return lines


def parser_section(parser: argparse.ArgumentParser, extra: str) -> list[str]:
    lines = [cell(parser.description or ""), "", f"Needs the extra `{extra}`."]
    if parser.prog == "tercet serve":
        lines += ["", "Its flags are the [settings](settings.md).", ""]
        return lines + parser_examples(parser)
    actions = [action for action in parser._actions if action.dest != "help"]
    rows = (
        (argument_name(action), argument_meaning(action))
        for action in actions
        if action.help != argparse.SUPPRESS
    )
    lines += table(("argument", "what"), rows)
    return lines + parser_examples(parser)


def parser_examples(parser: argparse.ArgumentParser) -> list[str]:
    """The examples that end a command's help."""
    examples = (parser.epilog or "") % {"prog": parser.prog}
    commands = [line.strip() for line in examples.splitlines()[1:]]
    return ["```sh", *commands, "```", ""] if commands else []


def argument_name(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return f"`{value}`"
    shown = action.option_strings[-1] if len(action.option_strings) == 1 else None
    names = shown or ", ".join(action.option_strings)
    plain = action.nargs == 0 or action.choices
    return f"`{names}`" if plain or not value else f"`{names} {value}`".replace("|", "\\|")


def argument_meaning(action: argparse.Action) -> str:
    said = [cell(action.help).replace("%%", "%")] if action.help else []
    if action.choices:
        said.append(", ".join(f"`{choice}`" for choice in action.choices))
    if action.required and action.option_strings:
        said.append("required")
    return "; ".join(said)


# ---------------------------------------------------------------- HTTP

# What an example sends in a field of that name. A field that is not here is left out.
EXAMPLES: dict[str, Any] = {
    "query": "a dog barking",
    "texts": ["a dog barking", "rain"],
    "input": ["a dog barking"],
    "text": "a dog barking in a garden",
    "path": ".",
    "top_k": 3,
    "id": "note",
    "item": "mine",
    "parts": [
        {"text": "a dog barking"},
        {"item": "mine", "modality": "video", "weight": 0.5},
    ],
    "targets": ["any"],
    "right": [{"id": "note"}],
    "name": "clips",
    "kind": "import",
    "metadata": {"shelf": "b"},
}
# What an example sends as a form, by the beginning of the path's last part.
SEARCHED = json.dumps(
    {"parts": [{"file": "sound", "modality": "audio"}, {"text": "rain"}], "targets": ["any"]}
)
FORMS = {
    "rank": """-F file=@sample/rain.ogg -F 'request={"texts": ["rain", "a dog"]}'""",
    "items": """-F file=@sample/horse.mp4 -F id=mine -F 'metadata={"shelf": "a"}'""",
    "search": f"-F 'request={SEARCHED}' -F sound=@sample/rain.ogg",
    "audio-": "-F file=@sample/rain.ogg -F top_k=3",
    "video-": "-F file=@sample/horse.mp4 -F top_k=3",
    "audio": "-F file=@sample/rain.ogg",
    "video": "-F file=@sample/horse.mp4",
}


BODIES = {"application/json": "JSON", "multipart/form-data": "form"}


def document() -> Schema:
    """The service's OpenAPI document. No encoder is asked for it."""
    return create_app(Settings(), cast(Encoder, None)).openapi()


def operations() -> Iterator[tuple[str, str, Schema]]:
    """Every path and method of the document, in its order."""
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def http_reference() -> str:
    components = document()["components"]["schemas"]
    by_tag: dict[str, list[str]] = {}
    for path, method, operation in operations():
        lines = by_tag.setdefault(operation["tags"][0], [])
        lines += operation_section(path, method, operation, components)
    lines = types_section(components)
    for tag in reversed(by_tag):
        lines = ["", f"## {tag.capitalize()}", "", *by_tag[tag], *lines]
    return "\n".join(lines)


def types_section(components: Schema) -> list[str]:
    """What bodies and answers are made of; the forms of single routes are with their routes."""
    lines = ["", "## Types", ""]
    for name, schema in components.items():
        if "properties" not in schema or name.startswith("Body_"):
            continue
        lines += ["", f"### {name}", "", cell(schema.get("description", ""))]
        lines += table(("field", "type", "what"), answer_fields(schema, components))
    return lines


def answer_fields(schema: Schema, components: Schema) -> Iterator[tuple[str, str, str]]:
    for name, field in schema["properties"].items():
        said = resolve(field, components).get("description", "")
        yield f"`{name}`", cell(kind_of(field)), "" if "$ref" in field else cell(said)


def operation_section(path: str, method: str, operation: Schema, components: Schema) -> list[str]:
    lines = ["", f"### {method} {path}", "", cell(operation.get("description") or "")]
    parameters = operation.get("parameters", [])
    if parameters:
        rows = (field_row(p["name"], p["in"], p["required"], p["schema"]) for p in parameters)
        lines += table(("parameter", "in", "type", "what"), rows)
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = resolve(content["schema"], components)
        needed = schema.get("required", [])
        fields = (
            field_row(name, BODIES[kind], name in needed, resolve(s, components))
            for name, s in schema.get("properties", {}).items()
        )
        lines += table(("field", "of", "type", "what"), fields)
    for command in example_commands(path, method, operation, components):
        lines += ["", "```sh", command, "```", ""]
    return lines + answer_section(operation, components)


def field_row(name: str, where: str, needed: bool, schema: Schema) -> tuple[str, str, str, str]:
    said = [cell(schema["description"])] if "description" in schema else []
    if needed:
        said.append("required")
    elif schema.get("default") not in (None, ""):
        said.append(f"default `{json.dumps(schema['default'])}`")
    limited = {
        key: value for option in (schema, *schema.get("anyOf", [])) for key, value in option.items()
    }
    limits = [
        f"{word} {limited[key]:g}"
        for key, word in (("minimum", "at least"), ("maximum", "at most"))
        if key in limited
    ]
    return f"`{name}`", where, cell(kind_of(schema)), "; ".join([*said, *limits])


def resolve(schema: Schema, components: Schema) -> Schema:
    """A schema, or the one it refers to."""
    reference = schema.get("$ref")
    return components[reference.rpartition("/")[2]] if reference else schema


def kind_of(schema: Schema) -> str:
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema or "oneOf" in schema:
        kinds = [kind_of(option) for option in schema.get("anyOf") or schema["oneOf"]]
        return " or ".join(kind for kind in dict.fromkeys(kinds) if kind != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "contentMediaType" in schema or schema.get("format") == "binary":
        return "file"
    if schema.get("type") == "array":
        return f"array of {kind_of(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {kind_of(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def example_commands(path: str, method: str, operation: Schema, components: Schema) -> list[str]:
    """Commands that ask a service on this machine, one for each kind of body. They use the item
    `mine`, which the example of adding an item makes, and an empty collection `clips`.
    """
    name = "default" if "/items" in path else "clips"
    address = ADDRESS + path.replace("{name}", name)
    address = address.replace("{id}", "JOB" if "/jobs" in path else "mine")
    address = address.replace("{model}", "default").replace("{number}", "1")
    verb = {"GET": "", "HEAD": "-I ", "POST": "-X POST "}.get(method, f"-X {method} ")
    if method == "GET" and path.endswith(("/media", "/poster", "/playable", "/clip")):
        verb = "-o item "
    if path.endswith("/clip"):
        address = f"'{address}?start_s=1&end_s=2.5'"
    contents = operation.get("requestBody", {}).get("content", {})
    if not contents:
        return [f"curl -s {verb}{address}"]
    verb = "" if method == "POST" else verb  # curl posts what it sends
    commands = []
    for kind, content in contents.items():
        if kind == "application/json":
            fields = resolve(content["schema"], components)["properties"]
            body = json.dumps({name: EXAMPLES[name] for name in fields if name in EXAMPLES})
            sent = f"-H 'content-type: application/json' -d '{body}'"
        else:
            last = path.rpartition("/")[2]
            sent = next(form for start, form in FORMS.items() if last.startswith(start))
        commands.append(f"curl -s {verb}{address} \\\n  {sent}")
    return commands


def answer_section(operation: Schema, components: Schema) -> list[str]:
    """The status of success and, where the answer is described, its fields."""
    lines: list[str] = []
    for status, response in operation["responses"].items():
        if not status.startswith("2"):
            continue
        content = response.get("content", {}).get("application/json", {})
        schema = resolve(content.get("schema", {}), components)
        lines += [f"Answers {status}" + (", with" if "properties" in schema else "."), ""]
        if "properties" in schema:
            lines += table(("field", "type", "what"), answer_fields(schema, components))
    return lines


REFERENCES: dict[str, Callable[[], str]] = {
    "settings": settings_reference,
    "commands": commands_reference,
    "http": http_reference,
}
