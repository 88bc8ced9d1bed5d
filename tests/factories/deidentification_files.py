"""DICOM files with something in them that must not survive."""

from __future__ import annotations

import zlib
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.dataset import Dataset
from scipy import ndimage

from imaging.deidentification.engine import Deidentified, PatientProfile, deidentify
from tests.factories.dicom_files import as_file

PROFILE = PatientProfile(
    "OF-TEST-0000-00", -123, lambda uid: uid if uid.startswith("1.2.840.10008.") else f"2.25.{zlib.crc32(uid.encode())}"
)


def run(one: Dataset, **options) -> tuple[Deidentified, Dataset]:
    result = deidentify(as_file(one, **options), PROFILE)
    return result, dcmread(BytesIO(result.data))


def with_elements(one: Dataset, elements: dict[int, bytes], *, implicit: bool = False) -> bytes:
    """The file of ``one`` with serialised elements put in front of its pixels."""
    for tag in elements:
        if tag in one:
            del one[tag]
    data = as_file(one, implicit=implicit)
    pixels = data.index(b"\xe0\x7f\x10\x00" if implicit else b"\xe0\x7f\x10\x00OW")
    return data[:pixels] + b"".join(elements[tag] for tag in sorted(elements)) + data[pixels:]


def head(size: int = 192) -> np.ndarray:
    """Something like an axial MR slice, 0 to 1: a bright ring, soft tissue, noise."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:size, :size] / size - 0.5
    radius = np.hypot(x / 0.38, y / 0.45)
    tissue = 0.45 + 0.12 * ndimage.gaussian_filter(rng.normal(size=(size, size)), 4) * 4
    image = np.where(radius < 0.9, tissue, np.where(radius < 1, 0.8, 0.02))
    return np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1)


def written(
    words: str, *, ink: float = 1.0, turns: int = 0, at: tuple[int, int] = (6, 4), height: int = 14
) -> np.ndarray:
    """`head` with words drawn into it, turned by quarters."""
    image = head()
    paper = Image.new("L", image.shape[::-1])
    ImageDraw.Draw(paper).text(at, words, fill=255, font=ImageFont.load_default(height))
    mask = np.rot90(np.asarray(paper) / 255.0, turns)
    return image * (1 - mask) + ink * mask
