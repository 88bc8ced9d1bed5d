"""Measurements of a report as FHIR Observations. What was not assessed is said so (dataAbsentReason), never guessed."""

from __future__ import annotations

import uuid

from fhir_api.r4.resources import codes
from fhir_api.r4.resources.naming_systems import own
from fhir_api.r4.resources.resource import Resource
from fhir_api.report_out import observations_common
from fhir_api.report_out.disclosed_report import DisclosedReport
from fhir_api.report_out.observations_common import reason_not_assessed
from imaging.brats.regions import Region
from imaging.schemas.comparison import RegionChange, Response
from imaging.schemas.measurement import LesionMeasurement, RegionMeasurement
from oncoflow_site.foundation.figures import ml_value, mm_value, percent_value, sentence, share_value
from reports.content.provenance import maker_of, maker_words, outside_range

__all__ = ["ReportReferences", "observation_id", "observations"]


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
    findings, comparison, panel = facts.content.findings, facts.content.comparison, facts.content.panel
    made: list[Resource] = []
    for region in observations_common.REGION_DISPLAY:
        measured = findings.regions.get(region)
        made.append(_volume(facts, links, region, measured))
        if region == "ET" or (measured is not None and measured.longest_axial_diameter_mm is not None):
            made.append(_diameters(facts, links, region, measured))
    for part, name in observations_common.PART_DISPLAY.items():
        if part in findings.parts:
            made.append(_part(facts, links, part, name, findings.parts[part]))
    if comparison is not None and comparison.prior_study_id:
        for region in observations_common.REGION_DISPLAY:
            made.append(_change(facts, links, region, comparison.regions.get(region)))
    for lesion in findings.lesions:
        made.append(_lesion(facts, links, lesion))
    made.append(_response(facts, links, comparison.response if comparison else None))
    if panel is not None and panel.agreement.a is not None:
        made.append(_agreement(facts, links, panel.agreement.a))
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
        "effectiveDateTime": facts.performed.isoformat(),
        "issued": facts.issued_at.isoformat(timespec="milliseconds"),
        "performer": links.performer,
        "derivedFrom": [links.study],
    }
    if links.device:
        resource["device"] = links.device
    return resource


def _local(code: str, display: str) -> dict[str, str]:
    return codes.coding(own("code"), code, display)


def _volume(
    facts: DisclosedReport, links: ReportReferences, region: Region, measured: RegionMeasurement | None
) -> Resource:
    name = f"{observations_common.REGION_DISPLAY[region]} volume"
    code = codes.concept(
        _local(f"{region}-volume", name), codes.coding(codes.SNOMED, "118565006", "Volume (property)"), text=name
    )
    resource = _base(facts, links, f"{region}-volume", code)
    volume = ml_value(measured.volume_mm3) if measured else None
    if measured is None or volume is None:
        return resource | _absent(measured.reason if measured else "")
    resource["valueQuantity"] = codes.quantity(volume, "mL")
    maker = maker_of(facts.content.findings, region)
    notes = [
        f"Outline: {maker_words(facts.content.findings, region)[0].lower()}{maker_words(facts.content.findings, region)[1:]}."
    ]
    notes += [one for one in (measured.basis, sentence(outside_range(measured, maker))) if one]
    resource["note"] = [{"text": one} for one in notes]
    if (spread := measured.uncertainty_mm3) is not None:
        resource["component"] = [
            {
                "code": codes.concept(_local(f"volume-{end}", text), text=f"{text} ({spread.method})"),
                "valueQuantity": codes.quantity(ml_value(mm3) or 0.0, "mL"),
            }
            for end, text, mm3 in (("low", "Lowest volume", spread.low), ("high", "Highest volume", spread.high))
        ]
    return resource


def _part(facts: DisclosedReport, links: ReportReferences, part: str, display: str, mm3: float | None) -> Resource:
    name = f"{display} volume"
    code = codes.concept(
        _local(f"{part}-volume", name), codes.coding(codes.SNOMED, "118565006", "Volume (property)"), text=name
    )
    resource = _base(facts, links, f"{part}-volume", code)
    volume = ml_value(mm3)
    if volume is None:
        return resource | _absent("one of the regions that it lies between was not assessed")
    return resource | {"valueQuantity": codes.quantity(volume, "mL")}


def _diameters(
    facts: DisclosedReport, links: ReportReferences, region: Region, measured: RegionMeasurement | None
) -> Resource:
    name = f"{observations_common.REGION_DISPLAY[region]} axial diameters"
    code = codes.concept(
        codes.coding(codes.LOINC, "21889-1", "Size Tumor"), _local(f"{region}-diameters", name), text=name
    )
    resource = _base(facts, links, f"{region}-diameters", code)
    if measured is None or measured.longest_axial_diameter_mm is None:
        return resource | _absent(measured.reason if measured else "")
    resource["component"] = [
        {
            "code": codes.concept(codes.coding(codes.LOINC, loinc, display), text=text),
            "valueQuantity": codes.quantity(length, "mm"),
        }
        for mm, loinc, display, text in (
            (
                measured.longest_axial_diameter_mm,
                "33728-7",
                "Size.maximum dimension in Tumor",
                "Longest axial diameter",
            ),
            (
                measured.perpendicular_diameter_mm,
                "33729-5",
                "Size additional dimension in Tumor",
                "Perpendicular diameter",
            ),
        )
        if (length := mm_value(mm)) is not None
    ]
    return resource


def _change(facts: DisclosedReport, links: ReportReferences, region: Region, change: RegionChange | None) -> Resource:
    name = f"{observations_common.REGION_DISPLAY[region]} change of volume since the prior study"
    resource = _base(facts, links, f"{region}-change", codes.concept(_local(f"{region}-change", name), text=name))
    per_cent = percent_value(change.change_percent) if change else None
    if per_cent is None:
        resource |= _absent(change.reason if change else "")
    else:
        resource["valueQuantity"] = codes.quantity(per_cent, "%")
    resource["derivedFrom"] = [
        links.study,
        {"reference": f"urn:uuid:{observation_id(facts, f'{region}-volume')}"},
    ]
    prior = ml_value(change.prior_mm3) if change else None
    if prior is not None:
        text = "Volume in the prior study"
        resource["component"] = [
            {
                "code": codes.concept(_local("prior-volume", text), text=text),
                "valueQuantity": codes.quantity(prior, "mL"),
            }
        ]
    return resource


def _lesion(facts: DisclosedReport, links: ReportReferences, lesion: LesionMeasurement) -> Resource:
    name = f"Lesion {lesion.id}"
    resource = _base(facts, links, f"lesion-{lesion.id}", codes.concept(_local("lesion", "Followed lesion"), text=name))
    status = lesion.status
    components: list[Resource] = [
        {
            "code": codes.concept(_local("lesion-status", "Status of the lesion"), text="Status of the lesion"),
            "valueCodeableConcept": codes.concept(_local(f"lesion-{status}", status), text=status),
        }
    ]
    for region in observations_common.REGION_DISPLAY:
        volume = ml_value(lesion.regions.get(region))
        text = f"{observations_common.REGION_DISPLAY[region]} volume of the lesion"
        code = codes.concept(_local(f"{region}-volume", text), text=text)
        if volume is not None:
            components.append({"code": code, "valueQuantity": codes.quantity(volume, "mL")})
        elif reason := reason_not_assessed(facts.content.findings.regions.get(region)):
            components.append({"code": code, **_absent(reason)})
    resource["component"] = components
    return resource


def _response(facts: DisclosedReport, links: ReportReferences, response: Response | None) -> Resource:
    code = codes.concept(
        codes.coding(codes.LOINC, "97509-4", "Cancer disease progression"),
        text="Response on images alone (RANO 2.0, volumetric)",
    )
    resource = _base(facts, links, "response", code)
    if response is None or not response.assessed:
        return resource | _absent(response.reason if response else "")
    category = response.category
    snomed, display = observations_common.RESPONSE_ANSWERS[category]
    resource["valueCodeableConcept"] = codes.concept(
        codes.coding(codes.SNOMED, snomed, display),
        _local(f"RANO-{category}", observations_common.RESPONSE_DISPLAY[category]),
        text=f"{observations_common.RESPONSE_DISPLAY[category]} (imaging only, {response.criteria})",
    )
    resource["method"] = codes.concept(text=response.criteria)
    return resource


def _agreement(facts: DisclosedReport, links: ReportReferences, agreement: float) -> Resource:
    name = "Agreement of the panel (mean Dice against the consensus, worst region)"
    resource = _base(facts, links, "agreement", codes.concept(_local("panel-agreement", name), text=name))
    resource["valueQuantity"] = codes.quantity(share_value(agreement), "1", "1")
    return resource
