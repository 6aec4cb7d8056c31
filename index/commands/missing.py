"""What commands tell of items whose files are gone."""

from __future__ import annotations

import sys
from typing import Any

from ..ingest.gone import GoneItem, Missing
from ..ingest.names import make_printable


def report_missing(missing: Missing) -> None:
    """Tell which items' files are not there any more."""
    if missing.gone:
        first = make_printable(missing.gone[0].id)
        print(
            f"items whose files are gone: {len(missing.gone)}, such as {first}; "
            "`tercet prune` lists and removes them"
        )
    tell_out_of_reach(missing.out_of_reach)


def missing_document(missing: Missing) -> dict[str, Any]:
    """What `build` and `report` say of files that are not there."""
    return {
        "gone": make_rows(missing.gone),
        "out_of_reach": {
            make_printable(reason): make_rows(items)
            for reason, items in missing.out_of_reach.items()
        },
    }


def make_rows(items: list[GoneItem]) -> list[dict[str, str]]:
    return [{"id": item.id, "source": make_printable(item.source)} for item in items]


def tell_out_of_reach(out_of_reach: dict[str, list[GoneItem]], prefix: str = "") -> None:
    for reason, items in out_of_reach.items():
        print(
            f"{prefix}{len(items)} items whose files are out of reach: {make_printable(reason)}",
            file=sys.stderr,
        )
    if out_of_reach and prefix:
        print("if these files are gone for good: --unreachable removes them", file=sys.stderr)
