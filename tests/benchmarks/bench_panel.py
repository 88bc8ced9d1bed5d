"""Seconds of a panel on 240 x 240 x 155 x 4, warm experts in their resident processes, against the nnUNetv2_predict command.

A simulated patient at 1 mm in BraTS's field. Each expert of the panel is asked through the supervisor as the service does;
the first answer warms it up and is not counted. The command runs on the same weights, fold, step size and without mirroring,
reads the same images from files and writes a label map; its whole time counts, because that is what starting it a study costs.
``ratio_nnunetv2_predict`` is its seconds by ours on the first nnU-Net. Memory is the proportional share (PSS) of each process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from imaging.brats.sequences import PANEL_SEQUENCES
from inference.experts.contract import Volumes
from inference.experts.factory import ExpertSpec
from inference.fusion.agreement import measure_agreement
from inference.fusion.fuse import fuse, masks_of
from inference.supervisor.client import SupervisorClient
from inference.supervisor.memory_budget import pss_bytes
from inference.supervisor.server import Supervisor, SupervisorConfig
from oncoflow_site.demo.simulator.dataset import plan_cases, simulate_case

SHAPE = (155, 240, 240)
WEIGHTS = Path(__file__).resolve().parents[2] / "inference" / "weights"
PANEL = (("nnunet-plain", "nnunet"), ("nnunet-residual", "nnunet"), ("sam2-small", "sam"))


def patient(seed: int) -> Volumes:
    """A simulated patient with a tumour, centred in BraTS's field of view, 1 mm."""
    case = next(one for one in plan_cases(8, 0, seed=seed, spacing=1.0) if one.tumour)
    made = simulate_case(case)
    images = {
        s: _field(np.asarray(made.images[i].transpose(2, 1, 0), np.float32)) for i, s in enumerate(PANEL_SEQUENCES)
    }
    return Volumes(images, (1.0, 1.0, 1.0), np.any([image != 0 for image in images.values()], axis=0))


def _field(image: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.zeros(SHAPE, np.float32)
    source, target = [], []
    for have, want in zip(image.shape, SHAPE, strict=True):
        length = min(have, want)
        source.append(slice((have - length) // 2, (have - length) // 2 + length))
        target.append(slice((want - length) // 2, (want - length) // 2 + length))
    out[tuple(target)] = image[tuple(source)]
    return out


def command_seconds(volumes: Volumes, folder: Path, device: str, repeats: int) -> float:
    """Median seconds of nnUNetv2_predict_from_modelfolder on the same case."""
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "in")
        source.mkdir()
        for number, name in enumerate(PANEL_SEQUENCES):
            image = nib.Nifti1Image(volumes.images[name].transpose(2, 1, 0), np.eye(4))
            nib.save(image, source / f"case_{number:04d}.nii.gz")
        command = [
            str(Path(sys.executable).with_name("nnUNetv2_predict_from_modelfolder")),
            *("-i", str(source), "-m", str(folder), "-f", "0", "-step_size", "0.5"),
            *("--disable_tta", "-npp", "1", "-nps", "1", "-device", device),
        ]
        environment = os.environ | {
            n: str(Path(place)) for n in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        }
        seconds = []
        for number in range(repeats):
            out = Path(place, f"out{number}")
            start = time.perf_counter()
            subprocess.run([*command, "-o", str(out)], check=True, capture_output=True, env=environment)
            seconds.append(time.perf_counter() - start)
            if not list(out.glob("*.nii.gz")):
                sys.exit("the command wrote no mask")
    return statistics.median(seconds)


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--without-command", action="store_true", help="leave the peer out")
    arguments = parser.parse_args()
    volumes = patient(11)
    specs = tuple(ExpertSpec(n, k, str(WEIGHTS / n), arguments.threads, arguments.device) for n, k in PANEL)
    result: dict[str, float] = {"threads": arguments.threads}
    outputs = {}
    with tempfile.TemporaryDirectory() as place:
        supervisor = Supervisor(SupervisorConfig(specs, str(Path(place, "s.sock")), Path(place, "key")))
        supervisor.start()
        try:
            client = SupervisorClient(supervisor.address, supervisor.key)
            print(f"{'expert':<18} {'s a study':>10} {'MiB':>7}")
            for spec in specs:
                client.run(spec.name, volumes, 900)
                seconds = []
                for _ in range(arguments.repeats):
                    start = time.perf_counter()
                    outputs[spec.name] = client.run(spec.name, volumes, 900).probabilities
                    seconds.append(time.perf_counter() - start)
                pid = int(client.health()["experts"][spec.name]["pid"])
                key = spec.name.replace("-", "_")
                result[f"{key}_s"], result[f"{key}_mib"] = (
                    round(statistics.median(seconds), 2),
                    round(pss_bytes(pid) / 2**20),
                )
                print(f"{spec.name:<18} {result[f'{key}_s']:>10.2f} {result[f'{key}_mib']:>7.0f}")
            start = time.perf_counter()
            fused = fuse(outputs)
            measure_agreement({n: masks_of(o) for n, o in outputs.items()}, fused.masks, volumes.spacing)
            result["fusion_and_agreement_s"] = round(time.perf_counter() - start, 2)
        finally:
            supervisor.stop()
    print(f"{'fusion, agreement':<18} {result['fusion_and_agreement_s']:>10.2f}")
    result["panel_s"] = round(sum(v for k, v in result.items() if k.endswith("_s")), 2)
    print(f"{'whole panel':<18} {result['panel_s']:>10.2f}")
    if not arguments.without_command:
        theirs = command_seconds(volumes, WEIGHTS / PANEL[0][0], arguments.device, max(1, arguments.repeats - 1))
        result["nnunetv2_predict_s"] = round(theirs, 2)
        result["ratio_nnunetv2_predict"] = round(theirs / result["nnunet_plain_s"], 2)
        print(
            f"{'nnUNetv2_predict':<18} {theirs:>10.2f}   ({result['ratio_nnunetv2_predict']:.2f} times {PANEL[0][0]})"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
