"""DICOM folder to .nii.gz on disk, ours against dcm2niix, on one machine, the same files, warm file cache.

Ours runs in one process and one thread, with Python's start and imports left out (they are named); dcm2niix is a whole
process with its own zlib (-z i, its default level 6; its start is 5 ms) that also writes a sidecar. Both sizes are shown.
``ratio_dcm2niix`` is dcm2niix' seconds by ours on the 196-slice series, median of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import django

MAIN = "deidentified/GE_IRSPGR_196_mri_reface"
FOLDERS = (MAIN, "enhanced/philips_anatomical/001")


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    data = os.environ.get("ONCOFLOW_TEST_DATA", "")
    if not Path(data, "dicom", MAIN).is_dir():
        sys.exit("ONCOFLOW_TEST_DATA names no folder with the series to convert")
    began = time.perf_counter()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oncoflow_site.settings")
    django.setup()
    from imaging.research.dicom_to_nifti import convert_folder

    start = time.perf_counter() - began
    import dcm2niix

    result: dict[str, float] = {"python_start_s": round(start, 3)}
    print(f"{'series':<40} {'MB':>6} {'ours s':>8} {'dcm2niix':>9} {'ratio':>6} {'ours MB':>8} {'its MB':>7}")
    for folder in FOLDERS:
        source = Path(data, "dicom", folder)

        def ours(out: Path, source: Path = source) -> None:
            if any(one.path is None for one in convert_folder(source, out)):
                sys.exit(f"{source.name}: not converted")

        def theirs(out: Path, source: Path = source) -> None:
            out.mkdir()
            command = [dcm2niix.bin, "-z", "i", "-f", "%s", "-o", str(out), str(source)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        runs = {name: _timed(act, repeats) for name, act in {"ours": ours, "theirs": theirs}.items()}
        size = sum(path.stat().st_size for path in source.iterdir()) / 1e6
        ratio = runs["theirs"][0] / runs["ours"][0]
        print(
            f"{folder:<40} {size:>6.1f} {runs['ours'][0]:>8.3f} {runs['theirs'][0]:>9.3f} "
            f"{ratio:>6.2f} {runs['ours'][1]:>8.2f} {runs['theirs'][1]:>7.2f}"
        )
        if folder == MAIN:
            result |= {
                "ratio_dcm2niix": round(ratio, 3),
                "ours_s": round(runs["ours"][0], 3),
                "dcm2niix_s": round(runs["theirs"][0], 3),
                "ours_mb": round(runs["ours"][1], 2),
                "dcm2niix_mb": round(runs["theirs"][1], 2),
            }
        else:
            result["ratio_enhanced"] = round(ratio, 3)
    print(json.dumps(result))


def _timed(act: Callable[[Path], None], repeats: int) -> tuple[float, float]:
    """(median seconds, MB written); the first run only warms the file cache."""
    seconds, size = [], 0.0
    for _ in range(repeats + 1):
        folder = Path(tempfile.mkdtemp(prefix="bench-conversion-"))
        try:
            began = time.perf_counter()
            act(folder / "out")
            seconds.append(time.perf_counter() - began)
            size = sum(path.stat().st_size for path in (folder / "out").glob("*.nii.gz")) / 1e6
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return statistics.median(seconds[1:]), size


if __name__ == "__main__":
    main()
