"""Earlier studies fetched from a real PACS (Orthanc) when an order arrives, over DIMSE and over DICOMweb."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from io import StringIO

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.core.management.base import CommandError

from audit.models import AuditRow
from clinical import services as clinical
from clinical.identity import Identifier, IdentityData, OrderIdentity
from clinical.models import Patient
from imaging.archive.store_instance import store_instance
from imaging.dimse.storage_scp import StorageScp
from imaging.models import DicomPeer, Instance, InstanceState, PriorState, PriorStudy, Study, StudyPurpose, StudyState
from imaging.priors import fetch
from imaging.priors.pacs import CREDENTIAL, FoundStudy
from oncoflow_site.foundation import keys
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.jobs import run_pending
from oncoflow_site.foundation.models import Job, JobState
from tests.factories.dicom_files import as_file, dataset
from tests.peers.dcmqrscp import running_archive
from tests.peers.orthanc import installed, running_orthanc

pytestmark = pytest.mark.django_db(transaction=True)
MRN = "MRN-4711-X"
YESTERDAY = date.today() - timedelta(days=1)


@pytest.fixture
def port() -> Iterator[int]:
    scp = StorageScp("ONCOFLOW")
    yield scp.start("127.0.0.1", 0)
    scp.stop(1.0)


def order_for(mrn: str = MRN, accession: str = "ACC-NEW", uid: str = ""):
    authority = django_settings.ONCOFLOW_ASSIGNING_AUTHORITY
    patient = clinical.register_patient(
        IdentityData("Quastenflosser", "Hildegund", identifiers=(Identifier(authority, mrn),)), source="mllp"
    )
    numbers = OrderIdentity(
        accession=accession, placer_number=f"P-{accession}", placer_authority="EMR", study_instance_uid=uid
    )
    return clinical.accept_order(
        patient,
        numbers,
        procedure_code="24587-8",
        procedure_text="MRI brain",
        requested_at=now(),
        source="mllp",
        peer="EMR",
    )


def work() -> None:
    for _ in range(6):
        run_pending("default", "delivery")


def fill(orthanc) -> None:
    """A PACS with a patient of many studies, another patient, and a CT."""

    def put(study: str, years: float, **changes) -> None:
        day = (date.today() - timedelta(days=int(365 * years))).strftime("%Y%m%d")
        for number in (1, 2):
            orthanc.upload(
                as_file(dataset(study=study, number=number, StudyDate=day, AccessionNumber=f"A{study[-2:]}", **changes))
            )

    put("1.2.9.11", 1)
    put("1.2.9.12", 2)
    put("1.2.9.13", 9)  # too old
    put("1.2.9.14", 1.5, PatientID="MRN-4711-XY", PatientName="Quastenflosser^Hildegund")
    put("1.2.9.15", 1.2, Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    put("1.2.9.16", 1.3, IssuerOfPatientID="ELSEWHERE")
    put("1.2.9.17", 0)  # of today: what the order is about


def peer(orthanc, **fields) -> DicomPeer:
    return DicomPeer.objects.create(ae_title=orthanc.ae_title, host="127.0.0.1", port=orthanc.dicom_port, **fields)


def fetched() -> set[str]:
    return {str(one.performed_at.year) for one in Study.objects.all()}


@pytest.mark.peer("orthanc")
@pytest.mark.parametrize("way", ["dimse", "dicomweb"])
def test_an_order_brings_the_earlier_studies_of_its_patient_and_no_others(way, port, orthanc):
    if way == "dicomweb" and not orthanc.dicomweb:
        pytest.skip("Orthanc's DICOMweb plugin is not installed")
    fill(orthanc)
    orthanc.add_modality("oncoflow", "ONCOFLOW", "127.0.0.1", port)
    peer(orthanc, priors=way, dicomweb_url=f"{orthanc.url}/dicom-web" if way == "dicomweb" else "")
    order = order_for()
    work()
    assert not Job.objects.filter(kind__contains="prior").exclude(state=JobState.DONE).exists()
    assert PriorStudy.objects.count() == 2
    assert set(PriorStudy.objects.values_list("state", "expected_instances")) == {(PriorState.HELD, 2)}
    studies = list(Study.objects.all())
    assert len(studies) == 2
    assert {one.patient for one in studies} == {order.patient}
    assert {one.purpose for one in studies} == {StudyPurpose.PRIOR}
    assert not any(one.to_be_reported for one in studies)
    # closed as soon as all was here: their quiet period of a minute has not passed
    assert not any(one.state == StudyState.RECEIVING for one in studies)
    assert Instance.objects.exclude(state=InstanceState.QUARANTINED).count() == 4
    assert AuditRow.objects.filter(event="priors.query", patient=order.patient_id).count() == 1
    assert AuditRow.objects.filter(event="priors.pull", patient=order.patient_id).count() == 2
    order_for(accession="ACC-NEXT")  # what we hold is not fetched again
    work()
    assert AuditRow.objects.filter(event="priors.pull").count() == 2
    assert Patient.objects.count() == 1


@pytest.mark.peer("dcmtk")
def test_priors_come_from_the_archive_of_dcmtk_too(port):
    def files(study: str, years: float, **changes) -> list[bytes]:
        day = (date.today() - timedelta(days=int(365 * years))).strftime("%Y%m%d")
        return [as_file(dataset(study=study, number=number, StudyDate=day, **changes)) for number in (1, 2)]

    with running_archive("ONCOFLOW", port) as archive:
        archive.store(
            [
                *files("1.2.9.11", 1, AccessionNumber="A11"),
                *files("1.2.9.12", 2, AccessionNumber="A12"),
                *files("1.2.9.13", 9, AccessionNumber="A13"),
                *files("1.2.9.14", 1.5, AccessionNumber="A14", PatientID="MRN-4711-XY"),
            ]
        )
        DicomPeer.objects.create(ae_title=archive.ae_title, host="127.0.0.1", port=archive.port, priors="dimse")
        order = order_for()
        work()
    studies = list(Study.objects.all())
    assert len(studies) == 2
    assert {one.patient for one in studies} == {order.patient}
    assert {one.purpose for one in studies} == {StudyPurpose.PRIOR}
    assert Instance.objects.exclude(state=InstanceState.QUARANTINED).count() == 4
    assert set(PriorStudy.objects.values_list("state", flat=True)) == {PriorState.HELD}


@pytest.mark.peer("orthanc")
def test_a_pacs_that_wants_a_password(port, monkeypatch):
    if installed() is None:
        pytest.skip("Orthanc is not installed")
    users = {"priors": "s3cret"}
    with running_orthanc(AuthenticationEnabled=True, RegisteredUsers=users) as server:
        if not server.dicomweb:
            pytest.skip("Orthanc's DICOMweb plugin is not installed")
        import base64

        import httpx

        day = YESTERDAY.strftime("%Y%m%d")
        file = as_file(dataset(study="1.2.9.11", StudyDate=day))
        httpx.post(f"{server.url}/instances", content=file, auth=("priors", "s3cret"), timeout=30).raise_for_status()
        secret = "Basic " + base64.b64encode(b"priors:s3cret").decode()
        monkeypatch.setattr("sys.stdin", StringIO(f"{secret}\n"))
        url = f"{server.url}/dicom-web"
        call_command(
            "add_dicom_peer", "PACS", "--priors", "dicomweb", "--dicomweb", url, "--credential-stdin", verbosity=0
        )
        row = DicomPeer.objects.get()
        assert b"Basic" not in bytes(row.credential)
        assert keys.decrypt(row.key_subject, bytes(row.credential), CREDENTIAL).decode() == secret
        order_for()
        work()
        assert Study.objects.get().purpose == StudyPurpose.PRIOR
        DicomPeer.objects.update(credential=b"")
        order_for(accession="ACC-NEXT")
        work()
        failed = Job.objects.get(kind="imaging.ask_for_priors", state=JobState.FAILED)
        assert "401" in failed.error


def test_a_pacs_that_is_away_is_asked_again():
    DicomPeer.objects.create(ae_title="PACS", host="127.0.0.1", port=9, priors="dimse")
    order_for()
    work()
    job = Job.objects.get(kind="imaging.ask_for_priors")
    assert (job.state, job.attempts) == (JobState.WAITING, 1)
    assert "PACS" in job.error


def test_nobody_is_asked_where_no_pacs_is_configured_or_the_order_is_cancelled():
    DicomPeer.objects.create(ae_title="SCANNER1")
    order_for()
    work()
    assert not Job.objects.filter(kind="imaging.ask_for_priors").exists()


def wanted(patient: Patient, uid: str = "1.2.3.1", expected: int | None = None) -> PriorStudy:
    row = DicomPeer.objects.get_or_create(ae_title="PACS")[0]
    from imaging.identifiers import uid_index

    return PriorStudy.objects.create(
        patient=patient, peer=row, uid_index=uid_index(uid), ciphertext=b"x", expected_instances=expected
    )


def test_what_comes_as_a_prior_is_never_filed_under_another_patient():
    order = order_for("MRN-OTHER")
    wanted(order.patient)
    stored = store_instance(as_file(dataset()), source="dicom", peer="PACS")
    assert stored.quarantined
    assert "another patient" in stored.reason
    assert not Study.objects.exists()
    assert Patient.objects.count() == 1, "nobody is registered on the word of a wrong answer"


def test_the_announced_number_completes_and_one_more_reopens():
    wanted(order_for().patient, expected=2)
    store_instance(as_file(dataset(number=1)), source="dicom", peer="PACS")
    assert Study.objects.get().state == StudyState.RECEIVING
    store_instance(as_file(dataset(number=2)), source="dicom", peer="PACS")
    assert Study.objects.get().state == StudyState.COMPLETE
    store_instance(as_file(dataset(number=3)), source="dicom", peer="PACS")
    study = Study.objects.get()
    assert (study.state, study.generation) == (StudyState.RECEIVING, 2)


def test_its_own_order_makes_a_prior_a_study_to_be_reported():
    wanted(order_for().patient)
    store_instance(as_file(dataset()), source="dicom", peer="PACS")
    study = Study.objects.get()
    assert not study.to_be_reported
    order_for(accession="ACC-77001")
    work()
    study.refresh_from_db()
    assert study.order is not None
    assert study.to_be_reported


def test_which_studies_are_worth_having():
    def one(uid: str, day: str, *modalities: str) -> FoundStudy:
        return FoundStudy(uid, day, MRN, "", "", modalities)

    found = [
        one("1", "20250101", "MR"),
        one("2", "20240101", "CT", "MR"),
        one("3", "20230101", "CT"),
        one("4", "20220101"),
        one("5", "20100101", "MR"),
        one("6", "20260101", "MR"),
        one("7", "", "MR"),
    ]
    chosen = fetch.select(found, since="20200101", until="20260101", limit=3)
    assert [study.uid for study in chosen] == ["1", "2", "4"]
    assert [study.uid for study in fetch.select(found, since="20200101", until="20260101", limit=1)] == ["1"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["PACS", "--priors", "dimse"],
        ["PACS", "--priors", "dicomweb"],
        ["PACS", "--dicomweb", "http://pacs.example/dicom-web"],
        ["PACS", "--dicomweb", "ftp://pacs.example/"],
    ],
)
def test_the_command_refuses_what_cannot_work(arguments):
    with pytest.raises(CommandError):
        call_command("add_dicom_peer", *arguments)
    assert not DicomPeer.objects.exists()
