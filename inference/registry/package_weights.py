"""A folder of published weights -> a weights folder of this project: model.json with the SHA-256 of every file.

Nothing of such a folder is trusted: no file that can hold code is taken, and a PyTorch file has to open with
``weights_only=True``, which reads plain tensors and nothing else. An evaluation that came with it is not ours and counts
for nothing: a model is an adviser until it was evaluated here.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imaging.brats.regions import REGIONS
from inference.experts.errors import WeightsMismatch, WeightsMissing
from inference.experts.factory import KINDS
from inference.experts.weights import sha256_of, verify_weights
from oncoflow_site.foundation.schema import JsonDict

__all__ = ["ALLOWED", "describe", "write_model_json_for"]

ALLOWED = frozenset({".json", ".safetensors", ".pt", ".pth", ".txt", ".model", ".jinja", ".yaml", ".md"})
"""File types of model folders that hold data: configurations, tokenizers, tensors, words."""
_TORCH = frozenset({".pt", ".pth"})
OURS = frozenset({"model.json", "evaluation.json", "distribution.json", "MODEL_CARD.md"})
ADOPT = "`python -m inference.training.nnunet.adopt` makes a folder of plain tensors of a checkpoint that you trust"


def describe(
    folder: Path,
    *,
    name: str,
    kind: str,
    version: str = "1.0.0",
    trained_on: str = "not stated",
    folds: Sequence[int] = (),
    mirroring: bool = False,
    checkpoint: str = "checkpoint_final.pth",
    options: Mapping[str, Any] | None = None,
) -> JsonDict:
    """The content of model.json for ``folder``; nothing is written. Equal folders and arguments give equal content.

    :param folds: of an nnU-Net; empty: every fold that has ``checkpoint``. :param options: further entries of model.json
        that an expert reads (``prompt``, ``slices``, ``config``, ``mask_tokens`` ...).
    :raises WeightsMissing: :raises WeightsMismatch: what is missing or not allowed, naming the file.
    """
    if kind not in KINDS:
        raise WeightsMismatch(f"{kind!r} is no kind of expert: {', '.join(KINDS)}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or not re.fullmatch(r"[\w.+-]{1,50}", version):
        raise WeightsMismatch("a model's name and version are letters, digits, dots, dashes")
    if not folder.is_dir():
        raise WeightsMissing(f"{folder}: there is no such folder")
    if (folder / "evaluation.json").exists():
        raise WeightsMismatch(
            f"{folder.name}: evaluation.json was not made here; remove it, then evaluate with "
            "`python -m inference.training.evaluate`"
        )
    if kind == "nnunet":
        files, architecture, more = _nnunet(folder, folds, checkpoint)
        more |= {"mirroring": bool(mirroring)}
    else:
        files, architecture, more = _everything(folder)
    for file in files:
        if Path(file).suffix in _TORCH:
            _plain_tensors(folder, file)
    return {
        "name": name,
        "version": version,
        "kind": kind,
        "architecture": architecture[:200],
        "regions": list(REGIONS),
        "files": {file: sha256_of(folder / file) for file in sorted(files)},
        "trained_on": trained_on,
        "evaluation": "evaluation.json",
        **more,
        **(options or {}),
    }


def write_model_json_for(folder: Path, description: Mapping[str, Any], *, pin: str | None = None) -> str:
    """Write model.json and return its SHA-256, which pins the whole folder.

    :param pin: what that has to be; another folder than the one it was said of is refused before anything is written.
    :raises WeightsMismatch: the pin, or another model.json that is there already.
    """
    content = (json.dumps(dict(description), indent=1) + "\n").encode()
    digest = hashlib.sha256(content).hexdigest()
    if pin is not None and digest != pin.lower():
        raise WeightsMismatch(f"{folder.name}: its model.json would have SHA-256 {digest}, not the pinned one")
    target = folder / "model.json"
    if target.exists() and sha256_of(target) != digest:
        raise WeightsMismatch(f"{folder.name}: model.json is there already and says something else; remove it first")
    partial = folder / f"model.json.{os.getpid()}"
    try:
        partial.write_bytes(content)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    verify_weights(folder, digest)
    return digest


def _nnunet(folder: Path, folds: Sequence[int], checkpoint: str) -> tuple[list[str], str, JsonDict]:
    from inference.experts.nnunet.labels import channel_order, region_channels

    try:
        dataset = json.loads((folder / "dataset.json").read_text("utf-8"))
        plans = json.loads((folder / "plans.json").read_text("utf-8"))
        channels = channel_order(dataset)
        region_channels(dataset["labels"])
    except OSError as error:
        raise WeightsMissing(f"{folder.name}: dataset.json or plans.json is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsMismatch(f"{folder.name}: dataset.json or plans.json cannot be read") from error
    if not re.fullmatch(r"[\w-]{1,60}\.pth", checkpoint):
        raise WeightsMismatch("the checkpoint is a file name that ends in .pth")
    found = [f"fold_{fold}" for fold in folds] or sorted(
        path.name for path in folder.glob("fold_*") if (path / checkpoint).is_file()
    )
    missing = [fold for fold in found if not (folder / fold / checkpoint).is_file()]
    if missing or not found:
        raise WeightsMissing(f"{folder.name}: {missing[0] if missing else 'no fold'} has no {checkpoint}")
    network = "U-Net"
    for one in plans.get("configurations", {}).values():
        network = str(one.get("architecture", {}).get("network_class_name", network)).rsplit(".", 1)[-1]
    more: JsonDict = {
        "channels": [*channels],
        "folds": [fold.removeprefix("fold_") for fold in found],
        "checkpoint": checkpoint,
        "cases": int(dataset.get("numTraining", 0)),
    }
    files = ["dataset.json", "plans.json", *(f"{fold}/{checkpoint}" for fold in found)]
    return files, f"nnU-Net {network}, {len(found)} fold{'s' if len(found) > 1 else ''}", more


def _everything(folder: Path) -> tuple[list[str], str, JsonDict]:
    """All files of a Hugging Face folder or of a folder with one checkpoint, if each is of a type that holds data."""
    files: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name in OURS or name.split("/")[0].startswith("."):
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise WeightsMismatch(f"{folder.name}: {name} is a link out of the folder; copy the files themselves")
        if path.suffix not in ALLOWED:
            raise WeightsMismatch(f"{folder.name}: {name} may hold code or is not needed; only data files are taken")
        files.append(name)
    if not any(Path(name).suffix in {".safetensors", *_TORCH} for name in files):
        raise WeightsMissing(f"{folder.name}: there are no weights in it (.safetensors, .pt)")
    architecture = "not stated"
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        architecture = str((config.get("architectures") or [config.get("model_type", architecture)])[0])
    except (OSError, ValueError, AttributeError, IndexError):
        pass  # a single checkpoint has no configuration of its own
    return files, architecture, {}


def _plain_tensors(folder: Path, name: str) -> None:
    import torch

    try:
        torch.load(folder / name, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsMismatch(f"{folder.name}: {name} holds more than plain tensors. {ADOPT}.") from error
