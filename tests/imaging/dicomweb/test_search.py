"""QIDO-RS: what is found, by which keys, by whom, and what nobody finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from audit.models import AuditRow
from clinical.models import User
from fhir_api.access.tokens import create_token
from imaging.dicomweb.qido_query import LEVELS, BadQuery, matches, parse_query
from imaging.identifiers import map_uid
from imaging.models import Instance, InstanceState, PublishedInstance, Study
from oncoflow_site.foundation import keys
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.models import StoredObject
from tests.factories.dicom_files import study_files
from tests.factories.published_studies import STUDY, account, bring

Ask = Callable[..., Any]


def first(found: list[dict[str, Any]], tag: str) -> list[Any]:
    return [one.get(tag, {}).get("Value", [None])[0] for one in found]


def test_a_study_with_what_a_list_shows(study: Study, ask: Ask) -> None:
    answer = ask("/studies")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/dicom+json"
    (found,) = answer.json()
    assert found["0020000D"]["Value"] == [study.deidentified_uid] == [map_uid(STUDY)]
    assert found["00100020"]["Value"] == [study.patient.pseudonym]
    assert found["00080061"]["Value"] == ["MR"]
    assert (found["00201206"]["Value"], found["00201208"]["Value"]) == ([4], [16])
    assert found["00081190"]["Value"] == [f"http://testserver/dicomweb/studies/{study.deidentified_uid}"]
    assert list(found) == sorted(found)


def test_nothing_of_the_patient_is_in_any_answer(study: Study, ask: Ask) -> None:
    for path in ("/studies", "/series", "/instances", f"/studies/{study.deidentified_uid}/metadata"):
        answer = ask(path, includefield="all") if "metadata" not in path else ask(path)
        text = b"".join(answer.streaming_content) if answer.streaming else answer.content
        assert len(text) > 300
        for planted in (b"Quastenflosser", b"MRN-4711", b"ACC-77001", b"19610423", b"Gertrud", b"Wachtel", b"1.2.3.1"):
            assert planted not in text, (path, planted)


def test_series_and_instances_on_every_path(study: Study, ask: Ask) -> None:
    uid = study.deidentified_uid
    series = ask(f"/studies/{uid}/series").json()
    assert first(series, "00200011") == [1, 2, 3, 4]
    assert first(series, "00201209") == [4] * 4
    assert len(ask("/series").json()) == 4
    one = series[0]["0020000E"]["Value"][0]
    instances = ask(f"/studies/{uid}/series/{one}/instances").json()
    assert first(instances, "00200013") == [1, 2, 3, 4]
    assert first(instances, "00280010") == [16] * 4
    assert len(ask(f"/studies/{uid}/instances").json()) == len(ask("/instances").json()) == 16


@pytest.mark.parametrize(
    ("level", "query", "count"),
    [
        ("studies", {"PatientID": "{pseudonym}"}, 1),
        ("studies", {"00100020": "{pseudonym}"}, 1),
        ("studies", {"PatientID": "MRN-4711-X"}, 0),
        ("studies", {"PatientID": "OF*"}, 1),
        ("studies", {"StudyDate": "20200101-20270101"}, 1),
        ("studies", {"StudyDate": "-20200101"}, 0),
        ("studies", {"StudyDate": "20270101-"}, 0),
        ("studies", {"ModalitiesInStudy": "MR"}, 1),
        ("studies", {"ModalitiesInStudy": "CT"}, 0),
        ("studies", {"StudyInstanceUID": "1.2,{study}"}, 1),
        ("studies", {"StudyInstanceUID": STUDY}, 0),
        ("studies", {"PatientSex": "F"}, 1),
        ("studies", {"PatientSex": "M"}, 0),
        ("studies", {"PatientName": "*"}, 1),
        ("series", {"Modality": "MR", "SeriesNumber": "2"}, 1),
        ("series", {"SeriesDescription": "t2*"}, 2),
        ("series", {"SeriesDescription": "t2 ??? ax"}, 1),
        ("instances", {"InstanceNumber": "3"}, 4),
        ("instances", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, 16),
        ("instances", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, 0),
    ],
)
def test_matching(study: Study, ask: Ask, level: str, query: dict[str, str], count: int) -> None:
    filled = {
        key: value.format(pseudonym=study.patient.pseudonym, study=study.deidentified_uid)
        for key, value in query.items()
    }
    answer = ask(f"/{level}", **filled)
    assert answer.status_code == (200 if count else 204)
    assert (len(answer.json()) if count else 0) == count


def test_a_search_takes_the_same_queries_for_many_rows_as_for_few(study: Study, ask: Ask) -> None:
    def counted() -> dict[str, tuple[int, int]]:
        found = {}
        for level in ("studies", "series", "instances"):
            with CaptureQueriesContext(connection) as queries:
                rows = ask(f"/{level}").json()
            found[level] = (len(rows), len(queries))
        return found

    counted()  # what is looked up once a process
    few = counted()
    bring(study_files(study="1.2.3.9", slices=2))
    many = counted()
    for level, (rows, queries) in few.items():
        assert many[level][0] > rows
        assert many[level][1] == queries, (level, few, many)


def test_pages_and_warnings(study: Study, ask: Ask) -> None:
    answer = ask("/instances", limit=10)
    assert len(answer.json()) == 10
    assert "additional results" in answer.headers["Warning"]
    rest = ask("/instances", limit=10, offset=10)
    assert len(rest.json()) == 6
    assert "Warning" not in rest.headers
    uids = {*first(answer.json(), "00080018"), *first(rest.json(), "00080018")}
    assert len(uids) == 16
    # the same through a key that only the headers can answer
    by_header = ask("/instances", limit=2, offset=1, InstanceNumber="3")
    assert len(by_header.json()) == 2
    assert "additional results" in by_header.headers["Warning"]
    fuzzy = ask("/studies", fuzzymatching="true")
    assert "fuzzymatching parameter is not supported" in fuzzy.headers["Warning"]
    assert "Warning" not in ask("/studies", fuzzymatching="false").headers


def test_includefield(study: Study, ask: Ask) -> None:
    assert "00180081" not in ask("/series").json()[0]
    assert ask("/series", includefield="EchoTime,00180080").json()[0]["00180081"]["Value"] == [2.5]
    assert "00180087" in ask("/instances", includefield="all").json()[0]
    assert "7FE00010" not in ask("/instances", includefield="all").json()[0]


@pytest.mark.parametrize("query", [{"NoSuchAttribute": "x"}, {"limit": "-1"}, {"offset": "x"}, {"limit": "1e3"}])
def test_what_cannot_be_understood_is_400(study: Study, ask: Ask, query: dict[str, str]) -> None:
    answer = ask("/studies", **query)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_media_types(study: Study, ask: Ask) -> None:
    for accept in ("application/dicom+json", "application/json", "*/*", "text/html, application/dicom+json;q=0.2"):
        assert ask("/studies", accept=accept).status_code == 200
    for accept in ('multipart/related; type="application/dicom+xml"', "text/html", "application/dicom+json;q=0", ";;"):
        assert ask("/studies", accept=accept).status_code == 406


def test_who_may_search(study: Study, reader: User, machine: User, ask: Ask) -> None:
    stranger = account("otto", "radiologist")
    assert Client().get("/dicomweb/studies").status_code == 401
    for user, status in ((reader, 200), (stranger, 204)):
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        assert client.get("/dicomweb/studies").status_code == status
        inside = client.get(f"/dicomweb/studies/{study.deidentified_uid}/series")
        assert inside.status_code == (200 if user is reader else 404)
    assert AuditRow.objects.filter(event="dicomweb.search", outcome=4, resource=study.subject).count() == 1
    for scope, status in (("system/Patient.rs", 403), ("system/ImagingStudy.r", 403), ("system/ImagingStudy.s", 200)):
        narrow = create_token(machine, scope, scopes=[scope])[1]
        answer = Client().get("/dicomweb/studies", headers={"Authorization": f"Bearer {narrow}"})
        assert answer.status_code == status, scope
    clerk = account("carla", "compliance_officer")
    client = Client()
    client.force_login(clerk, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get("/dicomweb/studies").status_code == 403


def test_what_is_quarantined_is_invisible(study: Study, ask: Ask) -> None:
    row = PublishedInstance.objects.first()
    assert row is not None
    assert row.instance_id is not None
    Instance.objects.filter(pk=row.instance_id).update(state=InstanceState.QUARANTINED)
    assert ask("/studies").json()[0]["00201208"]["Value"] == [15]
    path = f"/studies/{study.deidentified_uid}/series/{row.series_instance_uid}/instances/{row.sop_instance_uid}"
    assert ask(path).status_code == 404


def test_what_is_not_deidentified_yet_is_invisible(db: None, ask: Ask) -> None:
    from imaging.archive.store_instance import store_instance

    for data in study_files():
        store_instance(data, source="dicom", peer="SCANNER1")
    assert ask("/studies").status_code == 204
    assert ask("/instances").status_code == 204


def test_an_erased_patient_is_gone_and_the_others_are_found(study: Study, ask: Ask) -> None:
    other = bring(study_files(study="1.2.3.8", sequences=("T1",), PatientID="MRN-OTHER"))
    assert len(ask("/studies").json()) == 2
    keys.destroy(study.patient.key_subject)
    assert first(ask("/studies").json(), "0020000D") == [other.deidentified_uid]
    assert ask(f"/studies/{study.deidentified_uid}/metadata").status_code == 404


def test_what_retention_removed_is_gone(study: Study, ask: Ask) -> None:
    row = PublishedInstance.objects.select_related("object").order_by("id")[0]
    StoredObject.objects.filter(pk=row.object_id).update(removed_at=now())
    assert ask("/studies").json()[0]["00201208"]["Value"] == [15]
    assert len(ask("/instances").json()) == 15
    assert (
        ask(
            f"/studies/{study.deidentified_uid}/series/{row.series_instance_uid}/instances/{row.sop_instance_uid}/metadata"
        ).status_code
        == 404
    )


def test_ct_is_offered_like_mr(db: None, ask: Ask) -> None:
    ct = bring(study_files(study="1.2.3.7", sequences=("T1",), Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2"))
    (found,) = ask("/studies").json()
    assert found["00080061"]["Value"] == ["CT"]
    assert ct.modality == "CT"


def test_the_audit_row_holds_the_keys_and_no_value(study: Study, ask: Ask) -> None:
    ask("/studies", PatientName="Quastenflosser*", PatientID="MRN-4711-X")
    row = AuditRow.objects.filter(event="dicomweb.search").latest("recorded")
    assert row.detail == {"level": "studies", "keys": ["00100010", "00100020"], "results": 0}
    assert row.source == "dicom"
    assert "4711" not in json.dumps(row.detail)


def test_publishing_again_changes_nothing(study: Study) -> None:
    from tests.factories.studies import run

    before = set(PublishedInstance.objects.values_list("id", "object_id"))
    run("imaging.publish_study", study)
    assert set(PublishedInstance.objects.values_list("id", "object_id")) == before
    assert len(before) == 16


def test_wild_cards_take_linear_time() -> None:
    header = {"0008103E": {"vr": "LO", "Value": ["a" * 64]}}
    assert not matches(header, ("0008103E",), "*a" * 200 + "b")
    assert matches(header, ("0008103E",), "a*a?a*")


def test_matching_in_sequences_and_names() -> None:
    header = {
        "00400275": {"vr": "SQ", "Value": [{"00400009": {"vr": "SH", "Value": ["S1"]}}]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "OF-ABCD^^"}]},
        "00080030": {"vr": "TM", "Value": ["093000.5"]},
    }
    assert matches(header, ("00400275", "00400009"), "S?")
    assert not matches(header, ("00400275", "00400009"), "S2")
    assert matches(header, ("00100010",), "of-abcd")
    assert matches(header, ("00080030",), "0900-0930")
    assert not matches(header, ("00080030",), "0931-")
    with pytest.raises(BadQuery):
        parse_query([("Modality", "MR"), ("00080060", "CT")], LEVELS["series"])
