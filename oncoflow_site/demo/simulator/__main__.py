"""Command line: `python -m oncoflow_site.demo.simulator dataset --out DIR --cases 260 --held-out 30 --seed 1`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .dataset import plan_cases, write_dataset


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do what it says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m oncoflow_site.demo.simulator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    dataset = commands.add_parser("dataset", help="write simulated training data in nnU-Net's raw layout")
    dataset.add_argument("--out", type=Path, required=True)
    dataset.add_argument("--cases", type=int, default=260)
    dataset.add_argument("--held-out", type=int, default=30)
    dataset.add_argument("--seed", type=int, default=1)
    dataset.add_argument("--spacing", type=float, default=2.0, help="voxel size in mm")
    dataset.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    cases = plan_cases(options.cases, options.held_out, options.seed, options.spacing)
    write_dataset(options.out, cases, workers=options.workers, seed=options.seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
