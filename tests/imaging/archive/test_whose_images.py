"""Whose the images are: unknown issuers, headers that contradict, studies that follow a merge."""

from __future__ import annotations

from datetime import date

import pytest
from django.conf import settings as django_settings

from clinical import services as clinical
from clinical.identity import Identifier, IdentityData
from clinical.models import AssigningAuthority, IdentityConflict, User
from clinical.patients.conflicts import decide_conflict
from imaging.identifiers import open_study
from imaging.models import Instance, InstanceState, Study
from oncoflow_site.foundation.jobs import run_pending
from oncoflow_site.foundation.models import Job
from tests.factories.dicom_files import as_file, dataset
from tests.factories.received import take

pytestmark = pytest.mark.django_db


def test_an_unknown_issuer_is_kept_apart_until_it_is_known():
    stored = take(as_file(dataset(IssuerOfPatientID="OTHERHOSP")))
    assert stored.quarantined
    assert Instance.objects.get().reason == "the issuer of its Patient ID (0010,0021) is not known here"
    AssigningAuthority.objects.create(name="OTHERHOSP")
    assert not take(as_file(dataset(number=2, IssuerOfPatientID="OTHERHOSP"))).quarantined


@pytest.mark.parametrize("same", [True, False])
def test_images_whose_header_contradicts_the_patient_wait_for_a_person(same):
    identity = IdentityData(
        "Kranich",
        "Otto",
        date(1980, 1, 2),
        "M",
        (Identifier(django_settings.ONCOFLOW_ASSIGNING_AUTHORITY, "MRN-4711-X"),),
    )
    patient = clinical.register_patient(identity, source="mllp")
    assert take(as_file(dataset())).quarantined
    one = Instance.objects.get()
    assert one.reason.startswith("its header contradicts the patient with that number")
    assert "uastenflosser" not in one.reason
    conflict = IdentityConflict.objects.get()
    assert (one.identity_conflict, conflict.patient, conflict.source) == (conflict, patient, "dicom")
    registrar = User.objects.create_user("rita", role="registrar")
    decide_conflict(conflict, by=registrar, same=same, reason="asked the ward")
    run_pending("default")
    one = Instance.objects.get()
    if same:
        assert one.study.patient == patient
        assert clinical.reveal_identity(patient, purpose="test").family == "Kranich"
    else:
        assert one.state == InstanceState.QUARANTINED
        assert one.reason == "a person has decided that it is not of the patient with that number"


def test_a_study_follows_its_patient_and_stays_readable():
    """The images came under one number, the registration under another; later it turns out that they are two people."""
    take(as_file(dataset()))
    study = Study.objects.get()
    prior = study.patient
    number = (Identifier(django_settings.ONCOFLOW_ASSIGNING_AUTHORITY, "B"),)
    survivor = clinical.register_patient(IdentityData("Quastenflosser", identifiers=number), source="mllp")
    merge = clinical.merge_patients(survivor, prior, by=None, reason="x", source="mllp")
    study.refresh_from_db()
    assert study.patient == survivor
    assert open_study(study.key_subject, study.ciphertext).study_instance_uid
    assert not take(as_file(dataset(number=2))).quarantined, "more of it, still under the prior number"
    assert not take(as_file(dataset(number=3, PatientID="B"))).quarantined
    assert {row.original.subject for row in Instance.objects.select_related("original")} == {prior.key_subject}
    clinical.unmerge(merge, by=None, reason="x")
    study.refresh_from_db()
    assert study.patient == prior
    assert Job.objects.filter(kind="imaging.follow_merge").count() == 2
