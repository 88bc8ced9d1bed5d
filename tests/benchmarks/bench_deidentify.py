"""De-identification per instance, ours against dicognito and deid: bytes of a file in, bytes of a file out, for all three.

Two kinds of file: a classic MR slice of 256 x 256 with a long header (private blocks, sequences), a series of them as they
arrive; and an enhanced multi-frame MR. One process, one thread, imports left out; median of the repeats over the whole
series. ``ratio_dicognito`` and ``ratio_deid`` are their time by ours on the classic series. What each leaves behind is not
measured here (see docs/deidentification.md).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import django
import numpy as np

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oncoflow_site.settings")
django.setup()
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

import pydicom  # noqa: E402
from dicognito.anonymizer import Anonymizer  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402

from imaging.deidentification.engine import Deidentifier, PatientProfile  # noqa: E402
from imaging.identifiers import STANDARD_ROOT  # noqa: E402
from tests.factories.dicom_files import as_file, dataset  # noqa: E402

ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
MOST_OF_DEID = 10


def classic(count: int) -> list[bytes]:
    """A series of MR slices, 256 x 256, with about 180 elements each."""
    files = []
    for number in range(1, count + 1):
        one = dataset(number=number, size=256, StudyDescription="MRI brain", ProtocolName="t1 mprage sag")
        one.OperatorsName, one.InstitutionAddress = "Muster^Max", "Weg 1, Ort"
        one.SoftwareVersions, one.DeviceSerialNumber = "syngo MR E11", "166123"
        for keyword in ("NumberOfAverages", "PercentSampling", "PixelBandwidth", "SAR", "dBdt", "SliceLocation"):
            setattr(one, keyword, "1.5")
        for name in ("RequestAttributesSequence", "ReferencedImageSequence", "SourceImageSequence"):
            items = []
            for index in range(3):
                item = Dataset()
                item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.SOPClassUID, f"1.2.3.{index}"
                item.RequestedProcedureID = "RP77"
                items.append(item)
            setattr(one, name, items)
        for group, creator in (
            (0x0019, "SIEMENS MR HEADER"),
            (0x0029, "SIEMENS CSA HEADER"),
            (0x0051, "SIEMENS MR HEADER"),
        ):
            block = one.private_block(group, creator, create=True)
            for index in range(20):
                block.add_new(index, "LO", f"private {index}")
        files.append(as_file(one))
    return files


def enhanced(frames: int) -> bytes:
    """One enhanced MR image of 128 x 128 with functional groups for each frame."""
    one = dataset(size=128, SOPClassUID=ENHANCED, NumberOfFrames=frames, ImagePositionPatient=None)
    groups = []
    for index in range(frames):
        content, position, plane, timing = Dataset(), Dataset(), Dataset(), Dataset()
        content.DimensionIndexValues, content.FrameAcquisitionDateTime = [1, index + 1], "20260311093000"
        position.ImagePositionPatient, plane.ImageOrientationPatient = [0, 0, 2.0 * index], [1, 0, 0, 0, 1, 0]
        timing.RepetitionTime, timing.FlipAngle, timing.EchoTrainLength = 2000, 9, 1
        group = Dataset()
        group.FrameContentSequence, group.PlanePositionSequence = [content], [position]
        group.PlaneOrientationSequence, group.MRTimingAndRelatedParametersSequence = [plane], [timing]
        groups.append(group)
    one.PerFrameFunctionalGroupsSequence = groups
    one.PixelData = np.random.default_rng(1).integers(0, 4000, (frames, 128, 128), dtype=np.uint16).tobytes()
    return as_file(one)


def ours(files: list[bytes]) -> None:
    """One `Deidentifier` a study, as the service has it."""

    def map_uid(uid: str) -> str:
        return uid if uid.startswith(STANDARD_ROOT) else f"2.25.{hash(uid) & ((1 << 127) - 1)}"

    run = Deidentifier(PatientProfile("OF-BENCH", -100, map_uid))
    for data in files:
        run(data)


def dicognito(files: list[bytes]) -> None:
    """One anonymizer a study, as its own command has it."""
    anonymizer = Anonymizer(seed="bench")
    for data in files:
        one = pydicom.dcmread(BytesIO(data))
        anonymizer.anonymize(one)
        one.save_as(BytesIO())


def deid(files: list[bytes]) -> None:
    """The default recipe. deid reads files by their path, so these lie in a folder of the memory file system where there is one."""
    from deid.config import DeidRecipe
    from deid.dicom import get_identifiers, replace_identifiers

    recipe = DeidRecipe()
    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        paths = []
        for index, data in enumerate(files):
            path = Path(folder, f"{index}.dcm")
            path.write_bytes(data)
            paths.append(str(path))
        found = get_identifiers(paths)
        for one in replace_identifiers(dicom_files=paths, deid=recipe, ids=found, save=False):
            one.save_as(BytesIO())


def _ms(act: Callable[[list[bytes]], None], files: list[bytes], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.process_time()
        act(files)
        times.append((time.process_time() - began) / len(files) * 1000)
    return statistics.median(times)


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    kinds = {"classic": classic(options.instances), "enhanced": [enhanced(options.frames)]}
    result: dict[str, float] = {}
    print(f"{'ms an instance (CPU)':<22} {'ours':>9} {'dicognito':>10} {'deid':>10}")
    for kind, files in kinds.items():
        few = files[:MOST_OF_DEID]
        times = {
            "ours": _ms(ours, files, options.repeats),
            "dicognito": _ms(dicognito, files, options.repeats),
            "deid": _ms(deid, few, max(options.repeats // 2, 1)),
        }
        print(f"{kind:<22} {times['ours']:9.3f} {times['dicognito']:10.3f} {times['deid']:10.3f}")
        result |= {f"{name}_{kind}_ms": round(value, 3) for name, value in times.items()}
        suffix = "" if kind == "classic" else f"_{kind}"
        for name in ("dicognito", "deid"):
            result[f"ratio_{name}{suffix}"] = round(times[name] / times["ours"], 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
