"""Training from a dataset folder: reading, patches, losses, and a few real steps of both trainings."""

from __future__ import annotations

import argparse
import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from imaging.brats.regions import REGIONS
from imaging.brats.sequences import PANEL_SEQUENCES
from inference.experts.factory import expert_for_folder
from inference.training import evaluate
from inference.training.common.checkpoints import Average
from inference.training.common.command_line import add_arguments
from inference.training.common.dataset import DatasetError, RawDataset
from inference.training.common.export import half_state
from inference.training.common.loop import Loop
from inference.training.common.preprocess import PreparedCase, load_prepared, make_plans
from inference.training.common.progress import Budget, Log
from inference.training.common.working_copy import WorkingCopy
from inference.training.nnunet import train as nnunet
from inference.training.nnunet.calibrate import best_operating_point, calibrate
from inference.training.nnunet.losses import deep_supervision_loss, dice_bce
from inference.training.nnunet.patches import PatchSampler, region_targets, shown_regions
from inference.training.sam import train as sam
from tests.factories.raw_datasets import write_dataset

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> RawDataset:
    return RawDataset(write_dataset(tmp_path_factory.mktemp("dataset")))


def test_dataset_is_read_and_checked(dataset: RawDataset, tmp_path: Path) -> None:
    assert dataset.names("train") == ["c0", "c1", "c2", "c3"]
    case = dataset.load("train", "c0")
    assert case.images.shape == (4, 36, 40, 38)
    assert case.spacing == (2.0, 2.0, 2.0)
    assert case.volumes().images["FLAIR"].shape == (36, 40, 38)
    with pytest.raises(DatasetError, match="missing"):
        dataset.load("train", "absent")
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        RawDataset(tmp_path)
    broken = dict(dataset.json) | {"labels": {"background": 0, "WT": [1, 2], "TC": [1], "ET": [3]}}
    (tmp_path / "dataset.json").write_text(json.dumps(broken))
    with pytest.raises(DatasetError, match="region"):
        RawDataset(tmp_path)
    swapped = dict(dataset.json) | {"channel_names": {"0": "T1c", "1": "T1", "2": "T2", "3": "FLAIR"}}
    (tmp_path / "dataset.json").write_text(json.dumps(swapped))
    with pytest.raises(DatasetError, match="channels"):
        RawDataset(tmp_path)


def test_preprocessing_scores_the_brain_and_caches(dataset: RawDataset, tmp_path: Path) -> None:
    plans = make_plans(dataset, "plain", (2.0,) * 3, (32,) * 3, 1)
    cases = load_prepared(dataset, plans, cache=tmp_path)
    inside = (cases[0].data != 0).any(axis=0)
    for channel in cases[0].data.astype(np.float32):
        assert abs(float(channel[inside].mean())) < 0.02
        assert float(channel[inside].std()) == pytest.approx(1, abs=0.02)
    assert cases[3].empty
    assert not cases[0].empty
    assert len(list(tmp_path.glob("*.npz"))) == 4
    again = load_prepared(dataset, plans, cache=tmp_path)
    assert np.array_equal(again[1].data, cases[1].data)


def prepared(empty: bool, seed: int = 0) -> PreparedCase:
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(4, 30, 34, 28)).astype(np.float16)
    labels = np.zeros((30, 34, 28), np.int8)
    if not empty:
        labels[10:20, 10:20, 10:20] = 2
        labels[12:18, 12:18, 12:18] = 3
        labels[14:16, 14:16, 14:16] = 1
    index = [np.argwhere(np.isin(labels, v)).astype(np.int16) for v in ((1, 2, 3), (1, 3), (3,))]
    return PreparedCase("x", data, labels, (index[0], index[1], index[2]))


def test_patches_have_the_promised_shape_and_share_of_empty() -> None:
    sampler = PatchSampler([prepared(False), prepared(True)], (16, 16, 16), 3, empty_share=0.3)
    tumour = 0
    for _ in range(60):
        data, labels = sampler.batch(1)
        assert data.shape == (1, 4, 16, 16, 16)
        assert labels.shape == (1, 16, 16, 16)
        assert labels.max() <= 3
        tumour += int(labels.any())
    assert 20 <= tumour <= 55


def test_labels_move_with_the_image() -> None:
    case = prepared(False)
    marked = PreparedCase("m", np.stack([case.labels.astype(np.float16)] * 4), case.labels, case.foreground)
    sampler = PatchSampler([marked], (20, 20, 20), 5, drop_channel=0.0)
    sampler._intensities = lambda data: data  # type: ignore[method-assign]
    for _ in range(20):
        data, labels = sampler.batch(1)
        assert float(((data[0, 0] > 0.5) == (labels[0] > 0)).float().mean()) > 0.95


def test_patches_larger_than_the_case_are_padded() -> None:
    data, labels = PatchSampler([prepared(False)], (48, 48, 48), 1).batch(1)
    assert data.shape == (1, 4, 48, 48, 48)
    assert labels.any()


def test_losses() -> None:
    labels = torch.zeros((2, 8, 8, 8), dtype=torch.int8)
    labels[:, 2:6, 2:6, 2:6] = 3
    targets = region_targets(labels)
    good, bad = (targets * 2 - 1) * 20, -(targets * 2 - 1) * 20
    assert float(dice_bce(good, targets)) < 0.01
    assert float(dice_bce(bad, targets)) > 5
    empty = torch.zeros_like(targets)
    assert float(dice_bce(good, empty)) > float(dice_bce(torch.full_like(good, -20.0), empty))
    half = torch.nn.functional.avg_pool3d(good, 2)
    assert float(deep_supervision_loss([good, half], targets)) < 0.05


def test_what_the_sequences_of_a_patch_cannot_show_teaches_nothing() -> None:
    """A patch without T1c says nothing on core and enhancement: no gradient there, as if it were not in the batch."""
    data = torch.ones(2, 4, 8, 8, 8)
    data[1, PANEL_SEQUENCES.index("T1c")] = 0
    weights = shown_regions(data)
    assert weights.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert shown_regions(torch.zeros(1, 4, 8, 8, 8)).tolist() == [[1, 1, 1]]  # outside of the brain all is seen
    targets = (torch.rand(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.7).float()
    logits = torch.zeros(2, 3, 8, 8, 8, requires_grad=True)
    deep_supervision_loss([logits], targets, weights=weights).backward()
    assert logits.grad is not None
    touched = logits.grad.abs().flatten(2).amax(2) > 0
    assert touched.tolist() == [[True, True, True], [True, False, False]]
    everything = torch.ones(2, 3)
    torch.testing.assert_close(dice_bce(logits, targets, weights=everything), dice_bce(logits, targets))


def test_budget_follows_time_over_a_resume() -> None:
    budget = Budget(1.0, spent_s=30)
    assert 0.5 <= budget.fraction < 0.55
    assert budget.rate(1000, 1.0) == pytest.approx(0.5**0.9, rel=0.05)
    assert budget.rate(0, 1.0) < 0.05
    assert Budget(1.0, spent_s=90).fraction == 1


def test_working_copy_trains_the_original_and_average_follows() -> None:
    torch.manual_seed(0)
    master = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.AvgPool3d(2), torch.nn.Conv3d(2, 1, 1))
    copy = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.AvgPool3d(2), torch.nn.Conv3d(2, 1, 1))
    working, average = WorkingCopy(master, copy), Average(master)
    before = [p.detach().clone() for p in master.parameters()]
    optimiser = torch.optim.SGD(master.parameters(), lr=0.1)
    working.work(torch.ones((1, 1, 4, 4, 4), dtype=torch.bfloat16)).float().sum().backward()
    working.push_gradients()
    optimiser.step()
    working.pull()
    average.update(master)
    assert any(not torch.equal(a, b) for a, b in zip(before, master.parameters(), strict=True))
    for a, b in zip(master.parameters(), working.work.parameters(), strict=True):
        assert torch.allclose(a, b.float(), atol=1e-2)
    averaged = list(average.values.values())
    assert all(torch.allclose(a, b, atol=0.5) for a, b in zip(averaged, master.parameters(), strict=True))


def test_half_state_keeps_shared_tensors_shared() -> None:
    shared = torch.ones(4)
    out = half_state({"a": shared, "b": shared, "n": torch.tensor(3)})
    assert out["a"].data_ptr() == out["b"].data_ptr()
    assert out["a"].dtype == torch.float16
    assert out["n"].dtype == torch.int64


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["plain", "residual"])
def test_nnunet_training_exports_resumes_and_is_evaluated(
    architecture: str, dataset: RawDataset, tmp_path: Path
) -> None:
    arguments = [
        "--dataset",
        str(dataset.folder),
        "--out",
        str(tmp_path),
        "--architecture",
        architecture,
        "--patch",
        "32",
        "--early-patch",
        "32",
        "--batch-size",
        "1",
        "--threads",
        "1",
        "--trained-on",
        "a tiny test",
    ]
    nnunet.main([*arguments, "--minutes", "0.05"])
    first = json.loads((tmp_path / "export" / "model.json").read_text())["training"]["steps"]
    assert first > 0
    # Twice the time that was spent, however slow the machine was: the budget counts what went before.
    spent = float(json.loads((tmp_path / "export" / "model.json").read_text())["training"]["seconds"]) / 60
    nnunet.main([*arguments, "--minutes", f"{2 * spent + 0.1:g}", "--resume"])
    training = json.loads((tmp_path / "export" / "model.json").read_text())["training"]
    assert training["steps"] > first
    assert f"--architecture {architecture}" in training["command"] or architecture == "plain"
    assert str(tmp_path) not in json.dumps(training)
    assert [command.count("--minutes 0.05") for command in training["earlier_commands"]] == [1]
    assert evaluate.main(["--model", str(tmp_path / "export"), "--dataset", str(dataset.folder), "--limit", "1"]) == 0
    evaluation = json.loads((tmp_path / "export" / "evaluation.json").read_text())
    assert evaluation["n"] == 1
    assert set(evaluation["regions"]) == set(REGIONS)
    assert "trivial rule" in (tmp_path / "export" / "MODEL_CARD.md").read_text()


def test_the_working_copy_gives_the_right_gradient_where_two_planes_are_left() -> None:
    # oneDNN's bfloat16 gradient of a 3x3x3 kernel over a depth of two is partly memory that nothing wrote.
    torch.manual_seed(0)
    master = torch.nn.Sequential(torch.nn.Conv3d(32, 32, 3, padding=1))
    copies = WorkingCopy(master, copy.deepcopy(master))
    x, up = torch.randn(1, 32, 2, 3, 3), torch.randn(1, 32, 2, 3, 3)
    reference = copy.deepcopy(master)
    reference(x).backward(up)
    for _ in range(8):
        for power in range(10, 21):
            torch.full((1 << power,), math.nan, dtype=torch.bfloat16)  # freed at once: what the next tensors find
        copies.work(x.bfloat16()).backward(up.bfloat16())
        copies.push_gradients()
        for own, true in zip(master.parameters(), reference.parameters(), strict=True):
            assert own.grad is not None
            assert true.grad is not None
            assert float((own.grad - true.grad).norm() / true.grad.norm()) < 0.02


def test_a_step_whose_gradient_is_not_finite_is_left_out(tmp_path: Path) -> None:
    # A patch without any brain is constant: through a dozen instance norms its gradient leaves the range of numbers.
    p = argparse.ArgumentParser()
    add_arguments(p, minutes=0.002, validate_every=1)
    arguments = p.parse_args(["--dataset", "x", "--out", str(tmp_path)])
    arguments.rate = 1e-3
    network = torch.nn.Linear(2, 1)
    loop = Loop(arguments, Log(tmp_path), network, torch.optim.SGD(network.parameters(), 1e-3), command="x")
    calls = iter(range(1_000_000))

    def learn() -> float:
        loss = network(torch.ones(1, 2)).sum() * (float("inf") if next(calls) % 2 == 0 else 1.0)
        loss.backward()
        return 1.0

    loop.run(learn, dict, lambda: None)
    assert loop.step > 0
    assert all(torch.isfinite(value).all() for value in loop.averaged.parameters())
    assert "gradient" in (tmp_path / "log.jsonl").read_text()


@pytest.mark.slow
def test_sam_training_exports_and_answers(dataset: RawDataset, tmp_path: Path) -> None:
    sam.main(
        [
            "--dataset",
            str(dataset.folder),
            "--out",
            str(tmp_path),
            "--minutes",
            "0.05",
            "--threads",
            "1",
            "--batch-size",
            "2",
            "--workers",
            "1",
            "--trained-on",
            "a tiny test",
        ]
    )
    expert = expert_for_folder(tmp_path / "export")
    output = expert.predict(dataset.load("test", "c0").volumes())
    assert output.probabilities["WT"].shape == (36, 40, 38)
    assert (output.probabilities["ET"] <= output.probabilities["TC"]).all()


def test_calibration_finds_the_shift_and_leaves_islands_out() -> None:
    truth = np.zeros((20, 20, 20), bool)
    truth[5:12, 5:12, 5:12] = True
    logit = np.where(truth, 4.0, -4.0).astype(np.float32)
    logit[4:13, 4:13, 4:13] = np.maximum(logit[4:13, 4:13, 4:13], 0.6)  # drawn a voxel too large
    logit[17, 17, 17] = 5.0  # and one island
    healthy = np.full_like(logit, -4.0)
    healthy[2, 2, 2] = 5.0
    nothing = np.zeros_like(truth)
    choice = best_operating_point([logit, healthy], [truth, nothing], (0.0, 100.0), 8.0)
    assert choice.shift == 0.75, "the least shift that is enough"
    assert choice.limit_mm3 == 100.0
    assert choice.dice == 1.0
    untouched = best_operating_point([np.where(truth, 4.0, -4.0).astype(np.float32)], [truth], (0.0, 100.0), 8.0)
    assert (untouched.shift, untouched.limit_mm3) == (0.0, 0.0)


@pytest.mark.slow
def test_calibration_moves_the_bias_and_keeps_the_folder_valid(dataset: RawDataset, tmp_path: Path) -> None:
    nnunet.main([
        *("--dataset", str(dataset.folder), "--out", str(tmp_path), "--patch", "32", "--early-patch", "32"),
        *("--batch-size", "1", "--threads", "1", "--minutes", "0.03", "--trained-on", "a tiny test"),
    ])  # fmt: skip
    folder = tmp_path / "export"
    before = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    chosen = calibrate(folder, dataset, 2, 1, None)
    after = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    for channel, region in enumerate(("WT", "TC", "ET")):
        moved = float(before["decoder.seg_layers.3.bias"][channel] - after["decoder.seg_layers.3.bias"][channel])
        assert moved == pytest.approx(chosen["shift"][region], abs=0.01)
    assert chosen["mean_dice_after"]["WT"] >= chosen["mean_dice_before"]["WT"]
    assert expert_for_folder(folder).load().name == "nnunet-plain"


@pytest.mark.parametrize("wrong", [["--patch", "40"], ["--early-patch", "16"], ["--minutes", "0"]])
def test_sizes_that_cannot_work_are_refused(wrong: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        nnunet.main(["--dataset", str(tmp_path), "--out", str(tmp_path), *wrong])
