"""A PACS over DIMSE: C-FIND and C-MOVE, Patient Root (PS3.4 Annex C). Images come to our own listener."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.conf import settings
from pydicom.dataset import Dataset
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelMove,
)

from imaging.dimse.associations import calling
from imaging.models import DicomPeer
from imaging.priors.pacs import MAX_FOUND, FoundSeries, FoundStudy, found_series, found_study
from oncoflow_site.foundation.errors import TransientError

__all__ = ["DimsePacs"]


class DimsePacs:
    """`imaging.priors.pacs.PriorSource` for one peer."""

    def __init__(self, peer: DicomPeer) -> None:
        self.peer = peer

    def studies(self, patient_id: str, authority: str, since: str) -> list[FoundStudy]:
        """C-FIND at the level of studies."""
        keys = {
            "PatientID": patient_id,
            "IssuerOfPatientID": "",
            "StudyDate": f"{since}-",
            "StudyInstanceUID": "",
            "AccessionNumber": "",
            "ModalitiesInStudy": "",
        }
        return [found_study(answer) for answer in self._find("STUDY", keys)]

    def series(self, study_uid: str, patient_id: str) -> list[FoundSeries]:
        """C-FIND at the level of series."""
        keys = {
            "PatientID": patient_id,
            "StudyInstanceUID": study_uid,
            "SeriesInstanceUID": "",
            "Modality": "",
            "NumberOfSeriesRelatedInstances": "",
        }
        return [found_series(answer) for answer in self._find("SERIES", keys)]

    def fetch(self, study_uid: str, series_uid: str, patient_id: str, take: Callable[[bytes], None]) -> None:
        """C-MOVE of a series to ourselves. :raises TransientError: refused, or some sub-operations failed."""
        with calling(self.peer, [PatientRootQueryRetrieveInformationModelMove]) as assoc:
            identifier = _identifier(
                "SERIES", {"PatientID": patient_id, "StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
            )
            final: Any = None
            for status, _ in assoc.send_c_move(
                identifier, str(settings.ONCOFLOW_DICOM_AE_TITLE), PatientRootQueryRetrieveInformationModelMove
            ):
                final = status
        code = int(final.Status) if final is not None and "Status" in final else None
        if code != 0x0000 or int(final.get("NumberOfFailedSuboperations") or 0):
            raise TransientError(f"C-MOVE from {self.peer.ae_title} was not complete", code=_hex(code))

    def _find(self, level: str, keys: dict[str, str]) -> Iterator[Dataset]:
        with calling(self.peer, [PatientRootQueryRetrieveInformationModelFind]) as assoc:
            found = 0
            for status, answer in assoc.send_c_find(
                _identifier(level, keys), PatientRootQueryRetrieveInformationModelFind
            ):
                code = int(status.Status) if "Status" in status else None
                if code in (0xFF00, 0xFF01):  # pending
                    if found == MAX_FOUND:
                        assoc.abort()  # it may never end
                        return
                    found += 1
                    if answer is not None:
                        yield answer
                elif code != 0x0000:
                    raise TransientError(f"C-FIND at {self.peer.ae_title} failed", code=_hex(code))


def _identifier(level: str, keys: dict[str, str]) -> Dataset:
    identifier = Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def _hex(code: int | None) -> str:
    return "" if code is None else f"{code:04X}"
