"""Role says what, care team says to whom."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.exceptions import PermissionDenied

from audit.models import AuditRow
from clinical.access import (
    assign,
    break_glass,
    lapsed,
    patients_for,
    require_patient,
    sync_permission,
    unassign,
    user_can_see,
)
from clinical.models import CareAssignment, Notice, PatientUserPermission
from clinical.roles import CAPABILITIES, ROLE_CAPABILITIES, Role, can
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.models import Job

pytestmark = pytest.mark.django_db


def test_every_role_has_its_line_and_only_known_capabilities() -> None:
    assert set(ROLE_CAPABILITIES) == set(Role.values)
    assert {name for granted in ROLE_CAPABILITIES.values() for name in granted} == set(CAPABILITIES)


def test_only_radiologists_sign_and_only_compliance_reads_the_record(make_user) -> None:
    assert [role for role in Role.values if can(make_user(role), "sign_report")] == ["radiologist"]
    assert [role for role in Role.values if can(make_user(role), "read_audit")] == ["compliance_officer"]


def test_an_inactive_account_can_do_nothing_and_a_misspelt_capability_is_an_error(make_user) -> None:
    assert not can(make_user("radiologist", is_active=False), "sign_report")
    with pytest.raises(ValueError, match="capability"):
        can(make_user(), "sign_reports")


@pytest.mark.parametrize("role", Role.values)
def test_without_assignment_nobody_but_a_connected_system_sees_a_patient(role, make_user, make_patient) -> None:
    patient, user = make_patient(), make_user(role, is_superuser=True, is_staff=True)
    sees = role == "integration"
    assert user_can_see(user, patient) is sees
    assert patients_for(user).exists() is sees
    assert user.has_perm("clinical.access_patient", patient) is False


def test_an_assignment_opens_and_its_end_closes(make_user, make_patient) -> None:
    patient, other, user, boss = make_patient(), make_patient(), make_user(), make_user("admin")
    assignment = assign(user, patient, reason="reads the scan", by=boss, ends_at=now() + timedelta(hours=1))
    assert list(patients_for(user)) == [patient]
    assert user.has_perm("clinical.access_patient", patient)
    assert not user_can_see(user, other)
    assert PatientUserPermission.objects.filter(user=user, content_object=patient).count() == 1
    # The time passes; the job that removes the permission row is late.
    CareAssignment.objects.filter(pk=assignment.pk).update(
        starts_at=now() - timedelta(hours=2), ends_at=now() - timedelta(seconds=1)
    )
    assert not user_can_see(user, patient)
    assert not user.has_perm("clinical.access_patient", patient)
    assert lapsed().count() == 1
    sync_permission(user, patient)
    assert not PatientUserPermission.objects.exists()


def test_the_end_of_an_assignment_is_a_job(make_user, make_patient) -> None:
    ends = now() + timedelta(hours=1)
    assign(make_user(), make_patient(), reason="second opinion", by=None, ends_at=ends)
    job = Job.objects.get(kind="clinical.end_assignment")
    assert job.run_after == ends


def test_a_permission_row_without_an_assignment_opens_nothing(make_user, make_patient) -> None:
    from guardian.shortcuts import assign_perm

    patient, user = make_patient(), make_user()
    assign_perm("clinical.access_patient", user, patient)
    assert not user_can_see(user, patient)


def test_assigning_twice_keeps_one_and_unassigning_ends_it(make_user, make_patient) -> None:
    patient, user = make_patient(), make_user()
    first = assign(user, patient, reason="a", by=None)
    assert assign(user, patient, reason="b", by=None).pk == first.pk
    assert CareAssignment.objects.count() == 1
    assert unassign(user, patient, by=None) == 1
    assert unassign(user, patient, by=None) == 0
    assert not user_can_see(user, patient)
    assert not PatientUserPermission.objects.exists()
    assert list(
        AuditRow.objects.filter(event__startswith="patient.").values_list("event", flat=True).order_by("id")
    ) == [
        "patient.register",
        "patient.assign",
        "patient.assign",
        "patient.unassign",
    ]


def test_who_may_assign(make_user, make_patient) -> None:
    patient, user = make_patient(), make_user()
    doctor = make_user("doctor")
    with pytest.raises(PermissionDenied):
        assign(user, patient, reason="x", by=doctor)
    assert AuditRow.objects.filter(event="patient.assign", outcome=4, actor_id=str(doctor.pk)).count() == 1
    assign(doctor, patient, reason="treats", by=make_user("admin"))
    assign(user, patient, reason="x", by=doctor)
    for role in ("radiologist", "clinician", "technician", "compliance_officer", "integration"):
        with pytest.raises(PermissionDenied):
            assign(user, patient, reason="x", by=make_user(role))


@pytest.mark.parametrize("role", ["admin", "compliance_officer"])
def test_a_role_that_sees_no_patients_is_put_on_no_team(role, make_user, make_patient) -> None:
    with pytest.raises(UserVisibleError, match="care team"):
        assign(make_user(role), make_patient(), reason="x", by=None)


def test_bad_terms_are_refused(make_user, make_patient) -> None:
    with pytest.raises(UserVisibleError, match="reason"):
        assign(make_user(), make_patient(), reason="  ", by=None)
    with pytest.raises(UserVisibleError, match="past"):
        assign(make_user(), make_patient(), reason="x", by=None, ends_at=now() - timedelta(seconds=1))
    assert not CareAssignment.objects.exists()


def test_requiring_a_patient_answers_the_same_for_forbidden_and_unknown(make_user, make_patient) -> None:
    patient, user = make_patient(), make_user()
    texts = set()
    for wanted in (patient.pk, "0b6f2a3c-0000-4000-8000-000000000000", "not-an-id", "'; DROP TABLE"):
        with pytest.raises(PermissionDenied) as caught:
            require_patient(user, wanted, event="patient.view")
        texts.add(str(caught.value))
    assert len(texts) == 1
    assert AuditRow.objects.filter(event="patient.view", outcome=4).count() == 4
    assign(user, patient, reason="x", by=None)
    assert require_patient(user, str(patient.pk), event="patient.view") == patient


def test_break_glass_is_reasoned_short_and_loud(make_user, make_patient) -> None:
    patient, user = make_patient(), make_user("doctor")
    with pytest.raises(UserVisibleError, match="reason"):
        break_glass(user, patient.pk, reason="")
    opened = break_glass(user, patient.pk, reason="unconscious in the emergency room")
    assert user_can_see(user, patient)
    assert opened.emergency
    assert timedelta(0) < opened.ends_at - now() <= timedelta(minutes=60)
    notice = Notice.objects.get(kind="patient.break_glass")
    assert (notice.for_role, notice.subject) == ("compliance_officer", f"patient:{patient.pk}")
    assert AuditRow.objects.filter(event="patient.break_glass", outcome=0).count() == 1


@pytest.mark.parametrize("role", ["admin", "technician", "compliance_officer", "integration"])
def test_break_glass_is_not_for_everybody(role, make_user, make_patient) -> None:
    with pytest.raises(PermissionDenied):
        break_glass(make_user(role), make_patient().pk, reason="curious")
    assert AuditRow.objects.filter(event="patient.break_glass", outcome=4).count() == 1
