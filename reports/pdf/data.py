"""What the renderer takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from reports.content.schema import ReportContent

__all__ = ["HeaderData", "Picture", "RenderInput", "RenderedPdf", "SignatureText"]


@dataclass(frozen=True)
class HeaderData:
    """Whose report it is. In pseudonymous reports everything that identifies is empty and the pseudonym remains."""

    hospital: str
    pseudonym: str
    pseudonymous: bool = False
    patient_name: str = ""
    birth_date: str = ""
    sex: str = ""
    patient_number: str = ""
    accession: str = ""
    order_number: str = ""
    indication: str = ""
    requested_by: str = ""

    def __repr__(self) -> str:
        return "HeaderData(...)"


@dataclass(frozen=True)
class Picture:
    """One slice as PNG. ``row`` and ``plane`` place it in the grid of pictures; ``text`` describes it in words."""

    row: str
    plane: str
    png: bytes
    text: str


@dataclass(frozen=True)
class SignatureText:
    """What the visible signature block says. ``person`` False: the organisation's seal."""

    person: bool
    name: str
    role: str
    signed_at: datetime
    reason: str
    authority: str


@dataclass(frozen=True)
class RenderInput:
    """Everything on the pages."""

    content: ReportContent
    header: HeaderData
    pictures: Sequence[Picture] = ()
    picture_note: str = ""
    signature: SignatureText | None = None
    replaces: int | None = None
    created_at: datetime | None = None


@dataclass(frozen=True)
class RenderedPdf:
    """The PDF and where its signature block lies: zero-based page and (left, bottom, right, top) in points."""

    pdf: bytes = field(repr=False)
    pages: int = 0
    signature_page: int | None = None
    signature_rectangle: tuple[int, int, int, int] | None = None
