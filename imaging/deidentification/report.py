"""The report of a study: what de-identification did to which attribute, how often. No value is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from pydicom.datadict import keyword_for_tag

from imaging.deidentification.engine import CODES, Deidentified
from imaging.deidentification.profile import ACTIONS, RULES
from imaging.models import DeidentificationReport, FaceRemoval, Study
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.schema import JsonDict

__all__ = ["add_to_report", "faces_of", "readable"]


def add_to_report(study: Study, results: Iterable[Deidentified], pixels: Counter[str]) -> None:
    """Add what was done to some more instances of ``study``, in the caller's transaction.

    A report belongs to one profile and one edition of the table: what a later version does is counted in a new one.

    :param pixels: pass, ocr, released, quarantine -> how many instances.
    """
    report, _ = DeidentificationReport.objects.select_for_update().get_or_create(
        study=study, profile=RULES.method, edition=RULES.edition
    )
    counts: Counter[tuple[int, str, str]] = Counter(
        {(int(tag, 16), vr, action): number for tag, vr, action, number in report.attributes}
    )
    codes = set(report.codes)
    for result in results:
        counts.update(result.report)
        codes.update(result.codes)
        report.instances += 1
    report.attributes = [[f"{tag:08X}", vr, action, number] for (tag, vr, action), number in sorted(counts.items())]
    report.codes = sorted(codes)
    report.pixels = dict(sorted((Counter(report.pixels) + pixels).items()))
    report.updated_at = now()
    report.save()


class AttributeLine(TypedDict):
    """One kind of element and what was done to it."""

    tag: str
    keyword: str
    vr: str
    action: str
    count: int


class ReadableReport(TypedDict):
    """A report of de-identification for people and for REST."""

    profile: str
    table: str
    codes: Sequence[str]
    meanings: list[list[str]]
    instances: int
    pixels: Mapping[str, int]
    updated_at: str
    attributes: list[AttributeLine]


def readable(report: DeidentificationReport) -> ReadableReport:
    """The report with keywords and actions in words."""
    return {
        "profile": report.profile,
        "table": report.edition,
        "codes": report.codes,
        "meanings": [[code, CODES.get(code, "")] for code in report.codes],
        "instances": report.instances,
        "pixels": report.pixels,
        "updated_at": report.updated_at.isoformat(),
        "attributes": [
            {
                "tag": f"({tag[:4]},{tag[4:]})" if action != "P" else f"({tag[:4]},xxxx)",
                "keyword": keyword_for_tag(int(tag, 16)) or "",
                "vr": vr,
                "action": ACTIONS[action],
                "count": number,
            }
            for tag, vr, action, number in report.attributes
        ],
    }


def faces_of(study: Study) -> list[JsonDict]:
    """What became of the face in each series, where ``ONCOFLOW_DEFACE`` was on; in the order of the series."""
    rows = FaceRemoval.objects.filter(series__study=study).select_related("series").order_by("series__number", "id")
    return [
        {
            "series": str(row.series_id),
            "number": row.series.number,
            "sequence": row.series.sequence,
            "removed": row.removed,
            "reason": row.reason,
            "instances": row.instances,
            "voxels": row.voxels,
            "plane": row.plane,
            "at": row.created_at.isoformat(),
        }
        for row in rows
    ]
