"""Tables of the printed report: findings, lesions, panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reportlab.lib.colors import HexColor
from reportlab.platypus import Flowable, Paragraph, Table, TableStyle

from reports.content.figures import REGION_NAMES, dice_text, millilitres, millimetres, percent, round_half_up
from reports.pdf.style import FONT, PALE, RULE, paragraph, safe

__all__ = [
    "NOT_ASSESSED",
    "WIDTH",
    "agreement_table",
    "findings_table",
    "left_out",
    "lesions_table",
    "midline_text",
    "model_table",
]

WIDTH = 489.0
"""Width of the text on the page in points (A4 less the margins)."""
NOT_ASSESSED = "not assessed"

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


def _maybe(value: float | None, show: Any) -> str | None:
    return None if value is None else show(value)


def _signed(value: float, shown: str) -> str:
    if not any(char in "123456789" for char in shown):
        return shown
    return f"+{shown}" if value > 0 else f"−{shown.lstrip('-')}"


def left_out(values: Mapping[str, Any]) -> bool:
    """Whether a region was not assessed at all, so that nothing of it is outlined (not only its millimetres unknown)."""
    return values.get("assessed") is False and values.get("voxels") is None


def findings_table(content: Mapping[str, Any]) -> Flowable:
    """One row a region: volume, spread of the models, diameters, previous volume, change."""
    comparison = content.get("comparison") or {}
    rows = []
    for region, values in content["findings"]["regions"].items():
        against = (comparison.get("regions") or {}).get(region) or {}
        spread = values.get("uncertainty_mm3") or {}
        low, high = spread.get("low"), spread.get("high")
        long_axis, across = values.get("longest_axial_diameter_mm"), values.get("perpendicular_diameter_mm")
        diameters = None
        if long_axis is not None:
            diameters = millimetres(long_axis) + (f" × {millimetres(across)}" if across is not None else "")
        change, change_percent = against.get("change_mm3"), against.get("change_percent")
        name = paragraph(
            f'<font color="#{SWATCHES[region].hexval()[2:]}">■</font> <b>{safe(region)}</b> '
            f"{safe(REGION_NAMES.get(region, ''))}",
            "cell",
        )
        prior = comparison.get("prior_study_id")
        rows.append(
            [
                name,
                _number(_maybe(values.get("volume_mm3"), millilitres)),
                _cell(
                    f"{millilitres(low)} – {millilitres(high)}" if low is not None and high is not None else "–",
                    "number",
                ),
                _number(diameters),
                _number(_maybe(against.get("prior_mm3"), millilitres)) if prior else _cell("–", "number"),
                _number(_maybe(change, lambda value: _signed(value, millilitres(abs(value)))))
                if prior
                else _cell("–", "number"),
                _number(_maybe(change_percent, lambda value: _signed(value, percent(value)) + " %"))
                if prior
                else _cell("–", "number"),
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


def lesions_table(content: Mapping[str, Any]) -> Flowable | None:
    """One row a lesion, those that are gone included; None where there is none."""
    comparison = content.get("comparison") or {}
    measured = {str(lesion.get("id")): lesion for lesion in content["findings"].get("lesions") or ()}
    followed = {str(lesion.get("id")): lesion for lesion in comparison.get("lesions") or ()}
    rows = []
    for name in sorted(set(measured) | set(followed), key=lambda text: (len(text), text)):
        lesion, against = measured.get(name, {}), followed.get(name, {})
        regions = lesion.get("regions") or {}
        status = against.get("status") or lesion.get("status") or ""
        gone = status == "gone"
        core = regions.get("TC", against.get("current_mm3"))
        diameters = None
        if lesion.get("longest_axial_diameter_mm") is not None:
            diameters = millimetres(lesion["longest_axial_diameter_mm"])
            if lesion.get("perpendicular_diameter_mm") is not None:
                diameters += f" × {millimetres(lesion['perpendicular_diameter_mm'])}"
        dash = _cell("–", "number")
        rows.append(
            [
                _cell(name, "cellbold"),
                _cell(_STATUS.get(str(status), status)),
                _cell("–" if gone else location_text(lesion.get("location"))),
                dash if gone else _number(_maybe(regions.get("ET"), millilitres)),
                dash if gone else _number(_maybe(core, millilitres)),
                _number(_maybe(against.get("prior_mm3"), millilitres))
                if against.get("prior_mm3") is not None
                else dash,
                dash if gone else _number(diameters),
            ]
        )
    if not rows:
        return None
    head = ("Lesion", "Status", "Location", "ET (ml)", "Core, TC (ml)", "Previous core (ml)", "Axial diameters (mm)")
    return _table(head, rows, (0.6, 2.3, 1.5, 0.75, 0.95, 1.15, 1.25), left=3)


def location_text(location: Mapping[str, Any] | None) -> str:
    """Side and distance from the midline in words."""
    if not location or not location.get("assessed"):
        return NOT_ASSESSED
    if location["hemisphere"] == "both":
        return "crosses the midline"
    return f"{location['hemisphere']}, {millimetres(location['distance_to_midline_mm'])} mm from the midline"


def midline_text(content: Mapping[str, Any]) -> str:
    """One sentence about the midline shift; empty for reports that were made before it was measured."""
    shift = ((content["findings"].get("anatomy") or {}).get("midline_shift")) or {}
    if not shift:
        return ""
    if not shift.get("assessed"):
        return f"Midline shift: {NOT_ASSESSED} ({str(shift.get('reason') or 'no reason was kept').rstrip('.')})."
    about = f"{millimetres(shift['shift_mm'])} mm to the {shift['towards']}"
    return f"Midline shift: {about} (± {millimetres(shift['uncertainty_mm'])} mm; {shift['method']})."


def model_table(panel: Mapping[str, Any]) -> Flowable | None:
    """One row an expert of the panel."""
    rows = []
    for expert in panel.get("experts") or ():
        dice = expert.get("dice_vs_consensus") or {}
        runtime = expert.get("runtime_s")
        state = str(expert.get("state"))
        error = expert.get("error") or "no reason given"
        part = {"failed": f"failed: {error}", "not_run": f"not run: {error}"}.get(state, str(expert.get("role", "")))
        if expert.get("sequences"):
            part += f", given {', '.join(expert['sequences'])} alone"
        rows.append(
            [
                paragraph(
                    f"<b>{safe(expert.get('name', ''))}</b> {safe(expert.get('version') or '')}<br/>"
                    f'<font size="6.6" color="#566472">{safe(expert.get("architecture") or "")}</font>',
                    "cell",
                ),
                _cell(part),
                *(
                    _cell("–" if dice.get(region) is None else dice_text(dice[region]), "number")
                    for region in REGION_NAMES
                ),
                *(
                    _cell(
                        "–"
                        if (expert.get("volume_mm3") or {}).get(region) is None
                        else millilitres(expert["volume_mm3"][region]),
                        "number",
                    )
                    for region in REGION_NAMES
                ),
                _cell("–" if runtime is None else round_half_up(runtime, 0), "number"),
            ]
        )
    if not rows:
        return None
    head = ("Model", "Part", "Dice ET", "Dice TC", "Dice WT", "ET (ml)", "TC (ml)", "WT (ml)", "Time (s)")
    return _table(head, rows, (2.5, 1.15, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.8), left=2)


_BANDS = {
    "issue": "issue as preliminary",
    "hold": "hold for a radiologist's review",
    "manual": "a person's segmentation is required",
}


def agreement_table(panel: Mapping[str, Any]) -> Flowable:
    """Fusion, agreement, gate and its reasons, as words beside their values."""
    agreement, gate = panel.get("agreement") or {}, panel.get("gate") or {}
    a = agreement.get("a")
    region = agreement.get("region")
    lines = [("Fusion", str(panel.get("fusion") or "–"))]
    shown = dice_text(a) if isinstance(a, (int, float)) else NOT_ASSESSED
    where = (
        f" (mean Dice of the voters against the consensus, {region}: the region of least agreement)" if region else ""
    )
    lines.append(("Agreement", shown + where))
    for pair in agreement.get("pairwise") or ():
        text = _pair_text(pair)
        if text:
            lines.append(("Pair of models", text))
    band = str(gate.get("band") or "")
    lines.append(("Gate", _BANDS.get(band, band or NOT_ASSESSED)))
    reasons = [str(reason) for reason in gate.get("reasons") or ()]
    if reasons:
        lines.append(("Reasons", "; ".join(reasons)))
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


def _pair_text(pair: Mapping[str, Any]) -> str:
    """``plain and residual: Dice ET 0.93, TC 0.95, WT 0.96; HD95 ET 1.4 mm`` from one entry of ``pairwise``."""
    names = pair.get("experts") or pair.get("pair") or [pair.get("a", ""), pair.get("b", "")]
    dice = pair.get("dice")
    hd95 = pair.get("hd95_mm") or pair.get("hd95")
    parts = []
    if isinstance(dice, Mapping):
        parts.append(
            "Dice " + ", ".join(f"{key} {dice_text(value)}" for key, value in dice.items() if value is not None)
        )
    elif isinstance(dice, (int, float)):
        parts.append(f"Dice {dice_text(dice)}" + (f" ({pair['region']})" if pair.get("region") else ""))
    if isinstance(hd95, Mapping):
        shown = ", ".join(f"{key} {round_half_up(value, 1)}" for key, value in hd95.items() if value is not None)
        parts += [f"HD95 {shown} mm"] if shown else []
    elif isinstance(hd95, (int, float)):
        parts.append(f"HD95 {round_half_up(hd95, 1)} mm")
    who = " and ".join(str(name) for name in names if name)
    return f"{who}: {'; '.join(parts)}" if who and parts else ""
