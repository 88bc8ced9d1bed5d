"""A study and its order find each other by blind indexes: by the accession number, or by the Study Instance UID announced."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.apps import apps
from django.conf import settings

from audit.models import AuditRow
from clinical import services as clinical
from clinical.identity import Identifier, IdentityData, OrderIdentity
from clinical.models import Order
from clinical.vault import blind_index
from imaging.archive import order_matching
from imaging.archive.store_instance import store_instance
from imaging.models import Study
from oncoflow_site.foundation import keys
from tests.factories.dicom_files import as_file, dataset

pytestmark = pytest.mark.django_db
UID = "1.2.3.1"


def order_for(mrn: str, accession: str, uid: str = "") -> Order:
    who = Identifier(settings.ONCOFLOW_ASSIGNING_AUTHORITY, mrn)
    patient = clinical.register_patient(IdentityData("Quastenflosser", "Hildegund", identifiers=(who,)), source="mllp")
    numbers = OrderIdentity(accession=accession, study_instance_uid=uid)
    return clinical.accept_order(patient, numbers, source="mllp")


def brought(**attributes: object) -> Study:
    return Study.objects.get(
        pk=store_instance(as_file(dataset(**attributes)), source="dicom", peer="SCANNER1").study_id
    )


def test_an_order_that_announced_only_the_study_uid_is_found_by_the_study():
    order = order_for("MRN-4711-X", "", uid=UID)
    study = brought(AccessionNumber="")
    assert order_matching.match_study(study) == order
    study.refresh_from_db()
    assert (study.order, study.unsolicited) == (order, False)


def test_a_study_uid_that_was_announced_for_another_patient_is_flagged_and_not_linked():
    order_for("MRN-OTHER", "", uid=UID)
    study = brought(AccessionNumber="")
    assert order_matching.match_study(study) is None
    study.refresh_from_db()
    assert (study.unsolicited, study.flag_code) == (True, "accession-other-patient")
    assert "Study Instance UID" in study.flag_message


def test_a_number_of_another_patient_keeps_the_announced_order_apart():
    order_for("MRN-4711-X", "", uid=UID)
    order_for("MRN-OTHER", "ACC-77001")
    study = brought()
    assert order_matching.match_study(study) is None
    assert Study.objects.get().flag_code == "accession-other-patient"


def test_matching_discloses_nothing():
    study = brought()
    order = order_for("MRN-4711-X", "ACC-77001", uid=UID)
    before = set(AuditRow.objects.values_list("pk", flat=True))
    assert order_matching.match_order(order) == [study]
    assert {row.event for row in AuditRow.objects.exclude(pk__in=before)} == {"study.match", "order.advance"}


def test_indexes_of_earlier_versions_are_made_again_and_those_of_erased_patients_go():
    study, order = brought(), order_for("MRN-4711-X", "ACC-77001", uid=UID)
    wanted = (study.accession_index, order.study_uid_index)
    assert wanted == (order.accession_index, study.uid_index)
    older = keys.keyed_hash("dicom-accession-index", "ACC-77001").hex()
    Study.objects.update(accession_index=older)
    Order.objects.update(study_uid_index=blind_index("order.study_uid", "", UID))
    migrations = [
        import_module("clinical.migrations.0004_one_index_of_a_study_uid"),
        import_module("imaging.migrations.0019_one_accession_index"),
    ]
    for migration in migrations:
        migration.recompute(apps, None)
    assert (Study.objects.get().accession_index, Order.objects.get().study_uid_index) == wanted
    keys.destroy(study.key_subject)
    for migration in migrations:
        migration.recompute(apps, None)
    assert (Study.objects.get().accession_index, Order.objects.get().study_uid_index) == ("", None)
