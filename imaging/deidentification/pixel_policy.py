"""Which pixels may reach a model or a viewer: SOP class x ImageType x BurnedInAnnotation -> pass, OCR or quarantine.

``data/pixels.json`` is the table. Scanners' own MR and CT images carry no text as a rule; secondary captures, screen shots
and derived pictures may, and are read frame by frame when the study is de-identified; what is no image stays apart at the
door.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from imaging.dicom.sop_classes import IMAGE_CLASSES_BY_KIND

__all__ = ["PixelAction", "PixelDecision", "decide", "quarantine_reason"]


_DATA = json.loads((Path(__file__).with_name("data") / "pixels.json").read_text(encoding="utf-8"))


class PixelAction(StrEnum):
    """What the table says."""

    PASS = "pass"  # noqa: S105  (a verdict)
    OCR = "ocr"
    QUARANTINE = "quarantine"


@dataclass(frozen=True)
class PixelDecision:
    """What happens to an instance for its pixels, and why (a sentence without identity)."""

    verdict: PixelAction
    reason: str


@dataclass(frozen=True)
class _PolicyRow:
    classes: frozenset[str]
    image_type: tuple[str, ...]
    burned_in: str
    decision: PixelDecision

    def fits(self, sop_class_uid: str, values: Sequence[str], burned_in: str) -> bool:
        """Whether this row is about such an instance."""
        ours = sop_class_uid in self.classes or any(
            one == "*" or (one.endswith(".") and f"{sop_class_uid}.".startswith(one)) for one in self.classes
        )
        if not ours or self.burned_in not in ("", burned_in or "-"):
            return False
        joined = "\\".join(values)
        return not self.image_type or any(
            word in values or ("\\" in word and f"{joined}\\".startswith(f"{word}\\")) for word in self.image_type
        )


def _rows() -> tuple[_PolicyRow, ...]:
    rows = []
    for row in _DATA["rows"]:
        classes = frozenset(uid for name in row["class"].split() for uid in IMAGE_CLASSES_BY_KIND.get(name, (name,)))
        decision = PixelDecision(PixelAction(row["decision"]), row["name"])
        rows.append(_PolicyRow(classes, tuple(row.get("image_type", ())), row.get("burned_in", ""), decision))
    return tuple(rows)


_ROWS = _rows()


def decide(sop_class_uid: str, image_type: Sequence[str], burned_in_annotation: str) -> PixelDecision:
    """What the table says of an instance.

    :param image_type: values of (0008,0008). :param burned_in_annotation: value of (0028,0301), perhaps empty.
    """
    values = [value.strip().upper() for value in image_type]
    burned_in = burned_in_annotation.strip().upper()
    return next(row.decision for row in _ROWS if row.fits(sop_class_uid, values, burned_in))


def quarantine_reason(sop_class_uid: str, image_type: Sequence[str], burned_in_annotation: str) -> str:
    """Why an instance is kept apart at the door already: no image that we read, or its sender says that text is in it. Empty
    for the others; what the table wants read is judged when it is de-identified."""
    decision = decide(sop_class_uid, image_type, burned_in_annotation)
    return decision.reason if decision.verdict == PixelAction.QUARANTINE else ""
