"""Measurements of a report as FHIR Observations. What was not assessed is said so (dataAbsentReason), never guessed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from fhir_api.r4.resources import codes
from fhir_api.r4.resources.naming_systems import own
from fhir_api.report_out import observations_common
from fhir_api.report_out.disclosed_report import DisclosedReport
from fhir_api.report_out.observations_common import reason_not_assessed, volume_ml

__all__ = ["ReportReferences", "observation_id", "observations"]


Resource = dict[str, Any]


class ReportReferences:
    """References that every Observation of a report carries."""

    def __init__(self, *, patient: str, study: str, device: str, performer: list[str]) -> None:
        self.patient = {"reference": patient}
        self.study = {"reference": study}
        self.device = {"reference": device} if device else None
        self.performer = [{"reference": one} for one in performer]


def observation_id(facts: DisclosedReport, key: str) -> str:
    """The same for every version of a report, so that a later version updates the Observation it corrects."""
    return str(uuid.uuid5(uuid.UUID(facts.report_id), f"observation:{key}"))


def _absent(reason: str) -> Resource:
    return {
        "dataAbsentReason": codes.concept(
            codes.coding(codes.DATA_ABSENT_REASON, "not-performed", "Not Performed"), text=reason or "not assessed"
        )
    }


def observations(facts: DisclosedReport, links: ReportReferences) -> list[Resource]:
    """Volumes, diameters, change and response, in a fixed order."""
    findings: Mapping[str, Any] = facts.content.get("findings") or {}
    comparison: Mapping[str, Any] = facts.content.get("comparison") or {}
    regions: Mapping[str, Any] = findings.get("regions") or {}
    made: list[Resource] = []
    for region in observations_common.REGION_DISPLAY:
        values = regions.get(region) or {}
        made.append(_volume(facts, links, region, values))
        if region == "ET" or values.get("longest_axial_diameter_mm") is not None:
            made.append(_diameters(facts, links, region, values))
    if comparison.get("prior_study_id"):
        for region in observations_common.REGION_DISPLAY:
            made.append(_change(facts, links, region, (comparison.get("regions") or {}).get(region) or {}))
    for lesion in findings.get("lesions") or ():
        made.append(_lesion(facts, links, lesion, regions))
    made.append(_response(facts, links, comparison.get("response") or {}))
    agreement = ((facts.content.get("panel") or {}).get("agreement")) or {}
    if agreement.get("a") is not None:
        made.append(_agreement(facts, links, agreement))
    return made


def _base(facts: DisclosedReport, links: ReportReferences, key: str, code: Resource) -> Resource:
    resource: Resource = {
        "resourceType": "Observation",
        "id": observation_id(facts, key),
        "identifier": [{"system": own("observation"), "value": f"{facts.report_id}/{key}"}],
        "status": facts.status,
        "category": [codes.concept(codes.coding(codes.OBSERVATION_CATEGORY, "imaging", "Imaging"))],
        "code": code,
        "subject": links.patient,
        "effectiveDateTime": facts.performed_at.isoformat(),
        "issued": facts.issued_at.isoformat(timespec="milliseconds"),
        "performer": links.performer,
        "derivedFrom": [links.study],
    }
    if links.device:
        resource["device"] = links.device
    return resource


def _local(code: str, display: str) -> dict[str, str]:
    return codes.coding(own("code"), code, display)


def _volume(facts: DisclosedReport, links: ReportReferences, region: str, values: Mapping[str, Any]) -> Resource:
    name = f"{observations_common.REGION_DISPLAY[region]} volume"
    code = codes.concept(
        _local(f"{region}-volume", name), codes.coding(codes.SNOMED, "118565006", "Volume (property)"), text=name
    )
    resource = _base(facts, links, f"{region}-volume", code)
    volume = volume_ml(values.get("volume_mm3"))
    if volume is None:
        return resource | _absent(str(values.get("reason") or ""))
    resource["valueQuantity"] = codes.quantity(volume, "mL")
    if values.get("basis"):
        resource["note"] = [{"text": str(values["basis"])}]
    spread = values.get("uncertainty_mm3") or {}
    if spread.get("low") is not None and spread.get("high") is not None:
        resource["component"] = [
            {
                "code": codes.concept(_local(f"volume-{end}", text), text=f"{text} ({spread.get('method', '')})"),
                "valueQuantity": codes.quantity(volume_ml(spread[end]) or 0.0, "mL"),
            }
            for end, text in (("low", "Lowest volume"), ("high", "Highest volume"))
        ]
    return resource


def _diameters(facts: DisclosedReport, links: ReportReferences, region: str, values: Mapping[str, Any]) -> Resource:
    name = f"{observations_common.REGION_DISPLAY[region]} axial diameters"
    code = codes.concept(
        codes.coding(codes.LOINC, "21889-1", "Size Tumor"), _local(f"{region}-diameters", name), text=name
    )
    resource = _base(facts, links, f"{region}-diameters", code)
    if values.get("longest_axial_diameter_mm") is None:
        return resource | _absent(str(values.get("reason") or ""))
    resource["component"] = [
        {
            "code": codes.concept(codes.coding(codes.LOINC, loinc, display), text=text),
            "valueQuantity": codes.quantity(round(float(values[key]), 1), "mm"),
        }
        for key, loinc, display, text in (
            ("longest_axial_diameter_mm", "33728-7", "Size.maximum dimension in Tumor", "Longest axial diameter"),
            ("perpendicular_diameter_mm", "33729-5", "Size additional dimension in Tumor", "Perpendicular diameter"),
        )
        if values.get(key) is not None
    ]
    return resource


def _change(facts: DisclosedReport, links: ReportReferences, region: str, values: Mapping[str, Any]) -> Resource:
    name = f"{observations_common.REGION_DISPLAY[region]} change of volume since the prior study"
    resource = _base(facts, links, f"{region}-change", codes.concept(_local(f"{region}-change", name), text=name))
    if values.get("change_percent") is None:
        resource |= _absent(str(values.get("reason") or ""))
    else:
        resource["valueQuantity"] = codes.quantity(round(float(values["change_percent"]), 1), "%")
    resource["derivedFrom"] = [
        links.study,
        {"reference": f"urn:uuid:{observation_id(facts, f'{region}-volume')}"},
    ]
    prior = volume_ml(values.get("prior_mm3"))
    if prior is not None:
        text = "Volume in the prior study"
        resource["component"] = [
            {
                "code": codes.concept(_local("prior-volume", text), text=text),
                "valueQuantity": codes.quantity(prior, "mL"),
            }
        ]
    return resource


def _lesion(
    facts: DisclosedReport, links: ReportReferences, lesion: Mapping[str, Any], regions: Mapping[str, Any]
) -> Resource:
    label = str(lesion.get("id", ""))
    name = f"Lesion {label}"
    resource = _base(facts, links, f"lesion-{label}", codes.concept(_local("lesion", "Followed lesion"), text=name))
    status = str(lesion.get("status", ""))
    components: list[Resource] = [
        {
            "code": codes.concept(_local("lesion-status", "Status of the lesion"), text="Status of the lesion"),
            "valueCodeableConcept": codes.concept(_local(f"lesion-{status}", status), text=status),
        }
    ]
    for region in observations_common.REGION_DISPLAY:
        volume = volume_ml((lesion.get("regions") or {}).get(region))
        text = f"{observations_common.REGION_DISPLAY[region]} volume of the lesion"
        code = codes.concept(_local(f"{region}-volume", text), text=text)
        if volume is not None:
            components.append({"code": code, "valueQuantity": codes.quantity(volume, "mL")})
        elif reason := reason_not_assessed(regions.get(region) or {}):
            components.append({"code": code, **_absent(reason)})
    resource["component"] = components
    return resource


def _response(facts: DisclosedReport, links: ReportReferences, response: Mapping[str, Any]) -> Resource:
    code = codes.concept(
        codes.coding(codes.LOINC, "97509-4", "Cancer disease progression"),
        text="Response on images alone (RANO 2.0, volumetric)",
    )
    resource = _base(facts, links, "response", code)
    category = str(response.get("category") or "")
    if category not in observations_common.RESPONSE_ANSWERS:
        return resource | _absent(str(response.get("reason") or "not assessed"))
    snomed, display = observations_common.RESPONSE_ANSWERS[category]
    resource["valueCodeableConcept"] = codes.concept(
        codes.coding(codes.SNOMED, snomed, display),
        _local(f"RANO-{category}", observations_common.RESPONSE_DISPLAY[category]),
        text=f"{observations_common.RESPONSE_DISPLAY[category]} (imaging only, {response.get('criteria', 'RANO 2.0')})",
    )
    resource["method"] = codes.concept(text=str(response.get("criteria") or "RANO 2.0 imaging-only, volumetric"))
    return resource


def _agreement(facts: DisclosedReport, links: ReportReferences, agreement: Mapping[str, Any]) -> Resource:
    name = "Agreement of the panel (mean Dice against the consensus, worst region)"
    resource = _base(facts, links, "agreement", codes.concept(_local("panel-agreement", name), text=name))
    resource["valueQuantity"] = codes.quantity(round(float(agreement["a"]), 3), "1", "1")
    return resource
