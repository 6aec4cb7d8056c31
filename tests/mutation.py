"""Mutation testing: small errors put into the core, one at a time, to see whether its tests notice.

`make mutate` or `make mutate MODULE=filters`. What is changed and tested stands in mutation.toml.
The mutants are Cosmic Ray's. Results are kept in build/mutation, so that a run that was stopped
goes on; they are made anew where the module or its tests have changed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import random
import resource
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkResult

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "mutation"
COPY = WORK / "copy"  # mutants are written here, never into the checkout
MEMORY = 8 << 30  # bytes of address space of each process: some mutants fill what there is
# Of small numbers these are the same as == and !=, as long as the interpreter keeps one of each.
OPERATORS_LEFT_OUT = ("_Is", "_IsNot")
Span = tuple[tuple[int, int], tuple[int, int]]


def copy_checkout() -> None:
    """A fresh copy of what git knows or would add: a stopped run may have left a mutant behind."""
    shutil.rmtree(COPY, ignore_errors=True)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.split("\0"):
        if (ROOT / name).is_file():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, COPY / name)


def find_files(patterns: list[str]) -> list[Path]:
    return sorted({path.relative_to(COPY) for p in patterns for path in COPY.glob(p)})


def spans_left_out(source: str) -> Iterator[Span]:
    """Where a mutant says nothing: in annotations, which nothing evaluates, in the texts of errors,
    and in what a dataclass is told, which only forbids.
    """
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.expr | None] = []
        if isinstance(node, ast.arg | ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts = [node.returns]
        elif isinstance(node, ast.ClassDef):
            parts = [each for each in node.decorator_list if isinstance(each, ast.Call)]
        elif isinstance(node, ast.Raise):
            parts = list(node.exc.args) if isinstance(node.exc, ast.Call) else []
        for part in parts:
            if part is not None and part.end_lineno and part.end_col_offset:
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def choose(mutants: list[tuple[str, MutationSpec]], count: int, seed: int) -> set[str]:
    """Ids of a sample by chance, in which a second mutant of a place comes after all first ones:
    else the eleven other signs of each arithmetic operator would be most of it.
    """
    order = sorted(mutants, key=lambda m: (m[1].module_path, m[1].operator_name, m[1].occurrence))
    random.Random(seed).shuffle(order)
    earlier: Counter[Any] = Counter()
    turns = []
    for job, mutant in order:
        place = (mutant.module_path, mutant.start_pos)
        turns.append((earlier[place], job))
        earlier[place] += 1
    return {job for _, job in sorted(turns, key=lambda turn: turn[0])[:count]}


def prepare(session: Path, files: list[Path], count: int, seed: int) -> None:
    """A session of Cosmic Ray with nothing but the mutants chosen."""
    with use_db(session) as every, use_db(session.with_suffix(".part")) as few:
        init(files, every, {})
        left_out = {path: list(spans_left_out(path.read_text())) for path in files}
        mutants = [
            (item.job_id, item.mutations[0])
            for item in every.work_items
            if not item.mutations[0].operator_name.endswith(OPERATORS_LEFT_OUT)
            and not any(
                start <= item.mutations[0].start_pos < end
                for start, end in left_out[item.mutations[0].module_path]
            )
        ]
        chosen = choose(mutants, count, seed)
        few.clear()
        few.add_work_items(item for item in every.work_items if item.job_id in chosen)
    session.with_suffix(".part").replace(session)


def verdict(result: WorkResult) -> str:
    if result.test_outcome == TestOutcome.SURVIVED:
        return "survived"
    return "timed out" if result.output == "timeout" else "killed"


def run_module(name: str, table: dict[str, Any], module: dict[str, Any], until: float) -> str:
    """Run the mutants of a module that have no result yet; a line of the table of results."""
    files = find_files(module["files"])
    if not files:
        raise SystemExit(f"{name}: no file matches {module['files']}; see tests/mutation.toml")
    tests = [t for t in module["tests"] if not t.endswith(".py") or (COPY / t).exists()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    command += ["--durations=0", "-n", "0"]
    began = time.monotonic()
    if subprocess.run(command, capture_output=True).returncode:
        raise SystemExit(f"{name}: its tests fail before anything is changed: {shlex.join(tests)}")
    limit = 10 + 4 * (time.monotonic() - began)

    read = [*files, *(Path(t) for t in tests if t.endswith(".py"))]
    state = hashlib.sha256(repr((table["seed"], table["mutants"], tests)).encode())
    for path in read:
        state.update(path.read_bytes())
    session = WORK / f"{name}-{state.hexdigest()[:12]}.sqlite"
    if not session.exists():
        for old in WORK.glob(f"{name}-*"):
            old.unlink()
        prepare(session, files, table["mutants"], table["seed"])

    with use_db(session, WorkDB.Mode.open) as db:
        for item in list(db.pending_work_items):
            if time.monotonic() > until:
                break
            result = mutate_and_test(item.mutations, shlex.join(command), limit)
            db.set_result(item.job_id, result)
            mutant = item.mutations[0]
            print(f"{name} {mutant.module_path}:{mutant.start_pos[0]} {verdict(result)}")
        results = [result for _, result in db.results]
        waiting = db.num_work_items - len(results)
    for result in results:
        if verdict(result) == "survived":
            print(f"\n{result.diff}")
    counts = Counter(verdict(result) for result in results)
    noticed = counts["killed"] + counts["timed out"]
    share = f"{100 * noticed / len(results):.0f} %" if results else "-"
    cells = [name, counts["killed"], counts["survived"], counts["timed out"], share, waiting]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    table = tomllib.loads((ROOT / "tests" / "mutation.toml").read_text())
    modules = {name: module for name, module in table.items() if isinstance(module, dict)}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", choices=[*modules, []], help="all if none is given")
    chosen = parser.parse_args().modules or list(modules)
    copy_checkout()
    os.chdir(COPY)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    until = time.monotonic() + 60 * table["minutes"]
    lines = [run_module(name, table, modules[name], until) for name in chosen]
    print("\n| module | killed | survived | timed out | share noticed | not run |")
    print("|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
