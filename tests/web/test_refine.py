"""Refining over REST and on the page: clicks through the real supervisor, what is put in force, and who may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.test import Client
from selenium.webdriver import ActionChains, Keys

from audit.models import AuditRow
from clinical.access import assign
from clinical.models import Patient, User
from imaging.brats.regions import REGIONS, region_mask, region_masks
from imaging.models import Segmentation
from imaging.segmentation.corrections import Correction, apply_corrections
from imaging.segmentation.label_maps import current_segmentation, load_labels
from imaging.segmentation.run_length import decode_runs, encode_runs
from inference.experts.factory import ExpertSpec
from inference.supervisor.server import Supervisor, SupervisorConfig
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.jobs import run_pending
from reports.models import Report
from tests.web import browsing

pytestmark = pytest.mark.django_db
site, signed_in = browsing.site, browsing.signed_in
until, one = browsing.until, browsing.one
GRID = (24, 28, 26)


@pytest.fixture
def clicker(tmp_path: Path, settings: Any) -> Iterator[Supervisor]:
    """The supervisor with an expert that answers clicks with a ball."""
    settings.ONCOFLOW_PANEL = [{"name": "clicker", "kind": "sam", "weights_dir": str(tmp_path)}]
    settings.ONCOFLOW_SUPERVISOR_KEY = tmp_path / "key"
    spec = ExpertSpec("clicker", "sam", str(tmp_path), factory="tests.factories.fake_experts:make")
    supervisor = Supervisor(SupervisorConfig((spec,), "127.0.0.1:0", tmp_path / "key", load_timeout_s=60))
    supervisor.start()
    settings.ONCOFLOW_SUPERVISOR_ADDRESS = supervisor.address
    yield supervisor
    supervisor.stop()


@pytest.fixture
def reader(drafted: Report, client_of: Callable[[Any], Client], radiologist: User) -> Client:
    return client_of(radiologist)


def ask(client: Client, report: Report, **body: Any) -> Any:
    return client.post(f"/api/studies/{report.study_id}/refine", body, content_type="application/json")


def save(client: Client, report: Report, *corrections: dict[str, Any], **more: Any) -> Any:
    body = {"parent": None, "reason": "The models missed it.", "corrections": corrections} | more
    return client.post(f"/api/studies/{report.study_id}/segmentations/", body, content_type="application/json")


def point(z: int, y: int, x: int, positive: bool = True) -> dict[str, Any]:
    return {"z": z, "y": y, "x": x, "positive": positive}


def test_a_click_is_answered_and_saved_as_a_new_version(drafted: Report, reader: Client, clicker: Supervisor) -> None:
    assert ask(reader, drafted, prepare=True).status_code == 204
    answer = ask(reader, drafted, region="ET", points=[point(8, 10, 9), point(8, 10, 11, False)])
    assert answer.status_code == 200, answer.content
    told = answer.json()
    assert (told["mask"]["origin"], told["mask"]["shape"], told["grid"]) == ([8, 0, 0], [1, 28, 26], list(GRID))
    mask = decode_runs(told["mask"]["runs"], (1, 28, 26))
    assert int(mask.sum()) == told["voxels"]
    assert (mask[0, 10, 9], mask[0, 10, 11]) == (True, False)
    assert told["notes"][1] == "loads 1"
    assert AuditRow.objects.filter(event="study.refine", outcome=0).count() == 1, "one row a minute"

    parent = current_segmentation(drafted.study)
    assert parent is not None
    before = load_labels(parent)
    made = save(
        reader,
        drafted,
        {"region": "ET", "how": "add", "mask": told["mask"]},
        parent=str(parent.pk),
        seen=str(parent.pk),
    )
    assert made.status_code == 201, made.content
    current = current_segmentation(drafted.study)
    assert current is not None
    assert (str(current.pk), current.kind, current.parent_id) == (made.json()["id"], "person", parent.pk)
    assert current.reason == "The models missed it."
    after = load_labels(current)
    assert (after[8:9][mask] == 3).all()
    assert np.array_equal(after[:8], before[:8])
    assert np.array_equal(load_labels(Segmentation.objects.get(pk=parent.pk)), before), "the parent stays as it was"
    run_pending("default")
    measured = drafted.study.measurements.get(segmentation=current)
    makers = {name: one.maker for name, one in measured.regions.items()}
    assert makers["ET"] == "corrected", "the consensus with a person's changes, not a person's outline"
    for name in ("TC", "WT"):
        same = np.array_equal(region_masks(after)[name], region_masks(before)[name])
        assert makers[name] == ("consensus" if same else "corrected")

    again = save(
        reader,
        drafted,
        {"region": "ET", "how": "replace", "mask": told["mask"]},
        parent=str(parent.pk),
        seen=str(parent.pk),
    )
    assert (again.status_code, again.json()["type"]) == (422, "urn:oncoflow:problem:superseded")


WRONG = [
    ({"points": [point(8, 10, 9)]}, "prompt"),
    ({"region": "ED", "points": [point(8, 10, 9)]}, "prompt"),
    ({"region": "ET", "points": [point(8, 10, 9, False)]}, "prompt"),
    ({"region": "ET", "points": [point(8, 10, 9), point(9, 10, 9)]}, "prompt"),
    ({"region": "ET", "points": [point(8, 10, 9)] * 101}, "prompt"),
    ({"region": "ET", "points": [point(24, 10, 9)]}, "outside"),
    ({"region": "ET", "box": {"first": [5, 5, 5], "last": [5, 4, 9]}}, "prompt"),
    ({"region": "ET", "box": {"first": [5, 5], "last": [5, 9, 9]}}, "prompt"),
    ({"region": "ET", "points": "nonsense"}, "prompt"),
]


@pytest.mark.parametrize(("body", "code"), WRONG)
def test_prompts_that_make_no_sense_are_refused(
    body: dict[str, Any], code: str, drafted: Report, reader: Client
) -> None:
    answer = ask(reader, drafted, **body)
    assert (answer.status_code, answer.json()["type"]) == (422, f"urn:oncoflow:problem:{code}")


BIG = {"origin": [0, 0, 0], "shape": [9999, 9999, 9999], "runs": [0, 9999**3]}


@pytest.mark.parametrize(
    ("mask", "code"),
    [
        (BIG, "corrections"),
        (BIG | {"runs": [0, 1]}, "outside"),
        ({"origin": [23, 0, 0], "shape": [2, 1, 1], "runs": [0, 2]}, "outside"),
        ({"origin": [0, 0, 0], "shape": [2, 1, 1], "runs": [0, 3]}, "runs"),
        ({"origin": [0, 0, 0], "shape": [2, 1, 1], "runs": [-1, 3]}, "corrections"),
        ({"origin": [0, 0, 0], "shape": [2, 1, 1], "runs": [True, 1]}, "corrections"),
        ({"origin": [0, 0, 0], "shape": [2, 1, 1], "runs": [2]}, "unchanged"),
    ],
)
def test_masks_that_are_none_change_nothing(mask: Any, code: str, drafted: Report, reader: Client) -> None:
    before = Segmentation.objects.count()
    answer = save(reader, drafted, {"region": "WT", "how": "add", "mask": mask})
    assert (answer.status_code, answer.json()["type"]) == (422, f"urn:oncoflow:problem:{code}"), answer.content
    assert Segmentation.objects.count() == before


def test_an_expert_that_is_not_there_is_no_fault_of_the_caller(drafted: Report, reader: Client, settings: Any) -> None:
    settings.ONCOFLOW_SUPERVISOR_KEY = Path("/nonexistent/key")
    answer = ask(reader, drafted, region="ET", points=[point(8, 10, 9)])
    assert (answer.status_code, answer["Content-Type"]) == (503, "application/problem+json")


def test_only_whose_role_allows_it(
    drafted: Report, client_of: Callable[[Any], Client], patient: Patient, clicker: Supervisor
) -> None:
    doctor = User.objects.create_user(username="dora", role="doctor")
    wanted = {"region": "ET", "points": [point(8, 10, 9)]}
    correction = {"region": "WT", "how": "add", "mask": {"origin": [8, 8, 8], "shape": [1, 1, 1], "runs": [0, 1]}}
    assert ask(client_of(doctor), drafted, **wanted).status_code == 404
    assert save(client_of(doctor), drafted, correction).status_code == 404
    assign(doctor, patient, reason="treats the patient", by=None)
    assert ask(client_of(doctor), drafted, **wanted).status_code == 403
    assert save(client_of(doctor), drafted, correction).status_code == 403
    refused = AuditRow.objects.filter(outcome__gt=0)
    assert refused.filter(event="study.refine").count() == 2
    assert refused.filter(event="segmentation.person").count() == 2
    assert "Refine the outline" not in client_of(doctor).get(f"/studies/{drafted.study_id}/").content.decode()


def test_runs_are_the_masks() -> None:
    rng = np.random.default_rng(5)
    for share in (0.0, 0.3, 1.0):
        mask = rng.random((3, 4, 5)) < share
        assert np.array_equal(decode_runs(encode_runs(mask), (3, 4, 5)), mask)
    assert encode_runs(np.array([[[True, True, False]]])) == [0, 2, 1]
    assert encode_runs(np.zeros((0, 1, 1), bool)) == []
    with pytest.raises(UserVisibleError):
        decode_runs([1, 2], (1, 1, 2))


@pytest.mark.parametrize("how", ["add", "remove", "replace"])
@pytest.mark.parametrize("region", REGIONS)
def test_regions_stay_nested(how: str, region: str) -> None:
    labels = np.random.default_rng(1).integers(0, 4, (4, 6, 6)).astype(np.uint8)
    mask = np.random.default_rng(2).random((2, 3, 4)) < 0.5
    after = apply_corrections(labels, [Correction(region, how, (1, 2, 1), mask)])
    part = (slice(1, 3), slice(2, 5), slice(1, 5))
    before, now = region_mask(labels, region)[part], region_mask(after, region)[part]
    assert np.array_equal(now, {"add": before | mask, "remove": before & ~mask, "replace": mask}[how])
    outside = np.ones(labels.shape, bool)
    outside[part] = False
    assert np.array_equal(after[outside], labels[outside])
    for other in REGIONS:
        was, became = region_mask(labels, other)[part], region_mask(after, other)[part]
        if REGIONS.index(other) < REGIONS.index(region):
            assert np.array_equal(became, was & now)
        elif other != region:
            assert np.array_equal(became, was | now)


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
@pytest.mark.django_db(transaction=True)
def test_refining_in_the_browser(
    signed_in: Any, site: str, drafted: Report, radiologist: User, clicker: Supervisor
) -> None:
    chromium = signed_in(radiologist)
    address = f"{site}/studies/{drafted.study_id}/"
    chromium.get(address)
    until(lambda: chromium.execute_script(browsing.COLOURED, "figure[data-plane=axial] img") > 20)
    one(chromium, "form.refine button[aria-controls]").click()
    said = lambda: one(chromium, "form.refine [role=status]").text  # noqa: E731
    until(lambda: "Ready" in said())
    canvas = one(chromium, "figure[data-plane=axial] canvas")
    assert not one(chromium, "[data-do=save]").is_enabled()

    # A negative point alone begins nothing; a click is answered; Shift and click takes away; undo brings back.
    mouse = ActionChains(chromium)
    mouse.move_to_element(canvas).key_down(Keys.SHIFT).click().key_up(Keys.SHIFT).perform()
    assert "Begin with a point" in said()
    ActionChains(chromium).move_to_element(canvas).click().perform()
    until(lambda: "13 voxels of WT" in said())
    wide = canvas.size["width"] / 26
    ActionChains(chromium).move_to_element_with_offset(canvas, round(wide), 0).key_down(Keys.SHIFT).click().key_up(
        Keys.SHIFT
    ).perform()
    until(lambda: "voxels of WT" in said() and "13 voxels" not in said())
    one(chromium, "[data-do=undo]").click()
    assert said() == "Taken back."

    # By keyboard: the cross, Enter, and what a screen reader hears.
    canvas.send_keys(Keys.ARROW_LEFT)
    until(lambda: said().startswith("Row"))
    canvas.send_keys(Keys.ENTER)
    until(lambda: "voxels of WT" in said())
    canvas.send_keys(Keys.BACKSPACE)
    until(lambda: said() == "Taken back.")

    # A box on another plane, for another region.
    other = one(chromium, "figure[data-plane=coronal] canvas")
    one(chromium, "form.refine input[value=ET]").send_keys(" ")
    ActionChains(chromium).move_to_element_with_offset(other, -40, -40).click_and_hold().move_by_offset(
        60, 50
    ).release().perform()
    until(lambda: "voxels of ET" in said())
    assert browsing.faults(chromium, address) == []

    # Those looks loaded the page again: mark once more, and save.
    chromium.get(address)
    one(chromium, "form.refine button[aria-controls]").click()
    until(lambda: "Ready" in said())
    ActionChains(chromium).move_to_element_with_offset(
        one(chromium, "figure[data-plane=axial] canvas"), -round(8 * wide), 0
    ).click().perform()
    until(lambda: "voxels of WT" in said())
    one(chromium, "#refine-reason").send_keys("missed")
    one(chromium, "[data-do=save]").click()
    until(lambda: Segmentation.objects.filter(kind="person").exists())
    until(lambda: "Outlines: A person:" in chromium.page_source)  # the page has loaded itself again
    made = Segmentation.objects.get(kind="person")
    assert made.parent is not None
    assert (made.author, made.reason, made.parent.kind) == (radiologist.username, "missed", "consensus")
    # Eight voxels to the left on the screen are eight higher in x: pictures show the slice from the other end.
    gained = np.argwhere(load_labels(made) != load_labels(made.parent))
    index = int(one(chromium, "#axial").get_attribute("value")) - 1
    assert set(gained[:, 0]) <= {index}
    assert gained[:, 2].mean() > 16
