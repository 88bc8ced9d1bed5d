"""How long objects are kept: by kind, only where the setting says so; never what a report or a legal hold needs."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command

from audit.models import AuditRow
from clinical.models import Patient
from imaging.models import Instance, InstanceState
from oncoflow_site.foundation import objects, retention, stores
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.models import LegalHold, StoredObject
from oncoflow_site.settings import _retention
from reports.models import Report
from reports.retention import _pointers

pytestmark = pytest.mark.django_db


def put(kind: str, *, days: int, subject: str = "patient:01a1ff00-0000-7000-8000-000000000001") -> StoredObject:
    row = objects.put(b"bytes", subject=subject, kind=kind)
    StoredObject.objects.filter(pk=row.pk).update(created_at=now() - timedelta(days=days))
    row.refresh_from_db()
    return row


def command(**options: Any) -> str:
    out = io.StringIO()
    call_command("retention", stdout=out, **options)
    return out.getvalue()


def test_nothing_goes_unless_it_is_said(settings: Any) -> None:
    put("volume", days=9999)
    assert settings.ONCOFLOW_RETENTION == {}
    assert "everything is kept" in command()
    assert not StoredObject.objects.filter(removed_at__isnull=False).exists()


def test_what_is_old_enough_goes_and_its_row_says_so(settings: Any, django_capture_on_commit_callbacks: Any) -> None:
    settings.ONCOFLOW_RETENTION = {"probability": 30}
    old, young, other = put("probability", days=31), put("probability", days=29), put("volume", days=400)
    assert "1 would go (5 bytes)" in command(dry_run=True)
    assert objects.get(old) == b"bytes"
    with django_capture_on_commit_callbacks(execute=True):
        assert "1 removed" in command()
    old.refresh_from_db()
    assert (old.removed_at is not None, old.size, len(old.sha256)) == (True, 5, 64)
    with pytest.raises(objects.ObjectMissing, match="retention policy"):
        objects.get(old)
    with pytest.raises(FileNotFoundError):
        stores.store("objects").stat(old.storage_name)
    assert objects.get(young) == objects.get(other) == b"bytes"
    row = AuditRow.objects.get(event="retention.remove")
    assert (row.resource, str(row.patient), row.detail["kind"]) == (f"object:{old.pk}", old.subject[8:], "probability")
    assert "0 removed" in command()
    assert AuditRow.objects.filter(event="retention.remove").count() == 1


def test_bytes_that_a_killed_removal_left_are_found_by_the_janitor() -> None:
    row = put("probability", days=31)
    StoredObject.objects.filter(pk=row.pk).update(removed_at=now())
    objects.janitor(timedelta(seconds=-60))
    with pytest.raises(FileNotFoundError):
        stores.store("objects").stat(row.storage_name)


def test_a_legal_hold_keeps_everything_of_its_subject(settings: Any) -> None:
    settings.ONCOFLOW_RETENTION = {"volume": 1}
    row, other = put("volume", days=5), put("volume", days=5, subject="patient:01a1ff00-0000-7000-8000-000000000002")
    command(hold=row.subject, reason="court order 7")
    command(hold=row.subject, reason="again")
    assert LegalHold.objects.count() == 1
    assert "court order 7" in command(holds=True)
    told = command()
    assert "1 removed" in told
    assert "1 stay: a legal hold is on it" in told
    row.refresh_from_db(), other.refresh_from_db()
    assert (row.removed_at, other.removed_at is None) == (None, False)
    command(release=row.subject)
    assert "1 removed" in command()
    events = AuditRow.objects.filter(event__startswith="retention.").order_by("id").values_list("event", flat=True)
    assert list(events) == [
        "retention.hold", "retention.hold", "retention.remove", "retention.release", "retention.remove",
    ]  # fmt: skip
    for wrong in ({"hold": "patient:1"}, {"hold": "nobody", "reason": "x"}, {"release": "patient:1"}):
        with pytest.raises(CommandError):
            command(**wrong)


def test_what_an_issued_report_rests_on_stays(drafted: Report, settings: Any) -> None:
    kinds = set(StoredObject.objects.values_list("kind", flat=True))
    assert {"report-pdf", "report-content", "segmentation"} <= kinds
    put("segmentation", days=1, subject=f"patient:{drafted.patient_id}")  # of no report
    StoredObject.objects.update(created_at=now() - timedelta(days=9000))
    settings.ONCOFLOW_RETENTION = dict.fromkeys(kinds, 1)
    lines = {line.kind: line for line in retention.apply()}
    assert lines["report-pdf"].removed == 0
    version = drafted.versions.get()
    assert objects.get(version.content)
    assert objects.get(version.pdf)
    assert (lines["segmentation"].removed, lines["segmentation"].kept["an issued report rests on it"]) == (1, 1)
    # Every model that names a stored object and belongs to a study or a patient is looked at.
    models = {model.__name__ for model, *_ in _pointers()}
    assert {"Instance", "Series", "Volume", "Segmentation", "ReportVersion", "ClinicalDocument"} <= models


def test_quarantine_has_a_word_of_its_own(settings: Any) -> None:
    patient = Patient.objects.create()
    apart, filed = (put("dicom-original", days=40, subject=patient.key_subject) for _ in range(2))
    for row, state in ((apart, InstanceState.QUARANTINED), (filed, InstanceState.RECEIVED)):
        Instance.objects.create(original=row, sha256="0", content_sha256="0", state=state)
    settings.ONCOFLOW_RETENTION = {"dicom-quarantined": 30}
    assert [(line.removed, line.kind) for line in retention.apply()] == [(1, "dicom-quarantined")]
    apart.refresh_from_db(), filed.refresh_from_db()
    assert (apart.removed_at is not None, filed.removed_at) == (True, None)


def test_the_setting() -> None:
    assert _retention("") == {}
    assert _retention("probability=30, dicom-original=keep,volume = 400") == {"probability": 30, "volume": 400}
    for wrong in ("volume", "volume=", "=3", "volume=0", "volume=-1", "volume=soon"):
        with pytest.raises(ImproperlyConfigured):
            _retention(wrong)
