"""Tables of the printed report: findings, lesions, panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from reportlab.lib.colors import HexColor
from reportlab.platypus import Flowable, Paragraph, Table, TableStyle

from imaging.brats.regions import Region
from imaging.schemas.comparison import LesionChange
from imaging.schemas.measurement import LesionLocation, LesionMeasurement
from inference.schemas.agreement import PairAgreement
from inference.schemas.panel import ExpertSummary, PanelSummary
from oncoflow_site.foundation.figures import (
    NOT_ASSESSED,
    change_millilitres,
    change_percent,
    diameters,
    dice_text,
    millilitres,
    millimetres,
    round_half_up,
    sentence,
)
from reports.content.paths import REGION_NAMES
from reports.content.schema import ReportContent
from reports.pdf.style import FONT, PALE, RULE, paragraph, safe

__all__ = [
    "NOT_ASSESSED",
    "WIDTH",
    "agreement_table",
    "findings_table",
    "lesions_table",
    "midline_text",
    "model_table",
]

WIDTH = 489.0
"""Width of the text on the page in points (A4 less the margins)."""
T = TypeVar("T")

# The colours of imaging.rendering.slices's outlines, so that table and pictures speak of the same thing.
SWATCHES = {"WT": HexColor("#56b4e9"), "TC": HexColor("#f0e442"), "ET": HexColor("#d55e00")}

_BASE = [
    ("FONTNAME", (0, 0), (-1, -1), FONT),
    ("LINEBELOW", (0, 0), (-1, 0), 0.9, RULE),
    ("LINEBELOW", (0, 1), (-1, -1), 0.35, RULE),
    ("BACKGROUND", (0, 0), (-1, 0), PALE),
    ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
    ("TOPPADDING", (0, 0), (-1, -1), 2.6),
    ("BOTTOMPADDING", (0, 0), (-1, -1), 2.6),
    ("LEFTPADDING", (0, 0), (-1, -1), 4),
    ("RIGHTPADDING", (0, 0), (-1, -1), 4),
]


def _cell(text: Any, style: str = "cell") -> Paragraph:
    return paragraph(safe(text), style)


def _number(text: str | None) -> Paragraph:
    return _cell(text, "number") if text is not None else paragraph(f"<i>{NOT_ASSESSED}</i>", "number")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], shares: Sequence[float], left: int = 1) -> Table:
    """A table over the full width; the first ``left`` columns are words, the others figures."""
    header = [_cell(text, "head" if index < left else "headright") for index, text in enumerate(head)]
    total = sum(shares)
    table = Table([header, *rows], colWidths=[WIDTH * share / total for share in shares], repeatRows=1, hAlign="LEFT")
    table.setStyle(TableStyle(_BASE))
    return table


def _shown(value: T | None, show: Callable[[T], str]) -> str | None:
    return None if value is None else show(value)


def _dash() -> Paragraph:
    return _cell("–", "number")


def findings_table(content: ReportContent) -> Flowable:
    """One row a region: volume, spread of the models, diameters, previous volume, change."""
    comparison = content.comparison
    prior = comparison is not None and bool(comparison.prior_study_id)
    rows = []
    for region, values in content.findings.regions.items():
        against = comparison.regions.get(region) if comparison else None
        spread = values.uncertainty_mm3
        name = paragraph(
            f'<font color="#{SWATCHES[region].hexval()[2:]}">■</font> <b>{safe(region)}</b> '
            f"{safe(REGION_NAMES.get(region, ''))}",
            "cell",
        )
        changes = [
            _shown(against.prior_mm3 if against else None, millilitres),
            _shown(against.change_mm3 if against else None, change_millilitres),
            _shown(against.change_percent if against else None, change_percent),
        ]
        rows.append(
            [
                name,
                _number(_shown(values.volume_mm3, millilitres)),
                _cell(f"{millilitres(spread.low)} – {millilitres(spread.high)}", "number") if spread else _dash(),
                _number(diameters(values.longest_axial_diameter_mm, values.perpendicular_diameter_mm)),
                *(_number(one) if prior else _dash() for one in changes),
            ]
        )
    for part, name in (
        ("NCR", "necrosis, not enhancing core (TC less ET)"),
        ("ED", "oedema, infiltration (WT less TC)"),
    ):
        if part in content.findings.parts:
            volume = content.findings.parts[part]  # type: ignore[index]
            rows.append(
                [
                    paragraph(f"<b>{part}</b> {safe(name)}", "cell"),
                    _number(_shown(volume, millilitres)),
                    *(_dash() for _ in range(5)),
                ]
            )
    head = (
        "Region",
        "Volume (ml)",
        "Range of the models (ml)",
        "Axial diameters (mm)",
        "Previous (ml)",
        "Change (ml)",
        "Change (%)",
    )
    return _table(head, rows, (1.75, 0.85, 1.15, 1.15, 0.95, 0.9, 0.95))


_STATUS = {
    "new": "new",
    "followed": "followed",
    "gone": "gone: no longer outlined",
    "baseline": "baseline",
    "not-assessed": "not assessed: this study could not show it",
}


def lesions_table(content: ReportContent) -> Flowable | None:
    """One row a lesion, those that are gone included; None where there is none."""
    measured = {lesion.id: lesion for lesion in content.findings.lesions}
    followed = {lesion.id: lesion for lesion in (content.comparison.lesions if content.comparison else ())}
    names = sorted({*measured, *followed}, key=lambda text: (len(text), text))
    if not names:
        return None
    head = ("Lesion", "Status", "Location", "ET (ml)", "Core, TC (ml)", "Previous core (ml)", "Axial diameters (mm)")
    rows = [_lesion_row(name, measured.get(name), followed.get(name)) for name in names]
    return _table(head, rows, (0.6, 2.3, 1.5, 0.75, 0.95, 1.15, 1.25), left=3)


def _lesion_row(name: str, lesion: LesionMeasurement | None, against: LesionChange | None) -> list[Paragraph]:
    status = against.status if against else lesion.status if lesion else ""
    enhancing = lesion.regions.get("ET") if lesion else None
    core = lesion.regions.get("TC") if lesion else against.current_mm3 if against else None
    size = diameters(lesion.longest_axial_diameter_mm, lesion.perpendicular_diameter_mm) if lesion else None
    gone = status == "gone"
    before = against.prior_mm3 if against else None
    return [
        _cell(name, "cellbold"),
        _cell(_STATUS.get(status, status)),
        _cell("–" if gone else location_text(lesion.location if lesion else None)),
        _dash() if gone else _number(_shown(enhancing, millilitres)),
        _dash() if gone else _number(_shown(core, millilitres)),
        _dash() if before is None else _number(millilitres(before)),
        _dash() if gone else _number(size),
    ]


def location_text(location: LesionLocation | None) -> str:
    """Side and distance from the midline in words."""
    if location is None or not location.assessed or location.distance_to_midline_mm is None:
        return NOT_ASSESSED
    if location.hemisphere == "both":
        return "crosses the midline"
    return f"{location.hemisphere}, {millimetres(location.distance_to_midline_mm)} mm from the midline"


def midline_text(content: ReportContent) -> str:
    """One sentence about the midline shift; empty for reports that were made before it was measured."""
    shift = content.findings.anatomy.midline_shift
    if shift is None:
        return ""
    if not shift.assessed or shift.shift_mm is None:
        return f"Midline shift: {NOT_ASSESSED} ({(shift.reason or 'no reason was kept').rstrip('.')})."
    around = "" if shift.uncertainty_mm is None else f"± {millimetres(shift.uncertainty_mm)} mm; "
    return f"Midline shift: {millimetres(shift.shift_mm)} mm to the {shift.towards} ({around}{shift.method})."


def model_table(panel: PanelSummary) -> Flowable | None:
    """One row an expert of the panel."""
    rows = [_expert_row(expert) for expert in panel.experts]
    if not rows:
        return None
    head = ("Model", "Part", "Dice ET", "Dice TC", "Dice WT", "ET (ml)", "TC (ml)", "WT (ml)", "Time (s)")
    return _table(head, rows, (2.5, 1.15, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.8), left=2)


def _expert_row(expert: ExpertSummary) -> list[Paragraph]:
    dice, volumes = expert.dice_vs_consensus or {}, expert.volume_mm3 or {}
    error = expert.error or "no reason given"
    part = {"failed": f"failed: {error}", "not_run": f"not run: {error}"}.get(expert.state, expert.role)
    if expert.sequences:
        part += f", given {', '.join(expert.sequences)} alone"
    regions: tuple[Region, ...] = ("ET", "TC", "WT")
    figures = [
        *(_shown(dice.get(region), dice_text) for region in regions),
        *(_shown(volumes.get(region), millilitres) for region in regions),
        _shown(expert.runtime_s, lambda value: round_half_up(value, 0)),
    ]
    return [
        paragraph(
            f"<b>{safe(expert.name)}</b> {safe(expert.version or '')}<br/>"
            f'<font size="6.6" color="#566472">{safe(expert.architecture or "")}</font>',
            "cell",
        ),
        _cell(part),
        *(_cell(figure or "–", "number") for figure in figures),
    ]


_BANDS = {
    "issue": "issue as preliminary",
    "hold": "hold for a radiologist's review",
    "manual": "a person's segmentation is required",
}


def agreement_table(panel: PanelSummary) -> Flowable:
    """Fusion, agreement, gate and its reasons, as words beside their values."""
    agreement, gate = panel.agreement, panel.gate
    lines = [("Fusion", panel.fusion or "–")]
    shown = _shown(agreement.a, dice_text) or NOT_ASSESSED
    where = (
        f" (mean Dice of the voters against the consensus, {agreement.region}: the region of least agreement)"
        if agreement.region
        else ""
    )
    lines.append(("Agreement", shown + where))
    lines += [("Pair of models", text) for pair in agreement.pairwise if (text := _pair_text(pair))]
    lines.append(("Gate", _BANDS.get(gate.band, gate.band or NOT_ASSESSED)))
    if gate.reasons:
        lines.append(("Reasons", " ".join(sentence(one) for one in gate.reasons)))
    rows = [[_cell(label, "label"), _cell(value)] for label, value in lines]
    table = Table(rows, colWidths=[WIDTH * 0.17, WIDTH * 0.83], hAlign="LEFT")
    table.setStyle(
        TableStyle(
            [
                ("FONTNAME", (0, 0), (-1, -1), FONT),
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("TOPPADDING", (0, 0), (-1, -1), 1.6),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 1.6),
                ("LEFTPADDING", (0, 0), (-1, -1), 4),
            ]
        )
    )
    return table


def _pair_text(pair: PairAgreement) -> str:
    """``plain and residual: Dice ET 0.93, TC 0.95, WT 0.96; HD95 ET 1.4 mm`` from one entry of ``pairwise``."""
    parts = []
    if dice := [f"{region} {dice_text(value)}" for region, value in pair.dice.items() if value is not None]:
        parts.append("Dice " + ", ".join(dice))
    if hd95 := [f"{region} {round_half_up(value, 1)}" for region, value in pair.hd95_mm.items() if value is not None]:
        parts.append(f"HD95 {', '.join(hd95)} mm")
    return f"{' and '.join(pair.experts)}: {'; '.join(parts)}" if parts else ""
