"""Facts of the room: old rows are read, new ones say their version, nothing loose is kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection

from imaging.models import Comparison, Measurement, Segmentation
from imaging.schemas.comparison import COMPARISON, Response
from imaging.schemas.measurement import ANATOMY, LESIONS, REGIONS
from imaging.schemas.outline import MADE_BY, FusedOutline, ModelOutline
from imaging.schemas.volumes import MIDLINE, TRANSFORM, VOLUME_PARAMETERS
from oncoflow_site.foundation.schema import Document, Schema, UnknownSchema
from tests.factories import studies
from tests.factories.old_rows import keeps

# Rows as they were written before there were schemas.
OLD_REGION: dict[str, Any] = {
    "volume_mm3": 12345.678,
    "voxels": 12346,
    "voxels_basis": "affine",
    "longest_axial_diameter_mm": 38.4,
    "perpendicular_diameter_mm": 27.25,
    "measurable": True,
    "assessed": True,
    "reason": "",
    "uncertainty_mm3": {"low": 11800.0, "high": 12911.5, "experts": 3, "method": "spread of the experts' volumes"},
}
OLD_LEFT_OUT: dict[str, Any] = {
    "volume_mm3": None,
    "voxels": None,
    "voxels_basis": "affine",
    "longest_axial_diameter_mm": None,
    "perpendicular_diameter_mm": None,
    "measurable": None,
    "assessed": False,
    "reason": "Without a FLAIR or T2 series the extent of the whole tumour cannot be told.",
    "uncertainty_mm3": None,
}
OLD_REGIONS = {"ET": OLD_REGION, "TC": {**OLD_REGION, "basis": "Outlined by a person."}, "WT": OLD_LEFT_OUT}
OLD_LESIONS: list[dict[str, Any]] = [
    {
        "id": "L1",
        "status": "followed",
        "regions": {"ET": 12245.6, "TC": 20311.0, "WT": None},
        "voxels": {"ET": 12246, "TC": 20311, "WT": None},
        "longest_axial_diameter_mm": 38.4,
        "perpendicular_diameter_mm": 27.2,
        "measurable": True,
        "centroid_ras_mm": [31.0, 12.0, 40.0],
        "split_from": "L2",
        "location": {
            "hemisphere": "right",
            "distance_to_midline_mm": 12.0,
            "uncertainty_mm": 1.6,
            "assessed": True,
            "reason": "",
            "method": "plane through the edge of the fissure",
            "lobe": None,
            "lobe_reason": "No parcellation.",
        },
    },
    {
        "id": "L2",
        "status": "not-assessed",
        "regions": {"ET": None, "TC": None, "WT": None},
        "voxels": {"ET": None, "TC": None, "WT": None},
        "longest_axial_diameter_mm": None,
        "perpendicular_diameter_mm": None,
        "measurable": None,
        "centroid_ras_mm": None,
        "reason": "This study was not assessed for what this lesion showed.",
    },
]
OLD_ANATOMY = {
    "midline_shift": {
        "shift_mm": 6.2,
        "towards": "left",
        "uncertainty_mm": 1.5,
        "assessed": True,
        "reason": "",
        "method": "distance of the septum",
        "quality": {"atlas_correlation": 0.71, "edge_matches": 7.0},
        "atlas": {"atlas": "MNI152 2009a symmetric", "matrix_ras": [[1.0, 0, 0, 0]] * 4, "correlation": 0.71},
    }
}
OLD_RESPONSE: dict[str, Any] = {
    "category": "PD",
    "criteria": "RANO 2.0 imaging-only, volumetric",
    "compartment": "enhancing tumour",
    "confirmed": False,
    "rule_ids": ["RANO2-BASELINE-EARLIEST-KNOWN", "RANO2-PD-VOLUME-40"],
    "inputs": {
        "current_mm3": 12346,
        "current_measurable": True,
        "baseline_mm3": 8630,
        "baseline_study_id": "b",
        "baseline_measurable": True,
        "nadir_mm3": 8630,
        "nadir_study_id": "b",
        "percent_vs_baseline": 43.06,
        "percent_vs_nadir": 43.06,
        "new_measurable_lesions": 0,
        "dates_without_volume": 0,
    },
    "missing": ["corticosteroid dose"],
    "reason": "The enhancing volume is at least 40 % above its smallest value.",
}
OLD_COMPARISON: dict[str, Any] = {
    "prior_study_id": "01900000-0000-7000-8000-000000000006",
    "interval_days": 94,
    "latest_prior": True,
    "regions": {
        "ET": {
            "current_mm3": 12345.678,
            "prior_mm3": 8630.0,
            "change_mm3": 3715.678,
            "change_percent": 43.06,
            "small": False,
            "reason": "",
        },
        "WT": {
            "current_mm3": None,
            "prior_mm3": 66900.0,
            "change_mm3": None,
            "change_percent": None,
            "small": None,
            "reason": "Not assessed on this study, so not compared.",
        },
    },
    "lesions": [
        {"id": "L1", "status": "followed", "region": "TC", "current_mm3": 20311.0, "prior_mm3": 14800.0},
        {"id": "L2", "status": "not-assessed", "region": "WT", "current_mm3": None, "prior_mm3": 90.0},
    ],
    "sequences": {"current": ["T1c"], "prior": ["T1c", "FLAIR"], "note": "The two studies differ."},
    "registration": {
        "method": "rigid",
        "quality": {"mutual_information": 0.71, "iterations": 120},
        "converged": True,
        "reason": "",
    },
    "response": OLD_RESPONSE,
    "history": [
        {"study_id": "b", "performed_at": "2026-05-12T09:10:00+00:00", "ET": 8630.0, "TC": None, "WT": 66900.0}
    ],
}
OLD_BASELINE: dict[str, Any] = {
    "prior_study_id": None,
    "interval_days": None,
    "latest_prior": False,
    "regions": {},
    "lesions": [],
    "registration": None,
    "sequences": {"current": ["T1", "T1c", "T2", "FLAIR"]},
    "response": {**OLD_RESPONSE, "category": "not assessed", "confirmed": None, "inputs": {}, "rule_ids": []},
    "history": [],
}


EYE = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
GRID = {"affine": EYE, "shape": [26, 28, 24], "spacing": [1.0, 1.0, 1.0]}
OLD_TRANSFORM: dict[str, Any] = {
    "method": "rigid",
    "matrix_ras": EYE,
    "inverse_ras": EYE,
    "converged": True,
    "reason": "",
    "scanner_grid": GRID,
}
OLD_PARAMETERS: dict[str, Any] = {
    "reference": "T1c",
    "reference_grid": GRID,
    "full_grid": GRID,
    "box": [[0, 24], [1, 27], [2, 26]],
    "interpolation": "linear",
    "brain": {"method": "MNI152 B-spline", "plausible": True, "reason": "", "volume_ml": 1312.4, "atlas_dice": 0.95},
    "steps": [{"step": "read", "values": "modality values, float32"}, {"step": "bias", "done": False}],
    "warnings": ["The T2 series covers only 84% of the brain."],
    "inputs": "ab" * 32,
    "pipeline": "2",
    "versions": {"numpy": "2.4.6"},
}
OLD_MIDLINE: dict[str, Any] = {
    "normal": [1.0, 0.0, 0.0],
    "offset": 0.25,
    "shift_mm": -6.21,
    "uncertainty_mm": 1.52,
    "reason": "",
    "plane_reason": "",
    "atlas": {"matrix": EYE, "correlation": 0.71, "reason": ""},
    "quality": {"plane_rms_mm": 1.1},
    "septum": [[1.0, 2.0, 3.0], [1.5, 2.5, 3.5]],
}


def test_the_quality_of_a_brain_mask_has_a_place_of_its_own() -> None:
    brain = VOLUME_PARAMETERS.read(OLD_PARAMETERS).brain
    assert brain is not None
    assert (brain.method, brain.plausible) == ("MNI152 B-spline", True)
    assert brain.quality == {"volume_ml": 1312.4, "atlas_dice": 0.95}
    assert VOLUME_PARAMETERS.read({"brain": {}}).brain is None


@pytest.mark.parametrize(
    ("document", "old"),
    [
        (REGIONS, OLD_REGIONS),
        (LESIONS, OLD_LESIONS),
        (LESIONS, []),
        (ANATOMY, OLD_ANATOMY),
        (ANATOMY, {}),
        (COMPARISON, OLD_COMPARISON),
        (MADE_BY, {"name": "nnunet-plain", "version": "1.2.0", "sha256": "ab" * 32, "architecture": "nnU-Net"}),
        (
            MADE_BY,
            {"fusion": "majority", "experts": [{"name": "one", "role": "voter", "segmentation": "s1"}]},
        ),
        (MADE_BY, {"fusion": "staple", "chosen_by": "dr", "experts": []}),
        (TRANSFORM, OLD_TRANSFORM),
        (TRANSFORM, {key: OLD_TRANSFORM[key] for key in ("method", "matrix_ras", "converged", "reason")}),
        (VOLUME_PARAMETERS, {name: value for name, value in OLD_PARAMETERS.items() if name != "brain"}),
        (VOLUME_PARAMETERS, {}),
        (MIDLINE, OLD_MIDLINE),
    ],
)
def test_a_row_from_before_the_schemas_is_read_and_nothing_of_it_is_lost(document: Document[Any], old: Any) -> None:
    facts = document.read(old)
    assert keeps(document.dump(facts), old)
    written = json.loads(json.dumps(document.write(facts)))
    assert written["schema"] == document.version
    assert document.read(written) == facts


def test_the_old_baseline_had_an_empty_object_where_there_were_no_inputs() -> None:
    facts = COMPARISON.read(OLD_BASELINE)
    assert (facts.response.inputs, facts.response.assessed, facts.outlines) == (None, False, None)
    assert facts.sequences is not None
    assert (facts.sequences.prior, facts.sequences.note) == (None, "")


def test_what_an_old_row_did_not_record_is_not_guessed() -> None:
    comparison = COMPARISON.read(OLD_COMPARISON)
    assert (comparison.outlines, comparison.response.outlines) == (None, None)
    assert comparison.history[0].performed_at == datetime(2026, 5, 12, 9, 10, tzinfo=UTC)
    fused = MADE_BY.read({"fusion": "majority", "experts": []})
    assert isinstance(fused, FusedOutline)
    assert fused.band is None


def test_not_outlined_is_told_from_millimetres_not_known() -> None:
    regions = REGIONS.read(OLD_REGIONS)
    assert [regions[name].outlined for name in ("ET", "TC", "WT")] == [True, True, False]  # type: ignore[index]
    unknown = REGIONS.read({"ET": {**OLD_LEFT_OUT, "voxels": 12, "reason": "The spacing is not known."}})["ET"]
    assert unknown.outlined
    assert unknown.not_assessed("ET volume") is not None


@pytest.mark.parametrize(
    "stored",
    [
        {"schema": 99, "data": {}},
        {"schema": 2, "data": {"ET": {**OLD_REGION, "volume_mm3": "much"}}},
        {"schema": 2, "data": {"ET": {**OLD_REGION, "basis": "", "surprise": 1}}},
        {"schema": 2, "data": {"ET": {**OLD_REGION, "volume_mm3": float("nan")}}},
        {"XX": OLD_REGION},
        "text",
        7,
    ],
)
def test_what_is_not_of_its_version_is_refused_without_its_values(stored: Any) -> None:
    with pytest.raises(UnknownSchema) as refused:
        REGIONS.read(stored)
    assert "measurement.regions" in str(refused.value)
    assert "much" not in str(refused.value)


def test_facts_do_not_change_and_wrong_ones_are_not_written() -> None:
    regions = REGIONS.read(OLD_REGIONS)
    with pytest.raises(ValueError, match="frozen"):
        regions["ET"].volume_mm3 = 1.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="validation error"):
        COMPARISON.write(regions)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="upgrade is needed"):
        Document("x", Schema, version=3, upgrades={1: dict})


def _stored(table: str, column: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {column} FROM {table}")
        (value,) = cursor.fetchone()
    return json.loads(value) if isinstance(value, str) else value


@pytest.mark.django_db
def test_a_column_is_an_object_in_python_and_a_numbered_document_in_the_database() -> None:
    study, volumes = studies.ready_study(studies.patient(), studies.brain_like(studies.SMALL))
    outline = studies.segment(study, volumes, studies.tumour(studies.SMALL, ((0, 0, 0), 4.0, 8.0, 10.0)))
    Segmentation.objects.filter(pk=outline.pk).update(model=ModelOutline(name="one", version="1"))
    made = Measurement.objects.create(study=study, segmentation=outline, regions=OLD_REGIONS, lesions=OLD_LESIONS)
    assert made.regions["ET"].voxels == 12346  # assigned as an old row, an object at once
    Comparison.objects.create(study=study, measurement=made, result=OLD_BASELINE)
    assert _stored("imaging_measurement", "regions")["schema"] == 2
    assert _stored("imaging_comparison", "result")["schema"] == 2
    row = Measurement.objects.select_related("segmentation").get()
    assert row.lesions[0].split_from == "L2"
    assert row.anatomy.midline_shift is None
    assert isinstance(row.segmentation.model, ModelOutline)
    assert isinstance(Comparison.objects.get().result.response, Response)
    assert list(Measurement.objects.values_list("regions", flat=True))[0] == row.regions  # noqa: RUF015
    with connection.cursor() as cursor:  # as it stood before
        cursor.execute("UPDATE imaging_measurement SET regions = %s", [json.dumps(OLD_REGIONS)])
    assert Measurement.objects.get().regions == row.regions
