"""Repeatability against examples computed by hand and published ones."""

from __future__ import annotations

import numpy as np
import pytest

from inference.evaluation.repeatability import icc_a1, repeatability, size_bins

# Six subjects, judges 1 and 2 of Shrout & Fleiss (Psychol Bull 1979;86:420, table 2).
SHROUT = [(9, 2), (6, 1), (8, 4), (7, 1), (10, 5), (6, 2)]


def test_icc_by_hand() -> None:
    # Rows: means 5.5 3.5 6 4 7.5 4, grand 61/12; MSR = 2 * 11.70833 / 5, MSC = 6 * 2 * (2.58333)^2, MSE from the rest.
    values = np.array(SHROUT, float)
    msr = 2 * ((values.mean(1) - values.mean()) ** 2).sum() / 5
    total = ((values - values.mean()) ** 2).sum()
    msc = 6 * ((values.mean(0) - values.mean()) ** 2).sum()
    mse = (total - 5 * msr - msc) / 5
    assert (msr, msc, mse) == pytest.approx((4.6833333, 80.0833333, 0.6833333), abs=1e-6)
    found = icc_a1(SHROUT)
    assert found is not None
    # (4.68333 - 0.68333) / (4.68333 + 0.68333 + 2 (80.08333 - 0.68333) / 6) = 4 / 31.83333
    assert found[0] == pytest.approx(4.0 / 31.8333333, abs=1e-6)
    assert found[1][0] < found[0] < found[1][1]


def test_icc_of_all_four_judges_is_the_published_one() -> None:
    # The published ICC(2,1) of the whole table is .29; the formula is for any number of measurements.
    four = [(9, 2, 5, 8), (6, 1, 3, 2), (8, 4, 6, 8), (7, 1, 2, 6), (10, 5, 6, 9), (6, 2, 4, 7)]
    from inference.evaluation import repeatability as module

    values = np.array(four, float)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_array", lambda pairs: values)
        found = icc_a1([])
    assert found is not None
    assert found[0] == pytest.approx(0.29, abs=0.005)
    # Published interval of McGraw & Wong's method for these data, as R's psych gives it: 0.019 to 0.761.
    assert found[1] == pytest.approx((0.019, 0.761), abs=0.002)


def test_icc_of_equal_pairs_and_of_one_value() -> None:
    assert icc_a1([(1, 1), (2, 2), (5, 5)]) == (1.0, (1.0, 1.0))
    assert icc_a1([(2, 2), (2, 2), (2, 2)]) is None


def test_a_shift_between_the_two_counts_against_agreement() -> None:
    moved = icc_a1([(1, 3), (2, 4), (5, 7)])
    assert moved is not None
    assert moved[0] < 0.8


def test_limits_of_agreement_by_hand() -> None:
    found = repeatability([(10, 11), (20, 19), (30, 33), (40, 41)])
    # Differences 1, -1, 3, 1: mean 1, s = sqrt(8/3); wSD = sqrt((1 + 1 + 9 + 1) / 8).
    spread = np.sqrt(8 / 3)
    assert found.bias == pytest.approx(1.0)
    assert found.limits == pytest.approx((1 - 1.96 * spread, 1 + 1.96 * spread))
    assert found.within_sd == pytest.approx(np.sqrt(1.5))
    assert found.coefficient == pytest.approx(2.7718585 * np.sqrt(1.5))
    half = 3.1824463 * spread * np.sqrt(1 / 4 + 1.96**2 / 6)
    assert found.limit_intervals[1] == pytest.approx((found.limits[1] - half, found.limits[1] + half))
    assert found.n_relative == 4


def test_relative_limits_are_ratios() -> None:
    found = repeatability([(10, 11), (20, 22), (40, 44)])
    assert found.relative == pytest.approx((1.1, 1.1))
    assert repeatability([(0, 1), (10, 11), (20, 22)]).relative is None


def test_bins_by_size() -> None:
    pairs = [(s, s + 0.1) for s in (0.5, 0.6, 0.7, 3, 4, 5, 50)]
    names = [name for name, _ in size_bins(pairs, (1.0, 10.0), least=3)]
    assert names == ["0-1", "1-10"]


@pytest.mark.parametrize("pairs", [[(1, 2), (3, 4)], [(1, 2), (3, 4), (5, float("nan"))]])
def test_too_little_is_refused(pairs: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="pair"):
        repeatability(pairs)
