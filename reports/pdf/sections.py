"""The parts of the printed report, in reading order."""

from __future__ import annotations

import io
from datetime import datetime
from typing import Any

from reportlab.platypus import CondPageBreak, Flowable, Image, KeepTogether, Paragraph, Spacer, Table, TableStyle

from imaging.brats.regions import REGIONS
from oncoflow_site.foundation.clock import local
from oncoflow_site.foundation.figures import date_text, moment_text, sentence
from reports.content.provenance import acquisition_text, maker_of, makers_text, outside_range
from reports.content.schema import DocumentCitation, ReportComparison, ReportContent
from reports.pdf.chart import volume_chart
from reports.pdf.data import RenderInput, SignatureText
from reports.pdf.signature import SignatureBlock
from reports.pdf.style import AMBER, FONT, GREEN, PALE, RED, RULE, paragraph, safe
from reports.pdf.tables import (
    SWATCHES,
    WIDTH,
    agreement_table,
    findings_table,
    lesions_table,
    midline_text,
    model_table,
)

__all__ = ["build_story", "status_line"]


def status_line(content: ReportContent, signature: SignatureText | None, replaces: int | None) -> tuple[str, str]:
    """(text, style) of the status banner."""
    status = content.status
    if status in ("final", "amended") and signature is not None and signature.person:
        text = "FINAL" if status == "final" else "AMENDED"
        text += f" – signed by {signature.name}, {date_text(local(signature.signed_at))}"
        if replaces is not None and status == "amended":
            text += f" – replaces version {replaces}"
        return text, "green"
    if status == "preliminary":
        return "PRELIMINARY – NOT SIGNED BY A RADIOLOGIST", "amber"
    return "HELD FOR REVIEW – NOT ISSUED – NOT SIGNED BY A RADIOLOGIST", "red"


_MOST_REMARKS = 8
_BANNER_COLOURS = {"green": GREEN, "amber": AMBER, "red": RED}


def _banner(text: str, style: str) -> Flowable:
    table = Table([[paragraph(safe(text), style)]], colWidths=[WIDTH], hAlign="LEFT")
    table.setStyle(
        TableStyle(
            [
                ("FONTNAME", (0, 0), (-1, -1), FONT),
                ("BACKGROUND", (0, 0), (-1, -1), PALE),
                ("LINEBEFORE", (0, 0), (0, -1), 3.5, _BANNER_COLOURS[style]),
                ("LEFTPADDING", (0, 0), (-1, -1), 9),
                ("TOPPADDING", (0, 0), (-1, -1), 4),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 5),
            ]
        )
    )
    return table


def _heading(text: str) -> Paragraph:
    return paragraph(safe(text), "heading")


def build_story(given: RenderInput) -> list[Flowable]:
    """Flowables of the whole report."""
    content = given.content
    story: list[Flowable] = [
        paragraph(safe(given.header.hospital), "hospital"),
        paragraph("Brain tumour MRI: quantitative report", "title"),
        Spacer(1, 5),
        _banner(*status_line(content, given.signature, given.replaces)),
    ]
    if content.demo:
        story += [
            Spacer(1, 3),
            _banner("DEMONSTRATION – models trained on simulated patients – not for clinical use", "red"),
        ]
    if content.study.reduced is not None:
        story += [Spacer(1, 3), _banner(f"REDUCED – {content.study.reduced.reason}", "amber")]
    story += [Spacer(1, 7), _identity(given), *_impression(content), *_findings(content)]
    story += [*_pictures(given), *_history(content), *_narrative(content)]
    story += [*_panel(content), *_remarks(content), *_limits(content)]
    if given.signature is not None:
        story += [Spacer(1, 10), KeepTogether([_heading("Signature"), SignatureBlock(given.signature)])]
    return story


def _identity(given: RenderInput) -> Flowable:
    header, content = given.header, given.content
    study = content.study
    left: list[tuple[str, str, str]]
    if header.pseudonymous:
        left = [("Patient", f"{header.pseudonym} (pseudonymous report)", "valuebold")]
    else:
        left = [
            ("Patient", header.patient_name or "name not known", "valuebold"),
            ("Born, sex", ", ".join(part for part in (header.birth_date or "not known", header.sex) if part), "value"),
            ("Patient number", header.patient_number or "–", "value"),
            ("Pseudonym", header.pseudonym, "value"),
        ]
    right = [
        (
            "Study",
            f"{study.modality}, {(date_text if study.performed_on_day else moment_text)(study.performed_at)}",
            "valuebold",
        ),
        ("Procedure", study.procedure or "not stated", "value"),
        (
            "Accession, order",
            ", ".join(part for part in (header.accession, header.order_number) if part) or "–",
            "value",
        ),
        ("Report, version", f"{content.report_id}, version {content.version}", "value"),
    ]
    if header.requested_by:
        right.insert(2, ("Requested by", header.requested_by, "value"))

    def block(rows: list[tuple[str, str, str]], width: float) -> Table:
        cells = [[paragraph(safe(label), "label"), paragraph(safe(value), style)] for label, value, style in rows]
        table = Table(cells, colWidths=[74, width - 74])
        table.setStyle(
            TableStyle(
                [
                    ("FONTNAME", (0, 0), (-1, -1), FONT),
                    ("VALIGN", (0, 0), (-1, -1), "TOP"),
                    ("TOPPADDING", (0, 0), (-1, -1), 1.2),
                    ("BOTTOMPADDING", (0, 0), (-1, -1), 1.2),
                    ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ]
            )
        )
        return table

    half = WIDTH * 0.46
    rows: list[list[Any]] = [[block(left, half), block(right, WIDTH - half)]]
    table = Table(rows, colWidths=[half, WIDTH - half], hAlign="LEFT")
    table.setStyle(
        TableStyle(
            [
                ("FONTNAME", (0, 0), (-1, -1), FONT),
                ("LINEABOVE", (0, 0), (-1, 0), 0.7, RULE),
                ("LINEBELOW", (0, -1), (-1, -1), 0.7, RULE),
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("TOPPADDING", (0, 0), (-1, -1), 4),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 4),
            ]
        )
    )
    if not header.indication:
        return table
    indication = paragraph(
        f'<font color="#566472">Indication as ordered:</font> {safe(header.indication, 600)}', "body"
    )
    return KeepTogether([table, Spacer(1, 4), indication])


def _impression(content: ReportContent) -> list[Flowable]:
    parts: list[Flowable] = [_heading("Impression"), paragraph(safe(content.impression), "impression")]
    if content.held_reasons:
        parts.append(Spacer(1, 3))
        parts.append(paragraph("Why it is held:", "body"))
        parts += [paragraph(safe(sentence(one)), "bullet", bulletText="•") for one in content.held_reasons]
    return parts


def _findings(content: ReportContent) -> list[Flowable]:
    comparison = content.comparison
    prior = comparison.prior_performed_at if comparison else None
    since = f"Previous: study of {date_text(prior)}. " if prior else "No earlier study to compare with. "
    who = makers_text(content.findings)
    note = (
        f"{since}Regions are nested: ET lies in TC, TC in WT. Outlines: {who}. Volumes from the image geometry; the range is "
        f"the spread of the single models' volumes, not a confidence interval.{_outside(content)}"
    )
    parts: list[Flowable] = [
        KeepTogether([_heading("Findings"), findings_table(content), Spacer(1, 2), paragraph(safe(note), "small")])
    ]
    if acquired := acquisition_text(content.study):
        parts += [Spacer(1, 3), paragraph(safe(f"Acquisition, as the image headers say. {acquired}", 1500), "small")]
    if midline := midline_text(content):
        parts += [Spacer(1, 3), paragraph(safe(midline), "small")]
    if comparison is not None and comparison.sequences is not None and comparison.sequences.note:
        parts += [Spacer(1, 3), paragraph(safe(comparison.sequences.note), "small")]
    lesions = lesions_table(content)
    if lesions is not None:
        parts += [Spacer(1, 6), lesions]
    return parts + ([Spacer(1, 5), _response(comparison)] if comparison is not None else [])


def _outside(content: ReportContent) -> str:
    """Why a volume lies outside the range beside it, a sentence a region."""
    findings = content.findings
    clauses = ((name, outside_range(one, maker_of(findings, name))) for name, one in findings.regions.items())
    return "".join(f" {name}: {clause}." for name, clause in clauses if clause)


def _response(comparison: ReportComparison) -> Flowable:
    response = comparison.response
    text = f"<b>Response category:</b> {safe(response.category)} ({safe(response.criteria)})"
    if response.reason:
        text += f". {safe(response.reason.rstrip('.'))}"
    if response.rule_ids:
        text += f'. <font color="#566472">Rules: {safe(", ".join(response.rule_ids))}.</font>'
    if (quality := comparison.registration) is not None and quality.method:
        found = "converged" if quality.converged else "did not converge"
        text += f' <font color="#566472">Registration: {safe(quality.method)}, {found}.</font>'
    return paragraph(text, "body")


def _pictures(given: RenderInput) -> list[Flowable]:
    if not given.pictures:
        note = given.picture_note or "No pictures: the images of this study could not be drawn."
        return [_heading("Images"), paragraph(safe(note), "body")]
    rows = list(dict.fromkeys(picture.row for picture in given.pictures))
    gap = 6.0
    width = (WIDTH - 2 * gap) / 3
    height = 108.0
    cells: list[list[Any]] = []
    for row in rows:
        pictures = [picture for picture in given.pictures if picture.row == row][:3]
        cells.append([_image(picture.png, width, height) for picture in pictures])
        cells.append([paragraph(safe(f"{picture.row}, {picture.text}"), "caption") for picture in pictures])
    table = Table(cells, colWidths=[width + gap, width + gap, width], hAlign="LEFT")
    table.setStyle(
        TableStyle(
            [
                ("FONTNAME", (0, 0), (-1, -1), FONT),
                ("ALIGN", (0, 0), (-1, -1), "CENTER"),
                ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("RIGHTPADDING", (0, 0), (1, -1), gap),
                ("RIGHTPADDING", (2, 0), (2, -1), 0),
                ("TOPPADDING", (0, 0), (-1, -1), 1),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
            ]
        )
    )
    regions = given.content.findings.regions
    drawn = [region for region in reversed(REGIONS) if region not in regions or regions[region].outlined]
    key = " ".join(f'<font color="#{SWATCHES[region].hexval()[2:]}">■</font> {region}&nbsp;&nbsp;' for region in drawn)
    legend = paragraph(f"Outlines: {key} {safe(given.picture_note)}", "small")
    return [KeepTogether([_heading("Images"), table, legend])]


def _image(png: bytes, width: float, height: float) -> Image:
    image = Image(io.BytesIO(png))
    scale = min(width / image.imageWidth, height / image.imageHeight)
    image.drawWidth, image.drawHeight = image.imageWidth * scale, image.imageHeight * scale
    return image


def _history(content: ReportContent) -> list[Flowable]:
    chart = volume_chart(content.history, WIDTH)
    if chart is None:
        return []
    return [KeepTogether([_heading("Volume over time"), chart])]


def _narrative(content: ReportContent) -> list[Flowable]:
    """Sentences with numbered references to documents; figures come from the tables above and need no number."""
    references: dict[str, int] = {}
    parts: list[Flowable] = []
    titles = {
        "finding": "Measured on the images",
        "context": "From the patient's documents",
        "limitation": "Not found, or limited",
    }
    for kind, title in titles.items():
        sentences = [one for one in content.narrative if one.kind == kind]
        if not sentences:
            continue
        parts.append(paragraph(f"<b>{safe(title)}</b>", "body"))
        for line in sentences:
            marks = []
            for citation in line.citations:
                if isinstance(citation, DocumentCitation):
                    marks.append(f"[{references.setdefault(citation.document_id, len(references) + 1)}]")
            tail = f' <font color="#0b5c6b">{" ".join(marks)}</font>' if marks else ""
            parts.append(paragraph(safe(line.text, 4000) + tail, "bullet", bulletText="•"))
        parts.append(Spacer(1, 3))
    if references:
        parts.append(paragraph("<b>Sources</b>", "body"))
        known = {
            one.document_id: one
            for line in content.narrative
            for one in line.citations
            if isinstance(one, DocumentCitation)
        }
        for key, number in references.items():
            citation = known[key]
            when = citation.authored_on
            date = citation.authored_text or (date_text(datetime.fromisoformat(when)) if when else "undated")
            text = f"{citation.type_text or 'Document'}, {date}"
            parts.append(paragraph(safe(text), "reference", bulletText=f"[{number}]"))
    return [CondPageBreak(70), _heading("Summary"), *parts] if parts else []


def _panel(content: ReportContent) -> list[Flowable]:
    panel = content.panel
    if panel is None:
        return []
    models = model_table(panel)
    parts: list[Flowable] = [_heading("Models and their agreement")]
    if models is not None:
        note = "Voters make the consensus and open the gate; an adviser is shown and can only lower it. Dice against the consensus."
        parts += [models, Spacer(1, 2), paragraph(note, "small"), Spacer(1, 4)]
    parts.append(agreement_table(panel))
    return [KeepTogether(parts)]


def _remarks(content: ReportContent) -> list[Flowable]:
    """What experts of the panel said in words: an adviser's remarks, which nobody has checked."""
    speaking = [one for one in (content.panel.experts if content.panel else ()) if one.findings]
    if not speaking:
        return []
    note = (
        "Written by a language model that was shown single slices. No radiologist has reviewed them, nothing above rests on "
        "them, and the confidence is the model's own, not calibrated."
    )
    parts: list[Flowable] = [_heading("Unreviewed remarks of an adviser"), paragraph(safe(note), "small")]
    for one in speaking:
        for finding in one.findings[:_MOST_REMARKS]:
            text = f"{finding.text} (slice {finding.slice_z + 1}, confidence {finding.confidence:.2f})"
            mark = f'<font color="#566472">{safe(one.name)}, unreviewed:</font> {safe(text, 400)}'
            parts.append(paragraph(mark, "bullet", bulletText="•"))
    return [KeepTogether(parts)]


def _limits(content: ReportContent) -> list[Flowable]:
    parts: list[Flowable] = [_heading("Not assessed, and what this report is")]
    for item in content.not_assessed:
        parts.append(paragraph(f"{safe(item.what)}: {safe(item.reason)}", "bullet", bulletText="•"))
    parts.append(paragraph(safe(content.disclaimer), "body"))
    return [KeepTogether(parts)]
