"""The panel from volumes to consensus, over the real supervisor with experts in real processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from imaging.models import Segmentation, Study, StudyState
from imaging.schemas.volumes import VOLUME_PARAMETERS
from imaging.segmentation.label_maps import load_labels
from imaging.segmentation.probability_maps import load_probability
from inference.domain_shift.study_checks import study_flags
from inference.experts.errors import WeightsMismatch
from inference.models import EXPERT_MACHINE, PANEL_MACHINE, ExpertRun, ExpertState, ModelVersion, PanelRun, PanelState
from inference.panel.queries import latest_panel, panel_summary
from inference.registry import models, standing
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import IllegalMove, UserVisibleError
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.jobs import enqueue, run_job, run_pending
from oncoflow_site.foundation.models import Event, Job, JobState
from oncoflow_site.foundation.schema import plain
from tests.factories import studies
from tests.factories.panels import GOOD, LESION, WEAK, Panel, convene, painted, panel_of, play, weights
from tests.factories.running import run_in_line
from tests.factories.studies import DAY, SMALL, brain_like, tumour

__all__ = ["panel_of"]  # fixtures


@pytest.mark.django_db
def test_two_voters_and_an_adviser_come_to_a_consensus(panel_of: Panel):
    panel_of(("one", "good", GOOD), ("two", "good", GOOD), ("three", "good", WEAK))
    study, _ = painted(LESION)
    panel = play(study)
    assert (panel.state, panel.band) == (PanelState.CONCLUDED, "issue"), panel.reasons
    assert panel.demo is True
    kinds = sorted(Segmentation.objects.filter(study=study).values_list("kind", flat=True))
    assert kinds == ["consensus", "expert", "expert", "expert"]
    labels = load_labels(panel.consensus)
    truth = np.where(brain_like(SMALL) > 0, tumour(SMALL, LESION), 0)
    assert np.array_equal(labels, truth)
    assert set(load_probability(panel.consensus)) == {"ET", "TC", "WT"}
    assert panel.disagreement is not None
    event = Event.objects.get(kind="panel.concluded")
    assert event.payload == {"study_id": str(study.pk), "panel_run_id": str(panel.pk)}
    assert not Event.objects.filter(kind="panel.manual").exists()
    summary = panel_summary(latest_panel(study))
    roles = {one.name: one.role for one in summary.experts}
    assert roles == {"one": "voter", "two": "voter", "three": "adviser"}
    assert summary.gate.band == "issue"
    assert summary.agreement.a == 1.0
    for one in summary.experts:
        assert one.dice_vs_consensus == {"ET": 1.0, "TC": 1.0, "WT": 1.0}
        assert one.volume_mm3["WT"] > 0
        assert (one.state, one.version, one.error) == ("done", "1.0", "")
    json.dumps(plain(summary))


@pytest.mark.django_db
def test_voters_that_differ_need_a_person(panel_of: Panel):
    panel_of(("one", "good", GOOD), ("two", "small", GOOD))
    study, _ = painted(LESION)
    panel = play(study)
    assert panel.state == PanelState.CONCLUDED
    # Two layers of voxels fewer leave a Dice of 0.72 of the whole tumour and 0.05 of its thin rim: below any band but this.
    assert panel.band == "manual"
    assert 0 < panel.gate.a < 0.75
    assert panel.agreement.pairwise[0].experts == ("one", "two")
    assert Event.objects.filter(kind="panel.manual").count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["fails", "dies"])
def test_the_panel_goes_on_without_an_expert_that_fails(panel_of: Panel, kind: str):
    panel_of(("one", "good", GOOD), ("two", "good", GOOD), ("three", kind, GOOD))
    study, _ = painted(LESION)
    panel = convene(study)
    for _ in range(12):  # a supervisor that lost a child may ask for another try
        Job.objects.filter(queue="gpu", state=JobState.WAITING).exclude(idempotency_key__endswith=":deadline").update(
            run_after=now()
        )
        run_pending("gpu")
        panel.refresh_from_db()
        if panel.state == PanelState.CONCLUDED:
            break
    assert panel.state == PanelState.CONCLUDED
    failed = ExpertRun.objects.get(panel_run=panel, expert="three")
    assert failed.state == ExpertState.FAILED
    assert failed.error
    # enough agreement to issue, but never without a look when an expert failed
    assert panel.band == "hold"
    assert any("three" in reason for reason in panel.reasons)


@pytest.mark.django_db
def test_without_any_answer_a_person_is_asked(panel_of: Panel):
    panel_of(("one", "fails", GOOD), ("two", "fails", GOOD))
    study, _ = painted(LESION)
    panel = play(study)
    assert (panel.state, panel.band, panel.consensus) == (PanelState.FAILED, "manual", None)
    assert Event.objects.filter(kind="panel.manual").count() == 1
    assert not Event.objects.filter(kind="panel.concluded").exists()
    assert panel_summary(panel).gate.reasons


@pytest.mark.django_db
def test_nothing_found_is_never_issued(panel_of: Panel):
    panel_of(("one", "blind", GOOD), ("two", "blind", GOOD))
    study, _ = painted(LESION)
    panel = play(study)
    assert panel.band == "hold"
    assert not load_labels(panel.consensus).any()


@pytest.mark.django_db
def test_every_job_may_run_twice(panel_of: Panel):
    panel_of(("one", "good", GOOD), ("two", "good", GOOD))
    study, _ = painted(LESION)
    panel = play(study)
    for job in Job.objects.filter(kind__startswith="inference."):
        again = enqueue(job.kind, subject=job.subject, key=f"again:{job.pk}", kwargs=job.kwargs)
        run_in_line(again)
        assert again.state == JobState.DONE, again.error
    assert PanelRun.objects.count() == 1
    assert ExpertRun.objects.count() == 2
    assert Segmentation.objects.count() == 3
    assert Event.objects.filter(kind="panel.concluded").count() == 1
    panel.refresh_from_db()
    assert panel.state == PanelState.CONCLUDED


@pytest.mark.django_db
def test_an_unreachable_supervisor_is_tried_again_and_then_given_up(panel_of: Panel):
    panel_of(("one", "good", GOOD), ("two", "good", GOOD)).stop()
    study, _ = painted(LESION)
    panel = play(study)
    jobs = Job.objects.filter(kind="inference.run_expert")
    assert set(jobs.values_list("state", flat=True)) == {JobState.WAITING}
    assert panel.state == PanelState.RUNNING
    jobs.update(attempts=7, run_after=now())
    run_pending("gpu")
    panel.refresh_from_db()
    assert panel.state == PanelState.FAILED
    assert set(panel.expert_runs.values_list("state", flat=True)) == {ExpertState.FAILED}


@pytest.mark.django_db
def test_a_lost_expert_does_not_hold_the_panel_for_ever(panel_of: Panel):
    panel_of(("one", "good", GOOD), ("two", "good", GOOD))
    study, _ = painted(LESION)
    panel = convene(study)
    Job.objects.filter(kwargs__expert_run_id=str(panel.expert_runs.get(expert="two").pk)).delete()
    run_pending("gpu")
    panel.refresh_from_db()
    assert panel.state == PanelState.RUNNING
    PanelRun.objects.filter(pk=panel.pk).update(started_at=now() - DAY)
    Job.objects.filter(idempotency_key=f"panel:{panel.pk}:deadline").update(run_after=now())
    run_pending("gpu")
    panel.refresh_from_db()
    assert (panel.state, panel.band) == (PanelState.CONCLUDED, "hold")
    assert panel.expert_runs.get(expert="two").state == ExpertState.FAILED


@pytest.mark.django_db
def test_a_study_that_is_not_ready_has_no_panel(panel_of: Panel):
    panel_of(("one", "good", GOOD))
    study, _ = painted(LESION)
    Study.objects.filter(pk=study.pk).update(state=StudyState.RECEIVING)
    job = enqueue("inference.convene_panel", subject=study.subject, key="test:x", kwargs={"study_id": str(study.pk)})
    run_job(job.pk)
    assert not PanelRun.objects.exists()


@pytest.mark.django_db
def test_volumes_ready_convenes_the_panel(panel_of: Panel):
    panel_of(("one", "good", GOOD), ("two", "good", GOOD))
    study, _ = painted(LESION)
    from django.db import transaction

    with transaction.atomic():
        emit("volumes.ready", subject=study.subject, study_id=str(study.pk))
    studies.run_waiting("imaging", "inference")
    assert latest_panel(study).state == PanelState.CONCLUDED
    assert study.measurements.count() == 1


# --- registry ---------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_vote_earned_on_simulated_patients_counts_in_demo_mode_only(tmp_path, settings):
    folder = weights(tmp_path, "one")
    settings.ONCOFLOW_DEMO_MODE = True
    row = models.register(folder, "nnunet")
    assert (row.status, row.demo_only) == ("voter", True)
    assert "DEMO" in row.status_reason
    settings.ONCOFLOW_DEMO_MODE = False
    row = models.register(folder, "nnunet")
    assert row.status == "adviser"
    assert "simulated" in row.status_reason
    assert [one.to_status for one in row.status_changes.order_by("at", "id")] == ["voter", "adviser"]


@pytest.mark.django_db
def test_a_vote_earned_on_real_patients_counts_everywhere(tmp_path, settings):
    settings.ONCOFLOW_DEMO_MODE = False
    row = models.register(weights(tmp_path, "one", trained_on="1,251 patients of BraTS 2021"), "nnunet")
    assert (row.status, row.demo_only) == ("voter", False)


@pytest.mark.django_db
@pytest.mark.parametrize("numbers", [WEAK, None, GOOD | {"n": 19}, GOOD | {"p10": 0.69}])
def test_without_a_good_evaluation_there_is_no_vote(tmp_path, numbers):
    assert models.register(weights(tmp_path, "one", numbers), "nnunet").status == "adviser"


@pytest.mark.django_db
def test_registering_twice_is_one_row_and_a_persons_decision_stays(tmp_path):
    folder = weights(tmp_path, "one")
    row = models.register(folder, "nnunet")
    standing.set_status(row, "disabled", who="dr.house", why="misses small lesions")
    again = models.register(folder, "nnunet")
    assert (again.pk, again.status) == (row.pk, "disabled")
    assert ModelVersion.objects.count() == 1
    with pytest.raises(UserVisibleError):
        standing.set_status(row, "voter", who="dr.house", why=" ")


@pytest.mark.django_db
def test_altered_weights_are_refused_and_other_weights_are_another_version(tmp_path, settings, capsys):
    folder = weights(tmp_path, "one")
    first = models.register(folder, "nnunet")
    (folder / "w.bin").write_bytes(b"altered")
    with pytest.raises(WeightsMismatch):
        models.register(folder, "nnunet")
    settings.ONCOFLOW_PANEL = [{"name": "one", "kind": "nnunet", "weights_dir": str(folder)}]
    with pytest.raises(CommandError):
        call_command("models", "verify")
    with pytest.raises(CommandError):
        call_command("models", "register")
    import hashlib

    model = json.loads((folder / "model.json").read_text())
    model["files"]["w.bin"] = hashlib.sha256(b"altered").hexdigest()
    (folder / "model.json").write_text(json.dumps(model))
    assert models.register(folder, "nnunet").pk != first.pk
    call_command("models", "verify")
    call_command("models", "list")
    assert "one 1.0" in capsys.readouterr().out


@pytest.mark.django_db
def test_a_disabled_model_is_not_convened(panel_of: Panel):
    panel_of(("one", "good", GOOD), ("two", "good", GOOD))
    standing.set_status(models.register_panel()["two"], "disabled", who="dr", why="test")
    study, _ = painted(LESION)
    assert list(convene(study).expert_runs.values_list("expert", flat=True)) == ["one"]


# --- plausibility and state machines ----------------------------------------------------------------------------------


def looks(**changes):
    base = brain_like(SMALL)
    inside = base > 0
    rng = np.random.default_rng(1)
    images = {
        "T1": base,
        "T1c": np.where(inside, base + rng.normal(0, 25, base.shape), 0).astype("f4"),
        "T2": np.where(inside, 400 - base, 0).astype("f4"),
        "FLAIR": np.where(inside, 60 + 0.3 * base + rng.normal(0, 5, base.shape), 0).astype("f4"),
    }
    arguments = {"spacing_zyx": SMALL.spacing_zyx(), "spacing_known": True} | changes
    images |= arguments.pop("images", {})
    return study_flags(images, arguments.pop("mask", inside), **arguments)


def test_a_plausible_study_has_no_flag_and_each_misfit_has_its_sentence():
    base = brain_like(SMALL)
    assert looks() == ()
    assert any("ml" in flag for flag in looks(spacing_zyx=(1.0, 1.0, 1.0)))
    assert any("spacing" in flag for flag in looks(spacing_known=False))
    assert any("same sequence" in flag for flag in looks(images={"T1c": base * 2}))
    assert any(
        "exchanged" in flag for flag in looks(images={"FLAIR": np.where(base > 0, 390 - base, 0).astype("f4") + 0})
    )
    assert any(
        "cover" in flag for flag in looks(images={"T2": np.where(np.arange(80)[:, None] < 40, base, 0).astype("f4")})
    )
    assert any("uniform" in flag for flag in looks(images={"T2": np.where(base > 0, 1, 0).astype("f4")}))
    assert any("empty" in flag for flag in looks(mask=base < -1))
    assert any(
        "doubtful" in flag
        for flag in looks(parameters=VOLUME_PARAMETERS.read({"brain": {"plausible": False, "reason": "x"}}))
    )


@pytest.mark.parametrize("machine", [PANEL_MACHINE, EXPERT_MACHINE])
def test_every_pair_of_state_and_event(machine):
    for state, event in machine.pairs():
        if (state, event) in machine.table:
            assert machine.next(state, event) in machine.states
        else:
            with pytest.raises(IllegalMove):
                machine.next(state, event)
    for ended in ("concluded", "failed", "done"):
        assert not any(state == ended for state, _ in machine.table)
