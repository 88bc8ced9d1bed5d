"""Evaluate a weights folder on a dataset's held-out cases, through the same interface as the service uses.

    python -m inference.training.evaluate --model inference/weights/nnunet-plain --dataset DIR
    python -m inference.training.evaluate --model inference/weights/nnunet-plain --dataset DIR --sequences T1c,FLAIR
    python -m inference.training.evaluate --model inference/weights/nnunet-plain --dataset DIR --under "kinds left out"

Writes evaluation.json and MODEL_CARD.md into the weights folder. With --sequences the model is given these alone, the other
channels blank; only the regions that they show are scored, and the result stands under "subsets" of the evaluation that is
there. It is this record that lets a model run on a study with missing sequences, and vote on it. An evaluation with
all sequences begins anew: the weights may be others by then.

With --under NAME the result stands under "others" and counts for nothing but the model card: cases of kinds that the model was
not trained on, which say more of what it will meet than the held-out cases of its own kind do.

The trivial rule of experts/saliency.py is scored on the same cases: a model's Dice says something only beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imaging.brats.assessability import assessable
from imaging.brats.regions import region_masks
from imaging.brats.sequences import PANEL_SEQUENCES
from inference.evaluation.heldout import CaseScore, score_case, summarise
from inference.experts.common.flair_baseline import RULE_SEQUENCES, rule_regions
from inference.experts.common.input_requirements import read_evaluation, subset_key
from inference.experts.contract import Expert, Volumes
from inference.experts.documents import EvaluationDocument, ModelDocument
from inference.experts.factory import expert_for_folder
from inference.experts.weights import read_model_json
from inference.fusion.fuse import masks_of
from inference.training.common.command_line import set_threads
from inference.training.common.dataset import RawDataset

__all__ = ["evaluate", "main", "model_card", "with_other", "with_subset"]


def evaluate(
    expert: Expert,
    dataset: RawDataset,
    split: str = "test",
    limit: int | None = None,
    sequences: Sequence[str] = PANEL_SEQUENCES,
) -> EvaluationDocument:
    """The content of evaluation.json for one expert, the rule's figures under "baseline" where it can be applied.

    :param sequences: what the expert is given; the other channels are blank, the brain mask is that of all sequences.
    """
    expert.load()
    scores: list[CaseScore] = []
    baseline: list[CaseScore] = []
    regions: tuple[str, ...] = assessable(sequences).regions
    with_rule = set(RULE_SEQUENCES) <= set(sequences)
    for name in dataset.names(split)[:limit]:
        case = dataset.load(split, name)
        whole, truth = case.volumes(), region_masks(case.labels)
        images = {s: image if s in sequences else np.zeros_like(image) for s, image in whole.images.items()}
        volumes = Volumes(images, whole.spacing, whole.brain_mask)
        output = expert.predict(volumes)
        masks = masks_of(output.probabilities)
        scores.append(score_case(name, {r: masks[r] for r in regions}, truth, case.spacing, output.runtime_s))
        if with_rule:
            baseline.append(score_case(name, rule_regions(volumes), truth, case.spacing))
        dice = " ".join(f"{r} {scores[-1].dice[r]:.3f}" for r in regions)
        print(f"{name}: {dice} ({output.runtime_s:.1f} s)", flush=True)
    summary = summarise(scores)
    result: EvaluationDocument = {
        "dataset": str(dataset.json.get("name", dataset.folder.name)),
        "split": "held out, never used in training or selection",
        "evaluated": time.strftime("%Y-%m-%d", time.gmtime()),
        "threshold": 0.5,
        "runtime_s_median": round(float(np.median([s.runtime_s or 0.0 for s in scores])), 2),
        **summary,
    }
    if baseline:
        rule = summarise(baseline)
        del rule["cases"]
        result["baseline"] = {
            "name": "trivial rule: FLAIR z > 1.2, largest component; ET where T1c - T1 z > 0.3",
            **rule,
        }
    return result


def with_subset(
    evaluation: EvaluationDocument, sequences: Sequence[str], result: EvaluationDocument
) -> EvaluationDocument:
    """The evaluation with `result` under its subset of sequences."""
    part: EvaluationDocument = {**result, "sequences": list(sequences)}
    subsets = {**evaluation.get("subsets", {}), subset_key(sequences): part}
    return {**evaluation, "subsets": dict(sorted(subsets.items()))}


def with_other(
    evaluation: EvaluationDocument, name: str, sequences: Sequence[str], result: EvaluationDocument
) -> EvaluationDocument:
    """The evaluation with `result`, without its single cases, under `name`: what the model did on another dataset."""
    kept: EvaluationDocument = {**result, "sequences": list(sequences)}
    kept.pop("cases", None)
    key = name if list(sequences) == list(PANEL_SEQUENCES) else f"{name}, {' + '.join(sequences)} only"
    return {**evaluation, "others": {**evaluation.get("others", {}), key: kept}}


def model_card(model: ModelDocument, evaluation: EvaluationDocument) -> str:
    """MODEL_CARD.md: what the model is, what it was trained on, what it can and cannot do."""
    training = model["training"]
    lines = [
        f"# {model['name']} {model['version']}",
        "",
        f"{model['architecture']}, {training['parameters'] / 1e6:.1f} million parameters, weights in float16.",
        f"Input: {', '.join(model['channels'])}, brain-masked, on one grid. Output: nested regions "
        f"{', '.join(model['regions'])} (BraTS).",
        "",
        "## Training",
        "",
        f"- Data: {training['trained_on']}, {training['cases']} cases.",
        *(
            [f"- {training['steps']} steps in {training['seconds'] / 60:.0f} minutes, seed {training['seed']}."]
            if training["seconds"]
            else []
        ),
        *(f"- `{command}`, then" for command in training.get("earlier_commands", [])),
        f"- `{training['command']}`",
        "",
        "## Evaluation",
        "",
        f"{evaluation['n']} held-out cases of the same kind, {evaluation['tumour_free']['n']} of them without tumour. Dice of two "
        "empty masks is 1, of a false tumour in a tumour-free brain 0.",
        "",
        "| region | mean | median | 10th percentile | minimum | trivial rule, mean |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for region in model["regions"]:
        own, rule = evaluation["regions"][region], evaluation["baseline"]["regions"][region]
        lines.append(
            f"| {region} | {own['mean']:.3f} | {own['median']:.3f} | {own['p10']:.3f} | {own['minimum']:.3f} "
            f"| {rule['mean']:.3f} |"
        )
    free = evaluation["tumour_free"]
    if free["n"]:
        lines += [
            "",
            (
                f"Tumour-free cases: {free['false_positive_ml_mean']:.2f} ml of false tumour on average, at most "
                f"{free['false_positive_ml_maximum']:.2f} ml; {free['cases_over_1_ml']} of {free['n']} above 1 ml."
            ),
        ]
    lines += ["", f"Median run time {evaluation['runtime_s_median']:.1f} s a case at 2 mm."]
    lines += _subset_lines(evaluation)
    lines += _other_lines(evaluation)
    lines += ["", "## Limits", ""]
    if "simulated" in str(training["trained_on"]):
        lines += [
            "These are demonstration weights. They have seen simulated patients only, and the figures above are on simulated",
            "patients too: they say nothing about a hospital's scanner, and must not be used for care. A vote earned on them",
            "counts in demo mode only. Train on the hospital's own cases with the same command, and evaluate again.",
        ]
    else:
        lines += ["The figures hold for cases like those of the evaluation, and for no others."]
    return "\n".join(lines) + "\n"


def _subset_lines(evaluation: EvaluationDocument) -> list[str]:
    """A table of what the model does with missing sequences."""
    if not evaluation.get("subsets"):
        return []
    lines = [
        "",
        "## Missing sequences",
        "",
        "The other channels blank; the regions that these sequences do not show are not assessed.",
        "",
        "| sequences | region | cases | mean | 10th percentile | false tumour in tumour-free cases, at most |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for found in evaluation["subsets"].values():
        worst = found["tumour_free"].get("false_positive_ml_maximum")
        false = "-" if worst is None else f"{worst:.2f} ml"
        lines += [
            f"| {', '.join(found['sequences'])} | {region} | {own['n']} | {own['mean']:.3f} | {own['p10']:.3f} | {false} |"
            for region, own in found["regions"].items()
        ]
    return lines


def _other_lines(evaluation: EvaluationDocument) -> list[str]:
    """A table of what the model does on datasets that are not of its own kind."""
    if not evaluation.get("others"):
        return []
    lines = [
        "",
        "## Cases unlike those it was trained on",
        "",
        "Mean Dice; these figures give no vote.",
        "",
        "| cases | n | region | mean | 10th percentile | trivial rule | over 1 ml of false tumour, at most |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in evaluation["others"].items():
        free = found["tumour_free"]
        false = "-"
        if free["n"]:
            false = f"{free['cases_over_1_ml']} of {free['n']}, {free['false_positive_ml_maximum']:.1f} ml"
        rule = found.get("baseline", {}).get("regions", {})
        lines += [
            f"| {name} | {own['n']} | {region} | {own['mean']:.3f} | {own['p10']:.3f} "
            f"| {format(rule[region]['mean'], '.3f') if region in rule else '-'} | {false} |"
            for region, own in found["regions"].items()
        ]
    return lines


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(
        prog="python -m inference.training.evaluate", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--model", type=Path, required=True, help="weights folder with model.json")
    p.add_argument("--dataset", type=Path, required=True, help="nnU-Net raw dataset folder with imagesTs and labelsTs")
    p.add_argument("--split", choices=("test", "train"), default="test")
    p.add_argument("--limit", type=int, default=None, help="only the first N cases")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--out", type=Path, default=None, help="folder for the result; the model's own if not given")
    p.add_argument(
        "--sequences",
        default=",".join(PANEL_SEQUENCES),
        help="what the model is given, as T1c,FLAIR; all four if not said",
    )
    p.add_argument(
        "--under", default="", metavar="NAME", help="add the result as that of another dataset, for the card"
    )
    arguments = p.parse_args(argv)
    sequences = [s for s in PANEL_SEQUENCES if s in arguments.sequences.split(",")]
    if set(arguments.sequences.split(",")) - set(PANEL_SEQUENCES) or not assessable(sequences).regions:
        p.error("--sequences: some of T1, T1c, T2, FLAIR; at least T1c, FLAIR or T2")
    set_threads(arguments.threads)
    dataset = RawDataset(arguments.dataset)
    if not dataset.names(arguments.split):
        p.error("the dataset has no such cases")
    expert = expert_for_folder(arguments.model, arguments.threads)
    result = shown = evaluate(expert, dataset, arguments.split, arguments.limit, sequences)
    out = arguments.out or arguments.model
    out.mkdir(parents=True, exist_ok=True)
    earlier = read_evaluation(out) or read_evaluation(arguments.model)
    if arguments.under or sequences != list(PANEL_SEQUENCES):
        if not earlier:
            p.error("evaluate the model with all sequences first")
        if arguments.under:
            result = with_other(earlier, arguments.under, sequences, result)
        else:
            result = with_subset(earlier, sequences, result)
    (out / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (out / "MODEL_CARD.md").write_text(model_card(read_model_json(arguments.model), result), "utf-8")
    print(json.dumps({"regions": shown["regions"], "tumour_free": shown["tumour_free"]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
