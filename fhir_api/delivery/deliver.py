"""From an issued report version to the outbox."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from datetime import date, datetime, time

from django.db import transaction
from django.db.models import CharField, Exists, OuterRef, QuerySet, Value
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Concat, Replace

from audit.services import Actor, acting_as, record
from fhir_api.delivery.adapters import build_payload, takes_preliminary
from fhir_api.models import Endpoint
from fhir_api.report_out.disclosed_report import DisclosedReport, disclose_report
from oncoflow_site.foundation.clock import local, now
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.jobs import JobContext, enqueue
from oncoflow_site.foundation.models import Delivery
from oncoflow_site.foundation.outbox import enqueue_delivery, write_payload
from reports.models import ReportVersion
from reports.states import VersionStatus

__all__ = ["backfill", "deliver", "delivery_key", "never_delivered", "start_backfill"]


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
    endpoints = Endpoint.objects.filter(active=True).order_by("name")
    _put(ctx, version, {delivery_key(endpoint, version): endpoint for endpoint in endpoints})


def _put(ctx: JobContext, version: ReportVersion, wanted: Mapping[str, Endpoint]) -> None:
    """One delivery of ``version`` for each key that the outbox does not hold yet."""
    facts: DisclosedReport | None = None
    for key, endpoint in wanted.items():
        if Delivery.objects.filter(idempotency_key=key).exists():
            continue
        if version.status == VersionStatus.PRELIMINARY and not takes_preliminary(endpoint):
            continue
        # Read and rendered before the transaction: it takes a second, and SQLite has one writer.
        facts = facts or disclose_report(version)
        payload = build_payload(facts, endpoint)
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


def never_delivered(endpoint: Endpoint) -> QuerySet[ReportVersion]:
    """Issued versions that were never put into the outbox for ``endpoint``: issued before it was there, or while it was off."""
    of_report = Concat(Value("report:"), Replace(Cast("report_id", CharField()), Value("-"), Value("")))
    lane = Delivery.objects.filter(endpoint=endpoint.name).annotate(
        bare=Replace("subject", Value("-"), Value("")),
        version=KeyTextTransform("version", "headers"),
    )
    known = lane.filter(bare=OuterRef("of_report"), version=OuterRef("text_number"))
    issued = ReportVersion.objects.filter(issued_at__isnull=False)
    if not takes_preliminary(endpoint):
        issued = issued.exclude(status=VersionStatus.PRELIMINARY)
    return issued.annotate(of_report=of_report, text_number=Cast("number", CharField())).filter(~Exists(known))


def start_backfill(
    endpoint: Endpoint,
    *,
    actor: Actor,
    source: str,
    since: date | None = None,
    report_ids: Collection[uuid.UUID] = (),
    delivered_too: bool = False,
) -> int:
    """Queue what was issued for an endpoint that is new, restored or on again: the chosen reports, else all with a version
    issued on ``since`` (local day) or later. On the record. Returns how many reports.

    :param delivered_too: also versions that it got before (it lost them).
    """
    versions = ReportVersion.objects.filter(issued_at__isnull=False) if delivered_too else never_delivered(endpoint)
    if report_ids:
        versions = versions.filter(report__in=report_ids)
    elif since is not None:
        versions = versions.filter(issued_at__gte=datetime.combine(since, time.min, tzinfo=local(now()).tzinfo))
    run = new_id()
    # Oldest report first, as they were issued.
    reports = list(dict.fromkeys(versions.order_by("issued_at").values_list("report_id", flat=True)))
    with transaction.atomic():
        for report_id in reports:
            enqueue(
                "fhir_api.backfill",
                subject=f"report:{report_id}",
                key=f"backfill:{run}:{report_id}",
                kwargs={
                    "endpoint_id": endpoint.pk,
                    "report_id": report_id,
                    "run_id": run,
                    "delivered_too": delivered_too,
                },
            )
        record(
            "endpoint.backfill",
            action="E",
            resource=f"endpoint:{endpoint.pk}",
            actor=actor,
            source=source,
            detail={
                "endpoint": endpoint.name,
                "reports": len(reports),
                "since": since.isoformat() if since else "",
                "delivered_too": delivered_too,
                "run": str(run),
            },
        )
    return len(reports)


def backfill(ctx: JobContext, *, endpoint_id: str, report_id: str, run_id: str, delivered_too: bool) -> None:
    """Put the issued versions of one report into the outbox for one endpoint, in order: those that it never got, or all."""
    endpoint = Endpoint.objects.get(pk=endpoint_id)
    issued = ReportVersion.objects.filter(report_id=report_id, issued_at__isnull=False).order_by("number")
    with acting_as(Actor.system("delivery"), source="worker"):
        for version in issued.select_related("report__patient", "report__study", "report__order", "signer"):
            key = delivery_key(endpoint, version)
            if delivered_too and Delivery.objects.filter(idempotency_key=key).exists():
                key = f"{key}:{run_id}"
            _put(ctx, version, {key: endpoint})
