"""`ablation --beds` on a machine that has torch and little else.

    python -m bench.methods_there --beds real,world --device cuda --jobs 12 --out runs/methods

The arguments are those of `python -m model ablation`. Packages for reading media and for serving
are replaced by empty ones where they are missing; every process does so as it imports this file.
"""

from __future__ import annotations

import sys

from bench.gpu_check import stand_in

stand_in()


def main() -> int:
    from model.__main__ import main as run

    return run(["ablation", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
