"""Background jobs of the doors."""

from __future__ import annotations

import uuid

from fhir_api.delivery.deliver import backfill as backfill_report
from fhir_api.delivery.deliver import deliver as deliver_version
from fhir_api.hl7v2.process import give_up, move_to_patient, process_lane
from fhir_api.hl7v2.process import process_waiting as take_up
from fhir_api.models import Hl7Message, Hl7MessageState
from oncoflow_site.foundation.jobs import JobContext, job

__all__ = ["backfill", "deliver_report", "process_hl7", "process_waiting"]


@job("fhir_api.process_hl7", max_attempts=12, on_dead=give_up)
def process_hl7(ctx: JobContext, *, message_id: str) -> None:
    """Before: the message is stored and acknowledged. After: processed, ignored or failed, visible as such."""
    message = Hl7Message.objects.get(pk=message_id)
    if message.state == Hl7MessageState.STORED:
        process_lane(ctx, message)
    move_to_patient(ctx, message)


@job("fhir_api.process_waiting", max_attempts=12)
def process_waiting(ctx: JobContext, *, conflict_id: str) -> None:
    """Before: a person has decided whose an identity is. After: the messages that waited for it are to be processed again."""
    take_up(ctx, uuid.UUID(conflict_id))


@job("fhir_api.deliver_report", max_attempts=8)
def deliver_report(ctx: JobContext, *, report_id: str, version_id: str) -> None:
    """Before: the version is issued. After: the outbox holds one delivery of it for each active endpoint."""
    deliver_version(ctx, version_id=version_id)


@job("fhir_api.backfill", max_attempts=8)
def backfill(ctx: JobContext, *, endpoint_id: str, report_id: str, run_id: str, delivered_too: bool) -> None:
    """Before: somebody asked for it. After: the outbox holds what the endpoint is to get of the report."""
    backfill_report(ctx, endpoint_id=endpoint_id, report_id=report_id, run_id=run_id, delivered_too=delivered_too)
