"""Batch building on a Ray cluster of two nodes, one of which is killed: the same collection as the
local build's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from .makers import RED, ROOT, make_clip, make_wav
from .test_build import BUNDLE, build, contents

pytest.importorskip("ray")


@pytest.mark.foreign
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_loses_a_node_builds_the_same(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    place = tmp_path / "clips"
    place.mkdir()
    for n in range(60):
        make_wav(place / f"{n:03d}.wav", 0.5 + n / 8, 200 + 9 * n)
    make_clip(place / "v.mp4", [RED])
    (place / "broken.wav").write_bytes(b"x")
    assert "61 indexed, 0 unchanged, 1 failed" in build(tmp_path / "local", place).stdout
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        other = cluster.add_node(num_cpus=1)
        command = [
            sys.executable,
            "-m",
            "index",
            "build",
            "--engine",
            "ray",
            "--bundle",
            str(BUNDLE),
        ]
        command += ["--data", str(tmp_path / "ray"), str(place)]
        environment = {"RAY_ADDRESS": cluster.address, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        with (tmp_path / "out").open("w") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=out, stderr=out, env={**os.environ, **environment}
            )
            killer = threading.Thread(
                target=lambda: (time.sleep(12), cluster.remove_node(other, allow_graceful=False))
            )
            killer.start()
            assert process.wait(timeout=150) == 1, (tmp_path / "out").read_text()[-3000:]
            killer.join()
    finally:
        cluster.shutdown()
    said = (tmp_path / "out").read_text()
    assert "61 indexed, 0 unchanged, 1 failed" in said
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    again = build(tmp_path / "ray", place)
    assert "0 indexed, 61 unchanged, 1 failed" in again.stdout
