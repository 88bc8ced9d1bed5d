"""Volume over time, drawn with reportlab's own shapes. Told apart by colour, dash and marker, and labelled in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from reportlab.graphics.shapes import Circle, Drawing, Group, Line, Polygon, PolyLine, Rect, String
from reportlab.lib.colors import Color, HexColor

from imaging.schemas.comparison import VolumesAt
from reports.content.paths import REGION_NAMES
from reports.pdf.style import BOLD, FONT, INK, MUTED, RULE

__all__ = ["volume_chart"]

# Okabe and Ito's blue, a dark gold (their yellow is too light on paper) and vermillion.
_COLOURS = {"WT": HexColor("#0072b2"), "TC": HexColor("#7a6200"), "ET": HexColor("#b84a00")}
_DASHES: Mapping[str, list[int] | None] = {"WT": None, "TC": [5, 2], "ET": [2, 2]}
_LEFT, _RIGHT, _BOTTOM, _TOP = 40, 118, 30, 16


def _nice_step(maximum: float, ticks: int = 4) -> float:
    raw = maximum / ticks
    scale = 1.0
    while raw / scale >= 10:
        scale *= 10
    while raw / scale < 1:
        scale /= 10
    return next(step for step in (1, 2, 2.5, 5, 10) if step * scale >= raw) * scale


def _marker(region: str, x: float, y: float, colour: Color) -> Group:
    group = Group()
    if region == "WT":
        group.add(Circle(x, y, 2.6, fillColor=colour, strokeColor=None))
    elif region == "TC":
        group.add(Rect(x - 2.4, y - 2.4, 4.8, 4.8, fillColor=colour, strokeColor=None))
    else:
        group.add(Polygon([x, y + 3.2, x - 3, y - 2.2, x + 3, y - 2.2], fillColor=colour, strokeColor=None))
    return group


def _spread(wanted: list[tuple[float, str]], gap: float) -> dict[str, float]:
    """Label heights at least ``gap`` apart, as near as possible to where they are wanted."""
    placed: dict[str, float] = {}
    last = -1e9
    for y, name in sorted(wanted):
        last = max(y, last + gap)
        placed[name] = last
    return placed


def volume_chart(history: Sequence[VolumesAt], width: float, height: float = 150) -> Drawing | None:
    """Volumes (mm3 in ``history``, shown in ml) of ET, TC and WT over the dates; None where nothing can be shown.

    :param history: entries of the content's ``history``, oldest first.
    """
    points: dict[str, list[tuple[datetime, float]]] = {region: [] for region in ("WT", "TC", "ET")}
    gaps: dict[str, set[int]] = {region: set() for region in points}
    for entry in history:
        for region, line in points.items():
            if (volume := entry.volume(region)) is not None:
                line.append((entry.performed_at, volume / 1000.0))
            elif line:
                gaps[region].add(len(line))  # no line is drawn over a date that was not assessed
    values = [value for line in points.values() for _, value in line]
    if not values:
        return None
    moments = sorted({moment for line in points.values() for moment, _ in line})
    first, last = moments[0], moments[-1]
    seconds = (last - first).total_seconds()
    step = _nice_step(max(max(values), 0.1) * 1.05)
    top = step * max(1, -(-max(values) * 1.05 // step))
    inner_width, inner_height = width - _LEFT - _RIGHT, height - _BOTTOM - _TOP

    def x_of(moment: datetime) -> float:
        share = (moment - first).total_seconds() / seconds if seconds else 0.5
        return _LEFT + 8 + share * (inner_width - 16)

    def y_of(value: float) -> float:
        return _BOTTOM + value / top * inner_height

    drawing = Drawing(width, height, initialFontName=FONT)
    _axes(drawing, top, step, y_of, width)
    _dates(drawing, moments, x_of)
    labels = _spread([(y_of(line[-1][1]), region) for region, line in points.items() if line], 10)
    for region, line in points.items():
        if not line:
            continue
        colour = _COLOURS[region]
        ends = [0, *sorted(gaps[region]), len(line)]
        for part in (line[first:last] for first, last in pairwise(ends)):
            path = [coordinate for moment, value in part for coordinate in (x_of(moment), y_of(value))]
            if len(part) > 1:
                drawing.add(PolyLine(path, strokeColor=colour, strokeWidth=1.4, strokeDashArray=_DASHES[region]))
        for moment, value in line:
            drawing.add(_marker(region, x_of(moment), y_of(value), colour))
        end = width - _RIGHT + 14
        drawing.add(_marker(region, end, labels[region] + 2.4, colour))
        drawing.add(
            String(
                end + 7, labels[region], f"{region} {REGION_NAMES[region]}", fontName=FONT, fontSize=7.2, fillColor=INK
            )
        )
    return drawing


def _axes(drawing: Drawing, top: float, step: float, y_of: Any, width: float) -> None:
    drawing.add(String(_LEFT - 34, y_of(top) + 7, "volume (ml)", fontName=BOLD, fontSize=7, fillColor=MUTED))
    count = round(top / step)
    for index in range(count + 1):
        value = index * step
        y = y_of(value)
        drawing.add(Line(_LEFT, y, width - _RIGHT, y, strokeColor=RULE, strokeWidth=0.9 if index == 0 else 0.4))
        drawing.add(
            String(_LEFT - 5, y - 2.5, f"{value:g}", textAnchor="end", fontName=FONT, fontSize=7, fillColor=MUTED)
        )


def _dates(drawing: Drawing, moments: Sequence[datetime], x_of: Any) -> None:
    """A tick at every study; its date where there is room for it, the first and the last always."""
    shown: list[float] = []
    order = [moments[-1], moments[0], *moments[1:-1]] if len(moments) > 1 else list(moments)
    for moment in order:
        x = x_of(moment)
        drawing.add(Line(x, _BOTTOM, x, _BOTTOM - 3, strokeColor=MUTED, strokeWidth=0.6))
        if any(abs(x - other) < 52 for other in shown):
            continue
        shown.append(x)
        text = f"{moment.day} {moment:%b %Y}"
        drawing.add(String(x, _BOTTOM - 12, text, textAnchor="middle", fontName=FONT, fontSize=7, fillColor=MUTED))
