"""What a plan found: tables and plots, from the results of its runs."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from evaluation.composed import CHANCE, COMPOSITIONS

from ..training.ablation import format_routes, format_spread, format_table, plot
from .plan import ARMS, BEDS, PLAIN, Result

ROUTES = (
    "text-video",
    "video-text",
    "text-audio",
    "audio-text",
    "video-audio",
    "audio-video",
    "text-any",
)
GAPS = ("text-video", "audio-text", "audio-video")


def by_arm(results: list[Result], bed: str) -> dict[str, list[Result]]:
    """The results of a bed, in the order of the arms; arms without any are left out."""
    found: dict[str, list[Result]] = {}
    for arm in ARMS:
        runs = [run for run in results if run["bed"] == bed and run["arm"] == arm]
        if runs:
            found[arm] = runs
    return found


def format_arm(name: str, runs: list[Result], measure: str) -> list[str]:
    """A line of a table: mean and deviation over seeds of a measure of each route."""
    return [name, *format_routes([run["after"][0] for run in runs], measure, ROUTES)]


def format_gap(runs: list[Result], gap: str) -> str:
    name = "-".join(sorted(gap.split("-")))
    return format_spread([run["gap"][name] for run in runs])


def format_rest(name: str, runs: list[Result]) -> list[str]:
    """A line of the other table: steps, compute, gaps, and sounds put together."""
    gaps = [format_gap(runs, gap) for gap in GAPS]
    ratio = runs[0]["operations"] / runs[0]["plain_operations"]
    composed = [format_groups(runs, kind) for kind in COMPOSITIONS]
    return [name, str(len(runs)), str(runs[0]["steps"]), f"{ratio:.2f}", *gaps, *composed]


def format_groups(runs: list[Result], kind: str) -> str:
    """The group score of a kind of composition; older results may lack it."""
    scores = [run[kind]["group"] for run in runs if kind in run]
    return format_spread(scores) if scores else "-"


def format_bed(results: list[Result], bed: str) -> list[str]:
    """The lines of a bed's three tables."""
    arms = by_arm(results, bed)
    if not arms:
        return []
    gallery = arms[next(iter(arms))][0]["after"][0]["text-any"]["gallery"]
    lines = [f"**{bed}**, gallery of {gallery:.0f} in text-any:", ""]
    for measure in ("R@1", "R@10"):
        heads = [measure, *ROUTES]
        lines += format_table(heads, [format_arm(arm, runs, measure) for arm, runs in arms.items()])
        lines.append("")
    heads = ["", "seeds", "steps", "compute of a step", *(f"gap {gap}" for gap in GAPS)]
    heads += [f"{kind}, group score (chance {CHANCE:.2f})" for kind in COMPOSITIONS]
    lines += format_table(heads, [format_rest(arm, runs) for arm, runs in arms.items()])
    return [*lines, ""]


def compare_with_plain(results: list[Result], bed: str) -> dict[str, float]:
    """For each arm the difference to plain in mean R@10 over ROUTES, of the same seeds."""
    arms = by_arm(results, bed)

    def level(run: Result) -> float:
        return fmean(run["after"][0][route]["R@10"] for route in ROUTES)

    plain = {run["seed"]: level(run) for run in arms.get(PLAIN, [])}
    found = {}
    for arm, runs in arms.items():
        gains = [level(run) - plain[run["seed"]] for run in runs if run["seed"] in plain]
        if gains:
            found[arm] = fmean(gains)
    return found


def write_report(results: list[Result], out: Path) -> str:
    """Write tables.md and a plot for each bed into a folder; returns the tables."""
    lines: list[str] = []
    for bed in BEDS:
        arms = by_arm(results, bed)
        if arms:
            lines += format_bed(results, bed)
            plot(arms, out / f"methods-{bed}.svg", ROUTES[:4] + ROUTES[6:], "R@10")
    text = "\n".join(lines)
    (out / "tables.md").write_text(text, encoding="utf-8")
    return text
