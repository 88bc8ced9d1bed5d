"""The interface, intensity preparation, the trivial rule, slices for SAM, and the experts with their committed weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from imaging.brats.regions import REGIONS, labels_inner_wins, nest, region_masks
from inference.experts.common.flair_baseline import rule_regions
from inference.experts.common.intensity import clip_in_brain, stack_channels
from inference.experts.common.islands import minimum_volumes, suppress_small
from inference.experts.common.slices import Window, box_of, slice_boxes, window_for
from inference.experts.contract import Prompt, Volumes
from inference.experts.errors import InvalidVolumes, MissingSequence, WeightsMismatch, WeightsMissing
from inference.experts.factory import ExpertSpec, expert_for_folder, make_expert
from inference.experts.nnunet.labels import channel_order, region_channels
from inference.experts.weights import sha256_of, verify_weights
from inference.fusion.agreement import dice
from inference.fusion.fuse import masks_of
from tests.factories.expert_volumes import committed, phantom

pytestmark = pytest.mark.torch


def test_volumes_refuse_what_does_not_belong_together() -> None:
    mask = np.ones((2, 3, 4), bool)
    good = np.ones(mask.shape, np.float32)
    Volumes({"T1": good}, (1, 1, 1), mask)
    for images, spacing, brain in (
        ({}, (1, 1, 1), mask),
        ({"T1": good[:1]}, (1, 1, 1), mask),
        ({"T1": good * np.nan}, (1, 1, 1), mask),
        ({"T1": good}, (1, 0, 1), mask),
        ({"T1": good}, (1, 1, 1), ~mask),
        ({"T1": good}, (1, 1, float("nan")), mask),
    ):
        with pytest.raises(InvalidVolumes):
            Volumes(images, spacing, brain)


def test_labels_and_regions_are_inverse() -> None:
    labels = np.array([[[0, 1, 2, 3]]], np.uint8)
    regions = region_masks(labels)
    assert [int(regions[r].sum()) for r in REGIONS] == [1, 2, 3]
    assert np.array_equal(labels_inner_wins(regions), labels)


def test_nest_orders_probabilities_and_clears_the_outside() -> None:
    mask = np.array([[[True, False]]])
    out = nest({"ET": np.full((1, 1, 2), 0.9), "TC": np.full((1, 1, 2), 0.5), "WT": np.full((1, 1, 2), 2.0)}, mask)
    assert [float(out[r][0, 0, 0]) for r in REGIONS] == [0.5, 0.5, 1.0]
    assert all(float(out[r][0, 0, 1]) == 0 for r in REGIONS)
    assert out["WT"].dtype == np.float16


def test_clipping_ignores_the_outside_and_a_spike() -> None:
    image = np.zeros((10, 10, 10), np.float32)
    mask = np.zeros(image.shape, bool)
    mask[2:8] = True
    image[mask] = np.random.default_rng(0).normal(100, 5, int(mask.sum()))
    image[3, 3, 3] = 1e6
    clipped = clip_in_brain(image, mask)
    assert clipped.max() < 150
    assert not clipped[~mask].any()


def test_missing_sequence_is_named() -> None:
    volumes, _ = phantom(4.0)
    images = {k: v for k, v in volumes.images.items() if k != "FLAIR"}
    with pytest.raises(MissingSequence, match="FLAIR"):
        stack_channels(Volumes(images, volumes.spacing, volumes.brain_mask))


def test_rule_finds_the_phantoms_tumour_and_is_nested() -> None:
    volumes, truth = phantom()
    found = rule_regions(volumes)
    assert dice(found["WT"], truth["WT"]) > 0.8
    assert not (found["ET"] & ~found["TC"]).any()
    assert not (found["TC"] & ~found["WT"]).any()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}, (True, {"ET": (2,), "TC": (1,), "WT": (0,)})),
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3}, (False, {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)})),
        # nnU-Net's own conversion of BraTS 2021: 1 is oedema and 2 necrosis
        (
            {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
            (True, {"ET": (2,), "TC": (1,), "WT": (0,)}),
        ),
        # regions in another order, without speaking names
        ({"background": 0, "a": 3, "b": [1, 2, 3], "c": [3, 1]}, (True, {"ET": (0,), "TC": (2,), "WT": (1,)})),
        # BraTS until 2021: label 4 is the third channel of the softmax after the background
        ({"background": 0, "NCR/NET": 1, "ED": 2, "ET": 4}, (False, {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)})),
        ({"background": 0, "l1": 1, "l2": 2, "l4": 4}, (False, {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)})),
        # Medical Segmentation Decathlon
        (
            {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3},
            (False, {"ET": (3,), "TC": (2, 3), "WT": (2, 1, 3)}),
        ),
        # BraTS 2024 with the resection cavity, which belongs to no region, and an ignore label
        (
            {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4, "ignore": 5},
            (False, {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}),
        ),
    ],
)
def test_channels_of_region_and_label_models(labels: dict[str, object], expected: object) -> None:
    assert region_channels(labels) == expected


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "liver": 1},
        {"background": 0, "l1": 1, "l2": 2, "l3": 3},  # 1 NCR 2 ED or 1 ED 2 NCR: nobody can tell
        {"background": 0, "WT": [1, 2, 3], "TC": [1, 2], "ET": [3]},
        {"background": 0, "WT": [1, 2, 3], "liver": 4},
    ],
)
def test_model_without_our_regions_is_refused(labels: dict[str, object]) -> None:
    with pytest.raises(WeightsMismatch):
        region_channels(labels)


def test_channel_names_as_datasets_write_them() -> None:
    names = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    assert channel_order({"modality": names}) == ["FLAIR", "T1", "T1c", "T2"]
    assert channel_order({"channel_names": {"0": "T1-CE", "1": "T2-FLAIR"}}) == ["T1c", "FLAIR"]
    for bad in ({"0": "CT"}, {"0": "T1", "1": "t1n"}, {}):
        with pytest.raises(WeightsMismatch):
            channel_order({"channel_names": bad})


def write_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"abc")
    (folder / "model.json").write_text(
        json.dumps(
            {
                "name": "m",
                "version": "1",
                "architecture": "a",
                "kind": "nnunet",
                "files": {"weights.bin": sha256_of(folder / "weights.bin")},
            }
        )
    )
    return folder


def test_weights_are_verified(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    model = verify_weights(folder)
    assert (model.name, model.sha256) == ("m", sha256_of(folder / "model.json"))
    with pytest.raises(WeightsMismatch, match="pinned"):
        verify_weights(folder, "0" * 64)
    (folder / "weights.bin").write_bytes(b"abd")
    with pytest.raises(WeightsMismatch, match=r"weights\.bin"):
        verify_weights(folder)
    (folder / "weights.bin").unlink()
    with pytest.raises(WeightsMissing, match=r"weights\.bin"):
        verify_weights(folder)
    with pytest.raises(WeightsMissing, match=r"model\.json"):
        verify_weights(tmp_path / "absent")


def test_model_json_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (tmp_path / "other").write_bytes(b"x")
    data = json.loads((folder / "model.json").read_text())
    data["files"] = {"../other": sha256_of(tmp_path / "other")}
    (folder / "model.json").write_text(json.dumps(data))
    with pytest.raises(WeightsMismatch, match="outside"):
        verify_weights(folder)


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        make_expert(ExpertSpec("x", "oracle", "w"))


def test_window_cut_and_paste_are_inverse_also_beyond_the_slice() -> None:
    image = np.arange(2 * 10 * 12, dtype=np.float32).reshape(2, 10, 12)
    for window in (Window(2, 3, 5), Window(-3, -4, 8), Window(7, 8, 9), Window(-5, -5, 30), Window(50, 50, 4)):
        target = np.full_like(image, -1)
        window.paste(target, window.cut(image))
        touched = target >= 0
        assert np.array_equal(target[touched], image[touched])
    assert Window(-5, -5, 30).cut(image).sum() == image.sum()


def test_boxes_and_windows() -> None:
    mask = np.zeros((20, 30, 40), bool)
    mask[5:9, 10:16, 20:32] = True
    assert box_of(mask[6]) == (20.0, 10.0, 32.0, 16.0)
    assert box_of(mask[0]) is None
    boxes = slice_boxes(mask, 0, margin=2)
    assert sorted(boxes) == list(range(3, 11))
    assert boxes[3] == box_of(mask[6])
    assert slice_boxes(np.zeros_like(mask), 1) == {}
    window = window_for((20.0, 10.0, 32.0, 16.0))
    assert window.side == 64
    assert (window.x + 32, window.y + 32) == (26, 13)


@pytest.mark.parametrize("name", ["nnunet-plain", "nnunet-residual", "sam2-small", "gemma3-tiny"])
def test_committed_weights_are_intact_small_and_described(name: str) -> None:
    folder = committed(name)
    assert verify_weights(folder).name == name
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 12_000_000
    assert "simulated" in json.loads((folder / "model.json").read_text())["trained_on"]
    assert "simulated" in (folder / "MODEL_CARD.md").read_text()
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert set(evaluation["regions"]) == set(REGIONS)
    assert set(evaluation["baseline"]["regions"]) == set(REGIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"), [("nnunet-plain", 0.6), ("nnunet-residual", 0.6), ("sam2-small", 0.3), ("gemma3-tiny", 0.3)]
)
def test_committed_expert_finds_the_phantoms_tumour(name: str, least: float) -> None:
    expert = expert_for_folder(committed(name))
    volumes, truth = phantom()
    seen: list[float] = []
    output = expert.predict(volumes, progress=lambda fraction, text: seen.append(fraction))
    assert set(output.probabilities) == set(REGIONS)
    assert output.probabilities["WT"].shape == volumes.shape
    assert (output.probabilities["ET"] <= output.probabilities["WT"]).all()
    assert not output.probabilities["WT"][~volumes.brain_mask].any()
    assert dice(masks_of(output.probabilities)["WT"], truth["WT"]) > least
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    with pytest.raises(MissingSequence, match="FLAIR"):
        expert.predict(Volumes({"T1": volumes.images["T1"]}, volumes.spacing, volumes.brain_mask))


@pytest.mark.slow
def test_prompt_changes_sams_answer_where_it_points() -> None:
    expert = expert_for_folder(committed("sam2-small"))
    volumes, _ = phantom(seed=3)
    prompt = Prompt("WT", box=((10, 10, 40), (20, 24, 56)))
    before = expert.predict(volumes).probabilities["WT"][10:21, 10:25, 40:57]
    output = expert.predict(volumes, prompt)
    after = output.probabilities["WT"][10:21, 10:25, 40:57]
    assert float(after.mean()) > float(before.mean())
    assert any("prompt" in note for note in output.notes)


@pytest.mark.slow
def test_tampered_checkpoint_is_refused_before_it_is_unpickled(tmp_path: Path) -> None:
    import torch

    folder = tmp_path / "nnunet-plain"
    shutil.copytree(committed("nnunet-plain"), folder)
    path = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({"network_weights": {}, "evil": Path("/")}, path)
    with pytest.raises(WeightsMismatch, match="SHA-256"):
        expert_for_folder(folder).load()
    data = json.loads((folder / "model.json").read_text())
    data["files"]["fold_0/checkpoint_final.pth"] = sha256_of(path)
    (folder / "model.json").write_text(json.dumps(data))
    with pytest.raises(WeightsMismatch, match="plain tensors"):
        expert_for_folder(folder).load()


def test_small_islands_are_capped_and_large_ones_stay() -> None:
    p = np.zeros((20, 20, 20), np.float16)
    p[2:10, 2:10, 2:10] = 0.9
    p[15, 15, 15] = 0.8
    regions = {"ET": np.where(p > 0.85, 0, p).astype(np.float16), "TC": p, "WT": p}
    out = suppress_small(regions, (2.0, 2.0, 2.0), {"WT": 100.0})
    assert float(out["WT"][15, 15, 15]) < 0.5
    assert float(out["ET"][15, 15, 15]) < 0.5, "an inner region cannot stay where the outer left"
    assert float(out["WT"][5, 5, 5]) == pytest.approx(0.9, abs=1e-3)
    assert float(suppress_small(regions, (5.0, 5.0, 5.0), {"WT": 100.0})["WT"][15, 15, 15]) > 0.5
    assert minimum_volumes({"minimum_mm3": {"WT": 5, "ET": 0}}) == {"WT": 5.0}
    assert minimum_volumes({}) == {}
