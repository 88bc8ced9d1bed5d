"""What staff are told, and who of them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet

from audit.actors import Actor
from audit.services import record
from clinical.access import patients_for
from clinical.models import Notice, Patient
from clinical.roles import Role, can
from oncoflow_site.foundation.clock import now

__all__ = ["notices_for", "see_notice", "write_notice"]

# event kind -> (sentence, role that must act; empty: whoever may see the patient)
_SENTENCES: Final[Mapping[str, tuple[str, str]]] = {
    "study.reopened": ("More images arrived for a study that was complete; it is being prepared again.", ""),
    "study.flagged": ("A study needs a radiologist's attention before it can go on.", Role.RADIOLOGIST),
    "panel.manual": ("The models disagree: this study needs a person's segmentation.", Role.RADIOLOGIST),
    "model.demotion_proposed": (
        "A model does worse on reviewed cases than its evaluation promised: decide in the administration.",
        Role.ADMIN,
    ),
    "report.held": ("A report is held for a radiologist's review.", Role.RADIOLOGIST),
    "identity.conflict": ("Something came whose patient is in doubt; a person must decide whose it is.", ""),
    "merge.requested": ("Two records are to be merged; somebody has to look and decide.", ""),
    "message.failed": (
        "An HL7 message could not be processed; it is kept, and says why in the administration.",
        Role.ADMIN,
    ),
    "job.failed": ("A background job failed and needs a look.", Role.ADMIN),
    "endpoint.moved": (
        "Reports go to another address than before; the record says from where to where, and who changed it.",
        Role.COMPLIANCE_OFFICER,
    ),
    "endpoint.stopped": (
        "Nothing can be delivered to an endpoint; its reports wait. Look at the system page and test it there.",
        Role.ADMIN,
    ),
    "delivery.dead": ("A delivery was given up; it can be looked at and sent again.", Role.ADMIN),
}

_OF_IDENTITY = ("identity.conflict", "merge.requested")


def _patient_of(subject: str, payload: Mapping[str, Any]) -> Patient | None:
    """The patient whom ``kind:<uuid>`` belongs to: any installed model of that name with a patient, so that this room
    need not know the rooms above it."""
    names = [subject] + [
        f"{key.removesuffix('_id')}:{value}" for key, value in payload.items() if key.endswith("_id") and value
    ]
    for name in names:
        kind, _, key = name.partition(":")
        if kind == "patient":
            found = Patient.objects.filter(pk=_uuid(key)).first()  # type: ignore[misc]
        else:
            found = next(
                (
                    Patient.objects.filter(
                        pk__in=model._default_manager.filter(pk=_uuid(key)).values("patient")
                    ).first()
                    for model in apps.get_models()
                    if model._meta.model_name in (kind, f"clinical{kind}")
                    and any(field.name == "patient" and field.related_model is Patient for field in model._meta.fields)
                ),
                None,
            )
        if found is not None:
            return found
    return None


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(str(text))
    except (ValueError, ValidationError):
        return None


def write_notice(kind: str, subject: str, *, payload: Mapping[str, Any] | None = None) -> Notice:
    """One notice of ``kind`` about ``subject``. While an unseen one says the same, no second is written.

    A flag's code and message come from the study itself, on its page; the notice only points there.
    """
    message, role = _SENTENCES.get(kind, (f"Something needs a look: {kind}.", ""))
    code = (payload or {}).get("code")
    if isinstance(code, str) and code:
        message = f"{message} ({code})"[:300]
    known = Notice.objects.filter(kind=kind, subject=subject, seen_at__isnull=True).first()
    if known is not None:
        return known
    return Notice.objects.create(
        kind=kind,
        subject=subject,
        message=message,
        patient=_patient_of(subject, payload or {}),
        for_role=role,
    )


def notices_for(user: Any) -> QuerySet[Notice]:
    """Unseen notices for the role of ``user``; those about a patient only where ``user`` may see the patient."""
    role = getattr(user, "role", "")
    about = Q(patient__isnull=True) | Q(patient__in=patients_for(user))
    if role == Role.ADMIN:
        # Administrators repair jobs and deliveries whoever they concern; such a notice shows no more than an id.
        about |= Q(for_role=Role.ADMIN)
    if can(user, "all_identities"):
        about |= Q(kind__in=_OF_IDENTITY)
    open_to_all = Q(for_role="", patient__isnull=False)
    concerned = Q(for_role=role) | open_to_all
    if can(user, "resolve_identity"):
        concerned |= Q(kind__in=_OF_IDENTITY)
    return Notice.objects.filter(concerned, about, seen_at__isnull=True)


def see_notice(notice: Notice, user: Any) -> bool:
    """Mark as seen by ``user``; False where somebody was quicker."""
    marked = Notice.objects.filter(pk=notice.pk, seen_at__isnull=True).update(seen_at=now(), seen_by=user)
    if marked:
        record(
            "notice.seen",
            action="U",
            resource=f"notice:{notice.pk}",
            patient_id=notice.patient_id,
            actor=Actor.user(user),
        )
    return bool(marked)
