"""What a person declares about the files brought in: whose they are, of which day, and what they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

from django.conf import settings

from clinical.models import Patient

__all__ = ["Declaration"]


@dataclass(frozen=True)
class Declaration:
    """What the person says about the files. ``repr`` shows nothing of the patient.

    :param patient: a patient known already, instead of a number.
    :param mrn: medical record number; one of the two is needed for NIfTI, and for DICOM without a Patient ID.
    :param sequences: sequence -> NIfTI file: a path, or the name of one of the files brought in.
    :param spacing_known: False when the header's spacing is an assumption: nothing in millimetres is then assessed.
    :param geometry_confirmed: the person says that side and voxel size of the NIfTI headers are right, whatever speaks
        against them.
    """

    patient: Patient | None = field(default=None, repr=False)
    mrn: str = field(default="", repr=False)
    authority: str = ""
    family: str = field(default="", repr=False)
    given: str = field(default="", repr=False)
    birth_date: date | None = field(default=None, repr=False)
    sex: str = "U"
    day: date | None = None
    sequences: Mapping[str, Path | str] = field(default_factory=dict, repr=False)
    spacing_known: bool = True
    geometry_confirmed: bool = False

    @property
    def performed_at(self) -> datetime | None:
        """Noon of the declared day, in the service's time zone: a day is all that is known."""
        return datetime.combine(self.day, time(12), ZoneInfo(settings.TIME_ZONE)) if self.day else None  # type: ignore[arg-type]
