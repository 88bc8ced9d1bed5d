"""Which sequences an expert can run with. No torch: the panel asks before any expert is woken.

An expert is given blank channels only in combinations that its recorded evaluation holds, with a mean Dice of at least 0.5
in each region: a network answers whatever it is given, and only an evaluation tells what the answer is worth. SAM and
vision-language models look for a tumour where FLAIR is bright: they need FLAIR besides. An entry of the panel may say
``needs`` for an expert of one's own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from imaging.brats.assessability import assessable, in_words
from imaging.brats.sequences import PANEL_SEQUENCES
from inference.experts.documents import EvaluationDocument
from inference.experts.errors import WeightsMissing

__all__ = [
    "LEAST_DICE",
    "NEEDS",
    "NotRunnable",
    "Plan",
    "evaluated_sets",
    "plan",
    "read_evaluation",
    "subset_key",
    "subset_of",
]

NEEDS: Mapping[str, tuple[str, ...]] = {"sam": ("FLAIR",), "vlm": ("FLAIR",)}
"""What kinds of experts cannot do without, whatever their evaluation holds."""
LEAST_DICE = 0.5
"""Mean Dice on held-out cases below which an outline misleads more than it helps, so that none is asked for."""


@dataclass(frozen=True)
class Plan:
    """What an expert is given of a study, and what it is asked for.

    :param sequences: in the usual order. :param regions: that these show, innermost first.
    """

    sequences: tuple[str, ...]
    regions: tuple[str, ...]


class NotRunnable(Exception):
    """The expert cannot run on these sequences. The text says what it needs, for people."""


def subset_key(sequences: Iterable[str]) -> str:
    """How evaluation.json names a combination of sequences: ``T1c+FLAIR``."""
    there = set(sequences)
    return "+".join(name for name in PANEL_SEQUENCES if name in there)


def read_evaluation(folder: Path) -> EvaluationDocument:
    """evaluation.json of a weights folder; empty when there is none. Raises WeightsMissing when it is unreadable."""
    try:
        data = json.loads((folder / "evaluation.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WeightsMissing(f"{folder.name}: evaluation.json is unreadable") from error
    return cast(EvaluationDocument, data) if isinstance(data, dict) else {}


def subset_of(evaluation: Mapping[str, Any], sequences: Iterable[str]) -> Mapping[str, Any]:
    """The part of an evaluation that holds for these sequences: all of it for all four; empty where none was made."""
    key = subset_key(sequences)
    if key == subset_key(PANEL_SEQUENCES):
        return evaluation
    subsets = evaluation.get("subsets")
    found = subsets.get(key) if isinstance(subsets, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def evaluated_sets(evaluation: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The combinations with missing sequences that an evaluation found usable, those of most sequences first."""
    subsets = evaluation.get("subsets")
    found = subsets if isinstance(subsets, Mapping) else {}
    names = [tuple(str(key).split("+")) for key, one in found.items() if _usable(one)]
    known = [one for one in names if set(one) <= set(PANEL_SEQUENCES)]
    return sorted(known, key=lambda one: (-len(one), [PANEL_SEQUENCES.index(name) for name in one]))


def _usable(result: Any) -> bool:
    try:
        dice = [float(one["mean"]) for one in result["regions"].values()]
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return bool(dice) and min(dice) >= LEAST_DICE


def plan(
    present: Collection[str], kind: str, evaluation: Mapping[str, Any], needs: Sequence[str] | None = None
) -> Plan:
    """What an expert runs with on a study that has the sequences `present`.

    needs: of the panel's entry, above what the kind needs. Raises NotRunnable, with what is missing.
    """
    there = [name for name in PANEL_SEQUENCES if name in present]
    if len(there) == len(PANEL_SEQUENCES):
        return Plan(PANEL_SEQUENCES, assessable(PANEL_SEQUENCES).regions)
    least = tuple(needs) if needs is not None else NEEDS.get(kind, ())
    missing = [name for name in least if name not in there]
    if missing:
        raise NotRunnable(f"needs {in_words(missing)}")
    for one in evaluated_sets(evaluation):
        if set(least) <= set(one) <= set(there):
            return Plan(one, assessable(one).regions)
    lacking = in_words([name for name in PANEL_SEQUENCES if name not in there])
    if subset_of(evaluation, there):
        raise NotRunnable(f"needs {lacking}: without, it did too badly on held-out cases")
    raise NotRunnable(f"needs {lacking}: it was not evaluated without")
