"""What people do with a panel: stop it, run it again, choose experts and fusion; and what its outlines were worth."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import transaction

from audit.models import AuditRow
from clinical.identity import OrderIdentity
from clinical.models import Notice, User
from clinical.orders import accept_order
from imaging.models import Segmentation, Study
from imaging.segmentation.label_maps import current_segmentation, load_labels
from inference.fusion import arguments
from inference.models import (
    CaseEvaluation,
    ExpertState,
    FusionChoice,
    FusionWeights,
    ModelVersion,
    PanelRun,
    PanelState,
    StandingProposal,
)
from inference.panel.cancel import cancel_panel, run_again
from inference.panel.choose_fusion import choose_fusion, stricter
from inference.panel.convene import enqueue_conclusion
from inference.panel.queries import latest_panel
from inference.quality import drift, learned_weights
from inference.registry import models, standing
from oncoflow_site.foundation import failpoints
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.jobs import run_pending
from oncoflow_site.foundation.models import Event, Job, JobState
from tests.factories import studies
from tests.factories.panels import (
    GOOD,
    LESION,
    WEAK,
    Panel,
    Settle,
    convene,
    model_with_reviews,
    painted,
    panel_of,
    review,
    settle,
    weights,
)

__all__ = ["panel_of", "settle"]

pytestmark = pytest.mark.django_db


def test_the_consensus_shows_nothing_smaller_than_its_most_careful_model_would(settle: Settle) -> None:
    study, panel = settle(("one", "good", GOOD), ("two", "good", GOOD, {"ET": 1e9}))
    assert panel.consensus is not None
    labels = load_labels(panel.consensus)
    assert (labels == 2).any()
    assert not (labels == 3).any()
    choose_fusion(panel, experts=["one"], method="majority", who="dr", why="the other one is too careful here")
    run_pending("default", "gpu")
    assert (load_labels(current_segmentation(study)) == 3).any()


# --- stopping and running again ---------------------------------------------------------------------------------------


def test_a_stopped_panel_ends_everywhere_and_can_be_run_again(panel_of: Panel):
    panel_of(("one", "good", GOOD), ("two", "good", GOOD))
    study, _ = painted(LESION)
    panel = convene(study)
    with pytest.raises(UserVisibleError, match="reason"):
        cancel_panel(panel, who="dr", why=" ")
    cancel_panel(panel, who="dr", why="wrong patient on the table")
    assert run_pending("gpu") == 0
    panel.refresh_from_db()
    assert panel.state == PanelState.CANCELLED
    assert "wrong patient" in panel.reasons[0]
    assert set(panel.expert_runs.values_list("state", flat=True)) == {ExpertState.CANCELLED}
    assert set(Job.objects.filter(queue="gpu").values_list("state", flat=True)) == {JobState.CANCELLED}
    assert not Segmentation.objects.exists()
    assert Event.objects.filter(kind="panel.cancelled").count() == 1
    assert AuditRow.objects.filter(event="panel.cancel").count() == 1
    with pytest.raises(UserVisibleError, match="over"):
        cancel_panel(panel, who="dr", why="again")

    assert run_again(study, panel).pk == run_again(study, panel).pk
    run_pending("default", "gpu")
    second = latest_panel(study)
    assert second.pk != panel.pk
    assert second.state == PanelState.CONCLUDED
    with pytest.raises(UserVisibleError):
        run_again(study, second)


def test_convening_a_stopped_study_by_itself_does_nothing(tmp_path: Path, settings):
    settings.ONCOFLOW_PANEL = [{"name": "one", "kind": "good", "weights_dir": str(weights(tmp_path, "one"))}]
    study, _ = painted(LESION)
    cancel_panel(convene(study), who="dr", why="x")
    convene(study)
    assert PanelRun.objects.count() == 1


def test_a_running_expert_that_is_cancelled_stores_nothing(panel_of: Panel, monkeypatch):
    """Cancelled between the answer and its storing: the latest moment there is."""

    panel_of(("one", "good", GOOD))
    study, _ = painted(LESION)
    panel = convene(study)
    real = failpoints.hit

    def hit(name: str) -> None:
        if name == "inference.expert_answered":
            cancel_panel(PanelRun.objects.get(pk=panel.pk), who="dr", why="x")
        real(name)

    monkeypatch.setattr(failpoints, "hit", hit)
    run_pending("gpu")
    panel.refresh_from_db()
    assert panel.state == PanelState.CANCELLED
    assert not Segmentation.objects.exists()


def test_stat_orders_go_first(tmp_path: Path, settings):
    settings.ONCOFLOW_PANEL = [{"name": "one", "kind": "good", "weights_dir": str(weights(tmp_path, "one"))}]
    routine, soon, urgent = (painted(LESION)[0] for _ in range(3))
    for number, (study, priority) in enumerate(((urgent, "stat"), (soon, "asap"), (routine, "routine"))):
        numbers = OrderIdentity(accession=f"A{number}", placer_number=f"P{number}", placer_authority="EMR")
        Study.objects.filter(pk=study.pk).update(
            order=accept_order(study.patient, numbers, priority=priority, source="mllp")
        )
    for study in (routine, soon, urgent):
        study.refresh_from_db()
        convene(study)
    # the order in which `run_pending` and the queues take them
    waiting = Job.objects.filter(kind="inference.run_expert").order_by("-priority", "created_at", "id")
    assert [job.subject for job in waiting] == [urgent.subject, soon.subject, routine.subject]
    with transaction.atomic():
        enqueue_conclusion(latest_panel(soon))
    assert Job.objects.filter(kind="inference.conclude_panel", run_after__lte=now()).get().priority == 11


# --- choosing experts and fusion --------------------------------------------------------------------------------------


def test_a_persons_choice_is_a_new_consensus_and_never_a_better_band(settle: Settle):
    study, panel = settle(("one", "good", GOOD), ("two", "good", GOOD), ("three", "small", GOOD))
    before, band = panel.consensus, panel.band
    assert band != "issue"
    choice, job = choose_fusion(panel, experts=["one", "two"], method="confidence", who="dr.who", why="three is blind")
    run_pending("gpu", limit=20)
    job.refresh_from_db()
    assert job.state == JobState.DONE, job.error
    choice.refresh_from_db()
    panel.refresh_from_db()
    made = panel.consensus
    assert made.pk == choice.segmentation_id != before.pk
    assert (made.author, made.reason, made.kind, made.parent_id) == ("dr.who", "three is blind", "consensus", before.pk)
    assert current_segmentation(study) == made
    assert panel.fusion == "confidence"
    # The two that were chosen agree perfectly: on its own that would be issued.
    assert panel.gate.a == 1.0
    assert panel.band == choice.band == stricter(band, "issue") == band
    assert any("no more than the automatic" in reason for reason in panel.reasons)
    automatic = FusionChoice.objects.get(panel_run=panel, automatic=True)
    assert (automatic.band, automatic.segmentation_id, automatic.experts) == (band, before.pk, ("one", "three", "two"))
    event = Event.objects.get(kind="consensus.chosen")
    assert event.payload["segmentation_id"] == str(made.pk)
    # a second choice is measured by the automatic band too, not by the first choice's
    choose_fusion(panel, experts=["three"], method="majority", who="dr.who", why="to see")
    run_pending("gpu", limit=20)
    panel.refresh_from_db()
    assert panel.consensus_id != made.pk
    assert FusionChoice.objects.filter(panel_run=panel, automatic=True).count() == 1
    assert Segmentation.objects.filter(kind="consensus").count() == 3


def test_a_choice_may_lower_the_band(settle: Settle):
    _, panel = settle(("one", "good", GOOD), ("two", "good", GOOD), ("three", "small", WEAK))
    first = panel.band
    choose_fusion(panel, experts=["three"], method="majority", who="dr", why="x")
    run_pending("gpu", limit=20)
    panel.refresh_from_db()
    assert stricter(panel.band, first) == panel.band != "issue"


@pytest.mark.parametrize(
    ("experts", "method", "why", "code"),
    [
        (["one"], "magic", "x", "method"),
        (["one", "nobody"], "majority", "x", "experts"),
        ([], "majority", "x", "experts"),
        (["one", "two"], "staple", "x", "method"),
        (["one"], "majority", " ", "no-reason"),
    ],
)
def test_what_cannot_be_fused_is_refused_with_a_code(settle: Settle, experts, method, why, code):
    _, panel = settle(("one", "good", GOOD), ("two", "good", GOOD))
    with pytest.raises(UserVisibleError) as refused:
        choose_fusion(panel, experts=experts, method=method, who="dr", why=why)
    assert refused.value.code == code
    assert not FusionChoice.objects.exists()


# --- evaluation rows ----------------------------------------------------------------------------------------------------


def test_every_expert_is_compared_with_the_consensus_and_with_the_review(settle: Settle):
    study, panel = settle(("one", "good", GOOD), ("two", "good", GOOD), ("three", "small", WEAK))
    studies.run_waiting("imaging", "inference")
    rows = CaseEvaluation.objects.filter(reference_kind="consensus")
    assert rows.count() == 9
    small = rows.get(expert="three", region="WT")
    assert small.dice == panel.agreement.experts["three"].dice_vs_consensus["WT"] < 1
    assert small.reference_mm3 > small.volume_mm3 > 0
    assert small.runtime_s == 0.1
    assert small.model_version == ModelVersion.objects.get(name="three")
    panel.refresh_from_db()
    assert set(panel.methods) == {"majority", "staple", "weighted", "confidence"}
    assert "three experts" in panel.methods["staple"].why_not
    assert panel.methods["confidence"].volume_mm3["WT"] > 0
    assert panel.methods["weighted"].dice["three"]["WT"] == pytest.approx(small.dice, abs=1e-4)
    reference = review(study, panel, shrink=1)
    studies.run_waiting("imaging", "inference")
    rows = CaseEvaluation.objects.filter(reference=reference)
    assert rows.count() == 12
    assert set(rows.values_list("expert", flat=True)) == {"one", "two", "three", "consensus"}
    one, consensus = rows.get(expert="one", region="WT"), rows.get(expert="consensus", region="WT")
    assert one.dice == consensus.dice < 1
    assert one.hd95_mm > 0
    assert consensus.model_version is None
    from inference import tasks
    from oncoflow_site.foundation.jobs import enqueue, run_job

    again = enqueue(
        "inference.evaluate_against_review", subject="x", key="again", kwargs={"segmentation_id": str(reference.pk)}
    )
    run_job(again.pk)
    assert CaseEvaluation.objects.filter(reference=reference).count() == 12
    assert tasks.evaluate_panel


# --- weights and standing -------------------------------------------------------------------------------------------------


def test_weights_are_the_reviewed_mean_shrunk_to_the_evaluation():
    assert arguments.shrunk(0, None, 0.91) == pytest.approx(0.91)
    assert arguments.shrunk(0, None, None) == 0.5
    assert arguments.shrunk(20, 0.5, 0.9) == pytest.approx(0.7)
    assert arguments.shrunk(10_000, 0.0, 0.9) == arguments.LEAST_WEIGHT
    model = model_with_reviews([0.5, 0.6])
    with pytest.raises(UserVisibleError):
        learned_weights.learn(who="ada", why="")
    call_command("models", "weights", "--who", "ada", "--why", "first")
    made = FusionWeights.objects.get()
    assert (made.version, made.who) == (1, "ada")
    one = made.weights[str(model.pk)]["regions"]["WT"]
    assert one == {"weight": round((1.1 + 20 * 0.91) / 22, 4), "reviewed": 0.55, "cases": 2, "evaluated": 0.91}
    assert learned_weights.learn(who="ada", why="again").version == 2


def test_weighted_fusion_uses_what_was_learned(settle: Settle, settings):
    settings.ONCOFLOW_FUSION = "weighted"
    experts = (("one", "good", GOOD), ("two", "small", GOOD))
    _, panel = settle(*experts)
    assert panel.fusion == "weighted"  # by their evaluations, equal ones: the mean
    versions = models.register_panel()
    made = learned_weights.learn(who="ada", why="x")
    weights = made.weights
    for region in ("ET", "TC", "WT"):
        weights[str(versions["one"].pk)]["regions"][region]["weight"] = 0.01
    FusionWeights.objects.filter(pk=made.pk).update(weights=weights)
    _, panel = settle(*experts)
    assert panel.fusion == "weighted"
    # "two" weighs a hundred times as much: the consensus is its outline
    assert panel.agreement.experts["two"].dice_vs_consensus["WT"] == 1.0
    assert panel.agreement.experts["one"].dice_vs_consensus["WT"] < 1.0


def test_a_voter_that_falls_below_its_evaluation_is_proposed_for_demotion_and_a_person_decides():
    model = model_with_reviews([0.86] * 19)
    with transaction.atomic():
        assert drift.propose_demotion(model) is None  # too few
    more = model_with_reviews([0.86], name="other")
    CaseEvaluation.objects.filter(model_version=more).update(model_version=model)
    more.delete()
    with transaction.atomic():
        proposal = drift.propose_demotion(model)
        assert drift.propose_demotion(model) == proposal
    model.refresh_from_db()
    assert model.status == "voter"  # nothing is demoted silently
    assert len(proposal.evidence["cases"]) == 20
    studies.run_waiting("clinical")
    assert Notice.objects.get(kind="model.demotion_proposed").for_role == "admin"
    person = User.objects.create_user("ada", role="admin")
    with pytest.raises(UserVisibleError):
        drift.decide_proposal(proposal, person, confirm=True, why="")
    drift.decide_proposal(proposal, person, confirm=True, why="new scanner")
    model.refresh_from_db()
    assert model.status == "adviser"
    change = model.status_changes.first()
    assert (change.who, change.from_status, change.to_status) == ("ada", "voter", "adviser")
    assert change.evidence["cases"] == proposal.evidence["cases"]
    with pytest.raises(UserVisibleError, match="already"):
        drift.decide_proposal(proposal, person, confirm=False, why="x")


def test_a_voter_that_keeps_its_promise_or_was_just_judged_is_left_alone():
    model = model_with_reviews([0.5] * 5 + [0.87] * 20)  # the old ones do not count
    with transaction.atomic():
        assert drift.propose_demotion(model) is None
    CaseEvaluation.objects.update(dice=0.6)
    with transaction.atomic():
        proposal = drift.propose_demotion(model)
    person = User.objects.create_user("ada", role="admin")
    drift.decide_proposal(proposal, person, confirm=False, why="all of them post-operative")
    with transaction.atomic():
        assert drift.propose_demotion(model) is None
    assert StandingProposal.objects.get().state == "dismissed"
    model.refresh_from_db()
    assert model.status == "voter"


def test_a_vote_cannot_be_given_it_is_earned():
    model = model_with_reviews([], status="adviser")
    ModelVersion.objects.filter(pk=model.pk).update(evaluation={})
    model.refresh_from_db()
    with pytest.raises(UserVisibleError, match="earned"):
        standing.set_status(model, "voter", who="ada", why="I like it")
    ModelVersion.objects.filter(pk=model.pk).update(evaluation={"regions": dict.fromkeys(("ET", "TC", "WT"), GOOD)})
    model.refresh_from_db()
    standing.set_status(model, "voter", who="ada", why="seen the figures")
    assert model.status_changes.first().evidence["regions"]["WT"] == GOOD
