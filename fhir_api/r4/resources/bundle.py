"""A report version as a FHIR R4 transaction.

Written so that sending it again changes nothing at the receiver, even one that stored it and could not answer: what we own
(DiagnosticReport, Observation, DocumentReference, Binary, Provenance, Device) is PUT under ids computed from the report, so
two deliveries can never make two of it, and a server that compares content makes no new version of the same. A later
version of a report is a later version of the same resources. What is the hospital's (Patient, ImagingStudy, Practitioner,
Organization) is created only if its identifier is not there yet, and never overwritten; the ServiceRequest stays its
placer's and is referred to by its identifier.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from clinical.identity import IdentityData
from fhir_api.r4.resources import codes, order_fields
from fhir_api.r4.resources.naming_systems import own, patient_system
from fhir_api.r4.resources.observations import ReportReferences, observations
from fhir_api.r4.resources.resource import Element, FhirJson, Resource, element, elements
from fhir_api.report_out.disclosed_report import DisclosedReport, disclose_report
from fhir_api.report_out.observations_common import is_loinc, procedure_loinc
from oncoflow_site.foundation.errors import required
from reports.content.provenance import acquisition_text
from reports.models import ReportVersion

__all__ = ["FhirOptions", "build_transaction", "patient_resource", "report_transaction"]


_NAMESPACE = uuid.UUID("6f0f6c1e-4f0b-5a55-9c39-6a1d4e0b7a11")
_NEVER_OURS = frozenset({"Patient", "Practitioner", "Organization"})
_GENDER = {"M": "male", "F": "female", "O": "other", "U": "unknown"}
_STATUS_WORDS = {
    "preliminary": "Preliminary, not read by a radiologist",
    "final": "Final",
    "amended": "Amended",
}


def report_transaction(version: ReportVersion) -> bytes:
    """The transaction of an issued version, UTF-8 JSON; the same bytes each time. Identity is revealed, on the record.

    Raises `PermanentError` for a version that was not issued.
    """
    return build_transaction(disclose_report(version))


@dataclass(frozen=True)
class FhirOptions:
    """How one endpoint wants it.

    :param document_only: a DocumentReference with the PDF inside it, instead of the DiagnosticReport and all that it refers to.
    :param never_create: no Patient, Practitioner or Organization is made: the patient is a conditional reference, which a server
        that does not know the patient refuses; the others are named by identifier.
    :param systems: identifier systems as this installation writes them -> as the endpoint knows them.
    """

    document_only: bool = False
    never_create: bool = False
    systems: Mapping[str, str] = field(default_factory=dict)


def build_transaction(facts: DisclosedReport, options: FhirOptions | None = None) -> bytes:
    """`report_transaction` without the database."""
    builder = _TransactionBuilder(facts, options or FhirOptions())
    bundle = builder.document_bundle() if builder.options.document_only else builder.bundle()
    return json.dumps(bundle, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


class _TransactionBuilder:
    """Collects the entries of one bundle."""

    def __init__(self, facts: DisclosedReport, options: FhirOptions) -> None:
        self.facts = facts
        self.options = options
        self.entries: list[Resource] = []
        self.instead: dict[str, Resource] = {}  # fullUrl of what is not made -> what refers to it

    def _id(self, key: str) -> str:
        return str(uuid.uuid5(uuid.UUID(self.facts.report_id), key))

    def _put(self, resource: Resource, logical_id: str) -> str:
        resource["id"] = logical_id
        request = {"method": "PUT", "url": f"{resource['resourceType']}/{logical_id}"}
        return self._add(resource, logical_id, request)

    def _create(self, resource: Resource, key: str) -> str:
        """Conditional create by the first identifier."""
        kind, identifier = str(resource["resourceType"]), elements(resource["identifier"])[0]
        # Comma, bar, dollar and backslash separate values in a token parameter (R4 search, section 3.1.1.4.0.1).
        value = re.sub(r"([\\,|$])", r"\\\1", str(identifier["value"]))
        system = str(identifier["system"])
        token = quote(f"{self.options.systems.get(system, system)}|{value}", safe=":/|.")
        if self.options.never_create and kind in _NEVER_OURS:
            url = f"urn:uuid:{self._id(key)}"
            if kind == "Patient":
                self.instead[url] = {"reference": f"Patient?identifier={token}"}
            else:
                self.instead[url] = {"type": kind, "identifier": identifier}
            return url
        request = {"method": "POST", "url": kind, "ifNoneExist": f"identifier={token}"}
        return self._add(resource, self._id(key), request)

    def _add(self, resource: Resource, unique: str, request: Mapping[str, str]) -> str:
        if self.facts.demo:
            security = [codes.coding(codes.ACT_REASON, "HTEST", "test health data")]
            resource["meta"] = {**element(resource.get("meta")), "security": security}
        url = f"urn:uuid:{unique}"
        self.entries.append({"fullUrl": url, "resource": resource, "request": request})
        return url

    def bundle(self) -> Resource:
        """Everything, referred to before it is referred from."""
        facts = self.facts
        patient = self._create(patient_resource(facts.identity, facts.pseudonym, facts.authority), "patient")
        organization = self._create(_organization(facts), "organization")
        practitioner = self._create(_practitioner(facts), "practitioner") if facts.signer else ""
        device = self._device(organization)
        study = self._create(_imaging_study(facts, patient), "imaging-study")
        binary = self._put(_binary(facts, patient), facts.version_id)
        links = ReportReferences(
            patient=patient, study=study, device=device, performer=[one for one in (organization, practitioner) if one]
        )
        results = [self._put(one, str(one["id"])) for one in observations(facts, links)]
        report = self._put(self._report(links, results, practitioner, binary), facts.report_id)
        described = self._document(links.patient, organization, practitioner, binary)
        described["context"] = {"related": [links.study]}
        document = self._put(described, self._id("document"))
        self._put(
            self._provenance([report, document, *results], organization, practitioner, device, study),
            self._id(f"provenance:{facts.number}"),
        )
        return self._finished()

    def document_bundle(self) -> Resource:
        """The document alone, with the PDF inside it, and whom it is about and from."""
        facts = self.facts
        patient = self._create(patient_resource(facts.identity, facts.pseudonym, facts.authority), "patient")
        organization = self._create(_organization(facts), "organization")
        practitioner = self._create(_practitioner(facts), "practitioner") if facts.signer else ""
        subject: Element = {"reference": patient}
        document = self._document(subject, organization, practitioner, "")
        related = self._based_on()
        if related:
            document["context"] = {"related": related}
        self._put(document, self._id("document"))
        return self._finished()

    def _finished(self) -> Resource:
        return {"resourceType": "Bundle", "type": "transaction", "entry": [self._adapted(one) for one in self.entries]}

    def _adapted(self, value: FhirJson) -> FhirJson:
        """``value`` with the endpoint's identifier systems, and without references to what is not made."""
        if isinstance(value, Mapping):
            systems = self.options.systems
            wanted = self.instead.get(str(value.get("reference") or ""), value)
            return {
                key: systems.get(one, one) if key == "system" and isinstance(one, str) else self._adapted(one)
                for key, one in wanted.items()
            }
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [self._adapted(one) for one in value]
        return value

    def _device(self, organization: str) -> str:
        panel = self.facts.content.panel
        versions = sorted({f"{one.name} {one.version or ''}".strip() for one in (panel.experts if panel else ())})
        if not versions:
            return ""
        logical_id = str(uuid.uuid5(_NAMESPACE, json.dumps(["panel", self.facts.hospital, versions])))
        resource: Resource = {
            "resourceType": "Device",
            "identifier": [{"system": own("panel"), "value": logical_id}],
            "status": "active",
            "deviceName": [{"name": "OncoFlow segmentation panel", "type": "model-name"}],
            "type": codes.concept(text="Panel of machine-learning models that outline brain tumours"),
            "version": [{"value": version} for version in versions],
            "owner": {"reference": organization},
        }
        return self._put(resource, logical_id)

    def _attachment(self, binary: str) -> Resource:
        """R4 Attachment.hash is the SHA-1 of the data, in base64; the data are inside where there is no ``binary``."""
        pdf = self.facts.pdf
        where = {"url": binary} if binary else {"data": base64.b64encode(pdf).decode()}
        return {
            "contentType": "application/pdf",
            "language": self.facts.content.language,
            **where,
            "size": len(pdf),
            "hash": base64.b64encode(hashlib.sha1(pdf, usedforsecurity=False).digest()).decode(),
            "title": f"Report {self.facts.report_id} version {self.facts.number}",
            "creation": self.facts.issued_at.isoformat(),
        }

    def _based_on(self) -> list[Resource]:
        order = self.facts.order
        if order is None:
            return []
        for number, authority, kind in (
            (order.placer_number, order.placer_authority, "PLAC"),
            (order.accession, self.facts.authority, "ACSN"),
            (order.filler_number, order.filler_authority, "FILL"),
        ):
            if number:
                identifier: Element = {
                    "type": codes.concept(codes.coding(codes.V2_0203, kind)),
                    "system": patient_system(authority or self.facts.authority, kind),
                    "value": number,
                }
                return [{"type": "ServiceRequest", "identifier": identifier}]
        return []

    def _meta(self) -> Resource:
        if self.facts.status != "preliminary":
            return {}
        # v3-ObservationValue has this code in newer releases of HL7 terminology; the table that R4 fixes does not, and a
        # validating receiver would refuse it there.
        tag = codes.coding(own("code"), "AIAST", "Artificial Intelligence asserted")
        return {"meta": {"tag": [tag]}}

    def _report(self, links: ReportReferences, results: list[str], practitioner: str, binary: str) -> Resource:
        facts = self.facts
        done = procedure_loinc(facts.content.study)
        if is_loinc(facts.code[0]):
            codings = [codes.coding(codes.LOINC, facts.code[0])]
        else:
            codings = [codes.coding(codes.LOINC, *done)]
            if facts.code[0]:
                codings.append(codes.coding(own("procedure"), facts.code[0], facts.code[1]))
        resource: Resource = {
            "resourceType": "DiagnosticReport",
            **self._meta(),
            "text": _narrative(facts),
            "identifier": [
                {"system": own("report"), "value": facts.report_id},
                {"system": own("report-version"), "value": f"{facts.report_id}/{facts.number}"},
            ],
            "basedOn": self._based_on(),
            "status": facts.status,
            "category": [
                codes.concept(codes.coding(codes.V2_0074, "RAD", "Radiology")),
                codes.concept(codes.coding(codes.LOINC, "LP29684-5", "Radiology")),
            ],
            "code": codes.concept(*codings, text=facts.code[1] or done[1]),
            "subject": links.patient,
            "encounter": self._encounter(),
            "effectiveDateTime": facts.performed.isoformat(),
            "issued": facts.issued_at.isoformat(timespec="milliseconds"),
            "performer": links.performer[:1],
            "resultsInterpreter": [{"reference": practitioner}] if practitioner else [],
            "result": [{"reference": one} for one in results],
            "imagingStudy": [links.study],
            "conclusion": facts.content.impression,
            "presentedForm": [self._attachment(binary)],
        }
        return {key: value for key, value in resource.items() if value not in ([], "", None)}

    def _encounter(self) -> Resource | None:
        order = self.facts.order
        return order_fields.encounter(order.echo, self.facts.authority) if order else None

    def _document(self, patient: Mapping[str, FhirJson], organization: str, practitioner: str, binary: str) -> Resource:
        facts = self.facts
        resource: Resource = {
            "resourceType": "DocumentReference",
            "masterIdentifier": {"system": own("report-version"), "value": f"{facts.report_id}/{facts.number}"},
            "identifier": [{"system": own("report"), "value": facts.report_id}],
            "status": "current",
            "docStatus": facts.status,
            "type": codes.concept(codes.coding(codes.LOINC, "68604-8", "Radiology Diagnostic study note")),
            "category": [codes.concept(codes.coding(codes.LOINC, "LP29684-5", "Radiology"))],
            "subject": patient,
            "date": facts.issued_at.isoformat(timespec="milliseconds"),
            "author": [{"reference": practitioner or organization}],
            "custodian": {"reference": organization},
            "description": _STATUS_WORDS.get(facts.status, facts.status),
            "content": [{"attachment": self._attachment(binary)}],
        }
        if practitioner:
            resource["authenticator"] = {"reference": practitioner}
        return resource

    def _provenance(
        self, targets: list[str], organization: str, practitioner: str, device: str, study: str
    ) -> Resource:
        facts = self.facts

        def agent(role: str, display: str, who: str, behalf: str = "") -> Resource:
            made: Resource = {
                "type": codes.concept(codes.coding(codes.PARTICIPANT, role, display)),
                "who": {"reference": who},
            }
            return made | ({"onBehalfOf": {"reference": behalf}} if behalf else {})

        agents = []
        if practitioner:
            agents.append(agent("author", "Author", practitioner, organization))
        if device:
            agents.append(agent("assembler", "Assembler", device, organization))
        return {
            "resourceType": "Provenance",
            "target": [{"reference": one} for one in targets],
            "recorded": facts.issued_at.isoformat(timespec="milliseconds"),
            "agent": agents or [agent("custodian", "Custodian", organization)],
            "entity": [{"role": "source", "what": {"reference": study}}],
        }


def patient_resource(identity: IdentityData, pseudonym: str, authority: str) -> Resource:
    """A Patient; the medical record number of ``authority`` comes first. Without any number it has the pseudonym."""
    numbers = sorted(
        identity.identifiers,
        key=lambda one: (one.use == "old", one.kind != "MR", one.authority != authority, one.authority, one.value),
    )
    identifiers: list[Element] = [
        {
            "type": codes.concept(codes.coding(codes.V2_0203, one.kind)),
            "system": patient_system(one.authority, one.kind),
            "value": one.value,
            **({"use": "old"} if one.use == "old" else {}),
        }
        for one in numbers
    ]
    resource: Resource = {
        "resourceType": "Patient",
        "identifier": identifiers or [{"system": own("pseudonym"), "value": pseudonym}],
        "gender": _GENDER.get(identity.sex, "unknown"),
    }
    name: Resource = {"use": "official"}
    if identity.family:
        name["family"] = identity.family
    if identity.given.split():
        name["given"] = identity.given.split()
    if len(name) > 1:
        resource["name"] = [name]
    if identity.birth_date:
        resource["birthDate"] = identity.birth_date.isoformat()
    return resource


def _organization(facts: DisclosedReport) -> Resource:
    identifier = {"system": own("organization"), "value": facts.authority}
    return {"resourceType": "Organization", "identifier": [identifier], "active": True, "name": facts.hospital}


def _practitioner(facts: DisclosedReport) -> Resource:
    account, name = required(facts.signer, "the signer of the report")
    identifiers: list[Resource] = [{"system": own("staff"), "value": account}]
    if facts.signer_npi:
        kind = codes.concept(codes.coding(codes.V2_0203, "NPI"))
        identifiers.append({"type": kind, "system": order_fields.NPI, "value": facts.signer_npi})
    if facts.signer_employee_number:
        kind = codes.concept(codes.coding(codes.V2_0203, "EI"))
        system = patient_system(facts.authority, "EI")
        identifiers.append({"type": kind, "system": system, "value": facts.signer_employee_number})
    return {"resourceType": "Practitioner", "identifier": identifiers, "active": True, "name": [{"text": name}]}


def _imaging_study(facts: DisclosedReport, patient: str) -> Resource:
    order = facts.order
    identifiers: list[Resource] = [{"system": codes.DICOM_UID, "value": f"urn:oid:{facts.study_instance_uid}"}]
    if order is not None and order.accession:
        identifiers.append(
            {
                "type": codes.concept(codes.coding(codes.V2_0203, "ACSN")),
                "system": patient_system(facts.authority, "ACSN"),
                "value": order.accession,
            }
        )
    return {
        "resourceType": "ImagingStudy",
        "identifier": identifiers,
        "status": "available",
        "modality": [codes.coding(codes.DCM, facts.content.study.modality)],
        "subject": {"reference": patient},
        "started": facts.performed.isoformat(),
        **({"note": [{"text": acquired}]} if (acquired := acquisition_text(facts.content.study)) else {}),
    }


def _binary(facts: DisclosedReport, patient: str) -> Resource:
    return {
        "resourceType": "Binary",
        "contentType": "application/pdf",
        "securityContext": {"reference": patient},
        "data": base64.b64encode(facts.pdf).decode(),
    }


def _narrative(facts: DisclosedReport) -> Resource:
    """The human-readable part: status, impression and the cited sentences; no identity."""
    parts = [_STATUS_WORDS.get(facts.status, facts.status)]
    if facts.demo:
        parts.append("DEMO: simulated patient, models trained on simulated patients.")
    parts.append(facts.content.impression)
    parts += [one.text for one in facts.content.narrative]
    parts.append(facts.content.disclaimer)
    paragraphs = "".join(f"<p>{html.escape(one)}</p>" for one in parts if one)
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{paragraphs}</div>'}
