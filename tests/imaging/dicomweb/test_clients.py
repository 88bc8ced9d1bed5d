"""Other people's programs against the whole service: dicomweb-client as it is, Orthanc's DICOMweb plugin as sender."""

from __future__ import annotations

from io import BytesIO

import httpx
import numpy as np
import pytest
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_auth
from pydicom import dcmread
from requests.auth import AuthBase

from clinical.models import User
from fhir_api.access.tokens import create_token
from imaging.models import Instance, InstanceState, PublishedInstance, Study
from oncoflow_site.foundation import objects
from tests.factories.dicom_files import as_file, dataset, study_files
from tests.factories.published_studies import bring
from tests.peers.orthanc import Orthanc

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


class Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request):  # type: ignore[no-untyped-def]
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


@pytest.fixture
def client(live: str, machine: User) -> DICOMwebClient:
    """dicomweb-client, unchanged, with a token of ours."""
    token = create_token(machine, "client")[1]
    return DICOMwebClient(f"{live}/dicomweb", session=create_session_from_auth(Bearer(token)))


def test_dicomweb_client_finds_and_reads(client: DICOMwebClient) -> None:
    study = bring(study_files(sequences=("T1", "T2")))
    uid = study.deidentified_uid
    (found,) = client.search_for_studies(search_filters={"PatientID": study.patient.pseudonym})
    assert found["0020000D"]["Value"] == [uid]
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []
    series = client.search_for_series(uid)
    assert [one["00200011"]["Value"] for one in series] == [[1], [2]]
    series_uid = series[1]["0020000E"]["Value"][0]
    instances = client.search_for_instances(uid, series_uid, fields=["Rows"], limit=3)
    assert len(instances) == 3
    every = client.search_for_instances(uid, limit=3, get_remaining=True)
    assert len({one["00080018"]["Value"][0] for one in every}) == 8
    instance_uid = instances[0]["00080018"]["Value"][0]
    row = PublishedInstance.objects.select_related("object").get(sop_instance_uid=instance_uid)
    expected = dcmread(BytesIO(objects.get(row.object)))

    assert len(client.retrieve_study(uid)) == 8
    assert len(client.retrieve_series(uid, series_uid)) == 4
    one = client.retrieve_instance(uid, series_uid, instance_uid)
    assert (one.SOPInstanceUID, one.PatientName) == (instance_uid, study.patient.pseudonym)
    assert np.array_equal(one.pixel_array, expected.pixel_array)
    assert len(client.retrieve_study_metadata(uid)) == 8
    metadata = client.retrieve_series_metadata(uid, series_uid)
    assert len(metadata) == 4
    header = client.retrieve_instance_metadata(uid, series_uid, instance_uid)
    (bulk,) = client.retrieve_bulkdata(header["7FE00010"]["BulkDataURI"])
    assert bulk == expected.PixelData
    (frame,) = client.retrieve_instance_frames(uid, series_uid, instance_uid, [1])
    assert frame == expected.PixelData
    jpeg = client.retrieve_instance_rendered(uid, series_uid, instance_uid, media_types=("image/jpeg",))
    assert jpeg[:3] == b"\xff\xd8\xff"
    png = client.retrieve_instance_frames_rendered(uid, series_uid, instance_uid, [1], media_types=("image/png",))
    assert png[:4] == b"\x89PNG"
    streamed = list(client.iter_series(uid, series_uid))
    assert len(streamed) == 4


def test_dicomweb_client_stores(client: DICOMwebClient) -> None:
    sent = [dcmread(BytesIO(data)) for data in study_files()]
    answer = client.store_instances(sent)
    assert len(answer.ReferencedSOPSequence) == 16
    assert "FailedSOPSequence" not in answer
    assert Instance.objects.filter(state=InstanceState.RECEIVED).count() == 16
    original = Instance.objects.order_by("received_at")[0].original
    assert dcmread(BytesIO(objects.get(original))).PatientID == "MRN-4711-X"
    again = client.store_instances(sent[:2], study_instance_uid="1.2.3.1")
    assert len(again.ReferencedSOPSequence) == 2
    assert Instance.objects.count() == 16


def test_a_large_series_streams(client: DICOMwebClient) -> None:
    bring([as_file(dataset(number=number, size=512)) for number in range(1, 13)])
    study = Study.objects.get()
    found = client.retrieve_study(study.deidentified_uid)
    assert sorted(int(one.InstanceNumber) for one in found) == list(range(1, 13))


def test_orthanc_sends_by_stow(live: str, machine: User, orthanc: Orthanc) -> None:
    if not orthanc.dicomweb:
        pytest.skip("Orthanc's DICOMweb plugin is not installed")
    token = create_token(machine, "orthanc")[1]
    for data in study_files(sequences=("T1", "FLAIR")):
        orthanc.upload(data)
    (study,) = httpx.get(f"{orthanc.url}/studies", timeout=30).json()
    server = {"Url": f"{live}/dicomweb/", "HttpHeaders": {"Authorization": f"Bearer {token}"}}
    httpx.put(f"{orthanc.url}/dicom-web/servers/oncoflow", json=server, timeout=30).raise_for_status()
    body = {"Resources": [study], "Synchronous": True}
    answer = httpx.post(f"{orthanc.url}/dicom-web/servers/oncoflow/stow", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert Instance.objects.filter(state=InstanceState.RECEIVED).count() == 8
    assert Study.objects.get().source == "stow"


def test_orthanc_reads_what_is_offered(live: str, machine: User, orthanc: Orthanc) -> None:
    if not orthanc.dicomweb:
        pytest.skip("Orthanc's DICOMweb plugin is not installed")
    study = bring(study_files(sequences=("T1",)))
    token = create_token(machine, "orthanc")[1]
    server = {"Url": f"{live}/dicomweb/", "HttpHeaders": {"Authorization": f"Bearer {token}"}}
    httpx.put(f"{orthanc.url}/dicom-web/servers/oncoflow", json=server, timeout=30).raise_for_status()
    wanted = {"Resources": [{"Study": study.deidentified_uid}], "Synchronous": True}
    answer = httpx.post(f"{orthanc.url}/dicom-web/servers/oncoflow/retrieve", json=wanted, timeout=60)
    assert answer.status_code == 200, answer.text
    assert len(httpx.get(f"{orthanc.url}/instances", timeout=30).json()) == 4
