"""What is wrong with a study: one row for each thing, raised and cleared by the step that knows."""

from __future__ import annotations

import uuid

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from imaging.findings import clear_findings, raise_finding
from imaging.models import FindingSeverity, Study, StudyFinding, StudyState
from oncoflow_site.foundation.clock import now
from tests.factories import studies

NOTE, WARNING, STOPS = FindingSeverity.NOTE, FindingSeverity.WARNING, FindingSeverity.STOPS


@pytest.mark.django_db
def test_a_remark_does_not_displace_what_is_wrong_and_the_heaviest_comes_first() -> None:
    study = studies.study_row(studies.patient())
    assert study.flag_code == ""
    assert raise_finding(study, "reduced", "No FLAIR.", severity=NOTE, by="preparation")
    assert raise_finding(study, "accession-other-patient", "Another patient's order.", severity=WARNING, by="matching")
    assert not raise_finding(study, "reduced", "No FLAIR and no T2.", severity=NOTE, by="preparation")
    assert [one.code for one in study.open_findings] == ["accession-other-patient", "reduced"]
    assert study.flag_message == "Another patient's order."
    assert study.open_findings[1].message == "No FLAIR and no T2."
    assert clear_findings(study, by="preparation", raised_by="preparation") == 1
    assert [one.code for one in study.open_findings] == ["accession-other-patient"]
    assert raise_finding(study, "reduced", "No T2.", severity=NOTE, by="preparation")
    assert StudyFinding.objects.filter(study=study, code="reduced").count() == 2


@pytest.mark.django_db
def test_a_preparation_leaves_alone_what_it_did_not_raise() -> None:
    brain = studies.brain_like(studies.SMALL)
    study = studies.nifti_study(studies.patient(), dict.fromkeys(("T1c", "FLAIR"), (brain, studies.SMALL)))
    raise_finding(study, "accession-other-patient", "Another patient's order.", severity=WARNING, by="order matching")
    raise_finding(study, "no-brain", "No brain.", severity=STOPS, by="preparation")
    studies.run("imaging.prepare_study", study)
    assert study.state == StudyState.READY
    assert [one.code for one in study.open_findings] == ["accession-other-patient", "reduced"]


@pytest.mark.django_db(transaction=True)
def test_the_flags_of_before_are_carried_over() -> None:
    before, after = ("imaging", "0016_commitment_failed"), ("imaging", "0017_study_findings")
    # Of all rooms: going back takes what depends on this room back as well.
    latest = MigrationExecutor(connection).loader.graph.leaf_nodes()
    patient = studies.patient()
    try:
        executor = MigrationExecutor(connection)
        executor.migrate([before])
        old = executor.loader.project_state([before]).apps.get_model("imaging", "Study")

        def study(code: str, message: str) -> uuid.UUID:
            unique = uuid.uuid4().hex
            return old.objects.create(
                patient_id=patient.pk,
                uid_index=unique,
                deidentified_uid=unique,
                ciphertext=b"",
                performed_at=now(),
                flag_code=code,
                flag_message=message,
            ).pk

        rows = [study("reduced", "No FLAIR."), study("not-mr", "This is a CT study."), study("", "")]
        MigrationExecutor(connection).migrate([after])
    finally:
        MigrationExecutor(connection).migrate(latest)
    found = [[(one.code, one.severity, one.message) for one in Study.objects.get(pk=pk).open_findings] for pk in rows]
    assert found == [[("reduced", "note", "No FLAIR.")], [("not-mr", "stops", "This is a CT study.")], []]
