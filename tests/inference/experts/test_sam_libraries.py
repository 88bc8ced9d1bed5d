"""SAM 2 and SAM 3 through transformers, SAM 2's video predictor, and memory that runs out, behind the one interface.

The networks are tiny and random: what is tested is the way in and out, not the masks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.experts.contract import Prompt
from inference.experts.errors import WeightsMismatch, WeightsMissing
from inference.experts.factory import expert_for_folder
from inference.experts.weights import sha256_of
from tests.factories.expert_volumes import committed, study

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each network."""
    from tests.factories import tiny_sam

    root = tmp_path_factory.mktemp("sam")
    tokens = {"mask_tokens": ["WT", "TC", "ET"]}
    return {
        "sam2": tiny_sam.sam2(root / "sam2", **tokens),
        "sam2-evidence": tiny_sam.sam2(root / "sam2-evidence"),
        "sam2-video": tiny_sam.sam2(root / "sam2-video", video=True, **tokens),
        "sam3": tiny_sam.sam3(root / "sam3"),
        "package-video": package_video(root / "package-video"),
    }


def package_video(folder: Path) -> Path:
    """The committed SAM 2 said to follow slices as frames. Its memory was never trained: it runs, and that is all."""
    shutil.copytree(committed("sam2-small"), folder)
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(described | {"propagation": "video"}))
    return folder


@pytest.mark.parametrize("name", ["sam2", "sam2-evidence", "sam3"])
def test_automatic_mode_through_the_one_interface(name: str, folders: dict[str, Path]) -> None:
    expert = expert_for_folder(folders[name])
    volumes = study()
    seen: list[float] = []
    output = expert.predict(volumes, progress=lambda fraction, _: seen.append(fraction))
    p = output.probabilities
    assert {region: (one.shape, one.dtype) for region, one in p.items()} == dict.fromkeys(
        ("ET", "TC", "WT"), (volumes.shape, np.dtype(np.float16))
    )
    assert (p["ET"] <= p["TC"]).all()
    assert (p["TC"] <= p["WT"]).all()
    assert not p["WT"][~volumes.brain_mask].any()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    again = expert.predict(volumes).probabilities
    assert all(np.array_equal(p[region], again[region]) for region in p), "the same input gives the same mask"


@pytest.mark.parametrize("name", ["sam2", "sam2-video", "sam3", "package-video"])
def test_clicks_and_boxes_through_the_one_interface(name: str, folders: dict[str, Path]) -> None:
    expert: Any = expert_for_folder(folders[name])
    volumes = study()
    z, y, x = (n // 2 for n in volumes.shape)
    assert expert.refine("study", None, volumes) is None
    for axis in range(3):
        refined = expert.refine("study", Prompt("TC", ((z, y, x, True),), axis=axis, scope="slice"))
        whole = list(volumes.shape)
        whole[axis] = 1
        assert list(refined.mask.shape) == whole
        assert refined.origin[axis] == (z, y, x)[axis]
        assert refined.mask[tuple(0 if a == axis else n for a, n in enumerate((z, y, x)))]
    box = ((z, y - 3, x - 3), (z, y + 3, x + 3))
    carried = expert.refine("study", Prompt("WT", box=box, scope="volume"))
    assert all(a + b <= n for a, b, n in zip(carried.origin, carried.mask.shape, volumes.shape, strict=True))


def test_half_the_precision_gives_nearly_the_same_mask(tmp_path: Path) -> None:
    # What a GPU does without being asked; a CPU can be asked for it.
    folder = tmp_path / "half"
    shutil.copytree(committed("sam2-small"), folder)
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(described | {"precision": "bfloat16"}))
    volumes = study()
    masks = []
    for place in (folder, committed("sam2-small")):
        expert: Any = expert_for_folder(place)
        masks.append(expert.predict(volumes).probabilities["WT"])
    assert not np.array_equal(*masks), "it was computed in another precision"
    first, second = (mask >= 0.5 for mask in masks)
    assert first.any()
    assert 2 * (first & second).sum() / (first.sum() + second.sum()) > 0.95


def test_slices_as_frames_are_followed_both_ways(folders: dict[str, Path]) -> None:
    for name in ("package-video", "sam2-video"):
        expert: Any = expert_for_folder(folders[name])
        expert.load()
        assert expert._backend.propagation == "video"
        frames = np.random.default_rng(0).random((5, 3, 32, 32)).astype(np.float32)
        found = expert._backend.track(frames, {2: (None, [(16.0, 16.0, True)])})
        assert found.shape == (5, 32, 32)
        assert (found.reshape(5, -1).max(axis=1) > 0).all(), "every frame has an answer, before and after the key slice"
    plain: Any = expert_for_folder(committed("sam2-small"))
    plain.load()
    assert plain._backend.propagation == "boxes", "these weights were trained on pictures alone"


def broken(folder: Path, to: Path, change: Callable[[Path], None], *, repin: bool = True) -> Path:
    from tests.factories import tiny_sam

    shutil.copytree(folder, to)
    change(to)
    if repin:
        tiny_sam.repin(to)
    return to


def test_what_is_missing_corrupt_or_not_plain_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole = folders["sam2"]

    def part(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_file(dict(list(tensors.items())[: len(tensors) // 2]), folder / "model.safetensors", {"format": "pt"})

    def pickled(folder: Path) -> None:
        import torch

        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    def described(**more: Any) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            for name in ("model.json", "config.json"):
                data = json.loads((folder / name).read_text())
                (folder / name).write_text(json.dumps(data | {k: v for k, v in more.items() if k != "only"}))

        return change

    cases: list[tuple[Callable[[Path], None], bool, type[Exception], str]] = [
        (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 100), False, WeightsMismatch, "SHA-256"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 100), True, WeightsMismatch, "do not fit"),
        (lambda f: (f / "model.safetensors").unlink(), False, WeightsMissing, r"model\.safetensors"),
        (part, True, WeightsMismatch, "only in part"),
        (pickled, True, WeightsMissing, r"no \.safetensors"),
        (described(model_type="bert"), True, WeightsMismatch, "no SAM"),
        (described(library="tensorflow"), True, WeightsMismatch, "unknown library"),
        (lambda f: shutil.copy(f / "model.safetensors", f / "other.safetensors"), True, WeightsMismatch, "pins no SHA"),
    ]
    for number, (change, repin, kind, text) in enumerate(cases):
        folder = broken(whole, tmp_path / str(number), change, repin=repin)
        with pytest.raises(kind, match=text):
            expert_for_folder(folder).load()
    folder = broken(folders["sam3"], tmp_path / "words", lambda f: (f / "concept" / "tokenizer.json").unlink())
    with pytest.raises(WeightsMissing, match="tokenizer"):
        expert_for_folder(folder).load()
    assert sha256_of(whole / "config.json"), "the original is whole"


def test_sam_goes_on_with_less_when_memory_runs_out() -> None:
    import torch

    from inference.experts.sam import SamExpert

    volumes = study()
    plain = SamExpert("sam", committed("sam2-small"))
    wanted = plain.predict(volumes)
    careful = SamExpert("sam", committed("sam2-small"), batch=4)
    careful.load()
    embed, sizes = careful._backend.embed, []

    def scarce(pictures: Any) -> Any:
        sizes.append(len(pictures))
        if len(pictures) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return embed(pictures)

    careful._backend.embed = scarce  # type: ignore[method-assign]
    output = careful.predict(volumes)
    assert sizes[:2] == [4, 2]
    assert max(sizes[1:]) == 2
    assert output.notes == ("memory ran out: went on with 2 at a time",)
    for region, probability in wanted.probabilities.items():
        assert np.allclose(probability, output.probabilities[region], atol=2e-3), region


def test_nnunet_goes_on_when_memory_runs_out() -> None:
    import torch

    expert: Any = expert_for_folder(committed("nnunet-plain"))
    expert.load()
    asked: list[bool] = []
    run = expert._run

    def scarce(*args: Any, on_device: bool) -> Any:
        asked.append(on_device)
        if on_device:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return run(*args, on_device=on_device)

    expert._run = scarce
    expert._memory.wanted = ("cpu", 2)  # as on a GPU, where the sums are kept on the device
    output = expert.predict(study())
    assert asked == [True, False]
    assert output.notes == ("memory ran out: went on with the sums off the device",)
    assert output.probabilities["WT"].any()
