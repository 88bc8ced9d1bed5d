"""Probability maps of the regions of a segmentation, as stored beside its label map."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS
from imaging.models import Segmentation
from oncoflow_site.foundation import objects

__all__ = ["decode_probability", "encode_probability", "load_probability"]


def encode_probability(probabilities: Mapping[str, NDArray[Any]]) -> bytes:
    """Region probabilities (z, y, x) as a gzipped npz of float16, cropped to where any of them passes 0.5 %."""
    arrays = {region: np.asarray(probabilities[region]) for region in REGIONS if region in probabilities}
    if not arrays:
        raise ValueError("no region probability to store")
    seen = np.any([array > 0.005 for array in arrays.values()], axis=0)
    box = []
    for axis in range(3):
        found = np.flatnonzero(seen.any(axis=tuple(a for a in range(3) if a != axis)))
        box += [int(found[0]), int(found[-1]) + 1] if found.size else [0, 0]
    part = (slice(box[0], box[1]), slice(box[2], box[3]), slice(box[4], box[5]))
    plain = io.BytesIO()
    kept: dict[str, Any] = {region: array[part].astype(np.float16) for region, array in arrays.items()}
    np.savez(plain, shape=np.asarray(seen.shape), box=np.asarray(box), **kept)
    return gzip.compress(plain.getvalue(), compresslevel=1, mtime=0)


def decode_probability(data: bytes) -> dict[str, NDArray[np.float16]]:
    """Inverse of `encode_probability`; 0 outside the stored box."""
    with np.load(io.BytesIO(gzip.decompress(data)), allow_pickle=False) as stored:
        shape = tuple(int(n) for n in stored["shape"])
        box = [int(n) for n in stored["box"]]
        full: dict[str, NDArray[np.float16]] = {}
        for region in REGIONS:
            if region in stored:
                array = np.zeros(shape, dtype=np.float16)
                array[box[0] : box[1], box[2] : box[3], box[4] : box[5]] = stored[region]
                full[region] = array
    return full


def load_probability(segmentation: Segmentation) -> dict[str, NDArray[np.float16]] | None:
    """Region probabilities (z, y, x) float16, or None where none were stored."""
    if segmentation.probability is None:
        return None
    return decode_probability(objects.get(segmentation.probability))
