"""Two and more dates of one patient: change, lesions that come, stay and go, studies in the wrong order."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from django.db import transaction

from imaging.geometry.grid import Grid
from imaging.geometry.resample import resample
from imaging.longitudinal.history import current_measurement, current_measurements
from imaging.models import Alignment, Comparison, Measurement, Study, StudyState, Volumetry
from imaging.segmentation.label_maps import current_segmentation, load_labels, save_segmentation, write_labels
from imaging.segmentation.probability_maps import decode_probability, encode_probability
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.models import Event, Job, JobState
from tests.factories import studies
from tests.factories.phantoms import rigid
from tests.factories.studies import DAY, FIRST, SMALL, brain_like, ready_study, segment, tumour

pytestmark = pytest.mark.django_db

POSE = rigid((3, -2, 4), (4, 3, -3))
JOB = "imaging.compare_study"
MEASURE = "imaging.measure_study"
BIG, LITTLE = (-25.0, 10.0, 5.0), (28.0, -15.0, 8.0)


def posed(centre):
    """Where a point of the first date lies at the second one."""
    back = np.linalg.inv(POSE)
    return tuple(back[:3, :3] @ np.asarray(centre) + back[:3, 3])


def first(person, *lesions, when=FIRST, outline=None, **fields):
    study, volumes = ready_study(person, brain_like(SMALL, 1), performed_at=when, **fields)
    segment(study, volumes, tumour(SMALL, *lesions), **(outline or {}))
    return study


def second(person, *lesions, when=FIRST + 90 * DAY, outline=None, **fields):
    """Another date: the head lies differently."""
    image = resample(brain_like(SMALL, 2), SMALL, SMALL, POSE)
    study, volumes = ready_study(person, image, performed_at=when, **fields)
    segment(study, volumes, tumour(SMALL, *[(posed(c), *radii) for c, *radii in lesions]), **(outline or {}))
    return study


def by_id(measurement: Measurement):
    return {one.id: one for one in measurement.lesions}


def test_the_first_study_is_the_baseline():
    study = first(studies.patient(), (BIG, 6.0, 10.0, 14.0))
    job = studies.run(JOB, study)
    assert job.state == JobState.DONE
    measurement = Measurement.objects.get(study=study)
    assert [one.status for one in measurement.lesions] == ["baseline"]
    comparison = Comparison.objects.get(measurement=measurement)
    assert comparison.prior_study is None
    assert comparison.result.response.category == "not assessed"
    event = Event.objects.get(kind="comparison.ready")
    assert event.payload == {"study_id": str(study.pk), "measurement_id": str(measurement.pk)}


def test_change_and_lesions_between_two_dates():
    person = studies.patient()
    one = first(person, (BIG, 6.0, 10.0, 14.0), (LITTLE, 0.0, 7.0, 9.0))
    two = second(person, (BIG, 8.0, 13.0, 17.0))
    studies.run(JOB, one)
    studies.run(JOB, two)
    before, after = Measurement.objects.get(study=one), Measurement.objects.get(study=two)
    comparison = Comparison.objects.get(measurement=after)
    assert comparison.prior_measurement == before
    result = comparison.result
    assert result.interval_days == 90
    assert result.registration.converged
    for region in ("ET", "TC", "WT"):
        expected = 100 * (after.regions[region].voxels - before.regions[region].voxels) / before.regions[region].voxels
        assert result.regions[region].change_percent == pytest.approx(expected, abs=0.01)
        assert result.regions[region].prior_mm3 == before.regions[region].volume_mm3
    lesions = by_id(after)
    # the large one is followed under its name, the small one is reported as gone
    assert lesions["L1"].status == "followed"
    assert lesions["L2"].status == "gone"
    assert lesions["L2"].regions == {"ET": 0.0, "TC": 0.0, "WT": 0.0}
    told = {one.id: one for one in result.lesions}
    assert told["L2"].current_mm3 == 0.0
    assert told["L2"].prior_mm3 > 0
    assert [point.study_id for point in result.history] == [str(one.pk), str(two.pk)]
    assert result.response.inputs.nadir_study_id == str(one.pk)


def test_a_new_measurable_lesion_is_progression():
    person = studies.patient()
    one = first(person, (BIG, 4.0, 10.0, 12.0))
    two = second(person, (BIG, 4.0, 10.0, 12.0), (LITTLE, 0.0, 8.0, 10.0))
    studies.run(JOB, one)
    studies.run(JOB, two)
    after = Measurement.objects.get(study=two)
    assert {one.id: one.status for one in after.lesions} == {"L1": "followed", "L2": "new"}
    response = Comparison.objects.get(measurement=after).result.response
    assert response.category == "PD"
    assert "RANO2-PD-NEW-LESION" in response.rule_ids


def test_running_twice_changes_nothing():
    person = studies.patient()
    one = first(person, (BIG, 6.0, 10.0, 14.0))
    studies.run(JOB, one)
    studies.run(JOB, one)
    assert Measurement.objects.count() == Comparison.objects.count() == 1
    assert Event.objects.filter(kind="comparison.ready").count() == 1


def test_an_older_study_that_arrives_late_changes_the_later_comparison():
    person = studies.patient()
    two = second(person, (BIG, 8.0, 12.0, 16.0))
    studies.run(JOB, two)
    assert by_id(current_measurement(two))["L1"].status == "baseline"
    one = first(person, (BIG, 6.0, 10.0, 14.0), (LITTLE, 0.0, 7.0, 9.0))
    studies.run(JOB, one)
    studies.run_waiting("imaging")
    # the older study takes over the later one's name and gives a new one to the lesion it alone has
    assert set(by_id(current_measurement(one))) == {"L1", "L2"}
    later = current_measurement(two)
    assert by_id(later)["L1"].status == "followed"
    assert by_id(later)["L2"].status == "gone"
    assert later.comparisons.get().prior_study == one
    assert Measurement.objects.filter(study=two).count() == 2


def test_a_later_study_waits_for_an_earlier_one_that_is_on_its_way():
    person = studies.patient()
    recent = {"last_received_at": now()}
    studies.study_row(person, state=StudyState.PREPARING, **recent)
    two = second(person, (BIG, 8.0, 12.0, 16.0))
    studies.run(JOB, two)
    assert not Measurement.objects.exists()
    assert Job.objects.filter(kind=JOB, state=JobState.WAITING, subject=two.subject).count() == 1


def test_a_corrected_mask_keeps_the_names_and_is_compared_anew():
    person = studies.patient()
    one = first(person, (BIG, 6.0, 10.0, 14.0), (LITTLE, 0.0, 7.0, 9.0))
    studies.run(JOB, one)
    names = {one.id for one in current_measurement(one).lesions}
    volumes = one.volume_sets.get()
    corrected = segment(one, volumes, tumour(SMALL, (BIG, 6.0, 11.0, 14.0), (LITTLE, 0.0, 6.0, 9.0)), "person", "dr")
    assert current_segmentation(one) == corrected
    studies.run(JOB, one)
    assert Measurement.objects.filter(study=one).count() == 2
    assert current_measurement(one).segmentation == corrected
    assert {one.id for one in current_measurement(one).lesions} == names


def test_every_prior_is_compared_and_the_nadir_is_found():
    person = studies.patient()
    dates = [FIRST, FIRST + 60 * DAY, FIRST + 120 * DAY]
    all_three = [
        first(person, (BIG, 0.0, radius, 14.0), when=when)
        for radius, when in zip((12.0, 8.0, 10.0), dates, strict=True)
    ]
    for study in all_three:
        studies.run(JOB, study)
    last = current_measurement(all_three[2])
    assert set(last.comparisons.values_list("prior_study_id", flat=True)) == {all_three[0].pk, all_three[1].pk}
    latest = last.comparisons.get(prior_study=all_three[1])
    assert latest.result.latest_prior is True
    assert latest.result.response.inputs.nadir_study_id == str(all_three[1].pk)
    assert latest.result.response.category == "PD"
    assert len(latest.result.history) == 3


def test_unknown_spacing_gives_per_cent_and_no_millimetres():
    person = studies.patient()
    one = first(person, (BIG, 0.0, 10.0, 14.0), spacing_known=False)
    two = first(person, (BIG, 0.0, 12.0, 16.0), when=FIRST + 30 * DAY, spacing_known=False)
    studies.run(JOB, one)
    studies.run(JOB, two)
    result = current_measurement(two).comparisons.get().result
    assert result.regions["ET"].change_mm3 is None
    assert result.regions["ET"].change_percent == pytest.approx(100 * ((12 / 10) ** 3 - 1), abs=12)
    assert result.response.category == "not assessed"
    for lesion in current_measurement(two).lesions:
        assert lesion.regions["ET"] is None


def test_dates_that_cannot_be_aligned_are_compared_without_lesions():
    person = studies.patient()
    one = first(person, (BIG, 0.0, 10.0, 14.0))
    noise = np.random.default_rng(5).random(SMALL.shape_zyx).astype(np.float32)
    two, volumes = ready_study(person, noise, performed_at=FIRST + 30 * DAY)
    segment(two, volumes, tumour(SMALL, (BIG, 0.0, 11.0, 14.0)))
    studies.run(JOB, one)
    studies.run(JOB, two)
    after = current_measurement(two)
    result = after.comparisons.get().result
    assert result.registration.converged is False
    assert result.regions["ET"].change_percent is not None
    assert [lesion.status for lesion in after.lesions] == ["baseline"]
    assert "matching of the lesions between the dates" in result.response.missing


def test_other_patients_are_never_compared():
    one = first(studies.patient("MRN-1"), (BIG, 6.0, 10.0, 14.0))
    two = second(studies.patient("MRN-2"), (BIG, 8.0, 13.0, 17.0))
    studies.run(JOB, one)
    studies.run(JOB, two)
    assert current_measurement(two).comparisons.get().prior_study is None


def test_without_a_segmentation_nothing_is_measured():
    study, _ = ready_study(studies.patient(), brain_like(SMALL))
    assert studies.run(JOB, study).state == JobState.DONE
    assert not Measurement.objects.exists()


# --- segmentations ----------------------------------------------------------------------------------------------------


def test_a_segmentation_is_versioned_and_comes_back_as_it_was():
    study, volumes = ready_study(studies.patient(), brain_like(SMALL))
    labels = tumour(SMALL, (BIG, 6.0, 10.0, 14.0))
    one = segment(study, volumes, labels, "expert", "nnunet-plain")
    two = segment(study, volumes, labels * 0, "consensus")
    assert (one.version, two.version) == (1, 2)
    assert np.array_equal(load_labels(one), labels)
    assert one.labels.subject == study.patient.key_subject


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros((3, 3, 3), dtype=np.uint8),
        np.zeros(SMALL.shape_zyx, dtype=np.int16),
        np.full(SMALL.shape_zyx, 4, dtype=np.uint8),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused(labels):
    study, volumes = ready_study(studies.patient(), brain_like(SMALL))
    with pytest.raises(ValueError):
        segment(study, volumes, labels)


def test_a_segmentation_belongs_to_its_own_study():
    person = studies.patient()
    study, _ = ready_study(person, brain_like(SMALL))
    _other, volumes = ready_study(person, brain_like(SMALL))
    with pytest.raises(ValueError):
        segment(study, volumes, np.zeros(SMALL.shape_zyx, dtype=np.uint8))


@pytest.mark.django_db(transaction=True)
def test_a_segmentation_needs_its_callers_transaction():
    study, volumes = ready_study(studies.patient(), brain_like(SMALL))
    written = write_labels(study, volumes, np.zeros(SMALL.shape_zyx, "u1"))
    with pytest.raises(ValueError, match="transaction"):
        save_segmentation(study, written, kind="person", author="x")
    with transaction.atomic():
        save_segmentation(study, written, kind="person", author="x")
    assert Study.objects.get(pk=study.pk).segmentations.count() == 1


def test_probabilities_come_back_outside_the_box_as_zero():
    grid = Grid(np.eye(4), (9, 8, 7))
    whole = np.zeros(grid.shape_zyx, dtype=np.float16)
    whole[2:4, 3:5, 1:8] = 0.75
    back = decode_probability(encode_probability({"ET": whole * 0, "TC": whole / 2, "WT": whole}))
    assert np.array_equal(back["WT"], whole)
    assert np.array_equal(back["TC"], whole / 2)
    assert not back["ET"].any()
    nothing = decode_probability(encode_probability({"ET": whole * 0, "TC": whole * 0, "WT": whole * 0}))
    assert nothing["WT"].shape == grid.shape_zyx


# --- like for like ----------------------------------------------------------------------------------------------------

NO_WT = {"WT": "Without a FLAIR or T2 series the extent of the whole tumour cannot be told."}
NO_CORE = dict.fromkeys(("ET", "TC"), "Without a contrast-enhanced T1 series it cannot be told.")


def reduced(person, sequences, labels, not_assessed, *, days=0):
    image = brain_like(SMALL, days)
    study, volumes = ready_study(person, image, performed_at=FIRST + days * DAY, sequences=sequences)
    volumes.parameters = {"reference": next(one for one in ("T1c", "FLAIR") if one in sequences)}
    volumes.save(update_fields=["parameters"])
    segment(study, volumes, labels.astype(np.uint8), not_assessed=not_assessed)
    return study


def latest(study):
    studies.run(JOB, study)
    measurement = Measurement.objects.filter(study=study).order_by("-created_at").first()
    newest = max(
        measurement.comparisons.all(), key=lambda one: one.prior_study.performed_at if one.prior_study else FIRST
    )
    return measurement, newest.result


def without(labels, *left_out):
    return np.where(np.isin(labels, left_out), 0, labels)


def test_a_region_is_compared_only_where_both_dates_assessed_it():
    person = studies.patient()
    whole = tumour(SMALL, (BIG, 6.0, 10.0, 14.0))
    one = reduced(person, ("T1c",), without(whole, 2), NO_WT)
    before, baseline = latest(one)
    assert before.regions["WT"].model_dump() == {
        "volume_mm3": None,
        "voxels": None,
        "voxels_basis": "affine",
        "maker": "",
        "longest_axial_diameter_mm": None,
        "perpendicular_diameter_mm": None,
        "measurable": None,
        "assessed": False,
        "reason": NO_WT["WT"],
        "uncertainty_mm3": None,
        "basis": "",
    }
    assert (before.lesions[0].regions["WT"], before.lesions[0].voxels["WT"]) == (None, None)
    assert baseline.history[0].WT is None
    two = reduced(person, ("T1", "T1c", "T2", "FLAIR"), whole, {}, days=90)
    after, result = latest(two)
    assert after.regions["WT"].volume_mm3 > 0
    # The same ET at both dates, but the models saw other sequences: what they differ by would not be the tumour's.
    assert result.regions["ET"].change_percent is None
    assert "may come from that alone" in result.regions["ET"].reason
    assert result.regions["WT"].change_percent is None
    assert result.regions["WT"].reason == f"Not assessed on the earlier study, so not compared. {NO_WT['WT']}"
    assert result.sequences.prior == ("T1c",)
    assert (
        "this one T1, contrast-enhanced T1, T2 and FLAIR, the earlier one contrast-enhanced T1" in result.sequences.note
    )
    (lesion,) = result.lesions
    assert (lesion.status, lesion.region) == ("followed", "TC")
    assert lesion.current_mm3 == lesion.prior_mm3 > 0
    # and the other way round: the whole study first
    three = reduced(person, ("T1c",), without(whole, 2), NO_WT, days=180)
    _, result = latest(three)
    assert result.regions["WT"].reason.startswith("Not assessed on this study, so not compared.")
    assert result.response.category == "SD"


def test_what_a_date_could_not_show_is_neither_new_nor_gone():
    person = studies.patient()
    dark = (LITTLE, 0.0, 0.0, 9.0)  # oedema alone: T1c shows nothing of it
    seen = tumour(SMALL, (BIG, 6.0, 10.0, 14.0))
    one = reduced(person, ("FLAIR",), np.where(tumour(SMALL, (BIG, 0.0, 0.0, 14.0), dark) > 0, 2, 0), NO_CORE)
    before, _ = latest(one)
    assert sorted(by_id(before)) == ["L1", "L2"]
    two = reduced(person, ("T1c",), without(seen, 2), NO_WT, days=90)
    after, result = latest(two)
    statuses = {one.id: one.status for one in after.lesions}
    assert statuses == {"L1": "followed", "L2": "not-assessed"}
    assert by_id(after)["L2"].regions == {"ET": None, "TC": None, "WT": None}
    assert {one.id: one.status for one in result.lesions} == statuses
    assert {one.current_mm3 for one in result.lesions} == {None}
    assert result.response.category == "not assessed"
    assert "not assessed on any earlier study" in result.response.reason
    assert all(one.change_percent is None for one in result.regions.values())
    # whole at last: the lesion of oedema alone is not new, it was there to be seen at neither of T1c
    three = reduced(
        person,
        ("T1", "T1c", "T2", "FLAIR"),
        tumour(SMALL, (BIG, 6.0, 10.0, 14.0), (LITTLE, 0.0, 5.0, 9.0)),
        {},
        days=180,
    )
    final, _ = latest(three)
    # It enhances now, and T1c would have shown that; but models that see four sequences are no witness against one.
    assert by_id(final)["L2"].status == "baseline"
    assert "may come from that alone" in by_id(final)["L2"].reason


def test_a_persons_outline_is_measured_and_says_whose_it_is():
    person = studies.patient()
    whole = tumour(SMALL, (BIG, 6.0, 10.0, 14.0))
    one = reduced(person, ("T1c",), without(whole, 2), NO_WT)
    studies.run(JOB, one)
    segment(one, one.volume_sets.get(), whole, "person", "reader", not_assessed={})
    measurement, _ = latest(one)
    assert measurement.regions["WT"].volume_mm3 > 0
    assert measurement.regions["WT"].basis.startswith("Outlined by a person; the models could not assess it.")
    assert measurement.regions["ET"].basis == ""


def test_a_label_of_a_region_that_is_not_assessed_is_refused():
    study, volumes = ready_study(studies.patient(), brain_like(SMALL), sequences=("T1c",))
    with pytest.raises(ValueError, match="label of its own"):
        segment(study, volumes, tumour(SMALL, (BIG, 6.0, 10.0, 14.0)), not_assessed=NO_WT)


def test_measuring_and_comparing_follow_one_another_as_jobs():
    person = studies.patient()
    one = first(person, (BIG, 6.0, 10.0, 14.0))
    assert studies.run(MEASURE, one).state == JobState.DONE
    assert not Measurement.objects.exists()
    volumetry = Volumetry.objects.get(segmentation=current_segmentation(one))
    assert Event.objects.get(kind="study.measured").payload == {"study_id": str(one.pk)}
    assert studies.run_waiting("imaging") == 1
    measurement = Measurement.objects.get(study=one)
    assert measurement.regions == volumetry.regions
    assert measurement.anatomy.midline_shift == volumetry.midline_shift
    studies.run(MEASURE, one)
    assert Event.objects.filter(kind="study.measured").count() == 1


def test_a_corrected_outline_registers_nothing_again(monkeypatch):
    person = studies.patient()
    one = first(person, (BIG, 6.0, 10.0, 14.0))
    two = second(person, (BIG, 8.0, 13.0, 17.0))
    studies.run(JOB, one)
    studies.run(JOB, two)
    kept = Comparison.objects.get(study=two, prior_study=one).result.registration

    def refuse(*args, **kwargs):
        raise AssertionError("registered again")

    monkeypatch.setattr(sitk.ImageRegistrationMethod, "Execute", refuse)
    labels = load_labels(current_segmentation(two))
    labels[tuple(np.argwhere(labels == 3)[0])] = 0
    segment(two, two.volume_sets.get(), labels, kind="person", author="rhea")
    studies.run(MEASURE, two)
    assert studies.run(JOB, two).state == JobState.DONE
    newest = Comparison.objects.filter(study=two).order_by("-created_at").first()
    assert newest.measurement.segmentation.kind == "person"
    assert newest.result.registration == kept
    before, after = Measurement.objects.filter(study=two).order_by("created_at")
    assert before.anatomy == after.anatomy
    assert Alignment.objects.count() == 1


def test_what_is_in_force_of_many_studies_takes_the_same_queries_as_of_one(django_assert_num_queries):
    person = studies.patient()
    rows = [first(person, (BIG, 6.0, 10.0, 14.0), when=FIRST + number * DAY) for number in range(3)]
    for study in rows:
        studies.run(JOB, study)
    with django_assert_num_queries(2):
        found = current_measurements(rows)
    assert [found[study.pk].segmentation for study in rows] == [current_segmentation(study) for study in rows]
    corrected = segment(rows[0], rows[0].volume_sets.get(), load_labels(current_segmentation(rows[0])), kind="person")
    assert current_segmentation(rows[0]) == corrected
    assert current_measurement(rows[0]) is None
