"""What the administration pages of imaging have in common: they are read, and show no identity, pixels or ciphertext."""

from __future__ import annotations

from clinical.admin import PatientsOnlyMixin
from oncoflow_site.foundation.admin import InspectionAdmin

__all__ = ["HIDDEN", "PatientRowsAdmin"]

HIDDEN: tuple[str, ...] = ("ciphertext", "uid_index", "accession_index")


class PatientRowsAdmin(PatientsOnlyMixin, InspectionAdmin):
    """Rows of the patients that this person may see (superusers: all, under pseudonyms); written by services only."""

    patient_lookup = "study__patient"
    exclude = HIDDEN
