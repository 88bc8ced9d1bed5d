"""Record what a model's training cases look like, so that a study unlike them can be told.

    python -m inference.training.distribution --dataset DIR --model inference/weights/nnunet-plain [--model ...]

Fits `inference.domain_shift.distribution` on the training cases, says how many held-out cases pass, writes distribution.json into
each weights folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.domain_shift.distribution import FILE, Distribution, features, fit
from inference.training.common.dataset import RawCase, RawDataset

__all__ = ["main"]


def rows(dataset: RawDataset, split: str) -> Iterator[tuple[RawCase, NDArray[np.float64]]]:
    """Features of the cases that have all sequences (a blank channel is a missing one)."""
    for case in dataset.cases(split):
        if all(image.any() for image in case.images):
            volumes = case.volumes()
            yield case, features(volumes.images, volumes.brain_mask, case.spacing)


def passing(found: Distribution, dataset: RawDataset, split: str) -> tuple[int, int]:
    """(cases within the limit, cases)."""
    inside = total = 0
    for case, _ in rows(dataset, split):
        volumes = case.volumes()
        compared = found.compare(volumes.images, volumes.brain_mask, case.spacing)
        total += 1
        inside += int(compared is not None and not compared.outside)
    return inside, total


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(
        prog="python -m inference.training.distribution", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--dataset", type=Path, required=True, help="nnU-Net raw dataset folder")
    p.add_argument("--model", type=Path, action="append", required=True, help="weights folder; may be given again")
    arguments = p.parse_args(argv)
    dataset = RawDataset(arguments.dataset)
    found = fit(np.array([values for _, values in rows(dataset, "train")]))
    inside, total = passing(found, dataset, "test")
    data = {**found.as_json(), "held_out": {"cases": total, "within": inside}}
    for folder in arguments.model:
        (folder / FILE).write_text(json.dumps(data) + "\n", "utf-8")
    print(json.dumps({"cases": found.cases, "limits": data["limits"], "held_out": data["held_out"]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
