"""What SAM makes of a person's box or click: Dice on the slice that was marked, and of the volume that follows from it.

    make bench NAME=prompted
    make bench NAME=prompted ARGS="--weights FOLDER --patients 12"

Simulated patients of a seed that no training has used, 2 mm. Each region that is there is marked on its largest axial slice:
by its bounding box, and by one click at the point deepest inside. The volume is carried from the box in both ways that there
are: by the network's memory over slices as frames (`video`), and from box to box (`boxes`). ``video_*`` and ``boxes_*`` are
means over patients.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.brats.regions import REGIONS
from inference.experts.common.slices import box_of
from inference.experts.contract import Prompt, Refined, Volumes
from inference.experts.sam import SamExpert
from inference.fusion.agreement import dice
from tests.benchmarks.bench_accuracy import WEIGHTS, simulated

os.environ["TQDM_DISABLE"] = "1"
SEED = 77
LEAST_PIXELS = 20


def main() -> None:
    """Print the table and the line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path, default=WEIGHTS / "sam2-small")
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place:
        experts = {mode: expert(arguments.weights, Path(place, mode), mode, arguments.threads) for mode in MODES}
        for name, volumes, truth in simulated(arguments.patients, SEED):
            for region in REGIONS:
                mark(name, volumes, truth[region], region, experts, found)
    print(f"{'marked':<10}{'answered':<16}" + "".join(f"{region:>8}" for region in REGIONS) + f"{'n':>5}")
    result: dict[str, float] = {}
    for marked, answered in (("box", "slice"), ("click", "slice"), ("box", "video"), ("box", "boxes")):
        values = [found[f"{marked}_{answered}_{region.lower()}"] for region in REGIONS]
        means = [float(np.mean(v)) if v else float("nan") for v in values]
        print(f"{marked:<10}{answered:<16}" + "".join(f"{m:>8.3f}" for m in means) + f"{len(values[-1]):>5}")
        result |= {
            f"{marked}_{answered}_{r.lower()}": round(m, 4) for r, m in zip(REGIONS, means, strict=True) if m == m
        }
    print(json.dumps({"patients": arguments.patients, **result}))


MODES = ("video", "boxes")


def expert(weights: Path, folder: Path, mode: str, threads: int) -> SamExpert:
    """The weights, said to carry a prompt on in this way."""
    shutil.copytree(weights, folder)
    described = json.loads((folder / "model.json").read_text("utf-8"))
    (folder / "model.json").write_text(json.dumps(described | {"propagation": mode}), "utf-8")
    return SamExpert(mode, folder, threads=threads)


def mark(
    name: str,
    volumes: Volumes,
    truth: NDArray[np.bool_],
    region: str,
    experts: dict[str, SamExpert],
    found: dict[str, list[float]],
) -> None:
    """Put the three prompts for one region of one patient and keep what came of them."""
    areas = truth.sum(axis=(1, 2))
    z = int(areas.argmax())
    box = box_of(truth[z])
    if box is None or areas[z] < LEAST_PIXELS:
        return
    x0, y0, x1, y1 = (int(v) for v in box)
    corners = ((z, y0, x0), (z, y1 - 1, x1 - 1))
    deepest = np.unravel_index(int(ndimage.distance_transform_edt(truth[z]).argmax()), truth[z].shape)
    click = ((z, int(deepest[0]), int(deepest[1]), True),)
    own = region.lower()
    here = np.zeros_like(truth)
    here[z] = truth[z]
    any_expert = experts["video"]
    found[f"box_slice_{own}"].append(
        answer_dice(any_expert.refine(name, Prompt(region, box=corners, scope="slice"), volumes), here)
    )
    found[f"click_slice_{own}"].append(
        answer_dice(any_expert.refine(name, Prompt(region, click, scope="slice"), volumes), here)
    )
    for mode, one in experts.items():
        answer = one.refine(name, Prompt(region, box=corners, scope="volume"), volumes)
        found[f"box_{mode}_{own}"].append(answer_dice(answer, truth))


def answer_dice(answer: Refined | None, truth: NDArray[np.bool_]) -> float:
    """Of the answer, put where it belongs, with the truth."""
    assert answer is not None
    mask = np.zeros_like(truth)
    part = tuple(slice(o, o + n) for o, n in zip(answer.origin, answer.mask.shape, strict=True))
    mask[part] = answer.mask
    return dice(mask, truth)


if __name__ == "__main__":
    main()
