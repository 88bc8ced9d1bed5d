"""From an issued report version to the outbox."""

from __future__ import annotations

from audit.services import Actor, acting_as, record
from fhir_api.hl7v2.oru import build_oru
from fhir_api.models import Endpoint, Transport
from fhir_api.r4.resources.bundle import build_transaction
from fhir_api.report_out.disclosed_report import DisclosedReport, disclose_report
from oncoflow_site.foundation.jobs import JobContext
from oncoflow_site.foundation.models import Delivery
from oncoflow_site.foundation.outbox import enqueue_delivery, write_payload
from reports.models import ReportVersion

__all__ = ["deliver", "delivery_key"]


def delivery_key(endpoint: Endpoint, version: ReportVersion) -> str:
    """Idempotency key in the outbox."""
    return f"{endpoint.name}:{version.report_id}:{version.number}"


def deliver(ctx: JobContext, *, version_id: str) -> None:
    """Put the version into the outbox for every active endpoint, once.

    Earlier issued versions that are not there yet go first: their job may be late, and a lane is in the order in which
    it was filled. A preliminary report can thus never arrive after the final one.
    """
    wanted = ReportVersion.objects.select_related("report__patient").get(pk=version_id)
    issued = wanted.report.versions.filter(issued_at__isnull=False, number__lte=wanted.number).order_by("number")
    with acting_as(Actor.system("delivery"), source="worker"):
        for version in issued.select_related("report__patient", "report__study", "report__order", "signer"):
            _enqueue(ctx, version)


def _enqueue(ctx: JobContext, version: ReportVersion) -> None:
    facts: DisclosedReport | None = None
    for endpoint in Endpoint.objects.filter(active=True).order_by("name"):
        key = delivery_key(endpoint, version)
        if Delivery.objects.filter(idempotency_key=key).exists():
            continue
        # Read and rendered before the transaction: it takes a second, and SQLite has one writer.
        facts = facts or disclose_report(version)
        payload = build_oru(facts, endpoint) if endpoint.transport == Transport.MLLP else build_transaction(facts)
        patient = version.report.patient
        stored = write_payload(payload, patient_subject=patient.key_subject)
        with ctx.commit():
            delivery = enqueue_delivery(
                endpoint=endpoint.name,
                transport=endpoint.transport,
                subject=f"report:{version.report_id}",
                key=key,
                payload=stored,
                headers={"version": version.number, "status": version.status},
            )
            record(
                "report.deliver",
                action="E",
                resource=f"report:{version.report_id}",
                patient_id=patient.pk,
                detail={"endpoint": endpoint.name, "version": version.number, "delivery": delivery.id},
            )
