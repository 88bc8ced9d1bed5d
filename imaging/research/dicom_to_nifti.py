"""A folder of DICOM files as NIfTI files with a sidecar each, without a database: the service's own reading, for the bench.

NIfTI is written in RAS+ order with the stored integers and the scanner's scaling. Sidecar keys are those of BIDS (times in
seconds); neither file holds a name, number, date, UID or free text of the scanner's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from imaging.deidentification.value_cleaning import clean_words
from imaging.dicom.acquisition import HEADER_TAGS
from imaging.dicom.image_plane import READ_TAGS, VolumeRefused
from imaging.dicom.image_stack import stack_datasets
from imaging.dicom.sop_classes import IMAGE_CLASSES
from imaging.geometry.grid import GeometryError, to_ras
from imaging.geometry.nifti import encode_nifti
from imaging.recognition.rules import Recognition, recognise
from oncoflow_site.foundation.schema import JsonDict

__all__ = ["Converted", "convert_folder"]

_DEFER_BYTES = 65536
_TAGS = [
    *dict.fromkeys([*READ_TAGS, *HEADER_TAGS, "SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber"])
]
_SECONDS = ("RepetitionTime", "EchoTime", "InversionTime")


@dataclass(frozen=True)
class Converted:
    """What became of one series.

    :param number: Series Number (0020,0011), None where not given. :param images: files of it.
    :param path: the NIfTI file, None where it was refused. :param code: and ``reason``: why it was refused, else empty.
    """

    number: int | None
    images: int
    recognition: Recognition
    path: Path | None
    code: str = ""
    reason: str = ""
    warnings: tuple[str, ...] = ()


def convert_folder(folder: Path, out: Path) -> Iterator[Converted]:
    """Convert every series below ``folder`` into ``out``, one at a time in memory, in order of Series Number.

    :raises OSError: ``out`` cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    series: dict[str, list[Dataset]] = {}
    for path in _files(folder):
        dataset = _read(path)
        if dataset is not None:
            series.setdefault(str(dataset.get("SeriesInstanceUID") or "none"), []).append(dataset)
    taken: set[str] = set()
    for uid in sorted(series, key=lambda one: (_number(series[one][0]) or 0, one)):
        yield _convert(series.pop(uid), out, taken)


def _convert(datasets: list[Dataset], out: Path, taken: set[str]) -> Converted:
    # Raw data, presentation states and reports may come under the series of the images; they are none of its slices.
    pictures = [one for one in datasets if str(one.get("SOPClassUID") or "") in IMAGE_CLASSES or "Rows" in one]
    aside = len(datasets) - len(pictures)
    first, images = (pictures or datasets)[0], len(datasets)
    number, recognition = _number(first), recognise(first)
    datasets[:] = pictures
    left = (
        (f"{aside} file{'s' if aside > 1 else ''} of this series hold{'' if aside > 1 else 's'} no image: left out.",)
        if aside
        else ()
    )
    if not pictures:
        return Converted(number, images, recognition, None, "no-images", "This series holds no image.")
    try:
        stack = stack_datasets(datasets)
        datasets.clear()
        array, grid = to_ras(stack.stored, stack.affine_ras)
        data = encode_nifti(array, grid, slope=stack.slope, intercept=stack.intercept)
    except VolumeRefused as error:
        return Converted(number, images, recognition, None, error.code, error.message)
    except GeometryError as error:
        return Converted(number, images, recognition, None, "no-geometry", f"The series cannot be placed: {error}.")
    stem = f"{number or 0:03d}_{recognition.sequence}"
    name = next(one for one in (f"{stem}_{n}" if n > 1 else stem for n in count(1)) if one not in taken)
    taken.add(name)
    path = out / f"{name}.nii.gz"
    _write(path, data)
    sidecar = _sidecar(first, recognition, (*left, *stack.warnings))
    _write(out / f"{name}.json", (json.dumps(sidecar, indent=1) + "\n").encode())
    return Converted(number, images, recognition, path, warnings=(*left, *stack.warnings))


def _files(folder: Path) -> Iterator[Path]:
    """Regular files below, sorted; links are not followed."""
    for root, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            path = Path(root) / name
            if path.is_file() and not path.is_symlink():
                yield path


def _read(path: Path) -> Dataset | None:
    """Headers now, pixels when they are needed; None for what is no DICOM image."""
    try:
        dataset = dcmread(path, specific_tags=_TAGS, defer_size=_DEFER_BYTES)  # type: ignore[arg-type]
        return dataset if dataset.get("Rows") is not None or dataset.get("Modality") is not None else None
    except (InvalidDicomError, OSError):
        return None
    except Exception:  # a broken file beside good ones: pydicom raises anything, and its text may quote the data
        return None


def _number(dataset: Dataset) -> int | None:
    try:
        return max(0, int(dataset.SeriesNumber))
    except (AttributeError, TypeError, ValueError):
        return None


def _sidecar(dataset: Dataset, recognition: Recognition, warnings: tuple[str, ...]) -> JsonDict:
    facts: JsonDict = {"Modality": str(dataset.get("Modality") or "")[:16]}
    for name, value in recognition.parameters.items():
        facts[name] = round(value / 1000.0, 7) if name in _SECONDS else value
    return {
        **facts,
        "SeriesDescription": clean_words(str(dataset.get("SeriesDescription") or ""))[:64],
        "Sequence": recognition.sequence,
        "SequenceConfidence": recognition.confidence,
        "SequenceReason": recognition.reason,
        "Orientation": "RAS+",
        "Warnings": list(warnings),
        "ConversionSoftware": "OncoFlow",
    }


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    half = path.with_name(f".{path.name}.part")
    half.write_bytes(data)
    half.replace(path)
