"""Facts as the lower rooms write them, for tests that need no database."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from reports.content.schema import ReportFacts
from reports.content.upgrades import facts_of_v1
from reports.narrative.sentences import SourceText


def _region(volume: float | None, low: float, high: float, long_axis: float, across: float) -> dict[str, Any]:
    return {
        "volume_mm3": volume,
        "voxels_basis": "affine",
        "longest_axial_diameter_mm": long_axis if volume else None,
        "perpendicular_diameter_mm": across if volume else None,
        "assessed": volume is not None,
        "reason": "" if volume is not None else "the voxel size is not known",
        "uncertainty_mm3": {"low": low, "high": high, "method": "spread of the experts' volumes"},
    }


def _change(current: float, prior: float) -> dict[str, Any]:
    return {
        "current_mm3": current,
        "prior_mm3": prior,
        "change_mm3": current - prior,
        "change_percent": 100.0 * (current - prior) / prior,
        "reason": "",
    }


def read(rows: dict[str, Any]) -> ReportFacts:
    """The facts of a report as it was kept before there were schemas."""
    return ReportFacts.model_validate(facts_of_v1(rows))


def facts(**changes: Any) -> ReportFacts:
    """`rows` as facts."""
    return read(rows(**changes))


def rows(**changes: Any) -> dict[str, Any]:
    """A patient with two studies: growth, one lesion gone, one new; as kept before there were schemas."""
    made: dict[str, Any] = {
        "study": {
            "id": "01900000-0000-7000-8000-000000000001",
            "patient_id": "01900000-0000-7000-8000-000000000002",
            "pseudonym": "OF-7K3MX2QD",
            "order_id": "01900000-0000-7000-8000-000000000003",
            "procedure": "MR brain with and without contrast",
            "performed_at": "2026-08-14T10:22:31+00:00",
            "modality": "MR",
            "spacing_known": True,
        },
        "findings": {
            "measurement_id": "01900000-0000-7000-8000-000000000004",
            "segmentation": {"id": "x", "kind": "consensus", "version": 4, "author": "panel"},
            "regions": {
                "ET": _region(12345.6, 11800.0, 12911.0, 38.4, 27.2),
                "TC": _region(20411.0, 19903.0, 21077.0, 44.1, 31.0),
                "WT": _region(64120.0, 61000.0, 66012.0, 71.9, 50.3),
            },
            "lesions": [
                {
                    "id": "L1",
                    "status": "followed",
                    "regions": {"ET": 12245.6, "TC": 20311.0, "WT": 63000.0},
                    "longest_axial_diameter_mm": 38.4,
                    "perpendicular_diameter_mm": 27.2,
                    "centroid_ras_mm": [31.0, 12.0, 40.0],
                },
                {
                    "id": "L3",
                    "status": "new",
                    "regions": {"ET": 60.0, "TC": 90.0, "WT": 1120.0},
                    "longest_axial_diameter_mm": 6.4,
                    "perpendicular_diameter_mm": 5.2,
                    "centroid_ras_mm": [-20.0, 2.0, 30.0],
                },
            ],
        },
        "comparison": {
            "comparison_id": "01900000-0000-7000-8000-000000000005",
            "prior_study_id": "01900000-0000-7000-8000-000000000006",
            "prior_performed_at": "2026-05-12T09:10:00+00:00",
            "interval_days": 94,
            "regions": {
                "ET": _change(12345.6, 8630.0),
                "TC": _change(20411.0, 15200.0),
                "WT": _change(64120.0, 66900.0),
            },
            "lesions": [
                {"id": "L1", "status": "followed", "current_mm3": 20311.0, "prior_mm3": 14800.0},
                {"id": "L2", "status": "gone", "current_mm3": 0.0, "prior_mm3": 400.0},
                {"id": "L3", "status": "new", "current_mm3": 90.0, "prior_mm3": None},
            ],
            "registration": {
                "method": "rigid, Mattes mutual information",
                "quality": {"mutual_information": 0.91},
                "converged": True,
            },
            "response": {
                "category": "PD",
                "criteria": "RANO 2.0 imaging-only, volumetric",
                "rule_ids": ["RANO2-CE-3D-PD"],
                "inputs": {},
                "missing": ["corticosteroid_dose", "clinical_status"],
            },
        },
        "panel": {
            "experts": [
                {
                    "name": f"nnunet-{kind}",
                    "version": "2026.11",
                    "architecture": text,
                    "role": "voter",
                    "state": "done",
                    "runtime_s": 7.2,
                    "device": "cpu",
                    "dice_vs_consensus": {"ET": 0.934, "TC": 0.951, "WT": 0.962},
                    "volume_mm3": {"ET": 12100.0, "TC": 20100.0, "WT": 63900.0},
                    "error": "",
                }
                for kind, text in (("plain", "nnU-Net, plain encoder"), ("residual", "nnU-Net, residual encoder"))
            ]
            + [
                {
                    "name": "sam2-small",
                    "version": "2026.11",
                    "architecture": "SAM 2, Hiera small",
                    "role": "adviser",
                    "state": "failed",
                    "runtime_s": None,
                    "device": "cpu",
                    "dice_vs_consensus": {},
                    "volume_mm3": {},
                    "error": "no answer within the deadline",
                }
            ],
            "fusion": "majority",
            "agreement": {
                "a": 0.934,
                "region": "ET",
                "pairwise": [
                    {
                        "experts": ["nnunet-plain", "nnunet-residual"],
                        "dice": {"ET": 0.902, "TC": 0.93, "WT": 0.95},
                        "hd95_mm": {"ET": 1.41, "TC": 1.7, "WT": 2.0},
                    }
                ],
            },
            "gate": {"band": "issue", "a": 0.934, "reasons": ["agreement 0.93 reaches 0.90", "two voters"]},
            "thresholds": {"issue": 0.9, "hold": 0.75},
            "demo": True,
        },
        "history": [
            {
                "study_id": "01900000-0000-7000-8000-000000000006",
                "performed_at": "2026-05-12T09:10:00+00:00",
                "ET": 8630.0,
                "TC": 15200.0,
                "WT": 66900.0,
            },
            {
                "study_id": "01900000-0000-7000-8000-000000000001",
                "performed_at": "2026-08-14T10:22:31+00:00",
                "ET": 12345.6,
                "TC": 20411.0,
                "WT": 64120.0,
            },
        ],
        "demo": True,
    }
    made.update(changes)
    return made


ONCOLOGY_NOTE = """ONCOLOGY NOTE
Diagnosis: Glioblastoma of the right frontal lobe, IDH wild-type, CNS WHO grade 4.
Gross total resection on 3 February 2026. The patient received 60 Gy in 30 fractions with concomitant temozolomide.
Dexamethasone was reduced to 2 mg daily.
Karnofsky performance status 80; no seizures since April. Résumé: the last MRI showed stable disease without
new lesions.
Follow-up in three months.
"""


def source(text: str = ONCOLOGY_NOTE, authored: datetime | None = datetime(2026, 8, 2, tzinfo=UTC)) -> SourceText:
    """A document whose whole text may be cited."""
    data = text.encode("utf-8")
    return SourceText(
        document_id="01900000-0000-7000-8000-00000000000a",
        text=data,
        text_sha256=hashlib.sha256(data).hexdigest(),
        type_text="Oncology note",
        authored_on=authored,
        passages=((0, len(data), 1.0),),
    )
