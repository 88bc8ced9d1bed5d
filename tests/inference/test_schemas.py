"""Panel facts: rows from before the schemas are read and nothing of them is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference.schemas.agreement import AGREEMENT, METHODS
from inference.schemas.gate import GATE, REASONS, THRESHOLDS, GateDecision
from inference.schemas.panel import ENVIRONMENT, NAMES, REMARKS, PanelSummary, panel_of_v1
from oncoflow_site.foundation.schema import Document
from tests.factories.old_rows import keeps

# Rows as they were written before there were schemas.
OLD_AGREEMENT: dict[str, Any] = {
    "a": 0.9342,
    "region": "ET",
    "pairwise": [
        {
            "experts": ["one", "two"],
            "dice": {"ET": 0.902, "TC": 0.93, "WT": 0.95},
            "hd95_mm": {"ET": 1.4142, "TC": None, "WT": 2.0},
        }
    ],
    "experts": {
        "one": {
            "dice_vs_consensus": {"ET": 0.934, "TC": 0.951, "WT": 0.962},
            "iou_vs_consensus": {"ET": 0.88, "TC": 0.9, "WT": 0.93},
            "hd95_mm": {"ET": None, "TC": 1.0, "WT": 1.0},
            "volume_mm3": {"ET": 12100.0, "TC": 20100.0, "WT": None},
        }
    },
    "volume_spread": {"ET": 0.09, "TC": None},
    "consensus_mm3": {"ET": 12345.6, "TC": 20411.0, "WT": 64120.0},
    "staple": {"ET": {"one": {"sensitivity": 0.97, "specificity": 0.999}}},
}
# The first panels kept neither IoU nor the consensus's own volumes.
OLDER_AGREEMENT: dict[str, Any] = {
    "a": None,
    "region": None,
    "pairwise": [],
    "experts": {"one": {"dice_vs_consensus": {"WT": 0.9}, "hd95_mm": {}, "volume_mm3": {"WT": 1.0}}},
    "volume_spread": {},
}
OLD_GATE = {"band": "hold", "a": 0.8123, "region": "TC", "reasons": ["agreement 0.812, lowest in TC"]}
OLD_METHODS: dict[str, Any] = {
    "staple": {"why_not": "STAPLE needs three experts."},
    "majority": {
        "experts": ["one", "two"],
        "volume_mm3": {"ET": 12345.6, "WT": None},
        "dice": {"one": {"ET": 0.934}},
        "dice_vs_consensus": {"ET": 1.0},
    },
}
OLD_SUMMARY: dict[str, Any] = {
    "experts": [
        {
            "name": "one",
            "version": "1.2.0",
            "architecture": "nnU-Net",
            "role": "voter",
            "state": "done",
            "runtime_s": 7.2,
            "device": "cpu",
            "dice_vs_consensus": {"ET": 0.934},
            "volume_mm3": {"ET": 12100.0},
            "error": "",
        }
    ],
    "fusion": "majority",
    "agreement": {"a": 0.934, "region": "ET", "pairwise": []},
    "gate": {"band": "issue", "a": 0.934, "reasons": ["agreement 0.93 reaches 0.90"]},
    "thresholds": {"issue": 0.9, "hold": 0.75},
    "demo": True,
}


@pytest.mark.parametrize(
    ("document", "old"),
    [
        (AGREEMENT, OLD_AGREEMENT),
        (AGREEMENT, OLDER_AGREEMENT),
        (GATE, OLD_GATE),
        (METHODS, OLD_METHODS),
        (METHODS, {}),
        (THRESHOLDS, {"issue": 0.9, "hold": 0.75, "adviser_floor": 0.5}),
        (REASONS, ["no expert gave an answer"]),
        (NAMES, ["T1c", "FLAIR"]),
        (ENVIRONMENT, {"torch": "2.15.0", "threads": 2, "seed": 7, "libraries": {"numpy": "2.4.6"}}),
        (REMARKS, [{"text": "ring enhancement", "confidence": 0.61, "slice_z": 71}]),
    ],
)
def test_a_row_from_before_the_schemas_is_read_and_nothing_of_it_is_lost(document: Document[Any], old: Any) -> None:
    facts = document.read(old)
    assert keeps(document.dump(facts), old)
    written = json.loads(json.dumps(document.write(facts)))
    assert document.read(written) == facts


def test_a_panel_at_work_has_no_agreement_and_no_gate_yet() -> None:
    assert AGREEMENT.read({}) is None
    assert GATE.read({}) is None
    assert GATE.read(GATE.write(None)) is None


def test_a_summary_of_an_old_report_is_read() -> None:
    summary = PanelSummary.model_validate(panel_of_v1(OLD_SUMMARY))
    assert keeps(summary.model_dump(mode="json"), OLD_SUMMARY)
    assert summary.experts[0].sha256 is None


def test_the_decision_is_kept_with_four_decimals_and_its_band_unchanged() -> None:
    decided = GateDecision(band="hold", a=0.899949, region="ET", reasons=())
    assert decided.rounded() == GateDecision(band="hold", a=0.8999, region="ET", reasons=())
    assert GateDecision(band="manual", a=None, region=None, reasons=()).rounded().a is None
