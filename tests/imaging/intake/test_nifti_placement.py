"""What NIfTI headers say of side and millimetres, and what becomes of those that do not say it or contradict themselves."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from imaging.geometry.grid import Grid
from imaging.geometry.nifti import read_foreign_nifti, read_nifti, without_spikes, write_nifti
from imaging.intake.declaration import Declaration
from imaging.intake.file_import import ingest
from imaging.models import Study
from imaging.segmentation.manual_import import accept_label_map
from imaging.volumes.reproduce import read_source
from oncoflow_site.foundation.errors import UserVisibleError
from tests.factories import studies

SHAPE = (7, 6, 5)


def image(affine: Any = None, *, kind: Any = nib.Nifti1Image, **header: Any) -> Any:
    """An image whose header fields are set as given, with both codes 1 where nothing else is said."""
    matrix = np.diag([1.2, 1.2, 1.2, 1.0]) if affine is None else affine
    made = kind(np.arange(210, dtype=np.float32).reshape(SHAPE), matrix)
    made.header.set_sform(matrix, code=1)
    made.header.set_qform(matrix, code=1)
    made.header.set_xyzt_units("mm")
    for name, value in header.items():
        made.header[name] = value
    return made


def raw(**header: Any) -> bytes:
    made = image()
    for name, value in header.items():
        made.header[name] = value
    made.header["vox_offset"], made.header["magic"] = 352, b"n+1"
    return made.header.binaryblock + b"\0\0\0\0" + np.asarray(made.dataobj).astype("<f4").tobytes(order="F")


OTHER_WAY = {"srow_x": [-1.2, 0, 0, 0]}
CONTRADICTIONS = [
    ("no code", {"sform_code": 0, "qform_code": 0}),
    ("unknown codes", {"sform_code": 9, "qform_code": -1}),
    ("sform 1 mm, qform 1.2", {"srow_x": [1, 0, 0, 0], "srow_y": [0, 1, 0, 0], "srow_z": [0, 0, 1, 0]}),
    ("sform alone against pixdim", {"qform_code": 0, "srow_x": [1, 0, 0, 0]}),
    ("handedness", OTHER_WAY),
    ("direction", {"srow_x": [0, 1.2, 0, 0], "srow_y": [0, 0, 1.2, 0], "srow_z": [1.2, 0, 0, 0]}),
    ("turned", {"srow_x": [1.1276, -0.4104, 0, 0], "srow_y": [0.4104, 1.1276, 0, 0]}),
    ("negative pixdim", {"sform_code": 0, "pixdim": [1.0, -1.2, 1.2, 1.2, 0, 0, 0, 0]}),
    ("quaternion", {"sform_code": 0, "quatern_b": 3.0}),
    ("metres", {"xyzt_units": 1}),
    ("micrometres", {"xyzt_units": 3}),
    ("no unit that is known", {"xyzt_units": 5}),
]


@pytest.mark.parametrize("header", [one for _, one in CONTRADICTIONS], ids=[name for name, _ in CONTRADICTIONS])
def test_a_header_that_does_not_say_or_contradicts_itself(header):
    try:
        found = read_foreign_nifti(raw(**header))[2]
    except ValueError:
        return  # refused whole
    assert found


@pytest.mark.parametrize(
    "header", [{}, {"sform_code": 0}, {"qform_code": 0}, {"xyzt_units": 0}, {"sform_code": 4, "qform_code": 0}]
)
def test_a_header_that_says_it(header):
    array, grid, found = read_foreign_nifti(raw(**header))
    assert found == ()
    assert grid.spacing_xyz() == pytest.approx((1.2, 1.2, 1.2))
    assert array[1, 2, 3] == np.arange(210).reshape(SHAPE)[3, 2, 1]


def test_metres_that_fit_are_taken_as_metres():
    small = {"pixdim": [1.0, 0.001, 0.001, 0.001, 0, 0, 0, 0], "xyzt_units": 1, "qform_code": 0}
    rows = {"srow_x": [0.001, 0, 0, 0.02], "srow_y": [0, 0.001, 0, 0], "srow_z": [0, 0, 0.001, 0]}
    _, grid, found = read_foreign_nifti(raw(**small, **rows))
    assert found == ()
    assert grid.spacing_xyz() == pytest.approx((1, 1, 1))
    assert grid.affine[0, 3] == pytest.approx(20)


def test_nifti_2_is_looked_at_alike():
    made = image(kind=nib.Nifti2Image)
    made.header["sform_code"] = made.header["qform_code"] = 0
    block = made.header.binaryblock + b"\0\0\0\0" + np.asarray(made.dataobj).astype("<f4").tobytes(order="F")
    assert read_foreign_nifti(block)[2]


@pytest.mark.django_db
@pytest.mark.parametrize(("declared", "known"), [({}, False), ({"geometry_confirmed": True}, True)])
def test_side_and_millimetres_are_not_assessed_unless_a_person_declares_them(tmp_path: Path, declared, known):
    (tmp_path / "a_t1c.nii").write_bytes(raw(sform_code=0, qform_code=0))
    (tmp_path / "a_flair.nii").write_bytes(raw())
    result = ingest([tmp_path], Declaration(mrn="MRN-12", day=date(2026, 3, 11), **declared))
    study = Study.objects.get()
    assert study.spacing_known is known
    assert study.performed_on_day
    assert any("neither sform nor qform" in note for note in result.notes) is not known
    kept = study.series.get(sequence="T1c").parameters
    assert bool(kept.get("GeometryDoubts")) is not known


@pytest.mark.django_db
def test_a_label_map_whose_header_does_not_say_where_it_lies_is_refused():
    person = studies.patient()
    study, _ = studies.ready_study(person, studies.brain_like(studies.SMALL))
    labels = studies.tumour(studies.SMALL, ((10, 10, 5), 4, 8, 14))
    good = write_nifti(labels, studies.SMALL)
    made = nib.Nifti1Image.from_bytes(__import__("gzip").decompress(good))
    head = made.header.copy()
    head["sform_code"] = head["qform_code"] = 0
    bad = head.binaryblock + b"\0\0\0\0" + np.asarray(made.dataobj).tobytes(order="F")
    with pytest.raises(UserVisibleError) as caught:
        accept_label_map(study, bad, author="rita", reason="drawn")
    assert caught.value.code == "geometry"
    assert accept_label_map(study, good, author="rita", reason="drawn").version == 1


@pytest.mark.django_db
def test_a_voxel_of_3e7_does_not_crush_the_others():
    grid = studies.SMALL
    plain = studies.brain_like(grid)
    spiked = plain.copy()
    spiked[20, 40, 35] = 3e7
    back, _ = read_nifti(write_nifti(spiked, grid))
    assert np.unique(np.round(back)).size > 50
    study = studies.nifti_study(studies.patient(), {"T1": (spiked, grid)})
    array, _, warnings = read_source(study.series.get())
    spiked[20, 40, 35] = array[20, 40, 35]
    assert np.allclose(array, spiked)
    assert array.max() < 1000
    assert warnings == ("1 voxel far brighter than all others cut to bright tissue.",)
    assert without_spikes(plain)[1] == 0
    assert read_nifti(write_nifti(plain, Grid(grid.affine, grid.shape_xyz)))[0].dtype == np.float32
