"""How often the look for burned-in text misses a text, and how often it sees one where there is none.

Held out from training and from the choice of the threshold: the patients, the fonts, the seed, and all real pictures. Texts
of 8 to 28 pixels (a capital's height), ink at least 0.3 of the range away from what lies under it, in all four directions,
with and without blur, noise and JPEG. The real slices of the folder ``orientation/ax``, the first five glioblastoma patients
and a few others chose the threshold and are left out here. ``--tesseract`` takes the whole look (some ten seconds a clean
frame) instead of the network alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom import dcmread

from imaging.deidentification import burned_in_text, lettering_network
from oncoflow_site.demo import lettering

CHOSE_THE_THRESHOLD = ("orientation/ax/", "enhanced/Siemens", "failing/slice", "transfer_syntaxes")
MORE_FONTS = (
    "truetype/liberation/LiberationSans-Regular.ttf",
    "truetype/liberation/LiberationMono-Bold.ttf",
    "truetype/liberation/LiberationSerif-Italic.ttf",
    "truetype/noto/NotoSansMono-Regular.ttf",
    "opentype/urw-base35/NimbusSansNarrow-Oblique.otf",
)


def real(data: Path) -> Iterator[lettering.Ground]:
    """Slices of real series without text."""
    for folder in sorted({path.parent for path in data.glob("dicom/**/*") if path.is_file()}):
        if str(folder.relative_to(data / "dicom")).startswith(CHOSE_THE_THRESHOLD):
            continue
        files = sorted(path for path in folder.iterdir() if path.is_file())
        for path in files[:: max(1, len(files) // 12)]:
            try:
                pixels = dcmread(path).pixel_array
            except Exception:
                continue
            frames = pixels if pixels.ndim == 3 else pixels[np.newaxis]
            for frame in frames[:: max(1, len(frames) // 12)]:
                yield lettering.shown(frame.astype(np.float32))
    for path in sorted(data.glob("nifti/**/*.nii.gz")):
        parts = path.relative_to(data).parts
        if any(word in path.name.lower() for word in ("seg", "mask", "tumor")) or parts[2] in {
            f"0{n}" for n in range(6)
        }:
            continue
        array = np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
        for axis in range(3 if array.ndim == 3 else 0):
            for share in (0.35, 0.5, 0.65):
                plane = np.take(array, int(share * array.shape[axis]), axis=axis).astype(np.float32)
                if min(plane.shape) >= 64 and np.ptp(plane) > 0:
                    yield lettering.shown(np.rot90(plane))


def fonts() -> list[Path]:
    """Fonts that training did not see; those of the system where they are installed."""
    system = [Path("/usr/share/fonts", name) for name in MORE_FONTS]
    return lettering.font_files(lettering.HELD_OUT_FONTS) + [path for path in system if path.is_file()]


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="pictures with text, and as many without")
    parser.add_argument("--tesseract", action="store_true", help="the whole look")
    arguments = parser.parse_args()
    rng = np.random.default_rng(200)
    grounds = lettering.simulated_slices(777, "two-lesions", rng, 40)
    grounds += lettering.simulated_slices(778, "response", rng, 24, skull=False)
    data = os.environ.get("ONCOFLOW_TEST_DATA")
    grounds += list(real(Path(data))) if data else []
    files = fonts()

    def seen(picture: lettering.Ground) -> bool:
        if arguments.tesseract:
            return not burned_in_text.look_for_text(picture).clean
        return lettering_network.lettering(picture) >= lettering_network.THRESHOLD

    begun, looked = time.monotonic(), 0
    missed: list[lettering.Words] = []
    while looked < arguments.count:
        ground = grounds[int(rng.integers(len(grounds)))]
        height = float(np.exp(rng.uniform(np.log(8), np.log(28))))
        made = lettering.write_words(ground, rng, files, lettering.some_text(rng), height=height)
        if max(ground.shape) < 128 or made is None:
            continue
        looked += 1
        if not seen(lettering.worn(made[0], rng)):
            missed.append(made[1])
    chosen = rng.permutation(len(grounds))[: arguments.count]
    alarms = sum(seen(grounds[index]) for index in chosen)
    screens = [
        lettering.drawn_over(lettering.text_free(rng, int(rng.integers(160, 420))), rng)
        for _ in range(arguments.count // 3)
    ]
    false_screens = sum(seen(one) for one in screens)
    for one in missed:
        print(f"missed: height {one.height:.0f}, contrast {one.contrast:.2f}, box {one.box}")
    print(f"{'with text':<24}{looked:>6} missed {len(missed)}")
    print(f"{'slices without':<24}{len(chosen):>6} false alarms {alarms}")
    print(f"{'screens without':<24}{len(screens):>6} false alarms {false_screens}")
    total = looked + len(chosen) + len(screens)
    result = {
        "planted": looked,
        "missed": len(missed),
        "slices": len(chosen),
        "false_alarms": alarms,
        "screens": len(screens),
        "false_screens": false_screens,
        "seconds_a_frame": round((time.monotonic() - begun) / max(1, total), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
