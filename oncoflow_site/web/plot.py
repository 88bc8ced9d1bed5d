"""Volume over time as SVG, with a table as its text alternative on the page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

# Okabe and Ito's colours, and a marker of its own for each region: told apart without colour as well.
STYLES = {"WT": ("#0072b2", "circle"), "TC": ("#b07d00", "square"), "ET": ("#d55e00", "diamond")}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 260, 56, 20, 18, 40


@dataclass(frozen=True)
class Point:
    """One study: when, and mm3 per region (None: not assessed)."""

    when: datetime
    mm3: dict[str, float | None]


def _nice(top: float) -> float:
    """The next round number above ``top``."""
    for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if top <= step:
            return float(step)
    return top


def _n(value: float) -> str:
    """A coordinate; `format_html` takes text only."""
    return f"{value:.1f}"


def _marker(shape: str, x: float, y: float, colour: str, title: str) -> SafeString:
    if shape == "circle":
        body = format_html('<circle cx="{}" cy="{}" r="4.5" fill="{}">', _n(x), _n(y), colour)
        return format_html("{}<title>{}</title></circle>", body, title)
    turn = format_html(' transform="rotate(45 {} {})"', _n(x), _n(y)) if shape == "diamond" else ""
    body = format_html('<rect x="{}" y="{}" width="8" height="8" fill="{}"{}>', _n(x - 4), _n(y - 4), colour, turn)
    return format_html("{}<title>{}</title></rect>", body, title)


def volume_plot(points: list[Point]) -> SafeString:
    """Lines of ET, TC and WT in mL over the dates of the studies; empty text with fewer than one measured study."""
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
    dates = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle">{}</text>',
        ((_n(x_of(one.when)), HEIGHT - BOTTOM + 20, one.when.strftime("%d %b %Y")) for one in measured),
    )
    lines = []
    for number, (region, (colour, shape)) in enumerate(STYLES.items()):
        known = [(x_of(one.when), y_of(v), v) for one in measured if (v := one.mm3.get(region)) is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in known)
        lines.append(format_html('<polyline points="{}" fill="none" stroke="{}" stroke-width="2"/>', path, colour))
        lines += [_marker(shape, x, y, colour, f"{region} {v / 1000:.2f} mL") for x, y, v in known]
        legend = LEFT + 10 + 70 * number
        lines.append(_marker(shape, legend, TOP - 6, colour, region))
        lines.append(format_html('<text x="{}" y="{}">{}</text>', legend + 10, TOP - 2, region))
    return format_html(
        '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="Volume in millilitres over time; the table below has the'
        ' numbers"><text x="14" y="{}" transform="rotate(-90 14 {})" text-anchor="middle">mL</text>{}{}{}</svg>',
        WIDTH,
        HEIGHT,
        HEIGHT // 2,
        HEIGHT // 2,
        grid,
        dates,
        format_html_join("", "{}", ((one,) for one in lines)),
    )
