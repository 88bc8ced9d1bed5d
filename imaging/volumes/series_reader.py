"""The pixels of a series as one array and its grid, read from the stored instances."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.dataset import Dataset

from imaging.dicom.image_header import image_dataset
from imaging.dicom.image_plane import READ_TAGS, VolumeRefused, is_tiled, tiles_refused
from imaging.dicom.image_stack import ImageStack, stack_datasets
from imaging.models import InstanceState
from oncoflow_site.foundation import objects

if TYPE_CHECKING:
    from imaging.models import Instance, Series

__all__ = ["read_series", "series_instances"]


def series_instances(series: Series) -> list[Instance]:
    """The instances a stack of ``series`` is read from, in the order of `Stack.frames`."""
    rows = series.instances.exclude(state=InstanceState.QUARANTINED).select_related("original", "deidentified")
    return list(rows.order_by("number", "id"))


def read_series(series: Series, *, original: bool = False) -> ImageStack:
    """The stack of a stored series, from its de-identified instances.

    :param original: use the instances as received (only the way back to the PACS needs that).
    :raises VolumeRefused: codes no-images, not-de-identified, no-geometry, mixed-orientation, mixed-matrix,
        mixed-spacing, gantry-tilt, duplicate-slice, missing-slice, uneven-slices, mosaic, not-a-volume, undecodable,
        too-large.
    """
    datasets: list[Dataset] = []
    for row in series_instances(series):
        stored = row.original if original else row.deidentified
        if stored is None:
            raise VolumeRefused("not-de-identified", "This series has instances that are not de-identified yet.")
        data = objects.get(stored)
        if row.image is not None and not original:
            datasets.append(image_dataset(row.image, data))
        else:
            datasets.append(dcmread(BytesIO(data), force=True, specific_tags=READ_TAGS))  # type: ignore[arg-type]
    try:
        return stack_datasets(datasets)
    except VolumeRefused:
        # What says that slices lie in tiles is private to the scanner, and de-identification leaves it out.
        if not original and _original_is_tiled(series):
            raise tiles_refused() from None
        raise


def _original_is_tiled(series: Series) -> bool:
    row = next(iter(series_instances(series)), None)
    return row is not None and is_tiled(
        dcmread(BytesIO(objects.get(row.original)), force=True, specific_tags=READ_TAGS, stop_before_pixels=True)  # type: ignore[arg-type]
    )
