"""Administration pages and commands: useful, and no way around the rules."""

from __future__ import annotations

import io

import pytest
from django.apps import apps
from django.contrib import admin
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from audit.models import AuditRow
from audit.services import record
from clinical.access import assign, user_can_see
from clinical.documents import add_document
from clinical.identity import OrderIdentity
from clinical.models import CareAssignment, User
from clinical.notices import write_notice
from clinical.orders import accept_order

pytestmark = pytest.mark.django_db
MODELS = [model for label in ("audit", "clinical") for model in apps.get_app_config(label).get_models()]


@pytest.fixture
def root(make_user) -> Client:
    client = Client()
    client.force_login(make_user("admin", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def patient(make_patient, make_user):
    patient = make_patient(family="Zwiebelsturm", given="Ottokar", mrn="SECRET998")
    accept_order(patient, OrderIdentity(placer_number="SECRET998", reason="Zwiebelsturm"), source="mllp")
    add_document(patient, content=b"Zwiebelsturm", content_type="text/plain", source_id="SECRET998")
    assign(make_user(), patient, reason="reads", by=None)
    write_notice("report.held", f"patient:{patient.pk}")
    return patient


def url(model, name: str, *args) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}", args=args)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_has_pages_that_show_no_identity(model, root, patient) -> None:
    assert model in admin.site._registry
    answer = root.get(url(model, "changelist"))
    if model._meta.app_label == "audit":
        assert answer.status_code == 403  # an administrator is no compliance officer
        return
    assert answer.status_code == 200
    row = model.objects.first()
    pages = [answer]
    if row is not None:
        pages.append(root.get(url(model, "change", row.pk)))
        assert pages[-1].status_code == 200
    for page in pages:
        text = page.content.decode()
        for secret in ("Zwiebelsturm", "Ottokar", "SECRET998"):
            assert secret not in text


def test_revealing_needs_the_care_team_a_click_and_leaves_a_row(root, patient, make_user) -> None:
    page = reverse("admin:clinical_patient_reveal", args=[patient.pk])
    assert AuditRow.objects.filter(event="patient.identity").count() == 0
    assert root.get(page).status_code == 403
    assert AuditRow.objects.get(event="patient.identity").outcome == 4
    doctor = make_user("doctor", is_staff=True)
    client = Client()
    client.force_login(doctor)
    assert client.post(page).status_code == 403
    assign(doctor, patient, reason="treats", by=None)
    asked = client.get(page)
    assert "Zwiebelsturm" not in asked.content.decode()
    shown = client.post(page)
    assert "Zwiebelsturm, Ottokar" in shown.content.decode()
    assert shown.headers["Cache-Control"].startswith("no-store")
    assert AuditRow.objects.filter(event="patient.identity", outcome=0, actor_id=str(doctor.pk)).count() == 1


def test_a_care_team_is_made_through_the_service(root, patient, make_user) -> None:
    user = make_user("doctor")
    page = url(CareAssignment, "add")
    form = {"patient": patient.pk, "user": user.pk, "reason": "treats", "ends_at_0": "", "ends_at_1": ""}
    assert root.post(page, form).status_code == 302
    assert user_can_see(user, patient)
    refused = root.post(page, {**form, "user": make_user("compliance_officer").pk})
    assert "cannot be put on a care team" in refused.content.decode()
    row = CareAssignment.objects.get(user=user)
    root.post(url(CareAssignment, "changelist"), {"action": "end_now", "_selected_action": [row.pk]})
    assert not user_can_see(user, patient)


def test_accounts_are_changed_on_the_record_and_never_removed(root) -> None:
    form = {"username": "ann", "role": "radiologist", "usable_password": "true"}
    root.post(url(User, "add"), {**form, "password1": "a long enough word", "password2": "a long enough word"})
    ann = User.objects.get(username="ann")
    assert ann.role == "radiologist"
    assert AuditRow.objects.get(event="user.create").resource == f"user:{ann.pk}"
    assert root.post(url(User, "delete", ann.pk), {"post": "yes"}).status_code == 403


def test_an_audit_row_cannot_be_changed_there(make_user) -> None:
    row = record("user.create", action="C", resource="user:1")
    client = Client()
    client.force_login(make_user("compliance_officer", is_staff=True))
    page = reverse("admin:audit_auditrow_change", args=[row.pk])
    assert client.get(page).status_code == 200
    assert client.get(reverse("admin:audit_auditrow_changelist")).status_code == 200
    assert AuditRow.objects.filter(event="audit.view").count() == 1
    assert client.post(page, {"event": "x"}).status_code == 403


def test_create_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_WORD", "a long enough word")
    call_command("create_user", "rita", "--role", "radiologist", "--password-env", "SECRET_WORD", stdout=io.StringIO())
    rita = User.objects.get(username="rita")
    assert rita.check_password("a long enough word")
    assert (rita.role, rita.is_staff, rita.is_superuser) == ("radiologist", False, False)
    assert AuditRow.objects.get(event="user.create").source == "command"
    call_command("create_user", "rita", "--role", "radiologist", "--exist-ok", stdout=io.StringIO())
    with pytest.raises(CommandError, match="exists"):
        call_command("create_user", "rita", "--role", "doctor", "--exist-ok")
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    with pytest.raises(CommandError, match="short"):
        call_command("create_user", "otto", "--role", "admin", "--password-stdin")
    with pytest.raises(CommandError):
        call_command("create_user", "otto", "--role", "king")
    call_command("create_user", "emr", "--role", "integration", "--no-password", stdout=io.StringIO())
    assert not User.objects.get(username="emr").has_usable_password()
    assert not User.objects.filter(username="otto").exists()


def test_assign_patient(make_user, make_patient) -> None:
    user, patient = make_user(), make_patient(mrn="77")
    out = io.StringIO()
    call_command("assign_patient", user.username, "--mrn", "77", "--reason", "reads", stdout=out)
    assert user_can_see(user, patient)
    assert "77" not in out.getvalue().replace(patient.pseudonym, "").replace(user.username, "")
    call_command("assign_patient", user.username, "--patient", patient.pseudonym, "--end", stdout=out)
    assert not user_can_see(user, patient)
    for wrong in (
        ["--mrn", "78", "--reason", "x"],
        ["--mrn", "77"],
        ["--mrn", "77", "--reason", "x", "--until", "soon"],
    ):
        with pytest.raises(CommandError):
            call_command("assign_patient", user.username, *wrong, stdout=out)
