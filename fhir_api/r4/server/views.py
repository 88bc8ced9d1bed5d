"""The FHIR R4 door: ``/fhir/``. Bearer tokens only; every answer is a FHIR resource, every access is on the record."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import Http404, HttpResponse
from django.utils.http import http_date
from rest_framework.exceptions import MethodNotAllowed, NotAcceptable, NotAuthenticated, PermissionDenied
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from audit.services import Actor, acting_as, record, record_refusal
from clinical import services as clinical
from clinical.models import ClinicalDocument, Order, Patient
from fhir_api.access.auth import BearerAuthentication
from fhir_api.models import ReceivedResource
from fhir_api.r4.resources.resource import Resource, elements
from fhir_api.r4.server import inbound, reading
from fhir_api.r4.server.capability import capability_statement
from fhir_api.r4.server.outcome import FhirError, answer, exception_handler
from fhir_api.r4.server.search import SEARCHABLE, search
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import UserVisibleError, required
from oncoflow_site.foundation.keys import keyed_hash
from oncoflow_site.foundation.models import StoredObject
from oncoflow_site.foundation.scopes import scope_allows
from reports.models import Report, ReportVersion
from reports.services import load_pdf

__all__ = ["CreateSearchView", "MetadataView", "ReadView", "SearchView", "UnknownView"]

_READABLE = ("Binary", "DiagnosticReport", "DocumentReference", "ImagingStudy", "Patient", "ServiceRequest")
_CREATABLE = {"DocumentReference": "upload_document", "ServiceRequest": "create_order"}
_JSON = ("application/fhir+json", "application/json", "text/json")


class _Negotiation(BaseContentNegotiation):
    """JSON, or 406."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0] if parsers else None

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        wanted = request.query_params.get("_format", "")
        accept = wanted.replace(" ", "+") or request.headers.get("Accept", "*/*")
        for part in accept.split(","):
            kind = part.split(";")[0].strip().lower()
            if kind in (*_JSON, "json", "*/*", "application/*", ""):
                return renderers[0], renderers[0].media_type
            if kind == "application/pdf" and "/Binary/" in request.path:
                return renderers[0], renderers[0].media_type
        raise NotAcceptable


class FhirView(APIView):
    """What all have in common."""

    authentication_classes = (BearerAuthentication,)
    permission_classes = ()
    renderer_classes = (JSONRenderer,)
    content_negotiation_class = _Negotiation
    schema = None

    def get_exception_handler(self) -> Any:
        """OperationOutcome."""
        return exception_handler

    def allow(self, request: Request, kind: str, interaction: str) -> None:
        """Check that there is a token and that one of its scopes covers this. Raises 401 or 403, on the record."""
        if request.auth is None:
            self._refused("no-token", kind, Actor.peer("unknown"))
            raise NotAuthenticated
        if not scope_allows(request.auth.scopes, kind, interaction):  # type: ignore[union-attr]
            self._refused("scope", kind, Actor.user(request.user))
            raise PermissionDenied
        if interaction == "c" and not (
            clinical.can(request.user, "send_data") or clinical.can(request.user, _CREATABLE[kind])
        ):
            self._refused("role", kind, Actor.user(request.user))
            raise PermissionDenied

    @staticmethod
    def _refused(reason: str, kind: str, actor: Actor) -> None:
        record_refusal(
            "fhir.refuse",
            action="E",
            resource=f"fhir:{kind[:40]}",
            actor=actor,
            source="fhir",
            detail={"reason": reason},
        )

    def http_method_not_allowed(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        """405 as an OperationOutcome."""
        raise MethodNotAllowed(str(request.method))


def _content_type(request: Request) -> None:
    kind = (request.content_type or "").split(";")[0].strip().lower()
    if kind not in _JSON:
        raise FhirError(415, "Send application/fhir+json.")


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise Http404 from None


class MetadataView(FhirView):
    """``GET /fhir/metadata``, without a token."""

    authentication_classes = ()  # type: ignore[assignment]

    def get(self, request: Request) -> HttpResponse:
        """The CapabilityStatement."""
        return answer(capability_statement())


class ReadView(FhirView):
    """``GET /fhir/{type}/{id}`` and ``.../_history/{version}``."""

    def get(self, request: Request, kind: str, logical_id: str, version: str = "") -> HttpResponse:
        """One resource; 304 when If-None-Match names its version."""
        if kind not in _READABLE:
            raise FhirError(404, "This resource type is not read here.", code="not-supported")
        self.allow(request, kind, "r")
        wanted = _uuid(logical_id)
        patients = clinical.patients_for(request.user)
        with acting_as(Actor.user(request.user), source="fhir"):
            try:
                with transaction.atomic():
                    if kind == "Binary":
                        return self._binary(request, wanted, patients)
                    found = self._find(kind, wanted, patients)
                    if version and version != str(found.version):
                        raise Http404
                    record("fhir.read", action="R", resource=f"fhir:{kind}/{wanted}", patient_id=found.patient_id)
            except Http404:
                record_refusal(
                    "fhir.refuse", action="R", resource=f"fhir:{kind}/{wanted}", detail={"reason": "not-found"}
                )
                raise
        tag = f'W/"{found.version}"'
        if request.headers.get("If-None-Match") == tag:
            return HttpResponse(status=304, headers={"ETag": tag})
        return answer(found.resource, ETag=tag, Last_Modified=http_date(found.modified.timestamp()))

    def _find(self, kind: str, wanted: uuid.UUID, patients: QuerySet[Patient]) -> reading.ServedResource:
        found: reading.ServedResource | None = None
        if kind == "Patient":
            row = Patient.objects.filter(pk=wanted).first()
            survivor = patients.filter(pk=clinical.current_patient(row).pk).first() if row else None
            if row is not None and survivor is not None:
                found = reading.patient(survivor) if survivor == row else reading.merged_patient(row)
        elif kind == "DocumentReference":
            document = ClinicalDocument.objects.filter(pk=wanted, patient__in=patients).first()
            found = reading.document(document) if document else None
        elif kind == "ServiceRequest":
            order = Order.objects.filter(pk=wanted, patient__in=patients).first()
            found = reading.order(order) if order else None
        else:
            key = {"pk": wanted} if kind == "DiagnosticReport" else {"study_id": wanted}
            report = Report.objects.filter(patient__in=patients, **key).select_related("study", "patient").first()
            found = next(reading.report_resources(report, (kind,)), None) if report else None
        if found is None:
            raise Http404
        return found

    def _binary(self, request: Request, wanted: uuid.UUID, patients: QuerySet[Patient]) -> HttpResponse:
        row = ReportVersion.objects.filter(pk=wanted, issued_at__isnull=False, report__patient__in=patients).first()
        if row is None:
            raise Http404
        pdf = load_pdf(row)
        record("fhir.read", action="R", resource=f"fhir:Binary/{wanted}", patient_id=row.report.patient_id)
        if "application/pdf" in request.headers.get("Accept", ""):
            return HttpResponse(pdf, content_type="application/pdf", headers={"Cache-Control": "no-store"})
        return answer(reading.binary(row, pdf), ETag='W/"1"')


class SearchView(FhirView):
    """``POST /fhir/{type}/_search``: the parameters travel in the body, so that no log holds them."""

    def post(self, request: Request, kind: str) -> HttpResponse:
        """A searchset Bundle."""
        body = request.body[: 1 << 16].decode("utf-8", "replace")
        return run_search(self, request, kind, [*_query(request), *parse_qsl(body, keep_blank_values=True)])


def _query(request: Request) -> list[tuple[str, str]]:
    return [(name, value) for name, values in request.query_params.lists() for value in values]


def run_search(view: FhirView, request: Request, kind: str, parameters: list[tuple[str, str]]) -> HttpResponse:
    """Search what the account may see."""
    if kind not in SEARCHABLE:
        raise FhirError(404, "This resource type is not searched here.", code="not-supported")
    view.allow(request, kind, "s")
    strict = "handling=strict" in request.headers.get("Prefer", "")
    with acting_as(Actor.user(request.user), source="fhir"), transaction.atomic():
        result = search(kind, parameters, clinical.patients_for(request.user), strict=strict)
        names = sorted({name.split(":")[0][:30] for name, _ in result.used})
        patients = {one.patient_id for one in result.found}
        record(
            "fhir.search",
            action="E",
            resource=f"fhir:{kind}",
            patient_id=next(iter(patients)) if len(patients) == 1 else None,
            detail={"parameters": names, "found": len(result.found), "patients": len(patients)},
        )
    base = reading.base_url()

    def link(relation: str, used: list[tuple[str, str]]) -> dict[str, str]:
        query = urlencode(used, quote_via=quote)
        return {"relation": relation, "url": f"{base}/{kind}{f'?{query}' if query else ''}"}

    links = [link("self", result.used)]
    if result.next_page is not None:
        rest = [pair for pair in result.used if pair[0] != "_page"]
        links.append(link("next", [*rest, ("_page", str(result.next_page))]))
    bundle: Resource = {"resourceType": "Bundle", "type": "searchset", "link": links}
    if result.total is not None:
        bundle["total"] = result.total
    if result.found:
        bundle["entry"] = [
            {"fullUrl": f"{base}/{kind}/{one.resource['id']}", "resource": one.resource, "search": {"mode": "match"}}
            for one in result.found
        ]
    return answer(bundle)


class CreateSearchView(FhirView):
    """``GET /fhir/{type}?...`` and ``POST /fhir/{type}``."""

    def get(self, request: Request, kind: str) -> HttpResponse:
        """Search."""
        return run_search(self, request, kind, _query(request))

    def post(self, request: Request, kind: str) -> HttpResponse:
        """Create: 201, or 200 for what is here already (If-None-Exist, or the same document or order again)."""
        if kind not in _CREATABLE:
            raise FhirError(405 if kind in SEARCHABLE else 404, "This type is not created here.", code="not-supported")
        self.allow(request, kind, "c")
        _content_type(request)
        body = request.body
        with acting_as(Actor.user(request.user), source="fhir"):
            try:
                return self._create(request, kind, body)
            except (FhirError, UserVisibleError) as error:
                detail = {"reason": error.code[:60], "status": getattr(error, "status", 422)}
                record_refusal("fhir.refuse", action="C", resource=f"fhir:{kind}", detail=detail)
                raise

    def _create(self, request: Request, kind: str, body: bytes) -> HttpResponse:
        resource = inbound.read_json(body, kind)
        patient = inbound.subject_of(resource, request.user)
        condition = request.headers.get("If-None-Exist", "")
        existing = self._conditional(request, kind, condition) if condition else None
        if existing is not None:
            return self._created(existing, 200)
        source = inbound.business_identifier(resource.get("masterIdentifier")) or inbound.business_identifier(
            next(iter(elements(resource.get("identifier"))), None)
        )
        index = keyed_hash("fhir_api.identifier", f"{kind}|{source}").hex() if source else None
        digest = hashlib.sha256(body).hexdigest()
        for attempt in (1, 2):
            known = self._known(request, kind, index)
            if known is not None:
                if known.sha256 != digest and kind == "DocumentReference":
                    raise FhirError(409, "This identifier belongs to another document.", code="duplicate")
                return self._created(known, 200)
            raw = objects.write(body, subject=patient.key_subject, kind="fhir", content_type="application/fhir+json")
            original: StoredObject | None = None
            if kind == "DocumentReference":
                facts = inbound.read_document(dict(resource))
                original = clinical.write_original(patient, facts.content, facts.content_type)
            try:
                with transaction.atomic():
                    row, status = self._store(request, kind, resource, raw, digest, index, patient, original)
                return self._created(row, status)
            except IntegrityError:  # the same resource over two connections at once
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def _store(
        self,
        request: Request,
        kind: str,
        resource: Mapping[str, Any],
        raw: StoredObject,
        digest: str,
        index: str | None,
        patient: Patient,
        original: StoredObject | None,
    ) -> tuple[ReceivedResource, int]:
        logical_id = (
            self._document(resource, patient, original)
            if kind == "DocumentReference"
            else self._order(request, resource, patient)
        )
        before = (
            ReceivedResource.objects.filter(resource_type=kind, resource_id=logical_id).order_by("-version").first()
        )
        if before is not None:
            return before, 200
        objects.keep(raw)
        row = ReceivedResource.objects.create(  # type: ignore[misc]
            resource_type=kind,
            resource_id=logical_id,
            raw=raw,
            sha256=digest,
            identifier_index=index,
            patient=patient,
            token=request.auth,
            peer=request.user.get_username(),
        )
        record("fhir.create", action="C", resource=f"fhir:{kind}/{logical_id}", patient_id=patient.pk)
        return row, 201

    @staticmethod
    def _document(resource: Mapping[str, Any], patient: Patient, original: StoredObject | None) -> uuid.UUID:
        facts = inbound.read_document(dict(resource))
        document = clinical.add_document(
            patient,
            content=facts.content,
            content_type=facts.content_type,
            type_code=facts.type_code,
            type_text=facts.type_text,
            authored_on=facts.authored,
            source_id=facts.source_id,
            source="fhir",
            original=original,
        )
        return document.pk

    @staticmethod
    def _order(request: Request, resource: Mapping[str, Any], patient: Patient) -> uuid.UUID:
        facts = inbound.read_order(dict(resource))
        order = clinical.accept_order(
            patient,
            facts.identity,
            priority=facts.priority,
            procedure_code=facts.procedure_code,
            procedure_text=facts.procedure_text,
            requested_at=facts.requested.moment if facts.requested else None,
            source="fhir",
            peer=request.user.get_username(),
        )
        return order.pk

    @staticmethod
    def _known(request: Request, kind: str, index: str | None) -> ReceivedResource | None:
        if index is None:
            return None
        rows = ReceivedResource.objects.filter(
            resource_type=kind, identifier_index=index, peer=request.user.get_username()
        )
        return rows.first()

    def _conditional(self, request: Request, kind: str, condition: str) -> ReceivedResource | None:
        """If-None-Exist with ``identifier=system|value``. Raises `FhirError` 412 for any other condition."""
        pairs = parse_qsl(condition.lstrip("?"))
        if len(pairs) != 1 or pairs[0][0] != "identifier" or "|" not in pairs[0][1]:
            raise FhirError(412, "Only If-None-Exist: identifier=system|value is supported.", code="not-supported")
        return self._known(request, kind, keyed_hash("fhir_api.identifier", f"{kind}|{pairs[0][1]}").hex())

    @staticmethod
    def _created(row: ReceivedResource, status: int) -> HttpResponse:
        found = required(reading.received(row.resource_type, row.resource_id), "the resource that was just received")
        location = f"{reading.base_url()}/{row.resource_type}/{row.resource_id}/_history/{found.version}"
        return answer(
            found.resource,
            status,
            Location=location,
            ETag=f'W/"{found.version}"',
            Last_Modified=http_date(found.modified.timestamp()),
        )


class UnknownView(FhirView):
    """Every other address below ``/fhir/``."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """404 with an OperationOutcome, whatever the method."""
        super().initial(request, *args, **kwargs)
        raise FhirError(404, "There is nothing at this address.")
