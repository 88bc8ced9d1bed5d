"""A panel over a study with missing sequences: who runs with what, who may vote, what is fused, and that it is always held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imaging.brats.regions import labels_inner_wins
from imaging.brats.sequences import PANEL_SEQUENCES
from imaging.geometry.nifti import write_nifti
from imaging.models import Segmentation, Study, Volume
from imaging.segmentation.label_maps import load_labels
from imaging.segmentation.manual_import import accept_label_map
from imaging.segmentation.probability_maps import load_probability
from imaging.volumes.load import load_volumes
from inference.experts.common.input_requirements import NotRunnable, plan, subset_key
from inference.experts.common.intensity import blank_channels, stack_channels
from inference.experts.contract import ExpertOutput, ModelIdentity, Volumes
from inference.experts.errors import MissingSequence
from inference.fusion.agreement import measure_agreement
from inference.fusion.fuse import METHODS, fuse, masks_of
from inference.fusion.gate import decide
from inference.models import CaseEvaluation, ExpertState, PanelState
from inference.panel.queries import panel_summary
from inference.quality.learned_weights import reviewed_dice
from inference.registry.standing import votes_from_evaluation
from inference.training.common.dataset import RawCase
from inference.training.evaluate import evaluate, model_card, with_other, with_subset
from oncoflow_site.foundation.jobs import run_pending
from oncoflow_site.foundation.models import Event
from tests.factories.panels import GOOD, LESION, Panel, convene, evaluation, painted, panel_of, play
from tests.factories.studies import SMALL

__all__ = ["panel_of"]


# --- who runs with what -----------------------------------------------------------------------------------------------


def test_all_four_sequences_suit_everybody():
    for kind in ("nnunet", "sam", "vlm", "of one's own"):
        assert plan(["FLAIR", "T1", "T2", "T1c"], kind, {}).regions == ("ET", "TC", "WT")


@pytest.mark.parametrize("kind", ["sam", "vlm"])
def test_sam_and_language_models_need_flair(kind):
    with pytest.raises(NotRunnable, match="needs FLAIR"):
        plan(["T1", "T1c", "T2"], kind, evaluation(T1c=GOOD))
    found = plan(["T2", "FLAIR"], kind, evaluation(FLAIR=GOOD))
    assert (found.sequences, found.regions) == (("FLAIR",), ("WT",))


@pytest.mark.parametrize("present", [["T1c", "FLAIR"], ["T1", "T2", "FLAIR"], ["FLAIR"]])
@pytest.mark.parametrize("kind", ["nnunet", "sam", "vlm"])
def test_no_kind_of_expert_runs_on_what_it_was_not_evaluated_on(kind, present):
    with pytest.raises(NotRunnable, match="was not evaluated without"):
        plan(present, kind, evaluation(T1c_T2=GOOD))


def test_an_nnunet_runs_with_what_its_evaluation_holds():
    known = evaluation(T1c=GOOD, T1c_FLAIR=GOOD)
    assert plan(["T1c"], "nnunet", known).regions == ("ET", "TC")
    assert plan(["T1c", "FLAIR"], "nnunet", known).regions == ("ET", "TC", "WT")
    # what was not evaluated is left out, not guessed
    assert plan(["T1", "T1c", "FLAIR"], "nnunet", known).sequences == ("T1c", "FLAIR")
    assert plan(["T1c", "T2"], "nnunet", known).sequences == ("T1c",)
    with pytest.raises(NotRunnable, match="was not evaluated without"):
        plan(["FLAIR"], "nnunet", known)
    with pytest.raises(NotRunnable, match="needs T1, T2 and FLAIR: it was not evaluated"):
        plan(["T1c"], "nnunet", {"regions": {}})


def test_an_evaluation_that_went_badly_keeps_an_expert_from_running():
    with pytest.raises(NotRunnable, match="too badly"):
        plan(["T1c"], "nnunet", evaluation(T1c={"n": 30, "mean": 0.2, "p10": 0.0}))


def test_an_entry_of_the_panel_may_say_what_its_expert_needs():
    assert plan(["T1c", "T2"], "nnunet", evaluation(T1c_T2=GOOD), ["T1c"]).sequences == ("T1c", "T2")
    with pytest.raises(NotRunnable, match="was not evaluated without"):
        plan(["T1c", "T2"], "nnunet", {}, ["T1c"])
    with pytest.raises(NotRunnable, match="needs contrast-enhanced T1"):
        plan(["FLAIR"], "nnunet", {}, ["T1c"])


def test_the_expert_itself_fills_only_what_it_may_with_blank_channels():
    brain = np.ones((4, 5, 6), bool)
    given = Volumes({"T1c": np.full(brain.shape, 7.0)}, (1.0, 1.0, 1.0), brain)
    blank = blank_channels(given, "nnunet", evaluation(T1c=GOOD), None)
    assert blank == ("T1", "T2", "FLAIR")
    stack = stack_channels(given, blank=blank)
    assert [bool(channel.any()) for channel in stack] == [False, True, False, False]
    with pytest.raises(MissingSequence, match="FLAIR"):
        blank_channels(given, "sam", {}, None)


def test_a_vote_is_earned_on_the_very_combination():
    known = evaluation(T1c=GOOD)
    assert votes_from_evaluation(known["subsets"]["T1c"], regions=("ET", "TC")).role == "voter"
    assert votes_from_evaluation(known["subsets"]["T1c"]).role == "adviser"  # WT was not evaluated
    assert subset_key({"FLAIR", "T1c"}) == "T1c+FLAIR"


class Everything:
    """An expert that calls the brightest of what it is given tumour, and keeps what that was."""

    name = "everything"

    def __init__(self) -> None:
        self.given: list[set[str]] = []

    def load(self) -> ModelIdentity:
        return ModelIdentity("everything", "1", "0" * 64, "stub")

    def predict(self, volumes: Volumes, prompt: Any = None, progress: Any = None) -> ExpertOutput:
        self.given.append({name for name, image in volumes.images.items() if np.any(image)})
        found = np.max(list(volumes.images.values()), axis=0) > 150
        same = dict.fromkeys(("ET", "TC", "WT"), np.where(found, 0.9, 0.1).astype(np.float16))
        return ExpertOutput(same, self.load(), 0.1, "cpu")


class TwoCases:
    """A held-out set of two cases: an enhancing ball, and nothing."""

    folder = Path("two-cases")
    json: dict[str, Any] = {"name": "two cases"}

    def names(self, split: str) -> list[str]:
        return ["ball", "nothing"]

    def load(self, split: str, name: str) -> RawCase:
        ball = balls(4)["ET"] > 0.5
        labels = np.where(ball & (name == "ball"), 3, 0).astype(np.uint8)
        image = np.where(labels > 0, 200.0, 100.0).astype(np.float32)
        return RawCase(name, np.stack([image] * 4), labels, (2.0, 2.0, 2.0))


def test_an_evaluation_with_fewer_sequences_scores_what_they_show_and_stands_beside_the_whole_one():
    expert = Everything()
    whole = evaluate(expert, TwoCases())
    found = evaluate(expert, TwoCases(), sequences=["T1c"])
    assert expert.given == [{"T1", "T1c", "T2", "FLAIR"}] * 2 + [{"T1c"}] * 2
    assert set(found["regions"]) == {"ET", "TC"}
    assert found["regions"]["ET"]["mean"] == 1.0
    assert found["tumour_free"]["false_positive_ml_maximum"] == 0.0
    assert "baseline" in whole
    assert "baseline" not in found  # the trivial rule needs FLAIR
    kept = with_subset(whole, ["T1c"], found)
    assert plan(["T1c", "T2"], "nnunet", kept).sequences == ("T1c",)
    assert kept["regions"] == whole["regions"]


def test_another_dataset_stands_on_the_card_and_earns_nothing():
    expert = Everything()
    whole = evaluate(expert, TwoCases())
    found = evaluate(expert, TwoCases(), sequences=["T1c", "FLAIR"])
    kept = with_other(with_other(whole, "odd kinds", PANEL_SEQUENCES, whole), "odd kinds", ["T1c", "FLAIR"], found)
    assert kept["regions"] == whole["regions"]
    assert kept["cases"] == whole["cases"]
    with pytest.raises(NotRunnable):
        plan(["T1c", "FLAIR"], "nnunet", kept)
    model = {
        "name": "m",
        "version": "1",
        "architecture": "a",
        "channels": list(PANEL_SEQUENCES),
        "regions": ["ET", "TC", "WT"],
        "training": {"parameters": 1, "trained_on": "simulated", "cases": 1, "steps": 1, "seconds": 0, "command": "c"},
    }
    card = model_card(model, kept)
    assert "| odd kinds | 2 | WT |" in card
    assert "| odd kinds, T1c + FLAIR only | 2 | WT |" in card
    assert "odd kinds" not in model_card(model, whole)


# --- fusion and gate --------------------------------------------------------------------------------------------------


def balls(*radii: float) -> dict[str, np.ndarray]:
    z, y, x = np.indices((20, 20, 20)) - 10.0
    away = np.sqrt(z**2 + y**2 + x**2)
    return {
        region: np.where(away < radius, 0.9, 0.1).astype(np.float16)
        for region, radius in zip(("ET", "TC", "WT"), radii, strict=False)
    }


@pytest.mark.parametrize("method", METHODS)
def test_what_nobody_answered_for_is_neither_fused_nor_compared(method):
    answers = {"a": balls(3, 5), "b": balls(3, 6), "c": balls(4, 5)}
    fused = fuse(answers, method, weights=dict.fromkeys(answers, 1.0))
    assert set(fused.masks) == set(fused.probability) == {"ET", "TC"}
    assert set(np.unique(labels_inner_wins(fused.masks))) == {0, 1, 3}
    found = measure_agreement({name: masks_of(one) for name, one in answers.items()}, fused.masks, (1.0, 1.0, 1.0))
    assert all(set(one) == {"ET", "TC"} for one in found.vs_consensus.values())
    assert "WT" not in found.volume_mm3["consensus"]
    decision = decide(found, ["a", "b", "c"], [], flags=["sequences are missing"])
    assert decision.region in {"ET", "TC"}
    assert decision.band != "issue"


def test_only_what_all_fused_experts_answered_for_is_fused():
    assert set(fuse({"a": balls(3, 5), "b": balls(3, 5, 8)}).masks) == {"ET", "TC"}
    with pytest.raises(ValueError, match="no region"):
        fuse({"a": balls(3), "b": {"WT": balls(3)["ET"]}})


def test_an_adviser_that_answers_for_less_is_compared_where_it_does():
    whole, less = balls(3, 5, 8), balls(3, 5)
    masks = {"voter": masks_of(whole), "second": masks_of(whole), "adviser": masks_of(less)}
    found = measure_agreement(masks, masks["voter"], (1.0, 1.0, 1.0))
    assert set(found.vs_consensus["adviser"]) == {"ET", "TC"}
    assert decide(found, ["voter", "second"], ["adviser"]).band == "issue"


# --- the panel --------------------------------------------------------------------------------------------------------


def with_only(study: Study, *sequences: str) -> None:
    """Take the other volumes away; where FLAIR goes, T1c carries the experts' paint."""
    volumes = {one.sequence: one for one in Volume.objects.filter(volume_set__study=study)}
    if "FLAIR" not in sequences:
        flair = volumes["FLAIR"]
        Volume.objects.filter(pk=volumes["T1c"].pk).update(object=flair.object, sha256=flair.sha256)
    Volume.objects.filter(volume_set__study=study).exclude(sequence__in=sequences).delete()


def evaluated(settings: Any, **subsets: dict[str, Any]) -> None:
    for spec in settings.ONCOFLOW_PANEL:
        if "needs" not in spec:
            (Path(spec["weights_dir"]) / "evaluation.json").write_text(json.dumps(evaluation(**subsets)))


@pytest.mark.django_db
def test_t1c_alone_gives_enhancing_tumour_and_core_and_is_held_whatever_the_agreement(panel_of: Panel, settings):
    panel_of(("one", "good", GOOD), ("two", "good", GOOD), ("sam", "good", GOOD))
    settings.ONCOFLOW_PANEL[2]["needs"] = ["FLAIR"]
    evaluated(settings, T1c=GOOD)
    study, _ = painted(LESION)
    with_only(study, "T1c")
    panel = play(study)
    assert (panel.state, panel.band) == (PanelState.CONCLUDED, "hold"), panel.reasons
    assert panel.agreement.a == 1.0
    assert "No T1, no T2 and no FLAIR series: a reduced result is always held." in panel.reasons
    assert "Expert sam was not run: needs FLAIR." in panel.reasons
    runs = {run.expert: run for run in panel.expert_runs.all()}
    assert runs["sam"].state == ExpertState.NOT_RUN
    assert (runs["one"].role, runs["one"].sequences) == ("voter", ("T1c",))
    for outline in Segmentation.objects.filter(study=study):
        assert list(outline.not_assessed) == ["WT"]
        assert "FLAIR or T2" in outline.not_assessed["WT"]
        assert set(np.unique(load_labels(outline))) == {0, 1, 3}
        assert set(load_probability(outline)) == {"ET", "TC"}
    shown = {one.name: one for one in panel_summary(panel).experts}
    assert shown["one"].dice_vs_consensus == {"ET": 1.0, "TC": 1.0}
    assert (shown["sam"].state, shown["sam"].error) == ("not_run", "needs FLAIR")
    run_pending("default")
    rows = CaseEvaluation.objects.filter(panel_run=panel)
    assert set(rows.values_list("region", flat=True)) == {"ET", "TC"}
    assert set(rows.values_list("reduced", flat=True)) == {True}
    panel.refresh_from_db()
    assert set(panel.methods["majority"].volume_mm3) == {"ET", "TC"}
    # a person's outline assesses WT: the models are compared with it only where they answered, and it does not count
    # towards their standing
    labels = load_labels(panel.consensus)
    drawn = np.where((labels == 0) & (load_volumes(study).brain_mask), 2, labels).astype(np.uint8)
    reference = accept_label_map(study, write_nifti(drawn, SMALL), author="reader", reason="FLAIR seen elsewhere")
    assert reference.not_assessed == {}
    run_pending()
    reviewed = CaseEvaluation.objects.filter(reference=reference)
    assert set(reviewed.values_list("region", flat=True)) == {"ET", "TC"}
    assert reviewed_dice(runs["one"].model_version, "ET") == []


@pytest.mark.django_db
def test_who_was_evaluated_on_something_else_advises(panel_of: Panel, settings):
    panel_of(("one", "good", GOOD), ("two", "good", GOOD))
    evaluated(settings, T1c={"n": 12, "mean": 0.9, "p10": 0.8})  # usable, but too few cases for a vote
    study, _ = painted(LESION)
    with_only(study, "T1c")
    panel = play(study)
    assert {run.role for run in panel.expert_runs.all()} == {"adviser"}
    assert panel.band == "manual"
    assert panel.consensus is not None  # the advisers' outlines are shown


@pytest.mark.django_db
def test_where_nobody_can_run_a_person_is_asked(panel_of: Panel, settings):
    panel_of(("one", "good", GOOD), ("two", "good", GOOD))
    study, _ = painted(LESION)
    with_only(study, "T1c")
    convene(study)
    run_pending("gpu")
    panel = study.panel_runs.get()
    assert (panel.state, panel.band) == (PanelState.FAILED, "manual")
    assert {run.state for run in panel.expert_runs.all()} == {ExpertState.NOT_RUN}
    assert any("was not run: needs T1, T2 and FLAIR" in reason for reason in panel.reasons)
    assert Event.objects.filter(kind="panel.manual").count() == 1
