"""What a source of earlier studies can do, whatever it speaks. Nothing is believed before `imaging.priors.fetch` has checked it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydicom.dataset import Dataset

__all__ = ["CREDENTIAL", "MAX_FOUND", "FoundSeries", "FoundStudy", "PriorSource", "found_series", "found_study"]

MAX_FOUND = 500
_UID = re.compile(r"[0-9]+(\.[0-9]+)+", re.ASCII)
CREDENTIAL = "imaging.DicomPeer.credential"  # what its ciphertext is bound to


@dataclass(frozen=True)
class FoundStudy:
    """A study as the PACS describes it. ``date`` is DICOM DA, empty where not told."""

    uid: str
    date: str
    patient_id: str = field(repr=False)
    issuer: str = field(repr=False)
    accession: str = field(repr=False)
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class FoundSeries:
    """A series of it. ``instances``: Number of Series Related Instances (0020,1209), None where not told."""

    uid: str
    modality: str
    instances: int | None


class PriorSource(Protocol):
    """Raises `TransientError` for what may pass, `PermanentError` for what will not."""

    def studies(self, patient_id: str, authority: str, since: str) -> list[FoundStudy]:
        """Studies of the patient with exactly this number, not before the day ``since`` (DA)."""

    def series(self, study_uid: str, patient_id: str) -> list[FoundSeries]:
        """Series of a study."""

    def fetch(self, study_uid: str, series_uid: str, patient_id: str, take: Callable[[bytes], None]) -> None:
        """Have a series sent here: through our own listener, or each DICOM file to ``take``."""


def found_study(answer: Dataset) -> FoundStudy:
    """From a C-FIND identifier or a QIDO-RS answer."""
    modalities: Any = answer.get("ModalitiesInStudy") or ()
    listed = (modalities,) if isinstance(modalities, str) else tuple(str(one) for one in modalities)
    return FoundStudy(
        uid=_uid(answer, "StudyInstanceUID"),
        date=_text(answer, "StudyDate").replace(".", ""),
        patient_id=_text(answer, "PatientID"),
        issuer=_text(answer, "IssuerOfPatientID"),
        accession=_text(answer, "AccessionNumber"),
        modalities=tuple(one.strip().upper() for one in listed if one.strip()),
    )


def found_series(answer: Dataset) -> FoundSeries:
    """Likewise, at the level of the series."""
    count = _text(answer, "NumberOfSeriesRelatedInstances")
    return FoundSeries(
        uid=_uid(answer, "SeriesInstanceUID"),
        modality=_text(answer, "Modality").upper(),
        instances=int(count) if count.isdecimal() and len(count) < 7 else None,
    )


def _text(answer: Dataset, keyword: str) -> str:
    return str(answer.get(keyword) or "").strip()


def _uid(answer: Dataset, keyword: str) -> str:
    """A UID, or nothing: it becomes part of an address, and of a request to move."""
    value = _text(answer, keyword)
    return value if len(value) <= 64 and _UID.fullmatch(value) else ""
