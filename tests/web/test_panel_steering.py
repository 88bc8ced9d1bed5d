"""A doctor steers a panel over REST and on the study's page; an operator looks at what its outlines were worth."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from audit.models import AuditRow
from clinical.access import assign
from clinical.models import User
from imaging.models import Study
from inference.models import CaseEvaluation, FusionChoice, FusionWeights, PanelState, StandingProposal
from inference.quality import learned_weights
from oncoflow_site.foundation.jobs import run_pending
from tests.factories import studies
from tests.factories.panels import GOOD, LESION, Settle, convene, model_with_reviews, painted, review, settle, weights

__all__ = ["settle"]

pytestmark = pytest.mark.django_db

Sign = Callable[[str, Study], Client]
EXPERTS = (("one", "good", GOOD), ("two", "good", GOOD), ("three", "small", GOOD))


@pytest.fixture
def sign_in() -> Sign:
    """``sign_in(role, study)``: a client of a person of that role on the care team of the study's patient."""

    def make(role: str, study: Study) -> Client:
        person = User.objects.create_user(f"a-{role}", role=role)
        assign(person, study.patient, reason="test", by=None)
        client = Client()
        client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return make


def post(client: Client, study: Study, what: str, body: dict[str, Any]) -> Any:
    return client.post(reverse(f"api:panel-{what}", args=[study.pk]), body, content_type="application/json")


def test_a_doctor_compares_and_chooses(settle: Settle, sign_in: Sign):
    study, _ = settle(*EXPERTS)
    studies.run_waiting("inference")
    client = sign_in("doctor", study)
    page = reverse("api:panel", args=[study.pk])
    body = client.get(page).json()
    assert set(body["methods"]) == {"majority", "staple", "weighted", "confidence"}
    assert body["methods"]["staple"]["dice"]["three"]["WT"] < 1
    assert body["choices"] == []
    made = post(client, study, "fuse", {"experts": ["one", "two"], "method": "majority", "why": "three is too small"})
    assert made.status_code == 202, made.json()
    run_pending("gpu")
    body = client.get(page).json()
    assert [one["automatic"] for one in body["choices"]] == [True, False]
    assert body["choices"][1]["who"] == "a-doctor"
    assert body["consensus"] == body["choices"][1]["segmentation"]
    assert client.get(reverse("api:job", args=[made.json()["job"]])).json()["state"] == "done"
    events = set(AuditRow.objects.filter(patient=study.patient_id).values_list("event", flat=True))
    assert {"panel.view", "panel.fuse", "panel.fused"} <= events


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"experts": ["one"], "method": "magic", "why": "x"}, 422),
        ({"experts": "one", "method": "majority", "why": "x"}, 400),
        ({"experts": [{}], "method": "majority", "why": "x"}, 400),
        ({"experts": ["one"], "method": "majority"}, 400),
        ([], 400),
    ],
)
def test_a_bad_choice_is_a_problem(settle: Settle, sign_in: Sign, body: Any, status: int):
    study, _ = settle(*EXPERTS)
    answer = post(sign_in("radiologist", study), study, "fuse", body)
    assert answer.status_code == status
    assert answer["Content-Type"] == "application/problem+json"
    assert not FusionChoice.objects.exists()


@pytest.mark.parametrize("what", ["fuse", "cancel", "again"])
def test_who_may_not_steer_is_refused_on_record_and_a_stranger_sees_nothing(settle: Settle, sign_in: Sign, what: str):
    study, _ = settle(*EXPERTS)
    body = {"experts": ["one"], "method": "majority", "why": "x"}
    assert post(sign_in("clinician", study), study, what, body).status_code == 403
    assert AuditRow.objects.filter(event=f"panel.{what}", outcome=4).count() == 1
    stranger = Client()
    stranger.force_login(
        User.objects.create_user("b", role="doctor"), backend="django.contrib.auth.backends.ModelBackend"
    )
    assert post(stranger, study, what, body).status_code == 404
    assert Client().post(reverse(f"web:panel-{what}", args=[study.pk])).status_code == 302


def test_the_page_stops_runs_again_and_chooses(settle: Settle, sign_in: Sign, settings, tmp_path):
    settings.ONCOFLOW_PANEL = [{"name": "one", "kind": "good", "weights_dir": str(weights(tmp_path, "one"))}]
    study, _ = painted(LESION)
    panel = convene(study)
    client = sign_in("radiologist", study)
    page = reverse("web:study", args=[study.pk])
    assert reverse("web:panel-cancel", args=[study.pk]) in client.get(page).content.decode()
    client.post(reverse("web:panel-cancel", args=[study.pk]), {"why": "moved"})
    panel.refresh_from_db()
    assert panel.state == PanelState.CANCELLED
    shown = client.get(page).content.decode()
    assert "Stopped by a-radiologist: moved" in shown
    assert reverse("web:panel-cancel", args=[study.pk]) not in shown
    client.post(reverse("web:panel-again", args=[study.pk]))
    run_pending("default")
    assert study.panel_runs.count() == 2


def test_the_page_offers_every_fusion(settle: Settle, sign_in: Sign):
    study, _ = settle(*EXPERTS)
    studies.run_waiting("inference")
    client = sign_in("doctor", study)
    page = reverse("web:study", args=[study.pk])
    shown = client.get(page).content.decode()
    assert "side by side" in shown
    assert 'name="experts" value="three" checked' in shown
    told = client.post(
        reverse("web:panel-fuse", args=[study.pk]), {"experts": ["one"], "method": "staple", "why": "x"}, follow=True
    )
    assert "STAPLE needs three experts" in told.content.decode()
    client.post(reverse("web:panel-fuse", args=[study.pk]), {"experts": ["one"], "method": "majority", "why": "best"})
    run_pending("gpu")
    shown = client.get(page).content.decode()
    assert "chosen by a-doctor: best" in shown
    assert "Consensus by majority chosen by a-doctor: one 1.0 (voting)" in shown


# --- administration -------------------------------------------------------------------------------------------------------


@pytest.fixture
def operator(client: Client) -> Client:
    person = User.objects.create_user("ada", role="admin", is_staff=True, is_superuser=True)
    client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return client


def test_charts_and_export_show_no_identity_and_are_on_record(operator: Client, settle: Settle):
    study, panel = settle(*EXPERTS)
    studies.run_waiting("inference")
    review(study, panel, shrink=1)
    studies.run_waiting("imaging", "inference")
    learned_weights.learn(who="ada", why="monthly")
    page = operator.get(reverse("admin:inference_caseevaluation_charts"), {"region": "WT"}).content.decode()
    assert "<svg" in page
    assert "<table" in page
    assert page.count("three 1.0") >= 2  # in the picture and in the table
    assert "<script src" not in page.split("<svg")[1].split("</svg>")[0]
    assert operator.get(reverse("admin:inference_caseevaluation_changelist")).status_code == 200
    answer = operator.get(reverse("admin:inference_caseevaluation_export"), {"region": "WT", "reference": "reviewed"})
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert {row["expert"] for row in rows} == {"one", "two", "three", "consensus"}
    assert {row["patient"] for row in rows} == {study.patient.pseudonym}
    assert all(0 < float(row["dice"]) <= 1 and row["region"] == "WT" for row in rows)
    assert CaseEvaluation.objects.filter(reference_kind="reviewed", region="WT").count() == len(rows)
    record = AuditRow.objects.get(event="evaluation.export")
    assert record.detail["count"] == 4
    assert AuditRow.objects.filter(event="evaluation.charts").count() == 1


def test_only_staff_see_charts(client: Client):
    for name in ("charts", "export"):
        assert client.get(reverse(f"admin:inference_caseevaluation_{name}")).status_code == 302
    person = User.objects.create_user("staff", role="admin", is_staff=True)
    client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(reverse("admin:inference_caseevaluation_export")).status_code == 403


def test_a_proposal_is_decided_in_the_administration_with_a_reason(operator: Client):
    model = model_with_reviews([])
    proposal = StandingProposal.objects.create(model=model, to_status="adviser", why="fell", evidence={"cases": ["s"]})
    page = reverse("admin:inference_standingproposal_changelist")
    operator.post(page, {"action": "confirm", "_selected_action": [str(proposal.pk)], "why": ""})
    proposal.refresh_from_db()
    assert proposal.state == "open"
    operator.post(page, {"action": "confirm", "_selected_action": [str(proposal.pk)], "why": "seen ten of them"})
    proposal.refresh_from_db()
    model.refresh_from_db()
    assert (proposal.state, proposal.decided_by.username, model.status) == ("confirmed", "ada", "adviser")
    assert AuditRow.objects.filter(event="model.decision", actor_type="user").count() == 1
    page = reverse("admin:inference_modelversion_changelist")
    operator.post(page, {"action": "learn_weights", "_selected_action": [str(model.pk)], "why": "monthly"})
    assert FusionWeights.objects.get().who == "ada"
