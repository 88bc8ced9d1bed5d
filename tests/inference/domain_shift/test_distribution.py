"""Out of distribution: what a committed distribution lets pass, what it does not, and how one is fitted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from imaging.brats.sequences import PANEL_SEQUENCES
from inference.domain_shift.distribution import FILE, Distribution, feature_names, features, fit, load
from oncoflow_site.demo.simulator.dataset import plan_cases, simulate_case

WEIGHTS = Path(__file__).resolve().parents[3] / "inference" / "weights"
Images = dict[str, NDArray[np.float32]]
SPACING = (2.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def known() -> Distribution:
    found = load(WEIGHTS / "nnunet-plain")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def cases() -> list[tuple[Images, NDArray[np.bool_]]]:
    """Four simulated patients of a seed that no training has used."""
    made = []
    for case in plan_cases(6, 0, seed=987, spacing=2.0):
        simulated = simulate_case(case)
        images = {
            s: np.asarray(simulated.images[i].transpose(2, 1, 0), np.float32) for i, s in enumerate(PANEL_SEQUENCES)
        }
        if all(image.any() for image in images.values()) and len(made) < 4:
            made.append((images, np.any([image != 0 for image in images.values()], axis=0)))
    return made


def phantom_limb(rng: np.random.Generator) -> tuple[Images, NDArray[np.bool_]]:
    """A thigh: fat around muscle around bone and marrow."""
    z, y, x = np.mgrid[:70, :80, :70].astype(np.float32)
    radius = np.hypot(y - 40, x - 35)
    images = {}
    for name, (fat, muscle, bone, marrow) in {
        "T1": (2.0, 0.8, 0.1, 1.8), "T1c": (2.0, 1.0, 0.1, 1.8), "T2": (1.5, 0.5, 0.1, 1.4), "FLAIR": (1.5, 0.6, 0.1, 1.4),
    }.items():  # fmt: skip
        image = np.select([radius < 4, radius < 8, radius < 27, radius < 33], [marrow, bone, muscle, fat], 0)
        images[name] = np.where(radius < 33, image + rng.normal(0, 0.04, image.shape), 0).astype(np.float32)
    return images, (radius < 33) & (z >= 0)


def test_simulated_patients_pass(known: Distribution, cases: list[tuple[Images, NDArray[np.bool_]]]) -> None:
    for images, brain in cases:
        found = known.compare(images, brain, SPACING)
        assert found is not None
        assert not found.outside, found
        assert found.sentence() == ""


def test_scale_and_fine_grids_change_little(known: Distribution, cases: list[tuple[Images, NDArray[np.bool_]]]) -> None:
    images, brain = cases[0]
    plain = known.compare(images, brain, SPACING)
    scaled = known.compare({s: image * 37.0 for s, image in images.items()}, brain, SPACING)
    fine = known.compare(
        {s: image.repeat(2, 0).repeat(2, 1).repeat(2, 2) for s, image in images.items()},
        brain.repeat(2, 0).repeat(2, 1).repeat(2, 2),
        (1.0, 1.0, 1.0),
    )
    assert plain is not None
    assert scaled is not None
    assert fine is not None
    assert scaled.distance == pytest.approx(plain.distance, abs=1e-3)
    assert fine.distance == pytest.approx(plain.distance, abs=0.05)


@pytest.mark.parametrize(
    "kind", ["noise", "smooth noise", "inverted", "one for all", "exchanged", "ct", "limb", "turned", "twice as large"]
)
def test_what_is_no_brain_mri_is_told(
    known: Distribution, cases: list[tuple[Images, NDArray[np.bool_]]], kind: str
) -> None:
    rng = np.random.default_rng(3)
    images, brain = cases[1]
    spacing = SPACING
    if kind == "noise":
        images = {s: np.where(brain, rng.normal(100, 20, brain.shape), 0).astype(np.float32) for s in images}
    elif kind == "smooth noise":
        images = {
            s: np.where(brain, 100 + 50 * ndimage.gaussian_filter(rng.normal(size=brain.shape), 2), 0).astype(
                np.float32
            )
            for s in images
        }
    elif kind == "inverted":
        images = {s: np.where(brain, i.max() - i, 0).astype(np.float32) for s, i in images.items()}
    elif kind == "one for all":
        images = {s: images["T1"] + rng.normal(0, 1e-3, brain.shape).astype(np.float32) * brain for s in images}
    elif kind == "exchanged":
        images = {**images, "T2": images["FLAIR"], "FLAIR": images["T2"]}
    elif kind == "ct":
        head = np.where(ndimage.binary_erosion(brain, iterations=3), 35.0, 1000.0)
        images = {s: (np.where(brain, head + rng.normal(0, 4, brain.shape), 0)).astype(np.float32) for s in images}
    elif kind == "limb":
        images, brain = phantom_limb(rng)
    elif kind == "turned":
        images, brain = {s: np.swapaxes(i, 0, 1) for s, i in images.items()}, np.swapaxes(brain, 0, 1)
    else:
        spacing = (4.0, 4.0, 4.0)
    found = known.compare(images, brain, spacing)
    assert found is not None
    assert "unlike those the model learned from" in found.sentence()


def test_nothing_is_said_of_nothing(known: Distribution) -> None:
    empty = np.zeros((20, 20, 20), np.float32)
    images = dict.fromkeys(PANEL_SEQUENCES, empty)
    assert known.compare(images, empty > 0, SPACING) is None
    assert known.compare({"DWI": empty}, empty == 0, SPACING) is None
    flat = known.compare(
        {s: np.full((40, 60, 50), 7.0, np.float32) for s in PANEL_SEQUENCES}, np.ones((40, 60, 50), bool), SPACING
    )
    assert flat is not None
    assert flat.outside


def test_missing_sequences_are_compared_by_what_is_there(
    known: Distribution, cases: list[tuple[Images, NDArray[np.bool_]]]
) -> None:
    images, brain = cases[2]
    for present in (("T1c",), ("T1c", "FLAIR"), ("T1", "T1c", "T2")):
        found = known.compare({s: images[s] for s in present}, brain, SPACING)
        assert found is not None
        assert not found.outside
        assert found.limits != known.limits["+".join(PANEL_SEQUENCES)]


def test_fitting_lets_ninety_nine_of_a_hundred_pass() -> None:
    rng = np.random.default_rng(1)
    count = len(feature_names(PANEL_SEQUENCES))
    mixing = rng.normal(size=(count, count)) / np.sqrt(count)
    found = fit(rng.normal(size=(230, count)) @ mixing)
    fresh = rng.normal(size=(1000, count)) @ mixing
    from inference.domain_shift.distribution import _deviations, _distance

    limits = found.limits["+".join(PANEL_SEQUENCES)]
    inside = [
        _distance(row, found.mean, found.covariance) <= limits[0]
        and _deviations(row, found.mean, found.covariance).max() <= limits[1]
        for row in fresh
    ]
    assert np.mean(inside) > 0.97
    with pytest.raises(ValueError, match="40 cases"):
        fit(rng.normal(size=(39, count)))


def test_the_record_comes_back_and_a_damaged_one_is_none(known: Distribution, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(known.as_json()))
    again = load(tmp_path)
    assert again is not None
    assert np.allclose(again.covariance, known.covariance, atol=1e-7)
    assert load(tmp_path / "absent") is None
    for damage in ("", "[]", "{}", json.dumps({**known.as_json(), "mean": [1.0]}), json.dumps({"limits": 3})):
        (tmp_path / FILE).write_text(damage)
        assert load(tmp_path) is None
    shutil.rmtree(tmp_path)


def test_a_brain_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        features({"T1": np.ones((5, 5, 5), np.float32)}, np.ones((5, 5, 5), bool), SPACING)
