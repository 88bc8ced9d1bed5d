"""Command line: `python -m oncoflow_site.demo.simulator dataset --out DIR --cases 260 --held-out 30 --seed 1`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .dataset import plan_cases, write_dataset
from .kinds.table import TUMOUR_FREE_SHARE, markdown, plan_kinds


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
    dataset.add_argument("--kinds", action="store_true", help="the kinds of the table, not the classic mixture alone")
    dataset.add_argument("--leave-out", default="", metavar="A,B", help="these kinds do not occur")
    dataset.add_argument("--only", default="", metavar="A,B", help="these instead of all others of their category")
    dataset.add_argument(
        "--tumour-free", type=float, default=TUMOUR_FREE_SHARE, help="share of them among cases of kinds"
    )
    commands.add_parser("kinds", help="print the table of kinds")
    options = parser.parse_args(arguments)
    if options.command == "kinds":
        print(markdown(), end="")
        return 0
    leave_out, only = ([n for n in text.split(",") if n] for text in (options.leave_out, options.only))
    if options.kinds or leave_out or only:
        try:
            cases = plan_kinds(
                options.cases,
                options.held_out,
                options.seed,
                options.spacing,
                leave_out=leave_out,
                only=only,
                tumour_free=options.tumour_free,
            )
        except ValueError as error:
            parser.error(str(error))
    else:
        cases = plan_cases(options.cases, options.held_out, options.seed, options.spacing)
    write_dataset(options.out, cases, workers=options.workers, seed=options.seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
