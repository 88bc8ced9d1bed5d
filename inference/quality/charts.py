"""Case evaluations for people: figures over time as SVG with a table beside it, and rows for a spreadsheet.

Only pseudonyms leave: a study is named by its random id, a patient by pseudonym.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from django.db.models import QuerySet
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from inference.models import CaseEvaluation

__all__ = ["COLUMNS", "DiceSeries", "MonthlyDice", "csv_lines", "dice_chart", "dice_series"]

COLUMNS = (
    "at",
    "study",
    "patient",
    "model",
    "version",
    "expert",
    "reference",
    "reference_segmentation",
    "region",
    "dice",
    "iou",
    "hd95_mm",
    "volume_mm3",
    "reference_mm3",
    "runtime_s",
    "reduced",
)
# Told apart without colour by their dashes, too.
_COLOURS = ("#0b62a4", "#b3441e", "#2d7d46", "#7b3fa0", "#8a6d00", "#3c6e71")
_DASHES = ("", "7 4", "2 3", "10 3 2 3", "4 2", "1 4")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 320, 48, 20, 16, 44


@dataclass(frozen=True)
class MonthlyDice:
    """Mean Dice of one model's cases in one month (``YYYY-MM``)."""

    month: str
    mean: float
    cases: int


@dataclass(frozen=True)
class DiceSeries:
    """One model version over time."""

    name: str
    months: tuple[MonthlyDice, ...]


def dice_series(rows: QuerySet[CaseEvaluation]) -> list[DiceSeries]:
    """Mean Dice per model version and month, each study once a month (its newest row). Names in order.

    Studies with sequences missing are left out: they would look like a model that grows worse.
    """
    newest: dict[tuple[str, str, str], float] = {}
    fields = ("model_version__name", "model_version__version", "expert", "study_id", "at", "dice", "region")
    for name, version, expert, study, at, dice, region in (
        rows.filter(reduced=False).order_by("at", "id").values_list(*fields).iterator()
    ):
        label = f"{name} {version}" if name else expert
        newest[label, f"{at:%Y-%m}", f"{study}/{region}"] = dice
    grouped: dict[str, dict[str, list[float]]] = {}
    for (label, month, _), dice in newest.items():
        grouped.setdefault(label, {}).setdefault(month, []).append(dice)
    return [
        DiceSeries(label, tuple(MonthlyDice(m, sum(d) / len(d), len(d)) for m, d in sorted(months.items())))
        for label, months in sorted(grouped.items())
    ]


def dice_chart(series: Iterable[DiceSeries]) -> SafeString:
    """Lines of mean Dice (0 to 1) over months; empty text without any figure. The table has the numbers."""
    shown = list(series)
    months = sorted({point.month for one in shown for point in one.months})
    if not months:
        return mark_safe("")
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x_of(month: str) -> str:
        share = months.index(month) / (len(months) - 1) if len(months) > 1 else 0.5
        return f"{_LEFT + width * share:.1f}"

    def y_of(dice: float) -> str:
        return f"{_TOP + height * (1 - dice):.1f}"

    grid = format_html_join(
        "",
        '<line x1="{}" x2="{}" y1="{}" y2="{}" stroke="currentColor" stroke-opacity="0.2"/>'
        '<text x="{}" y="{}" text-anchor="end" dominant-baseline="middle">{}</text>',
        ((_LEFT, _WIDTH - _RIGHT, y_of(v), y_of(v), _LEFT - 8, y_of(v), f"{v:.2f}") for v in (0, 0.25, 0.5, 0.75, 1)),
    )
    every = max(1, -(-len(months) // 10))
    dates = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle">{}</text>',
        ((x_of(month), _HEIGHT - _BOTTOM + 24, month) for month in months[::every]),
    )
    lines = []
    for number, one in enumerate(shown):
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
        points = " ".join(f"{x_of(p.month)},{y_of(p.mean)}" for p in one.months)
        marks = format_html_join(
            "",
            '<circle cx="{}" cy="{}" r="4" fill="{}"><title>{}: {} in {}, {} figures</title></circle>',
            ((x_of(p.month), y_of(p.mean), colour, one.name, f"{p.mean:.3f}", p.month, p.cases) for p in one.months),
        )
        lines.append(
            format_html(
                '<g><polyline points="{}" fill="none" stroke="{}" stroke-width="2.5" stroke-dasharray="{}"/>{}</g>',
                points,
                colour,
                dash,
                marks,
            )
        )
    return format_html(
        '<svg viewBox="0 0 {} {}" width="100%" role="img" font-size="13" fill="currentColor"'
        ' aria-label="Mean Dice per model and month; the table has the numbers">{}{}{}</svg>',
        _WIDTH,
        _HEIGHT,
        grid,
        dates,
        format_html_join("", "{}", ((one,) for one in lines)),
    )


def csv_lines(rows: QuerySet[CaseEvaluation]) -> Iterator[str]:
    """The rows as CSV (RFC 4180), header first, one line at a time. No cell can be taken for a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)

    def line(values: Iterable[object]) -> str:
        writer.writerow([_cell(value) for value in values])
        text = buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        return text

    yield line(COLUMNS)
    for row in rows.select_related("study__patient", "model_version").order_by("at", "id").iterator(chunk_size=500):
        yield line(
            (
                row.at.isoformat(),
                row.study_id,
                row.study.patient.pseudonym,
                row.model_version.name if row.model_version else "",
                row.model_version.version if row.model_version else "",
                row.expert,
                row.reference_kind,
                row.reference_id,
                row.region,
                row.dice,
                row.iou,
                row.hd95_mm,
                row.volume_mm3,
                row.reference_mm3,
                row.runtime_s,
                "yes" if row.reduced else "no",
            )
        )


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    # A name that begins like a formula would be computed by a spreadsheet.
    return f"'{text}" if text[:1] in "=+-@\t\r" and not isinstance(value, float) else text
