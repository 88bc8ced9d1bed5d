"""A report as the reports room makes it, without a database."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from clinical.identity import Identifier, IdentityData, OrderIdentity
from fhir_api.report_out.disclosed_report import DisclosedReport
from reports.content.schema import ReportContent, canonical_json, parse_content

REPORT_ID = "0192f0e0-0000-7000-8000-000000000001"
VERSION_IDS = {
    1: "0192f0e0-0000-7000-8000-0000000000a1",
    2: "0192f0e0-0000-7000-8000-0000000000a2",
    3: "0192f0e0-0000-7000-8000-0000000000a3",
}
PDF = b"%PDF-1.7\n" + bytes(range(256)) * 40 + b"\n%%EOF\n"


def region(mm3: float | None, prior: float | None = None) -> dict[str, Any]:
    """One region as the imaging room measures it."""
    return {
        "volume_mm3": mm3,
        "voxels": None if mm3 is None else round(mm3),
        "longest_axial_diameter_mm": None if mm3 is None else 31.25,
        "perpendicular_diameter_mm": None if mm3 is None else 20.5,
        "assessed": mm3 is not None,
        "reason": "" if mm3 is not None else "FLAIR was not acquired",
        "uncertainty_mm3": {"low": mm3 * 0.9, "high": mm3 * 1.1, "method": "spread of the experts' volumes"}
        if mm3
        else None,
    }


STUDY = {
    "id": "44444444-4444-4444-8444-444444444444",
    "patient_id": "33333333-3333-4333-8333-333333333333",
    "pseudonym": "OF-AAAA-BBBB-CC",
    "performed_at": "2026-03-01T10:15:00+00:00",
    "modality": "MR",
    "acquisition": [
        {"sequence": "T1", "manufacturer": "SIEMENS", "model": "Skyra", "field_t": 3.0, "slice_thickness_mm": 1.0},
        {"sequence": "T1c", "contrast": "given"},
    ],
}


def read(values: dict[str, Any]) -> ReportContent:
    """Content as it was kept, of any schema."""
    return parse_content(canonical_json(values))


def content() -> dict[str, Any]:
    """Content of a follow-up report in the first schema; the whole tumour could not be assessed."""
    return {
        "schema": 1,
        "language": "en",
        "demo": True,
        "report_id": REPORT_ID,
        "version": 1,
        "status": "final",
        "study": STUDY,
        "findings": {
            "measurement_id": "55555555-5555-4555-8555-555555555555",
            "segmentation": {"id": "s", "kind": "consensus", "version": 4, "author": "panel"},
            "regions": {"ET": region(12340.5), "TC": region(15000.0), "WT": region(None)},
            "lesions": [
                {"id": "L1", "status": "followed", "regions": {"ET": 12340.5, "TC": 15000.0, "WT": None}},
                {"id": "L2", "status": "gone", "regions": {"ET": 0.0}},
            ],
        },
        "comparison": {
            "prior_study_id": "11111111-1111-4111-8111-111111111111",
            "interval_days": 91,
            "regions": {
                "ET": {"current_mm3": 12340.5, "prior_mm3": 20000.0, "change_percent": -38.2975, "change_mm3": -7659.5},
                "TC": {
                    "current_mm3": 15000.0,
                    "prior_mm3": 0.0,
                    "change_percent": None,
                    "reason": "the prior volume is 0",
                },
                "WT": {"current_mm3": None, "prior_mm3": 30000.0, "change_percent": None, "reason": "not measured"},
            },
            "response": {
                "category": "SD",
                "criteria": "RANO 2.0 imaging-only, volumetric",
                "rule_ids": [],
                "missing": [],
            },
        },
        "panel": {
            "experts": [{"name": "nnunet-plain", "version": "1.0"}, {"name": "sam2-small", "version": "1.0"}],
            "agreement": {"a": 0.9312, "region": "ET"},
            "demo": True,
        },
        "narrative": [
            {"text": "Radiotherapy ended in January <2026> & was tolerated.", "kind": "context", "citations": []}
        ],
        "impression": "Enhancing tumour 12.3 mL, 38 % less than in the prior study.\nLesion L2 is no longer seen.",
        "disclaimer": "Decision support.",
    }


def facts(
    number: int = 1, status: str = "preliminary", *, pdf: bytes = PDF, mrn: str = "MRN-1", **change: Any
) -> DisclosedReport:
    """Facts of version ``number``; final and amended ones have a signer."""
    signer = None if status == "preliminary" else ("22222222-2222-4222-8222-222222222222", "Dr Eva Ray")
    values: dict[str, Any] = {
        "report_id": REPORT_ID,
        "version_id": VERSION_IDS[number],
        "number": number,
        "status": status,
        "content": read(content()),
        "pdf": pdf,
        "issued_at": datetime(2026, 3, 1, 12, number, 5, 123456, tzinfo=UTC),
        "performed_at": datetime(2026, 3, 1, 10, 15, tzinfo=UTC),
        "patient_id": "33333333-3333-4333-8333-333333333333",
        "pseudonym": "OF-AAAA-BBBB-CC",
        "identity": IdentityData(
            "Müller-Lüdenscheidt", "Anna Maria", date(1961, 4, 30), "F", (Identifier("DEMOHOSP", mrn),)
        ),
        "study_id": "44444444-4444-4444-8444-444444444444",
        "study_instance_uid": "1.2.826.0.1.3680043.8.498.1234567890",
        "order": OrderIdentity(
            accession="ACC-1",
            placer_number="P1",
            placer_authority="EMR",
            ordering_provider="Muster, Eva",
            echo={
                "PID-3": f"{mrn}^^^DEMOHOSP&1.2.3&ISO^MR",
                "ORC-2": "P1^EMR^1.2.9^ISO",
                "OBR-2": "P1^EMR^1.2.9^ISO",
                "OBR-4": "MRBRAIN^MR Schädel^L^24587-8^MR Brain WO and W contrast IV^LN",
                "MSH-3": "EMR",
                "MSH-4": "HOSP",
            },
        ),
        "code": ("MRBRAIN", "MR Schädel"),
        "signer": signer,
        "hospital": "OncoFlow Demo Hospital",
        "authority": "DEMOHOSP",
    }
    if isinstance(change.get("content"), dict):
        change["content"] = read(change["content"])
    return DisclosedReport(**(values | change))
