"""Volume over time as SVG, with a table as its text alternative on the page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from oncoflow_site.foundation.clock import local
from oncoflow_site.foundation.figures import millilitres

# A class (its colour is in site.css, for light and dark) and a marker for each region: told apart without colour as well.
MARKERS = {"WT": "circle", "TC": "square", "ET": "diamond"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 310, 56, 62, 50, 42
NEAREST = 96  # dates closer together than this are not all written out


@dataclass(frozen=True)
class Point:
    """One study: when, and mm3 per region (None: not assessed)."""

    when: datetime
    mm3: dict[str, float | None]


def _nice(top: float) -> float:
    """The next round number above ``top``."""
    for step in (1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1000):
        if top <= step:
            return float(step)
    return top


def _n(value: float) -> str:
    """A coordinate; `format_html` takes text only."""
    return f"{value:.1f}"


def _marker(region: str, x: float, y: float, title: str) -> SafeString:
    shape = MARKERS[region]
    if shape == "circle":
        body = format_html('<circle class="mark" cx="{}" cy="{}" r="5">', _n(x), _n(y))
        return format_html("{}<title>{}</title></circle>", body, title)
    turn = format_html(' transform="rotate(45 {} {})"', _n(x), _n(y)) if shape == "diamond" else ""
    body = format_html('<rect class="mark" x="{}" y="{}" width="9" height="9"{}>', _n(x - 4.5), _n(y - 4.5), turn)
    return format_html("{}<title>{}</title></rect>", body, title)


def _shown_dates(places: list[float]) -> list[int]:
    """Which dates are written: the last one, and before it as many as keep apart."""
    shown: list[int] = []
    for number in reversed(range(len(places))):
        if not shown or places[shown[-1]] - places[number] >= NEAREST:
            shown.append(number)
    return shown[::-1]


def volume_plot(points: list[Point]) -> SafeString:
    """Lines of ET, TC and WT in ml over the dates of the studies; empty text with fewer than one measured study."""
    measured = [one for one in sorted(points, key=lambda one: one.when) if any(v is not None for v in one.mm3.values())]
    if not measured:
        return mark_safe("")
    first, last = measured[0].when, measured[-1].when
    span = max((last - first).total_seconds(), 1.0)
    top = _nice(max(v for one in measured for v in one.mm3.values() if v is not None) / 1000 or 1.0)

    def x_of(when: datetime) -> float:
        if len(measured) == 1:
            return (LEFT + WIDTH - RIGHT) / 2
        return LEFT + (WIDTH - LEFT - RIGHT) * (when - first).total_seconds() / span

    def y_of(mm3: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (mm3 / 1000) / top

    grid = format_html_join(
        "",
        '<line x1="{}" x2="{}" y1="{}" y2="{}" class="grid"/><text x="{}" y="{}" text-anchor="end">{}</text>',
        (
            (
                LEFT,
                WIDTH - RIGHT,
                _n(y_of(1000 * value)),
                _n(y_of(1000 * value)),
                LEFT - 8,
                _n(y_of(1000 * value) + 4),
                f"{value:g}",
            )
            for value in (0, top / 4, top / 2, 3 * top / 4, top)
        ),
    )
    places = [x_of(one.when) for one in measured]
    dates = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle">{}</text>',
        (
            (_n(places[number]), HEIGHT - BOTTOM + 28, f"{local(measured[number].when):%-d %b %Y}")
            for number in _shown_dates(places)
        ),
    )
    groups = []
    for number, region in enumerate(MARKERS):
        known = [(one.when, x_of(one.when), y_of(v), v) for one in measured if (v := one.mm3.get(region)) is not None]
        # No line is drawn over a date at which the region was not assessed.
        runs: list[list[str]] = [[]]
        for one in measured:
            value = one.mm3.get(region)
            if value is not None:
                runs[-1].append(f"{x_of(one.when):.1f},{y_of(value):.1f}")
            elif runs[-1]:
                runs.append([])
        parts = [format_html('<polyline points="{}"/>', " ".join(run)) for run in runs if run]
        parts += [
            _marker(region, x, y, f"{region} {millilitres(v)} ml on {local(when):%-d %b %Y}") for when, x, y, v in known
        ]
        legend = LEFT + 5 + 76 * number
        parts.append(_marker(region, legend, 16, region))
        parts.append(format_html('<text x="{}" y="{}">{}</text>', legend + 12, 21, region))
        groups.append(
            format_html('<g class="{}">{}</g>', region.lower(), format_html_join("", "{}", ((p,) for p in parts)))
        )
    return format_html(
        '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="Volume in millilitres over time; the table of studies has'
        ' the numbers"><text x="{}" y="21" text-anchor="end">ml</text>{}{}{}</svg>',
        WIDTH,
        HEIGHT,
        LEFT - 8,
        grid,
        dates,
        format_html_join("", "{}", ((one,) for one in groups)),
    )
