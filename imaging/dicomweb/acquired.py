"""What the published, de-identified headers say of how a volume set was acquired."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from imaging.dicomweb.dicom_json import DicomJson
from imaging.dicomweb.index import headers_json
from imaging.models import PublishedInstance, VolumeSet
from imaging.schemas.acquisition import SequenceAcquisition

__all__ = ["acquisition_of"]

# Above it stands in another unit (gauss: 15000, millitesla: 1500), which the header does not name.
_MOST_TESLA = 20.0


def acquisition_of(volume_set: VolumeSet) -> tuple[SequenceAcquisition, ...]:
    """One entry a sequence, in the order of their names, from the first published image of its series; a sequence without
    DICOM images has a bare entry. One query, one look at the keys."""
    volumes = list(volume_set.volumes.select_related("source_series").order_by("sequence"))
    wanted = {one.source_series_id for one in volumes if one.source_series_id is not None}
    rows = PublishedInstance.objects.filter(instance__series__in=wanted).select_related("object", "instance")
    first: dict[UUID, PublishedInstance] = {}
    for row in rows.order_by("number", "id"):
        if row.instance is not None and row.instance.series_id is not None:
            first.setdefault(row.instance.series_id, row)
    headers = dict(zip(first, (json.loads(text) for text in headers_json(first.values())), strict=True))
    return tuple(
        _acquisition(
            str(one.sequence),
            headers.get(one.source_series_id, {}) if one.source_series_id is not None else {},
            one.source_series.parameters if one.source_series is not None else {},
        )
        for one in volumes
    )


def _acquisition(sequence: str, header: DicomJson, parameters: Mapping[str, object]) -> SequenceAcquisition:
    contrast = parameters.get("ContrastBolusAgent")
    return SequenceAcquisition(
        sequence=sequence,
        manufacturer=_text(header, "00080070"),
        model=_text(header, "00081090"),
        field_t=_number(header, "00180087", highest=_MOST_TESLA),
        slice_thickness_mm=_number(header, "00180050") or _number(_shared_measures(header), "00180050"),
        contrast=contrast if contrast in ("given", "not given") else "",
        agent=_text(header, "00180010"),
    )


def _first(header: DicomJson, tag: str) -> Any:
    member = header.get(tag)
    values = member.get("Value") if member else None
    return values[0] if values else None


def _text(header: DicomJson, tag: str) -> str:
    value = _first(header, tag)
    return " ".join(value.split())[:64] if isinstance(value, str) else ""


def _shared_measures(header: DicomJson) -> DicomJson:
    """Pixel Measures of an enhanced object (PS3.3 section C.7.6.16.2.1), where all its frames share them."""
    groups = _first(header, "52009229")
    measures = _first(groups, "00289110") if isinstance(groups, dict) else None
    return measures if isinstance(measures, dict) else {}


def _number(header: DicomJson, tag: str, *, highest: float = math.inf) -> float | None:
    try:
        value = float(_first(header, tag))
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and 0 < value <= highest else None
