"""From a version's content to its PDF: identity, pictures, signature block. Reads; writes nothing but the audit record."""

from __future__ import annotations

import logging

from django.conf import settings

from audit.services import Actor
from clinical.identity import IdentityData
from clinical.models import Order, Patient
from clinical.services import reveal_identity, reveal_order
from imaging.models import Measurement, MrSequence
from imaging.rendering.slices import VIEW_PLANES, best_slices, render_slice, slice_count
from imaging.segmentation.label_maps import load_labels
from imaging.volumes.load import assessable_of, load_volume
from oncoflow_site.foundation.errors import UserVisibleError
from reports.content.schema import ReportContent
from reports.models import Report
from reports.pdf import HeaderData, Picture, RenderedPdf, RenderInput, SignatureText, render
from reports.pdf.style import undrawable_letters

__all__ = ["UndrawableName", "header_for", "pictures_for", "render_version"]

logger = logging.getLogger(__name__)

_PICTURE_ROWS = (MrSequence.T1C.value, MrSequence.FLAIR.value)
_CONVENTION = (
    "Radiological convention: the patient's right is on the left of axial and coronal pictures; sagittal pictures face left. "
    "The slices with most enhancing tumour and core are shown."
)


class UndrawableName(UserVisibleError):
    """A name that the signed report must show has letters that none of the report's fonts has."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The {what} has letters that the fonts of the report cannot draw.",
            what_to_do="Have it sent in another spelling as well, or have a font added (reports/pdf/fonts).",
            code="undrawable-name",
        )


def _check_drawable(header: HeaderData, signature: SignatureText) -> None:
    """:raises UndrawableName: a reader of the paper could not tell whose report it is, or who answers for it."""
    shown = {
        "patient's name": header.patient_name,
        "patient's number": header.patient_number,
        "accession number": header.accession,
        "order number": header.order_number,
        "name of the requesting person": header.requested_by,
        "name of the hospital": header.hospital,
        "signer's name": signature.name,
    }
    for what, text in shown.items():
        if undrawable_letters(text):
            raise UndrawableName(what)


def header_for(patient: Patient, order: Order | None, *, actor: Actor) -> HeaderData:
    """Who the report is about, by two audited disclosures; in pseudonymous reports none is made."""
    hospital = str(settings.ONCOFLOW_HOSPITAL_NAME)
    if settings.ONCOFLOW_PSEUDONYMOUS_REPORTS:
        return HeaderData(hospital=hospital, pseudonym=patient.pseudonym, pseudonymous=True)
    identity = reveal_identity(patient, purpose="report", actor=actor)
    numbers = reveal_order(order, purpose="report", actor=actor) if order is not None else None
    return HeaderData(
        hospital=hospital,
        pseudonym=patient.pseudonym,
        patient_name=identity.display_name,
        birth_date=_day(identity),
        sex={"M": "male", "F": "female", "O": "other"}.get(identity.sex, ""),
        patient_number=_number(identity),
        accession=numbers.accession if numbers else "",
        order_number=numbers.placer_number if numbers else "",
        indication=numbers.reason if numbers else "",
        requested_by=numbers.ordering_provider if numbers else "",
    )


def _day(identity: IdentityData) -> str:
    born = identity.birth_date
    return f"{born.day} {born:%B} {born.year}" if born else ""


def _number(identity: IdentityData) -> str:
    """The number under this hospital's authority, else the first one, with the authority that gave it."""
    ours = identity.identifier(str(settings.ONCOFLOW_ASSIGNING_AUTHORITY))
    if ours:
        return f"{ours} ({settings.ONCOFLOW_ASSIGNING_AUTHORITY})"
    first = next(iter(identity.identifiers), None)
    return f"{first.value} ({first.authority})" if first else ""


def pictures_for(measurement: Measurement) -> tuple[list[Picture], str]:
    """(pictures, note): T1c and FLAIR in three planes with the outlines that were measured.

    A study without FLAIR shows T2 in its place; one without either of the two rows has a row less.

    :raises PermanentError: a stored volume or mask is not what was stored; a report must not be made over that.
    """
    segmentation = measurement.segmentation
    labels = load_labels(segmentation)
    slices = best_slices(labels)
    pictures: list[Picture] = []
    missing: list[str] = []
    there = assessable_of(segmentation.volume_set).sequences
    rows = [MrSequence.T2.value if one not in there and one == MrSequence.FLAIR else one for one in _PICTURE_ROWS]
    for sequence in rows:
        try:
            volume, grid = load_volume(measurement.study, sequence, volume_set=segmentation.volume_set)
        except UserVisibleError:
            missing.append(sequence)
            continue
        for plane in VIEW_PLANES:
            index = slices[plane]
            png = render_slice(volume, grid, plane, index, labels=labels, size=440)
            text = f"{plane}, slice {index + 1} of {slice_count(grid, plane)}"
            pictures.append(Picture(row=sequence, plane=plane, png=png, text=text))
    note = _CONVENTION if pictures else "No pictures: this study has neither a T1c nor a FLAIR or T2 volume."
    if pictures and missing:
        note += f" No {' and no '.join(missing)} volume."
    return pictures, note


def render_version(
    report: Report,
    content: ReportContent,
    measurement: Measurement,
    *,
    actor: Actor,
    signature: SignatureText | None = None,
    replaces: int | None = None,
) -> RenderedPdf:
    """Draw the PDF of ``content``. Reveals the patient's identity for it (audited, purpose ``report``).

    :raises UndrawableName: it is to be signed, and a name in it cannot be drawn.
    """
    header = header_for(report.patient, report.order, actor=actor)
    if signature is not None:
        _check_drawable(header, signature)
    pictures, note = pictures_for(measurement)
    rendered = render(
        RenderInput(
            content=content,
            header=header,
            pictures=pictures,
            picture_note=note,
            signature=signature,
            replaces=replaces,
        )
    )
    logger.info("report %s version %s drawn on %d pages", report.pk, content.version, rendered.pages)
    return rendered
