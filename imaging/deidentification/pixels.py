"""Which SOP classes may reach a model or a viewer. PS3.4 Annex B.5; decision by SOP class, ImageType, BurnedInAnnotation.

MR, CT and segmentations carry no text in their pixels as a rule; secondary captures, screen shots, documents, ultrasound,
reports and presentation states do or may. Those are kept, encrypted, in quarantine until somebody can read their pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["IMAGE_CLASSES", "quarantine_reason"]

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
IMAGE_CLASSES = frozenset(
    {
        MR_IMAGE,
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR Image Storage
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR Image Storage
        "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
    }
)
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_NAMED = {
    "1.2.840.10008.5.1.4.1.1.7": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.104": "encapsulated document",
    "1.2.840.10008.5.1.4.1.1.88": "structured report",
    "1.2.840.10008.5.1.4.1.1.6": "ultrasound image",
    "1.2.840.10008.5.1.4.1.1.3": "ultrasound image",
    "1.2.840.10008.5.1.4.1.1.11": "presentation state",
    "1.2.840.10008.5.1.4.1.1.481": "radiotherapy object",
    "1.2.840.10008.5.1.4.1.1.66": "raw or derived data",
    "1.2.840.10008.5.1.4.1.1.4.2": "spectroscopy",
}
_SCREEN = {"SCREENSAVE", "SCREEN SAVE", "SCREEN", "SCREENSHOT"}


def quarantine_reason(sop_class_uid: str, image_type: Sequence[str], burned_in_annotation: str) -> str:
    """Why an instance is kept apart; empty when it passes.

    :param image_type: values of (0008,0008). :param burned_in_annotation: value of (0028,0301), perhaps empty.
    """
    if sop_class_uid == SEGMENTATION:
        return ""
    if sop_class_uid not in IMAGE_CLASSES:
        # the longest prefix wins: 1.2.840.10008.5.1.4.1.1.4.2 before …1.4
        for root in sorted(_NAMED, key=len, reverse=True):
            if sop_class_uid == root or sop_class_uid.startswith(root + "."):
                return f"{_NAMED[root]}: its pixels or text may name the patient"
        return "a kind of object this service does not read"
    values = [value.strip().upper() for value in image_type]
    if burned_in_annotation.strip().upper() == "YES":
        return "the image says that text is burned into its pixels"
    if _SCREEN & set(values):
        return "a screen shot: its pixels may name the patient"
    if values[:2] == ["DERIVED", "SECONDARY"] and burned_in_annotation.strip().upper() != "NO":
        return "a derived secondary image: text may be burned into its pixels"
    return ""
