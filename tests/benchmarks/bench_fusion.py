"""STAPLE over votes of several experts, ours against SimpleITK's, per region of one panel on BraTS's grid (155, 240, 240).

The votes are made, not measured: a smooth truth for each nested region, and raters that differ from it along the border and
by islands. Both get the same arrays in memory; SimpleITK's images are made beforehand. ``ratio_simpleitk`` is its seconds by
ours, median of the repeats, summed over the regions; ``voxels_different`` counts where the masks at 0.5 differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from inference.fusion.fuse import fuse
from inference.fusion.staple import staple, staple_on_device

SHAPE = (155, 240, 240)
RADII = {"ET": 18.0, "TC": 26.0, "WT": 45.0}


def votes(region: str, raters: int, seed: int) -> list[NDArray[np.bool_]]:
    """Masks of `raters` experts for one region."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.arange(n, dtype=np.float32) - n * 0.45 for n in SHAPE)
    distance = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    found = []
    for _ in range(raters):
        coarse = gaussian_filter(rng.normal(size=[n // 6 for n in SHAPE]), 1.2)
        border = zoom(coarse / coarse.std(), [n / (n // 6) for n in SHAPE], order=1)
        found.append(distance + 2.5 * border < RADII[region] + rng.normal(0, 1.0))
    return found


def timed(act: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """(median seconds, last result)."""
    seconds = []
    result = None
    for _ in range(repeats):
        start = time.perf_counter()
        result = act()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--raters", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    filter_ = sitk.STAPLEImageFilter()
    filter_.SetForegroundValue(1)
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE)
    brain = (z[:, None, None] / 0.9) ** 2 + (y[:, None] / 0.75) ** 2 + (x / 0.6) ** 2 < 1
    ours_s = theirs_s = 0.0
    different = 0
    print(f"{'region':<8} {'ml':>8} {'ours s':>8} {'SimpleITK s':>12} {'ratio':>7} {'voxels different':>17}")
    outputs: dict[str, dict[str, NDArray[np.float16]]] = {f"e{i}": {} for i in range(arguments.raters)}
    for number, region in enumerate(RADII):
        masks = votes(region, arguments.raters, 10 + number)
        images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
        theirs, expected = timed(lambda images=images: filter_.Execute(images), arguments.repeats)
        ours, found = timed(lambda masks=masks: staple(masks), arguments.repeats)
        differ = int(np.count_nonzero((found.posterior >= 0.5) != (sitk.GetArrayFromImage(expected) >= 0.5)))
        ours_s, theirs_s, different = ours_s + ours, theirs_s + theirs, different + differ
        volume = np.count_nonzero(found.posterior >= 0.5) / 1000
        print(f"{region:<8} {volume:>8.1f} {ours:>8.3f} {theirs:>12.3f} {theirs / ours:>7.1f} {differ:>17}")
        for name, mask in zip(outputs, masks, strict=True):
            outputs[name][region] = np.where(mask, 0.9, np.where(brain, 0.05, 0.0)).astype(np.float16)
    result: dict[str, float] = {
        "ratio_simpleitk": round(theirs_s / ours_s, 2),
        "ours_s": round(ours_s, 3),
        "simpleitk_s": round(theirs_s, 3),
        "voxels_different": different,
        "raters": arguments.raters,
    }
    print(f"\n{'whole fusion of a panel':<24} {'s':>7}")
    for method in ("majority", "staple", "weighted", "confidence"):
        weights = dict.fromkeys(outputs, 0.9)
        seconds, _ = timed(lambda method=method, weights=weights: fuse(outputs, method, weights), 2)
        print(f"{method:<24} {seconds:>7.2f}")
        result[f"fuse_{method}_s"] = round(seconds, 3)
    for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
        tensors = [torch.from_numpy(mask).to(device) for mask in votes("WT", arguments.raters, 12)]

        def on_device(tensors: list[torch.Tensor] = tensors, device: str = device) -> None:
            staple_on_device(tensors)
            if device == "cuda":
                torch.cuda.synchronize()

        result[f"wt_{device}_tensors_s"] = round(timed(on_device, arguments.repeats)[0], 4)
        print(f"{'WT as torch tensors, ' + device:<24} {result[f'wt_{device}_tensors_s']:>7.3f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
