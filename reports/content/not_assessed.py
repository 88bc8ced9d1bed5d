"""What a report did not assess, and why."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from imaging.schemas.assessed import NotAssessed
from reports.content.schema import ReportFacts


def not_assessed(facts: ReportFacts, named: Mapping[str, str] = MappingProxyType({})) -> tuple[NotAssessed, ...]:
    """What was not computed and why, in reading order.

    :param named: what the response rules lack -> the document that names it, as a sentence names it.
    """
    items: list[NotAssessed | None] = []
    for region, values in facts.findings.regions.items():
        if values.volume_mm3 is None:
            items.append(values.not_assessed(f"{region} volume"))
        elif values.longest_axial_diameter_mm is None and region == "ET" and values.volume_mm3 > 0:
            items.append(NotAssessed(what=f"{region} diameters", reason=values.reason or "not computed"))
    if (shift := facts.findings.anatomy.midline_shift) is not None:
        items.append(shift.not_assessed())
    lobes = {one.location.lobe_reason for one in facts.findings.lesions if one.location and one.location.lobe_reason}
    items += [NotAssessed(what="lobe", reason=reason) for reason in sorted(lobes)]
    comparison = facts.comparison
    if comparison is not None and comparison.prior_study_id:
        items += [change.not_assessed(f"{region} change") for region, change in comparison.regions.items()]
    if comparison is None:
        items.append(NotAssessed(what="response category", reason="no category was computed"))
    else:
        items.append(comparison.response.not_assessed())
        items += [
            NotAssessed(
                what=missing.replace("_", " "),
                reason=f"named in {named[missing]}, not confirmed"
                if missing in named
                else "not available to the response rules",
            )
            for missing in comparison.response.missing
        ]
    return tuple(item for item in items if item is not None)
