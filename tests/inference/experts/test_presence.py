"""Whether SAM believes that there is a tumour: the limit on its object score, and what it does below it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.experts.common.flair_baseline import salient_places
from inference.experts.common.intensity import stack_channels, zscore_in_brain
from inference.experts.common.slices import resize
from inference.experts.contract import Volumes
from inference.experts.factory import expert_for_folder
from inference.experts.sam.automatic import PlaceSegmentation
from inference.training.common.dataset import DatasetError
from inference.training.sam.presence import PlaceScores, best_limit, main, place_scores
from tests.factories.expert_volumes import committed, phantom, study
from tests.factories.raw_datasets import write_dataset

pytestmark = pytest.mark.torch


def one(*scores: float, dice: tuple[float, ...], largest: float) -> PlaceScores:
    return PlaceScores(scores, dice, largest)


def test_the_limit_is_where_most_is_gained_and_sits_on_no_case() -> None:
    healthy = [one(s, dice=(1.0, 0.0), largest=0.0) for s in (-2.0, -1.0)] + [one(dice=(1.0,), largest=1.0)]
    ill = [one(s, dice=(0.0, d), largest=d) for s, d in ((3.0, 0.9), (5.0, 0.8), (1.0, 0.05))]
    limit, mean = best_limit(healthy + ill)
    assert limit == 0.0
    assert mean == pytest.approx((1 + 1 + 1 + 0.9 + 0.8 + 0.05) / 6)


def test_a_second_place_counts_and_a_wrong_first_one_does_not() -> None:
    two = one(6.0, 4.0, dice=(0.0, 0.6, 0.9), largest=0.6)
    behind = one(5.0, 1.0, dice=(0.0, 0.8, 0.5), largest=0.0)
    limit, mean = best_limit([two, behind])
    assert limit == 2.5
    assert mean == pytest.approx(0.85)


def test_no_limit_where_none_helps() -> None:
    studies = [one(3.0, dice=(0.0, 0.9), largest=0.9), one(-3.0, dice=(0.0, 0.8), largest=0.8)]
    assert best_limit(studies) == (None, pytest.approx(0.85))
    assert best_limit([one(dice=(0.0,), largest=0.9)])[0] is None


def test_what_believing_more_places_gives() -> None:
    truth = np.zeros((4, 4, 4), bool)
    truth[0, 0, :4] = True
    halves = []
    for score, where in ((2.0, slice(0, 2)), (5.0, slice(2, 4)), (math.nan, slice(0, 4))):
        found = np.zeros((3, 4, 4, 4), np.float32)
        found[0, 0, 0, where] = 0.9
        halves.append(PlaceSegmentation(score, found))
    study = place_scores(halves, truth)
    assert study.scores == (5.0, 2.0)
    assert study.dice == pytest.approx((0.0, 2 / 3, 1.0))
    assert study.largest == pytest.approx(2 / 3)
    assert place_scores([], ~truth & truth) == PlaceScores((), (1.0,), 1.0)


def two_lesions() -> tuple[Volumes, NDArray[np.bool_], NDArray[np.bool_]]:
    """The phantom with the core of its tumour mirrored through the middle; both tumours, the larger first."""
    volumes, truth = phantom(4.0)
    second = truth["TC"][::-1, ::-1, ::-1] & ~truth["WT"] & volumes.brain_mask
    images = {name: np.where(second, image[::-1, ::-1, ::-1], image) for name, image in volumes.images.items()}
    return Volumes(images, volumes.spacing, volumes.brain_mask), truth["WT"], second


def test_places_are_found_largest_first_and_tiny_ones_only_where_nothing_else_is() -> None:
    volumes, first, second = two_lesions()
    z = zscore_in_brain(stack_channels(volumes, ("FLAIR",)), volumes.brain_mask)[0]
    places = salient_places(z, volumes.brain_mask, most=5, least_voxels=20)
    assert (places[0] & first).sum() > (places[0] & second).sum()
    assert any((place & second).sum() > 0.5 * second.sum() for place in places)
    assert [place.sum() for place in places] == sorted((place.sum() for place in places), reverse=True)
    assert len(salient_places(z, volumes.brain_mask, most=5, least_voxels=10**6)) == 1
    assert np.array_equal(salient_places(z, volumes.brain_mask)[0], places[0])
    assert salient_places(np.zeros_like(z), volumes.brain_mask, most=5) == []


@pytest.mark.slow
def test_a_second_place_is_asked_about_where_the_weights_can_tell_and_nothing_covers_it(tmp_path: Path) -> None:
    volumes, _, second = two_lesions()
    asked: dict[str, list[PlaceSegmentation]] = {}
    # Believed, the first answer covers the second tumour too: its slices' windows show both.
    for name, least in (("no limit", None), ("none believed", 1e6), ("all believed", -1e6)):
        shutil.copytree(committed("sam2-small"), tmp_path / name)
        described = json.loads((tmp_path / name / "model.json").read_text()) | {"least_object_score": least}
        (tmp_path / name / "model.json").write_text(json.dumps(described))
        expert: Any = expert_for_folder(tmp_path / name)
        asked[name] = expert.findings(volumes)
    assert {name: len(found) for name, found in asked.items()} == {"no limit": 1, "none believed": 2, "all believed": 1}
    outlined = resize(asked["none believed"][1].probabilities[:1], volumes.shape)[0] >= 0.5
    assert (outlined & second).sum() > 0.5 * second.sum()


@pytest.mark.slow
def test_below_the_limit_nothing_is_outlined_and_it_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "strict"
    shutil.copytree(committed("sam2-small"), folder)
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(described | {"least_object_score": 1e6}))
    expert: Any = expert_for_folder(folder)
    output = expert.predict(study())
    assert not (output.probabilities["WT"] >= 0.5).any()
    assert any("do not show a tumour" in note for note in output.notes)
    assert -30 < expert.shown < 30


def test_a_limit_that_could_not_be_set_leaves_the_record_alone(tmp_path: Path) -> None:
    folder = tmp_path / "sam"
    shutil.copytree(committed("sam2-small"), folder)
    before = (folder / "model.json").read_bytes()
    dataset = write_dataset(tmp_path / "dataset", cases=1)
    (dataset / "imagesTr" / "c0_0001.nii.gz").unlink()
    with pytest.raises(DatasetError):
        main(["--model", str(folder), "--dataset", str(dataset), "--cases", "1"])
    assert (folder / "model.json").read_bytes() == before
