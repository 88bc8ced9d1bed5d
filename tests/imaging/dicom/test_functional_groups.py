"""Functional groups: shared, per frame, unassigned, and headers that are odd."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from imaging.defacing.deface_study import _thickness
from imaging.dicom.functional_groups import FunctionalGroups
from imaging.dicom.image_plane import image_planes
from tests.factories.dicom_files import dataset


def item(**values) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def multi_frame(*frames: Dataset, shared: Dataset | None = None) -> Dataset:
    one = dataset(NumberOfFrames=len(frames), ImagePositionPatient=None, PixelSpacing=None, SliceThickness=None,
                  ImageOrientationPatient=None)  # fmt: skip
    if shared is not None:
        one.SharedFunctionalGroupsSequence = [shared]
    one.PerFrameFunctionalGroupsSequence = list(frames)
    return one


def test_a_group_is_the_frames_own_or_the_shared_one():
    own = item(PixelMeasuresSequence=[item(SliceThickness=3)])
    groups = FunctionalGroups(multi_frame(own, Dataset(), shared=item(PixelMeasuresSequence=[item(SliceThickness=5)])))
    assert (groups.multi_frame, len(groups)) == (True, 2)
    assert [groups.group("PixelMeasuresSequence", frame).SliceThickness for frame in (0, 1, 2)] == [3, 5, 5]
    assert len(groups.group("PlanePositionSequence", 0)) == 0


def test_a_classic_image_is_its_own_group():
    one = dataset()
    groups = FunctionalGroups(one)
    assert (groups.multi_frame, len(groups)) == (False, 0)
    assert groups.group("PixelMeasuresSequence", 0) is one
    assert list(groups.places(["PixelMeasuresSequence"])) == [one]


def test_unassigned_attributes_of_a_legacy_converted_image_come_last_of_their_kind():
    shared = item(
        UnassignedSharedConvertedAttributesSequence=[item(EchoTime=99)], MREchoSequence=[item(EffectiveEchoTime=90)]
    )
    frame = item(UnassignedPerFrameConvertedAttributesSequence=[item(RepetitionTime=5000)])
    one = multi_frame(frame, shared=shared)
    one.EchoTime = 1
    places = list(FunctionalGroups(one).places(["MREchoSequence"]))
    assert places[0] is one
    assert [sorted(element.keyword for element in place) for place in places[1:]] == [
        ["EffectiveEchoTime"], ["EchoTime"], ["RepetitionTime"],
    ]  # fmt: skip


def test_sequences_that_are_none_count_as_absent():
    one = multi_frame(item(PixelMeasuresSequence=[]))
    one.add_new(0x52009229, "OB", b"no sequence")
    groups = FunctionalGroups(one)
    assert len(groups.group("PixelMeasuresSequence", 0)) == 0
    one.add_new(0x52009230, "OB", b"no sequence")
    assert (FunctionalGroups(one).multi_frame, len(FunctionalGroups(one))) == (True, 0)
    assert list(FunctionalGroups(one).every("PixelMeasuresSequence")) == []


def test_each_frame_lies_and_is_as_thick_as_its_groups_say():
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-1)],
    )
    one = multi_frame(
        *(
            item(
                PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 4.0 * number])],
                PixelMeasuresSequence=[item(PixelSpacing=[1, 2], SliceThickness=3 + number)],
            )
            for number in range(2)
        ),
        shared=shared,
    )
    planes = list(image_planes(one, 0))
    assert [(plane.frame, plane.position[2], plane.spacing, plane.scale) for plane in planes] == [
        (0, 0.0, (1.0, 2.0), (2.0, -1.0)), (1, 4.0, (1.0, 2.0), (2.0, -1.0)),
    ]  # fmt: skip
    assert np.array_equal(planes[0].orientation, [1, 0, 0, 0, 1, 0])
    assert [_thickness(one, FunctionalGroups(one), frame) for frame in (0, 1)] == [3.0, 4.0]
