"""Writing the audit record."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction

from audit.actors import Actor, acting_as, current_actor, current_source
from audit.codes import declare_code, require_code
from audit.models import Action, AuditRow, Outcome
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import EngineError
from oncoflow_site.foundation.request_id import current_request_id
from oncoflow_site.foundation.schema import JsonDict

__all__ = ["Actor", "acting_as", "declare_code", "record", "record_refusal", "record_view"]

# Keys that would invite identity into a row. The record names people by ids only.
_FORBIDDEN = """accession address birth_date birthdate city dob email family filename given identifier mrn name
patient_id patient_name phone query study_instance_uid text"""
_FORBIDDEN_KEYS = frozenset(_FORBIDDEN.split())
_MAX_TEXT = 200


def _checked_detail(detail: Mapping[str, Any] | None) -> JsonDict:
    """A copy of ``detail``, one level of scalars and lists of scalars; raises `EngineError` for anything else."""
    checked: JsonDict = {}
    for key, value in (detail or {}).items():
        if key.lower() in _FORBIDDEN_KEYS:
            raise EngineError(f"audit detail key {key!r} could hold identity; record an id or a code instead")
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        plain: list[Any] = []
        for one in values:
            if isinstance(one, uuid.UUID):
                one = str(one)
            if not (one is None or isinstance(one, (bool, int, float, str))):
                raise EngineError(f"audit detail {key!r} must hold plain values, not {type(one).__name__}")
            if isinstance(one, str) and len(one) > _MAX_TEXT:
                raise EngineError(f"audit detail {key!r} is longer than {_MAX_TEXT} characters: record a code")
            plain.append(one)
        checked[key] = plain if isinstance(value, (list, tuple)) else plain[0]
    return checked


def record(
    event: str,
    *,
    action: str,
    resource: str,
    patient_id: uuid.UUID | str | None = None,
    actor: Actor | None = None,
    outcome: int = 0,
    detail: Mapping[str, Any] | None = None,
    source: str = "",
) -> AuditRow:
    """Add one row, in the caller's transaction (one of its own where there is none).

    :param event: a code declared with `audit.codes.declare_code`.
    :param action: FHIR AuditEvent.action: C, R, U, D or E.
    :param resource: what was touched, ``kind:<uuid>``.
    :param patient_id: pseudonymous id of the patient concerned.
    :param actor: who; by default who `acting_as` says.
    :param outcome: FHIR AuditEvent.outcome: 0, 4, 8 or 12.
    :param detail: codes, ids and counts, one level deep; no identity.
    :param source: web, fhir, mllp, dicom, worker or command; by default what `acting_as` says.
    :raises EngineError: undeclared code, unknown action or outcome, a detail that could hold identity.
    """
    require_code(event)
    if action not in Action.values:
        raise EngineError(f"audit action {action!r} is not one of {', '.join(Action.values)}")
    if outcome not in Outcome.values:
        raise EngineError(f"audit outcome {outcome!r} is not one of 0, 4, 8, 12")
    actor = actor or current_actor()
    row = AuditRow(
        actor_type=actor.type,
        actor_id=actor.id,
        actor_role=actor.role,
        action=action,
        event=event,
        resource=resource,
        patient=uuid.UUID(str(patient_id)) if patient_id else None,
        outcome=outcome,
        request_id=(current_request_id() or "")[:64],
        source=source or current_source(),
        detail=_checked_detail(detail),
    )
    with transaction.atomic():
        row.save(force_insert=True)
    return row


def record_refusal(
    event: str,
    *,
    action: str,
    resource: str,
    patient_id: uuid.UUID | str | None = None,
    actor: Actor | None = None,
    outcome: int = 4,
    detail: Mapping[str, Any] | None = None,
    source: str = "",
) -> AuditRow:
    """Add one row for something refused or failed. Call it outside any transaction, before the answer goes out.

    Inside a transaction that the refusal then rolls back the row would vanish with it, so that is an `EngineError`,
    except where the outermost block is a test's own.
    """
    with transaction.atomic(durable=True):
        return record(
            event,
            action=action,
            resource=resource,
            patient_id=patient_id,
            actor=actor,
            outcome=outcome,
            detail=detail,
            source=source,
        )


def record_view(
    event: str,
    *,
    resource: str,
    patient_id: uuid.UUID | str | None = None,
    actor: Actor | None = None,
    detail: Mapping[str, Any] | None = None,
    source: str = "",
) -> AuditRow | None:
    """Like `record` with action R, but at most one row per actor, event, resource and minute (image frames).

    Two requests at the same instant may both write; that is one row too many, never one too few. Returns None where a
    row of the last minute says it already.
    """
    actor = actor or current_actor()
    recent = AuditRow.objects.filter(
        event=event,
        resource=resource,
        actor_type=actor.type,
        actor_id=actor.id,
        outcome=Outcome.SUCCESS,
        recorded__gt=now() - timedelta(minutes=1),
    )
    if recent.exists():
        return None
    return record(
        event,
        action=Action.READ.value,
        resource=resource,
        patient_id=patient_id,
        actor=actor,
        detail=detail,
        source=source,
    )
