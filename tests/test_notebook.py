"""The notebook runs from its first cell to its last, and is kept without outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .makers import ROOT

pytest.importorskip("torch")

NOTEBOOK = ROOT / "docs" / "first-encoder.ipynb"


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_has_no_outputs() -> None:
    assert code_cells()
    for cell in code_cells():
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
def test_the_notebook_trains_exports_and_searches(tmp_path: Path) -> None:
    """Its cells in one process that has no file, as in Jupyter."""
    source = "\n\n".join("".join(cell["source"]) for cell in code_cells())
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    assert "loss:" in ran.stdout and "R@10" in ran.stdout
    # what two searches find, and the cosines of three texts
    assert ran.stdout.count("test-000") >= 6
    assert ran.stdout.count("[") >= 4
