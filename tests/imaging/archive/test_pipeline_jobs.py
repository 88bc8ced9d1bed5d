"""From a complete study to volumes and viewers: each step a job of its own, in the order that the workflow says."""

from __future__ import annotations

import pytest

from imaging.archive import completion
from imaging.archive.store_instance import store_instance
from imaging.models import Instance, InstanceState, PublishedInstance, Study, StudyState
from oncoflow_site.foundation.models import Event, Job, JobState
from tests.factories import studies
from tests.factories.dicom_files import as_file, dataset

pytestmark = pytest.mark.django_db


def received(numbers: range = range(1, 4)) -> Study:
    for number in numbers:
        stored = store_instance(as_file(dataset(number=number)), source="dicom", peer="SCANNER1")
        assert stored.status == 0
    return Study.objects.get()


def kinds(state: str) -> list[str]:
    return [job.kind for job in Job.objects.filter(state=state).order_by("created_at", "id")]


def test_a_complete_study_is_deidentified_then_matched_prepared_and_published():
    study = received()
    completion.complete(study)
    assert kinds("waiting") == ["imaging.complete_study", "imaging.deidentify_study"]
    studies.run_waiting("imaging")
    assert kinds("done") == [
        "imaging.deidentify_study",
        "imaging.match_study",
        "imaging.prepare_study",
        "imaging.publish_study",
    ]
    study.refresh_from_db()
    assert study.unsolicited
    assert set(Instance.objects.values_list("state", flat=True)) == {InstanceState.DEIDENTIFIED}
    assert PublishedInstance.objects.count() == 3
    assert study.state in (StudyState.READY, StudyState.FLAGGED)


def test_a_preparation_that_finds_images_as_they_came_has_them_deidentified_first():
    study = received()
    Study.objects.update(state=StudyState.COMPLETE)
    assert studies.run("imaging.prepare_study", study).state == JobState.DONE
    assert Study.objects.get().state == StudyState.COMPLETE
    assert studies.run_waiting("imaging") == 4
    assert not Instance.objects.filter(state=InstanceState.RECEIVED).exists()
    assert Study.objects.get().state in (StudyState.READY, StudyState.FLAGGED)


def test_a_study_reopened_meanwhile_is_not_called_deidentified():
    study = received()
    assert studies.run("imaging.deidentify_study", study).state == JobState.DONE
    assert not Instance.objects.filter(state=InstanceState.RECEIVED).exists()
    assert not Event.objects.filter(kind="study.deidentified").exists()
