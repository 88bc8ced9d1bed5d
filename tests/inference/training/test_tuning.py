"""`manage.py models train`: from a dataset folder to a registered version that has to earn its vote, and on from there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from django.core.management import call_command
from django.core.management.base import CommandError

from inference.models import ModelVersion
from inference.registry import models
from inference.training.common.dataset import RawDataset
from inference.training.common.preprocess import make_plans, nnunet_dataset_json
from inference.training.nnunet.train import build_network, load_start
from tests.factories.raw_datasets import write_dataset

WEIGHTS = Path(__file__).resolve().parents[3] / "inference" / "weights"

pytestmark = [pytest.mark.torch, pytest.mark.django_db]


OPTIONS = ("--minutes", "0.02", "--threads", "1", "--trained-on", "four painted heads", "--limit", "1")
SMALL = ("--set", "patch=32", "--set", "early-patch=32", "--set", "batch-size=1")


def train(dataset: Path, out: Path, *arguments: str) -> None:
    call_command("models", "train", str(dataset), "--out", str(out), *OPTIONS, *SMALL, *arguments)


@pytest.mark.slow
def test_a_trained_version_is_registered_and_can_be_tuned_further(tmp_path: Path) -> None:
    dataset, out = write_dataset(tmp_path / "data"), tmp_path / "out"
    train(dataset, out, "--name", "own", "--version", "1.0.0")
    row = ModelVersion.objects.get()
    assert (row.name, row.version, row.status, row.kind) == ("own", "1.0.0", "adviser", "nnunet")
    assert row.evaluation["regions"]["WT"]["n"] == 1
    assert (out / "export" / "MODEL_CARD.md").is_file()
    with pytest.raises(CommandError, match="already"):
        train(dataset, tmp_path / "x", "--name", "own", "--version", "1.0.0")
    with pytest.raises(CommandError, match="registered"):
        train(dataset, tmp_path / "x", "--from", "nobody", "--version", "2")
    # Fine-tuning begins with the weights of the version named.
    raw = RawDataset(dataset)
    plans, labels = make_plans(raw, "plain", (2.0,) * 3, (32,) * 3, 1), nnunet_dataset_json(raw)
    network = build_network(plans, labels, deep_supervision=True)
    load_start(network, Path(row.weights_dir), labels)
    kept = torch.load(out / "export" / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert all(torch.equal(value.half(), kept[name]) for name, value in network.state_dict().items())
    train(dataset, tmp_path / "more", "--from", "own:1.0.0", "--version", "1.1.0")
    assert set(ModelVersion.objects.values_list("name", "version")) == {("own", "1.0.0"), ("own", "1.1.0")}
    (out / "export" / "plans.json").write_text("{}")
    with pytest.raises(CommandError, match=r"plans\.json"):
        train(dataset, tmp_path / "y", "--from", "own:1.0.0", "--version", "1.2.0")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("sam", "sam2-small"), ("vlm", "gemma3-tiny")])
def test_the_other_kinds_are_tuned_too(kind: str, name: str, tmp_path: Path) -> None:
    base = models.register(WEIGHTS / name, kind)
    dataset, out = write_dataset(tmp_path / "data", cases=2), tmp_path / "out"
    arguments = ("--expert", kind, "--from", name, "--version", "9.0.0", "--set", "batch-size=2")
    call_command("models", "train", str(dataset), "--out", str(out), *OPTIONS, *arguments)
    row = ModelVersion.objects.get(version="9.0.0")
    assert (row.name, row.status, row.evaluation["n"]) == (name, "adviser", 1)
    assert row.sha256 != base.sha256
    described = json.loads((out / "export" / "model.json").read_text())
    kept = json.loads((WEIGHTS / name / "model.json").read_text())
    assert described["training"]["steps"] > 0
    if kind == "sam":
        assert described["presence"]["cases"] == 2
        assert all(described[key] == kept[key] for key in ("config", "hydra_overrides", "mask_tokens"))


def test_a_dataset_without_held_out_cases_is_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data")
    for path in (dataset / "labelsTs").iterdir():
        path.unlink()
    with pytest.raises(CommandError, match="held-out"):
        train(dataset, tmp_path / "o", "--version", "1")
