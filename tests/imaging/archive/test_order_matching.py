"""Orders and studies find each other, and the order moves along with its study."""

from __future__ import annotations

import uuid

import pytest
from django.conf import settings as django_settings

from audit.models import AuditRow
from clinical import services as clinical
from clinical.identity import Identifier, IdentityData, OrderIdentity
from imaging.archive import completion, order_matching
from imaging.archive.store_instance import store_instance
from imaging.models import Study
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.models import Event
from tests.factories.dicom_files import as_file, dataset

pytestmark = pytest.mark.django_db


def take(data: bytes, **options):
    return store_instance(data, source="dicom", peer="SCANNER1", **options)


def order_for(mrn: str, accession: str, uid: str = ""):
    identity = IdentityData(
        "Quastenflosser", "Hildegund", identifiers=(Identifier(django_settings.ONCOFLOW_ASSIGNING_AUTHORITY, mrn),)
    )
    patient = clinical.register_patient(identity, source="mllp")
    return clinical.accept_order(
        patient,
        OrderIdentity(
            accession=accession,
            placer_number=f"P{uuid.uuid4().hex[:8]}",
            placer_authority="EMR",
            study_instance_uid=uid,
        ),
        priority="routine",
        procedure_code="24587-8",
        procedure_text="MRI brain",
        requested_at=now(),
        source="mllp",
        peer="EMR",
    )


def test_an_order_before_its_study_is_found_by_accession():
    order = order_for("MRN-4711-X", "ACC-77001")
    study = Study.objects.get(pk=take(as_file(dataset())).study_id)
    assert order_matching.match_study(study) == order
    assert order_matching.match_study(Study.objects.get(pk=study.pk)) == order
    assert AuditRow.objects.filter(event="study.match").count() == 1


def test_an_order_after_its_study_links_it_and_a_cancelled_one_releases_it():
    study = Study.objects.get(pk=take(as_file(dataset())).study_id)
    assert order_matching.match_study(study) is None
    assert Study.objects.get(pk=study.pk).unsolicited
    order = order_for("MRN-4711-X", "ACC-77001")
    assert order_matching.match_order(order) == [study]
    assert not Study.objects.get(pk=study.pk).unsolicited
    assert order_matching.release_order(order) == 1
    assert Study.objects.get(pk=study.pk).order is None


def test_an_order_moves_along_with_its_study():
    order = order_for("MRN-4711-X", "ACC-77001")

    def status() -> str:
        order.refresh_from_db()
        return order.status

    assert status() == "requested"
    study = Study.objects.get(pk=take(as_file(dataset())).study_id)
    order_matching.match_study(study)
    assert status() == "in_progress"
    order_matching.release_order(order)
    assert status() == "requested"
    order_matching.match_study(Study.objects.get(pk=study.pk))
    completion.complete(Study.objects.get(pk=study.pk))
    clinical.advance_order(order, "complete")
    take(as_file(dataset(series="2")))  # a late image: what was signed did not know it
    assert status() == "in_progress"


def test_the_study_uid_that_an_order_announces_also_links():
    study = Study.objects.get(pk=take(as_file(dataset(AccessionNumber=""))).study_id)
    order = order_for("MRN-4711-X", "", uid="1.2.3.1")
    assert order_matching.match_order(order) == [study]


def test_an_order_of_another_patient_is_never_linked():
    order_for("MRN-OTHER", "ACC-77001")
    study = Study.objects.get(pk=take(as_file(dataset())).study_id)
    assert order_matching.match_study(study) is None
    study.refresh_from_db()
    assert (study.unsolicited, study.flag_code) == (True, "accession-other-patient")
    assert Event.objects.filter(kind="study.flagged").count() == 1
