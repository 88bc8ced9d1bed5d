"""From a complete study to volumes on one grid, or to a flag in words a radiologist understands."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from imaging.geometry.grid import GeometryError, Grid, crop_box, crop_to_box, to_ras
from imaging.geometry.nifti import read_nifti, write_nifti
from imaging.geometry.sitk import from_sitk, to_sitk
from imaging.models import Study, StudyState, Volume, VolumeSet
from imaging.preprocessing.brain_extraction import find_brain, skull_stripped_mask
from imaging.preprocessing.coregistration import NotAligned, coregister_study, reference_grid
from imaging.volumes.load import assessable_of, load_volumes
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import PermanentError, UserVisibleError
from oncoflow_site.foundation.jobs import cancel, enqueue
from oncoflow_site.foundation.models import Event, JobState
from tests.factories import studies
from tests.factories.phantoms import head, rigid, sphere

FOUR = ("T1", "T1c", "T2", "FLAIR")
LPS = Grid(np.array([[-2.0, 0, 0, 70], [0, -2.0, 0, 80], [0, 0, 2.0, -50], [0, 0, 0, 1]]), (70, 80, 52))


def dice(one, other) -> float:
    return 2.0 * float((one & other).sum()) / float(one.sum() + other.sum())


# --- geometry ---------------------------------------------------------------------------------------------------------


def test_turning_to_ras_moves_no_voxel():
    rng = np.random.default_rng(1)
    affine = np.array([[0, 0, -3.0, 40], [-0.9, 0, 0, 55], [0, -1.1, 0, 66], [0, 0, 0, 1]])
    array = rng.random((4, 6, 5)).astype(np.float32)
    turned, grid = to_ras(array, affine)
    assert np.all(np.diag(grid.directions()) > 0.99)
    for z, y, x in [(0, 0, 0), (3, 5, 4), (1, 2, 3)]:
        place = affine[:3, :3] @ [x, y, z] + affine[:3, 3]
        i, j, k = np.rint(grid.index(place)).astype(int)
        assert turned[k, j, i] == array[z, y, x]


def test_voxel_volume_is_the_determinant_for_oblique_and_mirrored_grids():
    oblique = rigid((20, 10, 5), (1, 2, 3)) @ np.diag([-0.5, 0.5, 3.0, 1.0])
    assert Grid(oblique, (4, 4, 4)).voxel_volume_mm3() == pytest.approx(0.75)


@pytest.mark.parametrize(
    "affine", [np.full((4, 4), np.nan), np.zeros((4, 4)), np.diag([1.0, 1.0, 0.0, 1.0]), np.eye(3)]
)
def test_an_affine_that_no_image_can_have_is_refused(affine):
    with pytest.raises(GeometryError):
        Grid(affine, (2, 2, 2))


def test_nifti_bytes_are_the_same_each_time_and_keep_zero_exactly_zero():
    array = np.zeros((5, 6, 7), dtype=np.float32)
    array[1:3] = np.linspace(-3, 900, 84).reshape(2, 6, 7)
    grid = Grid(rigid((3, 4, 5), (9, 8, 7)), (7, 6, 5))
    data = write_nifti(array, grid)
    assert data == write_nifti(array, grid)
    back, placed = read_nifti(data)
    assert placed.same_as(grid)
    assert np.all(back[array == 0] == 0)
    assert np.max(np.abs(back - array)) < 0.02


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        gzip.compress(b"x" * 500),
        write_nifti(np.ones((2, 2, 2), "f4"), Grid(np.eye(4), (2, 2, 2)))[:60],
    ],
    ids=["nothing", "nonsense", "gzip of something else", "cut short"],  # the bytes differ by the time of day
)
def test_what_is_no_nifti_is_refused_in_our_words(data):
    with pytest.raises(GeometryError):
        read_nifti(data)


def test_simpleitk_and_back_keeps_every_voxel_in_place():
    grid = Grid(rigid((10, -5, 30), (4, 5, 6)) @ np.diag([0.9, 0.9, 3.0, 1.0]), (5, 6, 7))
    array = np.arange(210, dtype=np.float32).reshape(7, 6, 5)
    back, placed = from_sitk(to_sitk(array, grid))
    assert placed.same_as(grid)
    assert np.array_equal(back, array)


def test_cutting_a_box_keeps_the_place_of_its_voxels():
    grid = studies.SMALL
    mask = sphere(grid, (10, 20, 5), 9)
    box = crop_box(mask, (2, 2, 2))
    cut = crop_to_box(grid, box)
    assert mask[box].sum() == mask.sum()
    z, y, x = np.argwhere(mask[box])[0]
    zz, yy, xx = np.argwhere(mask)[0]
    assert np.allclose(cut.world(np.array([x, y, z])), grid.world(np.array([xx, yy, zz])))


def test_reference_grid_is_kept_near_one_millimetre_and_resampled_when_thick():
    near = Grid(np.diag([1, 1, 1.2, 1.0]), (100, 100, 100))
    assert reference_grid(near) is near
    thick = Grid(np.diag([0.5, 0.5, 5.0, 1.0]), (400, 400, 30))
    assert reference_grid(thick).spacing_xyz() == pytest.approx((1, 1, 1))
    assert reference_grid(thick).shape_xyz == (200, 200, 150)
    assert reference_grid(thick, spacing_known=False) is thick


# --- brain ------------------------------------------------------------------------------------------------------------


def test_the_brain_is_found_in_a_posed_head_with_a_tumour():
    images, truth, grid = head(2.0, rigid((9, -5, 6), (5, -8, 6)), 0.93)
    found = find_brain(images, grid, threads=1)
    assert found.plausible, found.reason
    assert dice(found.mask, truth) > 0.93


def test_no_brain_in_noise():
    rng = np.random.default_rng(0)
    grid = Grid(np.diag([3.0, 3.0, 3.0, 1.0]), (60, 60, 60))
    noise = {"T1": rng.random(grid.shape_zyx).astype(np.float32)}
    found = find_brain(noise, grid, threads=1)
    assert not found.plausible or not found.mask.any()


def test_skull_stripping_is_recognised_by_shared_zeros_only():
    image = studies.brain_like(studies.SMALL)
    big = Grid(studies.SMALL.affine @ np.diag([1.2, 1.2, 1.2, 1.0]), studies.SMALL.shape_xyz)
    assert skull_stripped_mask({"T1": image, "T2": image * 2}, big) is not None
    other = np.roll(image, 12, axis=2)
    assert skull_stripped_mask({"T1": image, "T2": other}, big) is None
    whole = image + 1
    assert skull_stripped_mask({"T1": whole, "T2": whole}, big) is None
    # a whole head has the same zeros around it but is too large for a brain
    huge = Grid(studies.SMALL.affine @ np.diag([2.5, 2.5, 2.5, 1.0]), studies.SMALL.shape_xyz)
    assert skull_stripped_mask({"T1": image, "T2": image}, huge) is None
    assert skull_stripped_mask({"T1": image, "T2": image}, huge, spacing_known=False) is not None


def test_a_sequence_that_shows_something_else_is_not_aligned():
    images, _, grid = head(3.0)
    rng = np.random.default_rng(3)
    noise = rng.random((40, 40, 40)).astype(np.float32)
    strange = (noise, np.diag([4.0, 4.0, 4.0, 1.0]))
    with pytest.raises(NotAligned) as caught:
        coregister_study({"T1": (images["T1"], grid.affine), "T2": strange}, threads=1)
    assert caught.value.sequence == "T2"


# --- the job ----------------------------------------------------------------------------------------------------------


def stripped(seed: int = 0, sequences=FOUR, grid: Grid = LPS):
    base = studies.brain_like(studies.SMALL, seed)[:, ::-1, ::-1]
    return {name: (np.where(base > 0, base * (1 + 0.2 * n), 0).astype("f4"), grid) for n, name in enumerate(sequences)}


@pytest.mark.django_db
def test_preparing_a_study_of_four_nifti_files():
    images = stripped()
    images["T1"][0][24:29, 38:43, 28:33] = 1000.0
    study = studies.nifti_study(studies.patient(), images)
    job = studies.run("imaging.prepare_study", study)
    assert (job.state, study.state) == (JobState.DONE, StudyState.READY)
    loaded = load_volumes(study)
    assert set(loaded.images) == set(FOUR)
    assert np.all(np.diag(loaded.grid.directions()) > 0.99)
    for image in loaded.images.values():
        assert image.dtype == np.float32
        assert np.all(image[~loaded.brain_mask] == 0)
    # the mark stays where it was in the patient: left, not mirrored
    place = LPS.world(np.array([30, 40, 26]))
    i, j, k = np.rint(loaded.grid.index(place)).astype(int)
    assert loaded.images["T1"][k, j, i] == pytest.approx(1000, abs=1)
    i, j, k = np.rint(loaded.grid.index(place * [-1, 1, 1])).astype(int)
    assert loaded.images["T1"][k, j, i] < 400
    assert Event.objects.filter(kind="volumes.ready", payload__study_id=str(study.pk)).count() == 1
    volume = Volume.objects.get(volume_set__study=study, sequence="T2")
    assert volume.transform.converged is True


@pytest.mark.django_db
def test_preparing_twice_makes_one_volume_set_and_one_event():
    study = studies.nifti_study(studies.patient(), stripped())
    studies.run("imaging.prepare_study", study)
    studies.run("imaging.prepare_study", study)
    assert VolumeSet.objects.filter(study=study).count() == 1
    assert Event.objects.filter(kind="volumes.ready").count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("present", "left_out"),
    [
        (("T1c",), {"WT"}),
        (("T1", "T1c"), {"WT"}),
        (("T1c", "FLAIR"), set()),
        (("T1", "T1c", "T2"), set()),
        (("FLAIR",), {"ET", "TC"}),
        (("T2",), {"ET", "TC"}),
    ],
)
def test_with_sequences_missing_a_study_is_ready_and_says_what_it_can_show(present, left_out):
    study = studies.nifti_study(studies.patient(), stripped(sequences=present))
    job = studies.run("imaging.prepare_study", study)
    assert (job.state, study.state) == (JobState.DONE, StudyState.READY)
    assert study.flag_code == "reduced"
    assert "always held for review" in study.flag_message
    assert ("Not assessed" in study.flag_message) == bool(left_out)
    assert set(load_volumes(study).images) == set(present)
    found = assessable_of(study.volume_sets.get())
    assert set(found.not_assessed) == left_out
    assert study.volume_sets.get().parameters.reference == ("T1c" if "T1c" in present else present[0])
    assert Event.objects.filter(kind="volumes.ready").count() == 1
    assert not Event.objects.filter(kind="study.flagged").exists()


@pytest.mark.django_db
def test_t1_alone_shows_no_region_and_is_flagged_and_stays_visible():
    study = studies.nifti_study(studies.patient(), stripped(sequences=("T1",)))
    job = studies.run("imaging.prepare_study", study)
    assert (job.state, study.state) == (JobState.DONE, StudyState.FLAGGED)
    assert study.flag_code == "missing-sequence"
    assert "FLAIR" in study.flag_message
    assert "not segmented" in study.flag_message
    assert set(load_volumes(study).images) == {"T1"}
    assert not Event.objects.filter(kind="volumes.ready").exists()
    assert Event.objects.filter(kind="study.flagged").count() == 1


@pytest.mark.django_db
def test_the_missing_series_comes_later_and_the_study_is_prepared_whole():
    images = stripped()
    study = studies.nifti_study(studies.patient(), {name: images[name] for name in ("T1", "T1c", "T2")})
    studies.run("imaging.prepare_study", study)
    assert study.flag_code == "reduced"
    studies.add_nifti(study, {"FLAIR": images["FLAIR"]})
    studies.run("imaging.prepare_study", study)
    assert (study.state, study.flag_code) == (StudyState.READY, "")
    assert not assessable_of(study.volume_sets.order_by("-version").first()).reduced
    assert Event.objects.filter(kind="volumes.ready").count() == 2


@pytest.mark.django_db
def test_a_whole_head_without_true_spacing_is_flagged():
    base = studies.brain_like(studies.SMALL) + 20
    study = studies.nifti_study(studies.patient(), dict.fromkeys(FOUR, (base, studies.SMALL)), spacing_known=False)
    studies.run("imaging.prepare_study", study)
    assert (study.state, study.flag_code) == (StudyState.FLAGGED, "no-brain")


@pytest.mark.django_db
def test_a_study_without_any_usable_series_is_flagged():
    study = studies.nifti_study(studies.patient(), {})
    studies.run("imaging.prepare_study", study)
    assert (study.state, study.flag_code) == (StudyState.FLAGGED, "no-usable-series")


@pytest.mark.django_db
def test_a_study_reopened_meanwhile_is_left_alone(monkeypatch):
    study = studies.nifti_study(studies.patient(), stripped())
    from imaging.volumes import prepare

    real = prepare.coregister_study

    def reopen_then(*args, **kwargs):
        Study.objects.filter(pk=study.pk).update(state=StudyState.RECEIVING, generation=study.generation + 1)
        return real(*args, **kwargs)

    monkeypatch.setattr(prepare, "coregister_study", reopen_then)
    job = studies.run("imaging.prepare_study", study)
    assert (job.state, study.state) == (JobState.DONE, StudyState.RECEIVING)
    assert not VolumeSet.objects.exists()
    assert not Event.objects.filter(kind="volumes.ready").exists()


@pytest.mark.django_db
def test_a_preparation_that_ends_for_good_leaves_a_study_that_has_failed_and_can_be_prepared_again(monkeypatch):
    study = studies.nifti_study(studies.patient(), stripped())
    from imaging.volumes import prepare

    def broken(*args, **kwargs):
        raise PermanentError("out of order")

    with monkeypatch.context() as patched:
        patched.setattr(prepare, "coregister_study", broken)
        job = studies.run("imaging.prepare_study", study)
    assert (job.state, study.state, study.flag_code) == (JobState.FAILED, StudyState.FAILED, "preparation-failed")
    assert Event.objects.filter(kind="study.flagged", payload__study_id=str(study.pk)).count() == 1
    job = studies.run("imaging.prepare_study", study)
    assert (job.state, study.state, study.flag_code) == (JobState.DONE, StudyState.READY, "")


@pytest.mark.django_db
def test_a_study_whose_preparation_was_cancelled_before_it_began_has_failed():
    study = studies.nifti_study(studies.patient(), stripped())
    job = enqueue("imaging.prepare_study", subject=study.subject, key="k", kwargs={"study_id": str(study.pk)})
    assert cancel(job.pk)
    study.refresh_from_db()
    assert study.state == StudyState.FAILED


@pytest.mark.django_db
def test_volumes_whose_hash_differs_are_not_loaded():
    study, volume_set = studies.ready_study(studies.patient(), studies.brain_like(studies.SMALL))
    Volume.objects.filter(volume_set=volume_set, sequence="T1").update(sha256="0" * 64)
    with pytest.raises(PermanentError):
        load_volumes(study)


@pytest.mark.django_db
def test_a_study_without_volumes_says_so():
    study = studies.study_row(studies.patient())
    with pytest.raises(UserVisibleError):
        load_volumes(study)


@pytest.mark.django_db
def test_stored_volumes_are_encrypted_under_the_patients_key():
    person = studies.patient()
    study = studies.nifti_study(person, stripped())
    studies.run("imaging.prepare_study", study)
    for volume in Volume.objects.filter(volume_set__study=study).select_related("object"):
        assert volume.object.subject == person.key_subject
        assert objects.get(volume.object)[:2] == b"\x1f\x8b"
