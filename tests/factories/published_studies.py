"""A study that came in by DICOM, went through de-identification and is offered by DICOMweb."""

from __future__ import annotations

import uuid

import pytest

from clinical.models import User
from imaging.archive import completion
from imaging.archive.store_instance import store_instance
from imaging.deidentification.deidentify_study import deidentify_study
from imaging.models import Study
from oncoflow_site.foundation.jobs import JobContext, JobKind, enqueue, run_job
from oncoflow_site.foundation.models import Job
from tests.factories.dicom_files import study_files

STUDY = "1.2.3.1"


def bring(files: list[bytes]) -> Study:
    """Receive, de-identify and publish the files of one study, by the jobs that do it."""
    stored = None
    for data in files:
        stored = store_instance(data, source="dicom", peer="SCANNER1")
        assert stored.status == 0, stored.reason
    assert stored is not None
    assert stored.study_id is not None
    study = Study.objects.get(pk=stored.study_id)
    completion.complete(study)
    deidentify_study(_context(study), study)
    publish(study)
    study.refresh_from_db()
    return study


def _context(study: Study) -> JobContext:
    """As `imaging.deidentify_study` has it."""
    row = enqueue(
        "imaging.deidentify_study", subject=study.subject, key=f"t:{uuid.uuid4()}", kwargs={"study_id": study.pk}
    )
    Job.objects.filter(pk=row.pk).update(state="running", lease_token=uuid.uuid4(), fence=1)
    kind = JobKind("test", lambda ctx: None, "default", 1, 60.0, 600.0, frozenset(), frozenset())
    return JobContext(Job.objects.get(pk=row.pk), kind)


def publish(study: Study) -> None:
    """Run what follows from de-identification, as the workflow has it."""
    for row in Job.objects.filter(kind__startswith="imaging.publish", subject=study.subject, state="waiting"):
        run_job(row.pk)


@pytest.fixture
def study(db: None) -> Study:
    """Four MR series of four small slices."""
    return bring(study_files(study=STUDY))


def account(username: str, role: str) -> User:
    return User.objects.create_user(username, password=None, role=role)
