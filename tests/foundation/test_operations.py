"""Health, system checks, commands and admin."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.core.management import CommandError, call_command
from django.test import RequestFactory

from oncoflow_site.foundation import checks, health, jobs, keys, outbox, worker
from oncoflow_site.foundation.admin import ReadOnlyAdmin
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import PermanentError
from oncoflow_site.foundation.models import DataKey, Delivery, Event, Job, StoredObject, WorkerHeartbeat

pytestmark = pytest.mark.django_db


def by_name(found: tuple[health.Check, ...]) -> dict[str, health.Check]:
    return {check.name: check for check in found}


def test_ready_needs_a_living_worker_for_every_queue() -> None:
    assert all(check.ok for check in health.live())
    found = by_name(health.ready())
    assert all(found[name].ok for name in ("database", "keyset", "storage"))
    assert not found["queue default"].ok
    for name in ("default", "gpu", "delivery"):
        worker.sign_of_life(f"host:1:{name}", name)
    assert all(check.ok for check in health.ready())
    WorkerHeartbeat.objects.filter(queue="gpu").update(beat_at=now() - timedelta(seconds=90))
    assert [check.name for check in health.ready() if not check.ok] == ["queue gpu"]
    worker.sign_of_life("host:2:gpu", "gpu")
    assert all(check.ok for check in health.ready())
    assert (health.workers()["gpu"] or 0.0) < 5


def test_ready_says_what_is_missing(settings: Any, tmp_path: Path) -> None:
    settings.ONCOFLOW_KEYSET = tmp_path / "none.json"
    found = by_name(health.ready(need_workers=False))
    assert not found["keyset"].ok
    assert "init_keys" in found["keyset"].detail
    assert [message.id for message in checks.check_keyset()] == ["foundation.W001"]


def test_silent_workers_are_forgotten() -> None:
    worker.sign_of_life("host:1:gpu", "gpu")
    WorkerHeartbeat.objects.update(beat_at=now() - timedelta(days=2))
    worker.sign_of_life("host:2:gpu", "gpu")
    assert WorkerHeartbeat.objects.get().worker == "host:2:gpu"


def test_checks_of_the_database_settings(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {
        "ENGINE": "django.db.backends.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA synchronous=FULL;"},
    }
    for database, expected in [
        (good, []),
        (good | {"ATOMIC_REQUESTS": True}, ["foundation.E001"]),
        (good | {"OPTIONS": {"transaction_mode": "IMMEDIATE"}}, ["foundation.E002"]),
        (good | {"OPTIONS": {"init_command": "PRAGMA synchronous=FULL;"}}, ["foundation.E002"]),
        ({"ENGINE": "django.db.backends.postgresql"}, []),
    ]:
        monkeypatch.setattr(checks.settings, "DATABASES", {"default": database})
        assert [message.id for message in checks.check_database()] == expected


def test_init_keys_once(settings: Any, tmp_path: Path) -> None:
    settings.ONCOFLOW_DATA_DIR = tmp_path
    settings.ONCOFLOW_KEYSET = tmp_path / "keys" / "keysets.json"
    out = io.StringIO()
    call_command("init_keys", stdout=out)
    first = settings.ONCOFLOW_KEYSET.read_text()
    assert "Keep a copy" in out.getvalue()
    assert json.loads(first)["aead"]["key"][0]["keyData"]["value"] not in out.getvalue()
    with pytest.raises(CommandError, match="already"):
        call_command("init_keys", stdout=out)
    call_command("init_keys", "--if-missing", stdout=out)
    assert settings.ONCOFLOW_KEYSET.read_text() == first
    assert (tmp_path / "keys" / "django-secret-key").stat().st_mode & 0o077 == 0


def test_rotate_keys_command(settings: Any, tmp_path: Path) -> None:
    settings.ONCOFLOW_KEYSET = tmp_path / "keysets.json"
    keys.create_keysets(settings.ONCOFLOW_KEYSET)
    sealed = keys.encrypt("patient:1", b"x", "c")
    out = io.StringIO()
    call_command("rotate_keys", "--retire", stdout=out)
    assert "1 data keys wrapped" in out.getvalue()
    assert "1 old master keys removed" in out.getvalue()
    assert keys.decrypt("patient:1", sealed, "c") == b"x"


def test_jobs_and_deliveries_commands() -> None:
    @jobs.job("t.fails")
    def fails(ctx: jobs.JobContext) -> None:
        raise PermanentError("not today")

    def refuse(delivery: Delivery, payload: bytes) -> outbox.DeliveryResult:
        raise PermanentError("not here")

    outbox.register_transport("test", refuse)
    job = jobs.enqueue("t.fails", subject="s", key="k", kwargs={})
    delivery = outbox.enqueue_delivery(
        endpoint="emr",
        transport="test",
        subject="s",
        key="k",
        payload=outbox.write_payload(b"", patient_subject="patient:1"),
    )
    jobs.run_pending()
    out = io.StringIO()
    call_command("jobs", "--state", "failed", stdout=out)
    call_command("deliveries", stdout=out)
    assert "not today" in out.getvalue()
    assert "not here" in out.getvalue()
    call_command("jobs", "--retry", str(job.id), stdout=out)
    call_command("deliveries", "--resend", str(delivery.id), stdout=out)
    assert Job.objects.get(id=job.id).state == Delivery.objects.get(id=delivery.id).state == "waiting"
    for command, option in (("jobs", "--retry"), ("deliveries", "--resend")):
        with pytest.raises(CommandError):
            call_command(command, option, "00000000-0000-0000-0000-000000000000", stdout=out)


@pytest.mark.parametrize("model", [Job, Event, Delivery, StoredObject, DataKey, WorkerHeartbeat])
def test_admin_changes_nothing_and_shows_no_key(model: Any) -> None:
    site = admin.AdminSite()
    registered = admin.site._registry[model]
    page = type(registered)(model, site)
    request = RequestFactory().get("/")
    assert isinstance(page, ReadOnlyAdmin)
    assert not page.has_add_permission(request)
    assert not page.has_delete_permission(request)
    shown = set(page.get_readonly_fields(request))
    assert shown == {field.name for field in model._meta.fields} - set(page.exclude or ())
    assert not shown & {"wrapped", "lease_token"}
    assert page.check() == []
