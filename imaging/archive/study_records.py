"""Rows of studies and series as the header of an instance tells them."""

from __future__ import annotations

from clinical.models import Patient
from imaging.archive import completion
from imaging.archive.filing_header import FilingHeader
from imaging.deidentification.value_cleaning import clean_words
from imaging.dicom.acquisition import acquisition_parameters, to_json
from imaging.identifiers import SeriesIdentity, StudyIdentity, accession_index, map_uid, open_study, seal, uid_index
from imaging.models import PriorStudy, Series, Study, StudyPurpose
from imaging.recognition.learned_protocols import as_said, protocol_of
from imaging.recognition.rules import recognise_facts
from oncoflow_site.foundation.errors import required

__all__ = ["asked_for", "create_study", "series_of"]


def asked_for(header: FilingHeader) -> PriorStudy | None:
    """The study, if we asked a PACS for it."""
    return PriorStudy.objects.select_related("patient").filter(uid_index=uid_index(header.study_uid)).first()


def create_study(header: FilingHeader, patient: Patient, source: str) -> Study:
    """A new study, that will be complete when it has been quiet."""
    subject = patient.key_subject
    identity = StudyIdentity(header.study_uid, header.accession, header.frame_of_reference)
    asked = asked_for(header)
    study = Study.objects.create(
        patient=patient,
        uid_index=uid_index(header.study_uid),
        accession_index=accession_index(header.accession),
        deidentified_uid=map_uid(header.study_uid),
        ciphertext=seal(subject, identity, context="study"),
        performed_at=required(header.performed_at, "the date of the study"),
        performed_on_day=header.on_day,
        modality=header.modality or "MR",
        source=source,
        purpose=StudyPurpose.READ if asked is None else StudyPurpose.PRIOR,
        expected_instances=None if asked is None else asked.expected_instances,
    )
    completion.arm(study.pk, study.generation)
    return study


def series_of(header: FilingHeader, study: Study) -> Series:
    """The series, made where it is the first time that we hear of it."""
    known = Series.objects.filter(uid_index=uid_index(header.series_uid)).first()
    if known is not None:
        _fill_accession(header, study)
        return known
    _fill_accession(header, study)
    facts = acquisition_parameters(header.dataset)
    protocol = protocol_of(facts)
    recognition = as_said(recognise_facts(facts), protocol)
    description = str(header.dataset.get("SeriesDescription") or "")[:200]
    identity = SeriesIdentity(header.series_uid, header.frame_of_reference, description, to_json(facts))
    return Series.objects.create(
        study=study,
        uid_index=uid_index(header.series_uid),
        deidentified_uid=map_uid(header.series_uid),
        modality=header.modality or "OT",
        number=header.series_number,
        sequence=recognition.sequence,
        sequence_confidence=recognition.confidence,
        sequence_reason=recognition.reason[:500],
        description=clean_words(description)[:200],
        parameters=dict(recognition.parameters),
        protocol=protocol or {},
        ciphertext=seal(study.key_subject, identity, context="series"),
    )


def _fill_accession(header: FilingHeader, study: Study) -> None:
    """A localizer may come without the accession number that the next series brings."""
    if study.accession_index or not header.accession:
        return
    subject = study.key_subject
    old = open_study(subject, study.ciphertext)  # type: ignore[arg-type]
    new = StudyIdentity(old.study_instance_uid, header.accession, old.frame_of_reference or header.frame_of_reference)
    study.accession_index = accession_index(header.accession)
    study.ciphertext = seal(subject, new, context="study")
    study.save(update_fields=["accession_index", "ciphertext"])
