"""Overlap measures and distances on shapes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS
from inference.evaluation.heldout import score_case, summarise
from inference.fusion.agreement import dice, hd95, iou, measure_agreement, overlap


def box(low: int, high: int, shape: tuple[int, int, int] = (20, 20, 20)) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[low:high, 5:15, 5:15] = True
    return mask


def test_dice_and_iou() -> None:
    a, b = box(0, 10), box(5, 15)
    assert dice(a, b) == pytest.approx(0.5)
    assert iou(a, b) == pytest.approx(1 / 3)
    empty = np.zeros_like(a)
    assert (dice(empty, empty), iou(empty, empty)) == (1.0, 1.0)
    assert (dice(a, empty), iou(a, empty)) == (0.0, 0.0)


@pytest.mark.parametrize(("spacing", "expected"), [((1.0, 1.0, 1.0), 3.0), ((2.5, 1.0, 1.0), 7.5)])
def test_hd95_is_in_millimetres(spacing: tuple[float, float, float], expected: float) -> None:
    assert hd95(box(3, 8), box(6, 11), spacing) == pytest.approx(expected)


def test_hd95_of_empty_masks() -> None:
    empty = np.zeros((5, 5, 5), bool)
    one = empty.copy()
    one[2, 2, 2] = True
    assert hd95(empty, empty, (1, 1, 1)) == 0.0
    assert hd95(one, empty, (1, 1, 1)) is None
    assert hd95(one, one, (1, 1, 1)) == 0.0


def test_hd95_at_the_edge_of_the_array() -> None:
    whole = np.ones((4, 4, 4), bool)
    assert hd95(whole, whole, (1, 1, 1)) == 0.0


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="shapes"):
        overlap(np.zeros((2, 2, 2), bool), np.zeros((3, 2, 2), bool), (1, 1, 1))


def test_agreement_of_a_panel() -> None:
    empty = np.zeros((20, 20, 20), bool)
    a = {"ET": empty, "TC": box(5, 10), "WT": box(0, 10)}
    b = {"ET": empty, "TC": box(5, 10), "WT": box(0, 20)}
    found = measure_agreement({"a": a, "b": b}, a, (2.0, 1.0, 1.0))
    assert found.vs_consensus["a"]["WT"].dice == 1.0
    assert found.vs_consensus["b"]["WT"].dice == pytest.approx(2 / 3)
    assert found.vs_consensus["b"]["ET"].dice == 1.0
    assert list(found.pairwise) == [("a", "b")]
    assert found.volume_mm3["a"]["WT"] == 10 * 100 * 2.0
    assert found.volume_spread["WT"] == pytest.approx((4000 - 2000) / 3000)
    assert found.volume_spread["ET"] is None
    assert measure_agreement({"a": a}, a, (1, 1, 1), distances=False).vs_consensus["a"]["WT"].hd95_mm is None


def test_summary_counts_false_tumours_in_millilitres() -> None:
    empty = np.zeros((20, 20, 20), bool)
    none = dict.fromkeys(REGIONS, empty)
    false = {"ET": empty, "TC": empty, "WT": box(0, 10)}
    result = summarise(
        [
            score_case("c1", none, none, (1.0, 1.0, 1.0)),
            score_case("c2", false, none, (1.0, 1.0, 1.0)),
            score_case("c3", false, false, (1.0, 1.0, 1.0)),
        ]
    )
    assert result["regions"]["WT"]["mean"] == pytest.approx(2 / 3, abs=1e-3)
    assert result["regions"]["WT"]["mean_with_region"] == 1.0
    assert result["regions"]["ET"]["mean"] == 1.0
    assert result["tumour_free"] == {
        "n": 2,
        "false_positive_ml_mean": 0.5,
        "false_positive_ml_median": 0.5,
        "false_positive_ml_maximum": 1.0,
        "cases_over_1_ml": 0,
    }
    with pytest.raises(ValueError, match="no case"):
        summarise([])
