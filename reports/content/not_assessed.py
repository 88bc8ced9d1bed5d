"""What a report did not assess, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def not_assessed(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """What was not computed and why: [{"what", "reason"}]."""
    items = []
    for region, values in facts["findings"]["regions"].items():
        if values.get("volume_mm3") is None:
            items.append({"what": f"{region} volume", "reason": values.get("reason") or "not computed"})
        elif values.get("longest_axial_diameter_mm") is None and region == "ET" and values["volume_mm3"] > 0:
            items.append({"what": f"{region} diameters", "reason": values.get("reason") or "not computed"})
    shift = (facts["findings"].get("anatomy") or {}).get("midline_shift") or {}
    if shift and not shift.get("assessed"):
        items.append({"what": "midline shift", "reason": shift.get("reason") or "not computed"})
    places = [one.get("location") or {} for one in facts["findings"].get("lesions") or ()]
    lobes = {str(place["lobe_reason"]) for place in places if place.get("lobe_reason")}
    items += [{"what": "lobe", "reason": reason} for reason in sorted(lobes)]
    comparison = facts.get("comparison") or {}
    for region, values in (comparison.get("regions") or {}).items():
        if comparison.get("prior_study_id") and values.get("change_percent") is None:
            items.append({"what": f"{region} change", "reason": values.get("reason") or "not computed"})
    response = comparison.get("response") or {}
    if response.get("category") in (None, "not assessed"):
        items.append({"what": "response category", "reason": response.get("reason") or "no category was computed"})
    items += [
        {"what": str(missing).replace("_", " "), "reason": "not available to the response rules"}
        for missing in response.get("missing") or ()
    ]
    return items
