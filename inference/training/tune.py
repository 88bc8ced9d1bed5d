"""Train or fine-tune on a dataset folder, calibrate, evaluate on its held-out cases: one weights folder comes out.

The result is a version like any other: it votes once its evaluation on at least 20 held-out cases has reached the thresholds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from inference.experts.errors import ExpertError
from inference.training.common.dataset import DatasetError, RawDataset

__all__ = ["Tuning", "TuningFailed", "tune"]


class TuningFailed(ExpertError):
    """The training cannot be done as asked; the text says why."""


@dataclass(frozen=True)
class Tuning:
    """What to train. ``start_from``: weights folder to fine-tune; ``extra``: OPTION=VALUE of the training script;
    ``limit``: evaluate on so many held-out cases, all where None."""

    dataset: Path
    out: Path
    expert: str
    name: str
    version: str
    trained_on: str
    start_from: Path | None = None
    minutes: float = 30.0
    threads: int = 2
    limit: int | None = None
    extra: tuple[str, ...] = ()


def tune(wanted: Tuning) -> Path:
    """Run the training of ``wanted.expert`` and what belongs after it; the finished weights folder, ``out/export``.

    Interrupted, the same call goes on from the last checkpoint. :raises TuningFailed:
    """
    try:
        dataset = RawDataset(wanted.dataset)
    except DatasetError as error:
        raise TuningFailed(str(error)) from error
    if not dataset.names("train") or not dataset.names("test"):
        raise TuningFailed(f"{wanted.dataset}: it needs training cases (imagesTr) and held-out ones (imagesTs)")
    arguments = [
        *("--dataset", str(wanted.dataset), "--out", str(wanted.out), "--resume"),
        *("--minutes", f"{wanted.minutes:g}", "--threads", str(wanted.threads)),
        *("--name", wanted.name, "--version", wanted.version, "--trained-on", wanted.trained_on),
    ]
    if wanted.start_from is not None:
        arguments += ["--start-from", str(wanted.start_from)]
    for option in wanted.extra:
        key, _, value = option.partition("=")
        arguments += [f"--{key.lstrip('-')}", *([value] if value else [])]
    _run(f"inference.training.{wanted.expert}.train", arguments)
    folder = wanted.out / "export"
    common = ["--model", str(folder), "--dataset", str(wanted.dataset), "--threads", str(wanted.threads)]
    if wanted.expert == "nnunet":
        _run("inference.training.nnunet.calibrate", common)
    elif wanted.expert == "sam":
        _run("inference.training.sam.presence", common)
    _run("inference.training.evaluate", [*common, *(["--limit", str(wanted.limit)] if wanted.limit else [])])
    return folder


def _run(module: str, arguments: list[str]) -> None:
    main: Callable[[list[str]], int] = import_module(module).main
    try:
        code = main(arguments)
    except SystemExit as error:  # argparse: what it has to say is on stderr already
        raise TuningFailed(f"{module} did not accept its options") from error
    except DatasetError as error:
        raise TuningFailed(str(error)) from error
    if code:
        raise TuningFailed(f"{module} ended with {code}")
