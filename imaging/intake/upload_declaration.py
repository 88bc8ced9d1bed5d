"""What a person declares about an upload, as it is kept: plain values, encrypted with the upload's data key."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from clinical.access import patients_for
from imaging.brats.sequences import PANEL_SEQUENCES
from imaging.intake.declaration import Declaration
from imaging.models import Upload
from oncoflow_site.foundation import keys
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["UploadDeclaration", "load", "seal"]


@dataclass(frozen=True)
class UploadDeclaration:
    """Whose and when the images are. Everything may be empty for DICOM, which says so itself.

    :param patient: id of a patient that the person may see; stands instead of a number.
    :param mrn: medical record number, under ``authority`` (default: the hospital's).
    :param day: date of the examination.
    :param sequences: sequence (T1, T1c, T2, FLAIR) -> name of a NIfTI file.
    :param spacing_known: False: the headers' spacing is an assumption, nothing in millimetres is assessed.
    :param geometry_confirmed: the headers' side and voxel size are right, whatever speaks against them.
    """

    patient: uuid.UUID | None = None
    mrn: str = field(default="", repr=False)
    authority: str = ""
    family: str = field(default="", repr=False)
    given: str = field(default="", repr=False)
    birth_date: date | None = field(default=None, repr=False)
    sex: str = "U"
    day: date | None = None
    sequences: Mapping[str, str] = field(default_factory=dict, repr=False)
    spacing_known: bool = True
    geometry_confirmed: bool = False

    def __post_init__(self) -> None:
        if self.patient is not None and self.mrn:
            raise UserVisibleError("Name the patient or give a number, not both.", code="patient-and-number")
        for sequence in self.sequences:
            if sequence not in PANEL_SEQUENCES:
                raise UserVisibleError("There are T1, T1c, T2 and FLAIR.", code="bad-sequence")

    def check(self, user: Any) -> None:
        """:raises UserVisibleError: the patient is none that ``user`` may see (or there is no such patient)."""
        if self.patient is not None and not patients_for(user).filter(pk=self.patient).exists():
            raise UserVisibleError("There is no such patient among yours.", code="no-patient")

    def declaration(self, user: Any) -> Declaration:
        """The same in the words of `imaging.intake.file_import`. :raises UserVisibleError: as `check`."""
        self.check(user)
        patient = patients_for(user).get(pk=self.patient) if self.patient else None
        return Declaration(
            patient=patient,
            mrn=self.mrn,
            authority=self.authority,
            family=self.family,
            given=self.given,
            birth_date=self.birth_date,
            sex=self.sex,
            day=self.day,
            sequences=dict(self.sequences),
            spacing_known=self.spacing_known,
            geometry_confirmed=self.geometry_confirmed,
        )


_PLAIN = ("mrn", "authority", "family", "given", "sex", "spacing_known", "geometry_confirmed")


def seal(upload: Upload, declared: UploadDeclaration) -> bytes:
    """Encrypt for ``upload.declaration``."""
    plain = {
        **{name: getattr(declared, name) for name in _PLAIN},
        "patient": str(declared.patient) if declared.patient else None,
        "birth_date": declared.birth_date.isoformat() if declared.birth_date else None,
        "day": declared.day.isoformat() if declared.day else None,
        "sequences": dict(declared.sequences),
    }
    return keys.encrypt(upload.subject, json.dumps(plain, separators=(",", ":")).encode(), "declaration")


def load(upload: Upload) -> UploadDeclaration:
    """The reverse of `seal`."""
    if not upload.declaration:
        return UploadDeclaration()
    plain = json.loads(keys.decrypt(upload.subject, bytes(upload.declaration), "declaration"))
    for name in ("birth_date", "day"):
        plain[name] = date.fromisoformat(plain[name]) if plain[name] else None
    plain["patient"] = uuid.UUID(plain["patient"]) if plain["patient"] else None
    return UploadDeclaration(**plain)
