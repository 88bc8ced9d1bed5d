"""The gate as a table, and who gets a vote."""

from __future__ import annotations

from typing import Any

import pytest

from imaging.brats.regions import REGIONS
from inference.fusion.agreement import Agreement, Overlap
from inference.fusion.gate import decide
from inference.registry.standing import votes_from_evaluation
from inference.schemas.gate import GateDecision


def agreement(
    scores: dict[str, tuple[float, float, float]], volumes: tuple[float, float, float] = (900, 2000, 9000)
) -> Agreement:
    """scores: expert -> Dice against the consensus of ET, TC, WT; volumes of every mask in mm3."""
    by_region = dict(zip(REGIONS, volumes, strict=True))
    return Agreement(
        {n: {r: Overlap(s, s, None) for r, s in zip(REGIONS, v, strict=True)} for n, v in scores.items()},
        {},
        {n: dict(by_region) for n in (*scores, "consensus")},
        dict.fromkeys(REGIONS),
    )


HIGH, MIDDLE, LOW = (0.95, 0.96, 0.97), (0.80, 0.90, 0.95), (0.70, 0.90, 0.95)


@pytest.mark.parametrize(
    ("a", "b", "adviser", "flags", "band"),
    [
        (HIGH, HIGH, None, (), "issue"),
        ((0.90, 0.9, 0.9), (0.90, 0.9, 0.9), None, (), "issue"),
        ((0.899, 0.9, 0.9), (0.90, 0.9, 0.9), None, (), "hold"),
        (HIGH, MIDDLE, None, (), "hold"),
        ((0.75, 0.9, 0.9), (0.75, 0.9, 0.9), None, (), "hold"),
        ((0.749, 0.9, 0.9), (0.75, 0.9, 0.9), None, (), "manual"),
        (LOW, LOW, None, (), "manual"),
        (HIGH, HIGH, HIGH, (), "issue"),
        (HIGH, HIGH, (0.5, 0.5, 0.5), (), "issue"),
        (HIGH, HIGH, (0.95, 0.49, 0.9), (), "hold"),
        (MIDDLE, MIDDLE, (0.1, 0.1, 0.1), (), "manual"),
        (LOW, LOW, (0.1, 0.1, 0.1), (), "manual"),
        (HIGH, HIGH, None, ("An expert failed.",), "hold"),
        (MIDDLE, MIDDLE, None, ("An expert failed.",), "hold"),
        (LOW, LOW, HIGH, ("T2 is missing.",), "manual"),
    ],
)
def test_bands(a: Any, b: Any, adviser: Any, flags: tuple[str, ...], band: str) -> None:
    scores = {"a": a, "b": b} | ({"s": adviser} if adviser else {})
    found = decide(agreement(scores), ["a", "b"], ["s"] if adviser else [], None, flags)
    assert found.band == band
    for flag in flags:
        assert flag in found.reasons


def test_a_is_the_voters_mean_in_the_worst_region() -> None:
    found = decide(agreement({"a": (0.9, 0.95, 1.0), "b": (0.8, 0.97, 1.0)}), ["a", "b"], [])
    assert found.a == pytest.approx(0.85)
    assert found.region == "ET"


def test_an_empty_region_does_not_count_and_stray_voxels_are_empty() -> None:
    scores = {"a": (0.0, 0.95, 0.97), "b": (0.0, 0.95, 0.97)}
    assert decide(agreement(scores, (0, 2000, 9000)), ["a", "b"], []).band == "issue"
    assert decide(agreement(scores, (40, 2000, 9000)), ["a", "b"], []).region == "TC"
    assert decide(agreement(scores, (60, 2000, 9000)), ["a", "b"], []).band == "manual"


def test_a_region_that_only_one_voter_sees_counts() -> None:
    seen = agreement({"a": (0.0, 0.95, 0.95), "b": (1.0, 0.95, 0.95)}, (0, 2000, 9000))
    volumes = {**seen.volume_mm3, "a": {"ET": 5000.0, "TC": 2000.0, "WT": 9000.0}}
    found = decide(Agreement(seen.vs_consensus, {}, volumes, {}), ["a", "b"], [])
    assert (found.band, found.region, found.a) == ("manual", "ET", None), "no 0.5 beside a consensus that is empty"
    assert found.reasons[0] == "1 of 2 voting models outline ET where their consensus has none."


def test_no_tumour_is_held() -> None:
    found = decide(agreement({"a": (1, 1, 1), "b": (1, 1, 1)}, (0, 0, 0)), ["a", "b"], [])
    assert (found.band, found.a, found.region) == ("hold", None, None), "two empty outlines have no Dice"
    assert found.reasons == ("No voting model found a tumour: there is no agreement to measure.",)


def test_what_decided_stands_first_and_reasons_are_whole_sentences() -> None:
    strange = "the images are unlike those the model learned from (distance 3.1; limit 2.0)"
    high, low = agreement({"a": HIGH, "b": HIGH}), agreement({"a": LOW, "b": LOW})
    assert decide(high, ["a", "b"], [], None, (strange,)).reasons == (
        "The images are unlike those the model learned from (distance 3.1; limit 2.0).",
        "Agreement is 0.95, lowest in ET.",
    )
    assert decide(low, ["a", "b"], [], None, (strange,)).reasons[0] == "Agreement is 0.70, lowest in ET."
    doubted = agreement({"a": HIGH, "b": HIGH, "s": (0.1, 0.1, 0.1)})
    assert decide(doubted, ["a", "b"], ["s"]).reasons[0] == "Adviser s is below 0.50 in ET, TC, WT."
    assert decide(high, ["a", "b"], []).reasons == ("Agreement is 0.95, lowest in ET.",)


def test_fewer_than_two_voters_never_issue() -> None:
    assert decide(agreement({"a": (1, 1, 1)}), ["a"], []).band == "hold"
    assert decide(agreement({"a": (1, 1, 1)}), ["a", "b"], []).band == "hold", "b did not answer"
    assert decide(agreement({"a": (1, 1, 1), "s": (0.2, 1, 1)}), ["a"], ["s"]).band == "manual"


def test_without_a_voter_or_without_anybody_a_person_outlines() -> None:
    found = decide(agreement({"s": (1, 1, 1), "t": (0.1, 0.1, 0.1)}), [], ["s", "t"])
    assert (found.band, found.a) == ("manual", None)
    assert decide(agreement({}), ["a"], []) == GateDecision(
        band="manual", a=None, region=None, reasons=("No expert gave an answer.",)
    )


def test_thresholds_are_arguments() -> None:
    scores = {"a": MIDDLE, "b": MIDDLE}
    assert decide(agreement(scores), ["a", "b"], [], {"issue": 0.8}).band == "issue"
    assert decide(agreement(scores), ["a", "b"], [], {"issue": 0.99, "hold": 0.9}).band == "manual"


def evaluation(mean: float = 0.9, p10: float = 0.8, n: int = 30) -> dict[str, Any]:
    return {"regions": {r: {"mean": mean, "p10": p10, "n": n} for r in REGIONS}}


def test_votes() -> None:
    role, reasons = votes_from_evaluation(evaluation())
    assert role == "voter"
    assert len(reasons) == 3
    assert votes_from_evaluation(evaluation(0.85, 0.70, 20)).role == "voter"
    for poor in (evaluation(mean=0.849), evaluation(p10=0.699), evaluation(n=19), None, {}, {"regions": {"ET": {}}}):
        role, reasons = votes_from_evaluation(poor)
        assert role == "adviser"
        assert reasons
    one = evaluation()
    one["regions"]["ET"]["mean"] = 0.5
    role, reasons = votes_from_evaluation(one)
    assert role == "adviser"
    assert "ET" in reasons[0]
    assert votes_from_evaluation(one, {"mean_dice": 0.4}).role == "voter"
