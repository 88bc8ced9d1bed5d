"""Whether SAM believes that there is a tumour: the limit on its object score, and what it does below it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from inference.experts.factory import expert_for_folder
from inference.training.dataset import DatasetError
from inference.training.presence import best_limit, main
from tests.inference.test_sam_libraries import committed, study
from tests.inference.test_training import write_dataset

pytestmark = pytest.mark.torch
NAN = float("nan")


def test_the_limit_is_where_most_is_gained_and_sits_on_no_case() -> None:
    healthy = [(-2.0, 0.0, False), (-1.0, 0.0, False), (0.0, 1.0, False)]
    ill = [(3.0, 0.9, True), (5.0, 0.8, True), (1.0, 0.05, True)]
    limit, mean = best_limit(healthy + ill)
    assert limit == -0.5 or limit == 0.5
    assert mean == pytest.approx((1 + 1 + 1 + 0.9 + 0.8 + 0.05) / 6)


def test_no_limit_where_none_helps() -> None:
    assert best_limit([(3.0, 0.9, True), (-3.0, 0.8, True)]) == (None, pytest.approx(0.85))
    assert best_limit([(NAN, 0.0, False), (NAN, 0.9, True)])[0] is None


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


@pytest.mark.slow
def test_setting_the_limit_writes_the_record_once_and_only_when_all_cases_were_seen(tmp_path: Path) -> None:
    folder = tmp_path / "sam"
    shutil.copytree(committed("sam2-small"), folder)
    before = (folder / "model.json").read_bytes()
    dataset = write_dataset(tmp_path / "dataset", cases=2)
    (dataset / "imagesTr" / "c1_0001.nii.gz").rename(tmp_path / "away.nii.gz")
    with pytest.raises(DatasetError):
        main(["--model", str(folder), "--dataset", str(dataset), "--cases", "2"])
    assert (folder / "model.json").read_bytes() == before
    (tmp_path / "away.nii.gz").rename(dataset / "imagesTr" / "c1_0001.nii.gz")
    assert main(["--model", str(folder), "--dataset", str(dataset), "--cases", "2"]) == 0
    old, new = json.loads(before), json.loads((folder / "model.json").read_text())
    assert new.pop("presence")["cases"] == 2
    new.pop("least_object_score", None)
    assert new == {k: v for k, v in old.items() if k not in ("presence", "least_object_score")}
