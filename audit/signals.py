"""Signing in and out goes on the record, and so does what an operator moves by hand."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import receiver

from audit.actors import Actor
from audit.codes import declare_code
from audit.services import record
from oncoflow_site.foundation.signals import object_removed, operator_acted

__all__: list[str] = []


@receiver(user_logged_in)
def _logged_in(sender: Any, user: Any, **kwargs: Any) -> None:
    record("session.login", action="E", resource=f"user:{user.pk}", actor=Actor.user(user))


@receiver(user_logged_out)
def _logged_out(sender: Any, user: Any, **kwargs: Any) -> None:
    if user is not None:
        record("session.logout", action="E", resource=f"user:{user.pk}", actor=Actor.user(user))


@receiver(user_login_failed)
def _login_failed(sender: Any, **kwargs: Any) -> None:
    # The username typed is left out: people type their passwords, and patients' names, into that field.
    record("session.login_failed", action="E", resource="session", actor=Actor.peer("anonymous"), outcome=4)


for _verb, _meaning in {
    "retry": "A job was started again in the administration",
    "cancel": "A job was cancelled in the administration",
    "resend": "A delivery was sent again in the administration",
    "abandon": "A delivery was given up in the administration",
}.items():
    declare_code(f"admin.{_verb}", _meaning)


@receiver(operator_acted)
def _operator_acted(sender: Any, request: Any, verb: str, resource: str, moved: bool, **kwargs: Any) -> None:
    record(f"admin.{verb}", action="U", resource=resource, actor=Actor.user(request.user), outcome=0 if moved else 4)


declare_code("retention.remove", "The retention policy removed the bytes of a stored object")
declare_code("retention.hold", "A legal hold was placed")
declare_code("retention.release", "A legal hold was released")


@receiver(object_removed)
def _object_removed(sender: Any, row: Any, kind: str, days: int, **kwargs: Any) -> None:
    owner, _, key = row.subject.partition(":")
    record(
        "retention.remove",
        action="D",
        resource=f"object:{row.pk}",
        patient_id=key if owner == "patient" else None,
        actor=Actor.system("retention"),
        detail={"kind": kind, "kept_days": days, "bytes": row.size},
        source="worker",
    )
