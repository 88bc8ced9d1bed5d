"""The patient of the reports' tests, for every test of this room."""

from __future__ import annotations

from tests.factories.report_studies import make_measurement, make_study, order, patient, radiologist, signing

__all__ = ["make_measurement", "make_study", "order", "patient", "radiologist", "signing"]
