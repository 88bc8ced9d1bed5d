"""What de-identification keeps of a copy while it is in memory is what reading the stored file would give."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from imaging.archive import completion
from imaging.archive.store_instance import store_instance
from imaging.deidentification.engine import DeidentificationRefused, Deidentifier, PatientProfile
from imaging.dicom.image_header import image_dataset, image_header
from imaging.dicom.image_plane import READ_TAGS, VolumeRefused, image_planes, pixels_of
from imaging.dicomweb.dicom_json import Unpublishable, published_from, read_published
from imaging.models import Instance, PublishedInstance, Study
from imaging.volumes.series_reader import read_series
from tests.factories import studies
from tests.factories.dicom_files import as_file, dataset, study_files

PROFILE = PatientProfile("P-1", -30, lambda uid: f"2.25.{abs(hash(uid)) % 10**20}")


def agree(data: bytes) -> bool:
    """Whether the file could be de-identified; the record then says what the file says."""
    try:
        file = Deidentifier(PROFILE)(data).file
    except DeidentificationRefused:
        return False
    header = file.header()
    try:
        read = read_published(file.data)
    except Unpublishable as refused:
        with pytest.raises(Unpublishable, match=str(refused)[:20]):
            published_from(file, header)
        return True
    kept = published_from(file, header)
    assert (kept.json, kept.layout, kept.frames) == (read.json, read.layout, read.frames)
    assert kept.transfer_syntax_uid == read.transfer_syntax_uid
    record = image_header(file, header)
    if record is not None:
        parsed = dcmread(BytesIO(file.data), force=True, specific_tags=READ_TAGS)  # type: ignore[arg-type]
        rebuilt = image_dataset(record, file.data)
        assert np.array_equal(pixels_of(rebuilt), pixels_of(parsed))
        try:
            wanted = list(image_planes(parsed, 0))
        except VolumeRefused as refused:
            with pytest.raises(VolumeRefused, match=str(refused)[:30]):
                list(image_planes(rebuilt, 0))
            return True
        for one, other in zip(image_planes(rebuilt, 0), wanted, strict=True):
            assert np.array_equal(one.position, other.position)
            assert np.array_equal(one.orientation, other.orientation)
            assert (one.spacing, one.tilt, one.scale) == (other.spacing, other.tilt, other.scale)
    return True


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("attributes", [{}, {"SpecificCharacterSet": "ISO_IR 100", "StudyDescription": "Schädel"}])
def test_a_written_file_reads_as_it_was_written(implicit, attributes):
    assert agree(as_file(dataset(**attributes), implicit=implicit))


@pytest.mark.slow
def test_real_files_too(test_data: Path):
    files = sorted(test_data.rglob("*.dcm"))[::7][:150]
    read = [agree(path.read_bytes()) for path in files if path.stat().st_size < 20_000_000]
    assert sum(read) > len(read) / 2 > 10


@pytest.mark.django_db
def test_images_are_noted_for_viewers_with_their_copies_and_read_without_being_parsed(monkeypatch):
    for data in study_files(study="1.2.3.1"):
        assert store_instance(data, source="dicom", peer="SCANNER1").status == 0
    study = Study.objects.get()
    completion.complete(study)
    job = next(iter(studies.Job.objects.filter(kind="imaging.deidentify_study")))
    assert studies.run_job(job.pk)
    assert PublishedInstance.objects.count() == Instance.objects.count()
    assert not Instance.objects.filter(image=None).exists()
    series = study.series.first()
    assert series is not None
    stack = read_series(series)
    monkeypatch.setattr("imaging.volumes.series_reader.dcmread", None)
    again = read_series(series)
    assert np.array_equal(stack.stored, again.stored)
    monkeypatch.undo()
    Instance.objects.update(image=None)
    parsed = read_series(series)
    assert np.array_equal(parsed.stored, again.stored)
    assert np.array_equal(parsed.affine_ras, again.affine_ras)
    assert parsed.frames == again.frames
