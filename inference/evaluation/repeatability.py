"""How far two measurements of the same thing differ when nothing has changed: the noise floor of "change".

From pairs (two examinations of one patient on one day): the intraclass correlation ICC(A,1) for absolute agreement of single
measurements (McGraw & Wong, Psychol Methods 1996;1:30, two-way), the within-subject standard deviation, the repeatability
coefficient 1.96 sqrt(2) wSD (QIBA; Raunig et al., Stat Methods Med Res 2015;24:27) and 95 % limits of agreement with their
confidence intervals (Bland & Altman, Stat Methods Med Res 1999;8:135). Volumes spread in proportion to their size, so
relative limits, from differences of logarithms, stand beside the absolute ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from oncoflow_site.foundation.schema import JsonDict

__all__ = ["Repeatability", "icc_a1", "repeatability", "size_bins"]

Pairs = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Repeatability:
    """Of one quantity over n pairs, in its own unit; second minus first.

    icc with its 95 % interval (None where the pairs do not spread); limits (low, high) of agreement, each with its interval;
    relative: (low, high) as ratios second / first, of the n_relative pairs with both above 0 (None for fewer than 3).
    """

    n: int
    mean: float
    icc: float | None
    icc_interval: tuple[float, float] | None
    bias: float
    within_sd: float
    coefficient: float
    limits: tuple[float, float]
    limit_intervals: tuple[tuple[float, float], tuple[float, float]]
    n_relative: int
    relative: tuple[float, float] | None

    def as_json(self) -> JsonDict:
        """Plain values."""
        return asdict(self)


def _array(pairs: Pairs) -> NDArray[np.float64]:
    values = np.asarray(pairs, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or len(values) < 3:
        raise ValueError("repeatability needs at least three pairs")
    if not np.isfinite(values).all():
        raise ValueError("a pair holds a value that is not finite")
    return values


def icc_a1(pairs: Pairs) -> tuple[float, tuple[float, float]] | None:
    """ICC(A,1) and its 95 % interval; None where all values are equal. Raises ValueError for fewer than three pairs."""
    values = _array(pairs)
    n, k = values.shape
    grand = values.mean()
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    msr = k * float(((rows - grand) ** 2).sum()) / (n - 1)
    msc = n * float(((columns - grand) ** 2).sum()) / (k - 1)
    residual = values - rows[:, None] - columns[None, :] + grand
    mse = float((residual**2).sum()) / ((n - 1) * (k - 1))
    below = msr + (k - 1) * mse + k * (msc - mse) / n
    if below <= 0:
        return None
    icc = (msr - mse) / below
    if mse <= 0 and msc <= 0:
        return 1.0, (1.0, 1.0)
    # McGraw & Wong 1996, table 7, case 2A/3A: F with Satterthwaite's degrees of freedom.
    a = k * icc / (n * (1 - icc))
    b = 1 + k * icc * (n - 1) / (n * (1 - icc))
    freedom = (a * msc + b * mse) ** 2 / ((a * msc) ** 2 / (k - 1) + (b * mse) ** 2 / ((n - 1) * (k - 1)))
    upper, lower = stats.f.ppf(0.975, n - 1, freedom), stats.f.ppf(0.975, freedom, n - 1)
    rest = k * msc + (k * n - k - n) * mse
    low = n * (msr - upper * mse) / (upper * rest + n * msr)
    high = n * (lower * msr - mse) / (rest + n * lower * msr)
    return float(icc), (float(low), float(high))


def repeatability(pairs: Pairs) -> Repeatability:
    """All figures of one quantity. Raises ValueError for fewer than three pairs or values that are not finite."""
    values = _array(pairs)
    n = len(values)
    difference = values[:, 1] - values[:, 0]
    bias, spread = float(difference.mean()), float(difference.std(ddof=1))
    within = float(np.sqrt((difference**2).mean() / 2.0))
    low, high = bias - 1.96 * spread, bias + 1.96 * spread
    # Bland & Altman 1999, 3.3: variance of a limit is about (1/n + 1.96^2 / (2 (n - 1))) s^2.
    half = float(stats.t.ppf(0.975, n - 1)) * spread * float(np.sqrt(1.0 / n + 1.96**2 / (2.0 * (n - 1))))
    both = values[(values > 0).all(axis=1)]
    relative = None
    if len(both) >= 3:
        logs = np.log(both[:, 1] / both[:, 0])
        middle, deviation = float(logs.mean()), float(logs.std(ddof=1))
        relative = (float(np.exp(middle - 1.96 * deviation)), float(np.exp(middle + 1.96 * deviation)))
    found = icc_a1(pairs)
    return Repeatability(
        n=n,
        mean=float(values.mean()),
        icc=None if found is None else found[0],
        icc_interval=None if found is None else found[1],
        bias=bias,
        within_sd=within,
        coefficient=1.96 * float(np.sqrt(2.0)) * within,
        limits=(low, high),
        limit_intervals=((low - half, low + half), (high - half, high + half)),
        n_relative=len(both),
        relative=relative,
    )


def size_bins(pairs: Pairs, edges: Sequence[float], least: int = 5) -> list[tuple[str, Repeatability]]:
    """The same by size (mean of a pair) between `edges`; bins of fewer than `least` pairs are left out."""
    values = _array(pairs)
    size = values.mean(axis=1)
    found = []
    for low, high in zip((0.0, *edges), (*edges, np.inf), strict=True):
        inside = values[(size >= low) & (size < high)]
        if len(inside) >= max(3, least):
            name = f"{low:g}-{high:g}" if np.isfinite(high) else f"from {low:g}"
            found.append((name, repeatability([(float(a), float(b)) for a, b in inside])))
    return found
