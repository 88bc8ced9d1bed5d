"""Surface, lesion and volume measures on shapes whose answer is known, and against panoptica."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.evaluation.surfaces import lesion_wise, nsd, score_region

MM = (1.0, 1.0, 1.0)
EMPTY = np.zeros((30, 30, 30), bool)


def block(*ranges: tuple[int, int]) -> NDArray[np.bool_]:
    mask = EMPTY.copy()
    mask[tuple(slice(*one) for one in ranges)] = True
    return mask


def lumpy(centre: tuple[float, float, float], radius: float, seed: float) -> NDArray[np.bool_]:
    z, y, x = np.meshgrid(*(np.arange(n, dtype=float) for n in (48, 56, 52)), indexing="ij")
    wave = np.sin(0.31 * z + seed) + np.cos(0.23 * y - seed) + np.sin(0.19 * x + 2 * seed)
    inside: NDArray[np.bool_] = np.hypot(np.hypot(z - centre[0], y - centre[1]), x - centre[2]) < radius + 1.5 * wave
    return inside


def test_nsd_of_a_moved_block() -> None:
    a = block((5, 15), (5, 15), (5, 15))
    assert nsd(a, a, MM) == 1.0
    assert nsd(a, np.roll(a, 1, 0), MM) == 1.0
    # Three voxels away along one axis: of each surface (488 voxels) the two faces across that axis are too far.
    far = nsd(a, np.roll(a, 3, 0), MM)
    assert 0.3 < far < 0.75
    assert nsd(a, np.roll(a, 3, 0), MM, 3.0) == 1.0
    assert nsd(a, np.roll(a, 1, 0), (2.5, 1.0, 1.0)) < 1.0


def test_nsd_of_empty_masks_and_at_the_edge() -> None:
    a = block((0, 30), (0, 30), (0, 30))
    assert (nsd(EMPTY, EMPTY, MM), nsd(a, EMPTY, MM), nsd(EMPTY, a, MM)) == (1.0, 0.0, 0.0)
    assert nsd(a, a, MM) == 1.0


@pytest.mark.parametrize(
    ("spacing", "oracle_nsd", "oracle_hd95"),
    [(MM, 0.6706188925081433, 3.1622776601683795), ((2.5, 1.0, 1.0), 0.5983310066697689, 3.605551275463989)],
)
def test_panoptica_agrees(spacing: tuple[float, float, float], oracle_nsd: float, oracle_hd95: float) -> None:
    # Figures of panoptica 2.1.7. It averages the shares of the two surfaces, where Nikolov pools their voxels.
    truth = lumpy((20, 24, 22), 9, 0.3) | lumpy((38, 44, 40), 4, 1.1)
    score = score_region(lumpy((21, 25, 21), 9.5, 0.9), truth, spacing)
    assert score.nsd == pytest.approx(oracle_nsd, abs=5e-4)
    assert score.hd95_mm == pytest.approx(oracle_hd95, abs=1e-9)
    assert score.dice == pytest.approx(0.8291203235591507, abs=1e-9)


def test_lesions_are_counted_one_by_one() -> None:
    large, small = block((2, 14), (2, 14), (2, 14)), block((20, 25), (20, 25), (20, 25))
    perfect = lesion_wise(large | small, large | small, MM)
    assert (perfect.dice, perfect.lesions, perfect.found, perfect.false) == (1.0, 2, 2, 0)
    missed = lesion_wise(large, large | small, MM)
    assert (missed.dice, missed.lesions, missed.found, missed.false) == (0.5, 2, 1, 0)
    false = lesion_wise(large | small, large, MM)
    assert (false.dice, false.lesions, false.found, false.false) == (0.5, 1, 1, 1)
    half = lesion_wise(large | block((20, 25), (20, 25), (20, 22)), large | small, MM)
    assert half.dice == pytest.approx((1.0 + 2 * 50 / 175) / 2)


def test_what_is_near_belongs_to_one_lesion() -> None:
    whole = block((2, 8), (2, 14), (2, 14)) | block((12, 18), (2, 14), (2, 14))
    # Four millimetres apart: one lesion after dilation by three.
    assert lesion_wise(whole, whole, MM).lesions == 1
    assert lesion_wise(whole, whole, (3.0, 1.0, 1.0)).lesions == 2


def test_a_speck_in_the_truth_is_no_lesion_and_its_prediction_no_false_one() -> None:
    speck = block((20, 22), (20, 22), (20, 22))
    assert lesion_wise(speck, speck, MM) == lesion_wise(EMPTY, EMPTY, MM)
    assert lesion_wise(EMPTY, speck, MM).dice == 1.0
    assert lesion_wise(EMPTY, speck, (2.0, 2.0, 2.0)).dice == 0.0


def test_tumour_free_truth() -> None:
    score = lesion_wise(block((2, 8), (2, 8), (2, 8)), EMPTY, MM)
    assert (score.dice, score.lesions, score.false) == (0.0, 0, 1)


def test_volume_error_has_its_sign() -> None:
    a, b = block((0, 10), (0, 10), (0, 10)), block((0, 10), (0, 10), (0, 5))
    score = score_region(b, a, (2.0, 1.0, 1.0))
    assert score.volume_error_ml == pytest.approx(-1.0)
    assert score.volume_error == pytest.approx(-0.5)
    assert score_region(a, EMPTY, MM).volume_error is None
    with pytest.raises(ValueError, match="shapes"):
        score_region(a, a[:5], MM)
