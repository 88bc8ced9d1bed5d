"""Fusion against SimpleITK and against what it promises."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from imaging.brats.regions import REGIONS
from inference.fusion.fuse import disagreement_map, fuse, masks_of
from inference.fusion.staple import staple, staple_on_device
from oncoflow_site.foundation.errors import EngineError


def raters(seed: int, count: int, shape: tuple[int, int, int] = (14, 18, 16)) -> list[NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(size=shape), 2.5)
    return [truth + gaussian_filter(rng.normal(size=shape), 1.0) * rng.uniform(0.02, 0.25) > 0.06 for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_staple_equals_simpleitk(seed: int, count: int) -> None:
    votes = raters(seed, count)
    itk = sitk.STAPLEImageFilter()
    itk.SetForegroundValue(1)
    expected = sitk.GetArrayFromImage(itk.Execute([sitk.GetImageFromArray(v.astype(np.uint8)) for v in votes]))
    found = staple(votes)
    np.testing.assert_allclose(found.posterior, expected, atol=2e-5)
    np.testing.assert_allclose(found.sensitivity, itk.GetSensitivity(), atol=1e-5)
    np.testing.assert_allclose(found.specificity, itk.GetSpecificity(), atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_staple_on_a_device_is_the_same(device: str) -> None:
    torch = pytest.importorskip("torch")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    votes = [np.random.default_rng(n).random((7, 8, 9)) < 0.3 + 0.1 * n for n in range(4)]
    expected = staple(votes, unseen=50)
    posterior, found = staple_on_device([torch.from_numpy(v).to(device) for v in votes], unseen=50)
    assert np.array_equal(posterior.cpu().numpy(), expected.posterior)
    assert (found.sensitivity, found.iterations) == (expected.sensitivity, expected.iterations)


def test_staple_of_agreement_and_of_nothing() -> None:
    vote = raters(5, 1)[0]
    assert np.array_equal(staple([vote, vote, vote]).posterior >= 0.5, vote)
    nothing = np.zeros((3, 3, 3), bool)
    assert not staple([nothing, nothing]).posterior.any()
    assert staple([~nothing, ~nothing]).posterior.all()
    with pytest.raises(ValueError, match="raters"):
        staple([])
    with pytest.raises(ValueError, match="shapes"):
        staple([nothing, np.zeros((2, 2, 2), bool)])


def output(seed: int, shape: tuple[int, int, int] = (6, 7, 8)) -> dict[str, NDArray[np.float16]]:
    rng = np.random.default_rng(seed)
    whole = rng.random(shape).astype(np.float16)
    core = np.minimum(whole, rng.random(shape).astype(np.float16))
    return {"ET": np.minimum(core, rng.random(shape).astype(np.float16)), "TC": core, "WT": whole}


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5), st.sampled_from(["auto", "majority", "staple", "weighted", "confidence"]), st.integers(0, 999)
)
def test_regions_stay_nested_and_maps_in_range(count: int, method: str, seed: int) -> None:
    outputs = {f"e{i}": output(seed * 10 + i) for i in range(count)}
    fused = fuse(outputs, method, weights={n: 0.5 + i for i, n in enumerate(outputs)})
    assert not (fused.masks["ET"] & ~fused.masks["TC"]).any()
    assert not (fused.masks["TC"] & ~fused.masks["WT"]).any()
    assert (fused.probability["ET"] <= fused.probability["TC"]).all()
    assert (fused.probability["TC"] <= fused.probability["WT"]).all()
    assert 0 <= float(fused.disagreement.min()) <= float(fused.disagreement.max()) <= 1


def constant(p: float) -> dict[str, NDArray[np.float16]]:
    return {r: np.full((2, 2, 2), p, np.float16) for r in REGIONS}


def test_two_voters_are_decided_by_the_mean_probability() -> None:
    assert fuse({"a": constant(0.9), "b": constant(0.2)}).masks["WT"].all()
    assert not fuse({"a": constant(0.6), "b": constant(0.3)}).masks["WT"].any()
    assert fuse({"a": constant(0.9), "b": constant(0.2)}).method == "majority"


def test_confidence_of_two_is_their_mean_and_of_three_is_not() -> None:
    outputs = {f"e{i}": output(i) for i in range(3)}
    two = {name: outputs[name] for name in ("e0", "e1")}
    surer = {region: np.abs(2.0 * two["e0"][region] - 1) != np.abs(2.0 * two["e1"][region] - 1) for region in REGIONS}
    for region, mask in fuse(two, "confidence").masks.items():
        assert np.array_equal(mask & surer[region], fuse(two, "majority").masks[region] & surer[region])
    assert any((fuse(outputs, "confidence").masks[r] != fuse(outputs, "majority").masks[r]).any() for r in REGIONS)


@pytest.mark.parametrize("method", ["majority", "staple", "weighted", "confidence"])
def test_islands_that_no_expert_would_have_shown_leave_the_consensus(method: str) -> None:
    outputs = {name: {r: np.zeros((8, 8, 8), np.float16) for r in REGIONS} for name in ("a", "b")}
    for found in outputs.values():
        for region in REGIONS:
            found[region][0, 0, :3] = 0.9
            found[region][4:7, 4:7, 4:7] = 0.9
    weights = dict.fromkeys(outputs, 1.0)
    assert fuse(outputs, method, weights).masks["ET"].sum() == 30
    fused = fuse(outputs, method, weights, least_voxels={"ET": 3.5, "TC": 3.0})
    assert {region: int(mask.sum()) for region, mask in fused.masks.items()} == {"ET": 27, "TC": 30, "WT": 30}
    assert float(fused.probability["ET"][0, 0].max()) == pytest.approx(0.49, abs=0.001)
    outer = fuse(outputs, method, weights, least_voxels={"WT": 4.0})
    assert {region: int(mask.sum()) for region, mask in outer.masks.items()} == dict.fromkeys(REGIONS, 27)


def test_majority_of_three_counts_votes_and_four_break_ties_by_the_mean() -> None:
    three = {"a": constant(0.99), "b": constant(0.4), "c": constant(0.45)}
    assert not fuse(three, "majority").masks["WT"].any()
    four = {**three, "d": constant(0.9)}
    assert fuse(four, "majority").masks["WT"].all()


def test_weights_and_confidence_matter() -> None:
    two = {"sure": constant(0.95), "unsure": constant(0.45)}
    assert fuse(two, "weighted", {"sure": 1.0, "unsure": 99.0}).masks["WT"].any() is np.False_
    assert fuse({"sure": constant(0.05), "unsure": constant(0.7)}, "confidence").masks["WT"].any() is np.False_
    assert fuse(two, "confidence").masks["WT"].all()
    with pytest.raises(ValueError, match="positive weight"):
        fuse(two, "weighted", {"sure": 1.0})
    with pytest.raises(ValueError, match="unknown"):
        fuse(two, "magic")
    with pytest.raises(ValueError, match="no expert"):
        fuse({})


def test_three_experts_use_staple_and_tell_performance() -> None:
    votes = raters(9, 3)
    outputs = {f"e{i}": {r: v.astype(np.float16) for r in REGIONS} for i, v in enumerate(votes)}
    fused = fuse(outputs)
    assert fused.method == "staple"
    assert np.array_equal(fused.masks["WT"], staple(votes).posterior >= 0.5)
    assert set(fused.performance["ET"]) == {"e0", "e1", "e2"}


def test_disagreement_is_where_experts_contradict() -> None:
    a, b = constant(1.0), constant(1.0)
    b["ET"] = b["ET"].copy()
    b["ET"][0, 0, 0] = 0
    found = disagreement_map([a, b])
    assert found[0, 0, 0] == 1
    assert found.sum() == 1
    assert not disagreement_map([a]).any()
    with pytest.raises(EngineError, match="region"):
        disagreement_map([{"ET": a["ET"]}, {"WT": b["WT"]}])


def test_masks_of_an_expert_are_nested() -> None:
    masks = masks_of(
        {
            "ET": np.ones((2, 2, 2), np.float16),
            "TC": np.zeros((2, 2, 2), np.float16),
            "WT": np.ones((2, 2, 2), np.float16),
        }
    )
    assert not masks["ET"].any()
