"""The pages in a real browser, from a real server: what they show, what keys do, what the console says, who can read them."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from clinical.models import User
from imaging.findings import raise_finding
from imaging.models import FindingSeverity, Study
from oncoflow_site.foundation.models import Job
from reports.models import Report
from tests.factories.report_studies import PASSWORD
from tests.web.browsing import ACCESSIBLE, COLOURED, errors_of, faults, one, signed_in, site, texts, until

__all__ = ["signed_in", "site"]  # fixtures

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.xdist_group("browser")]

SIGN_IN = "correct-horse-battery"


def test_signing_in_and_the_way_to_a_report(chromium: Any, site: str, drafted: Report, radiologist: User) -> None:
    radiologist.set_password(SIGN_IN)
    radiologist.save()
    chromium.get(f"{site}/patients/{drafted.patient_id}/")
    assert "/login/?next=" in chromium.current_url
    for password in ("wrong", SIGN_IN):
        one(chromium, "#id_username").clear()
        one(chromium, "#id_username").send_keys(radiologist.username)
        one(chromium, "#id_password").send_keys(password, "\n")
        if password == "wrong":
            assert "do not match" in until(lambda: texts(chromium, "[role=alert]"))[0]
    until(lambda: "/patients/" in chromium.current_url and "/login/" not in chromium.current_url)
    assert "Łukasiewicz, Zoë" in one(chromium, ".patient-banner").text
    assert chromium.find_elements("css selector", "svg.plot circle")
    assert "ml" in one(chromium, "#studies + .table-wrap").text

    one(chromium, ".crumbs a").click()
    assert until(lambda: texts(chromium, "tbody th a")) == ["Łukasiewicz, Zoë"]
    one(chromium, "tbody th a").click()
    until(lambda: chromium.find_elements("css selector", "#studies + .table-wrap tbody th a"))[0].click()
    until(lambda: chromium.find_elements("css selector", ".headline a.button"))[0].click()
    until(lambda: "/reports/" in chromium.current_url)
    assert "preliminary" in one(chromium, "h1").text
    assert one(chromium, "iframe").get_attribute("src").split("#")[0].endswith("/versions/1.pdf")
    assert errors_of(chromium) == []


def test_slices_and_outlines_by_keyboard(signed_in: Any, site: str, drafted: Report, radiologist: User) -> None:
    chromium = signed_in(radiologist)
    chromium.get(f"{site}/studies/{drafted.study_id}/")
    picture = "figure[data-plane=axial] img"
    until(lambda: chromium.execute_script(COLOURED, picture) > 20)
    slider, source = one(chromium, "#axial"), one(chromium, picture).get_attribute("src")
    number = int(slider.get_attribute("value"))
    assert one(chromium, "figure[data-plane=axial] output").text == str(number)
    slider.send_keys("\ue014")  # right arrow
    assert until(lambda: one(chromium, picture).get_attribute("src") != source)
    assert one(chromium, "figure[data-plane=axial] output").text == str(number + 1)
    # The address counts from 0, the page from 1, as the PDF does.
    assert f"/slices/axial/{number}.png" in one(chromium, picture).get_attribute("src")
    assert f"slice {number + 1} of" in one(chromium, picture).get_attribute("alt")

    slider.send_keys("o")
    until(lambda: chromium.execute_script(COLOURED, picture) == 0)
    assert not one(chromium, "input[name=overlay]").is_selected()
    one(chromium, "input[name=overlay]").send_keys(" ")
    until(lambda: chromium.execute_script(COLOURED, picture) > 20)
    slider.send_keys("4")
    until(lambda: "sequence=FLAIR" in one(chromium, picture).get_attribute("src"))
    assert one(chromium, "input[value=FLAIR]").is_selected()
    assert "0.93 " in one(chromium, "#panel + p").text


def test_a_slice_that_does_not_come_is_said(chromium: Any, site: str, drafted: Report, radiologist: User) -> None:
    client = Client()
    client.force_login(radiologist, backend="django.contrib.auth.backends.ModelBackend")
    chromium.get(f"{site}/health/live")
    chromium.add_cookie({"name": "sessionid", "value": client.cookies["sessionid"].value, "path": "/"})
    chromium.get(f"{site}/studies/{drafted.study_id}/")
    until(lambda: chromium.execute_script(COLOURED, "figure[data-plane=axial] img") > 20)
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    one(chromium, "#axial").send_keys("\ue014")
    assert "could not be loaded" in until(lambda: one(chromium, "figure[data-plane=axial] .lost").text)


def test_progress_arrives_by_itself(signed_in: Any, site: str, make_study: Any, radiologist: User) -> None:
    study = make_study()
    Study.objects.filter(pk=study.pk).update(state="preparing")
    job = Job.objects.create(
        kind="imaging.prepare_study", queue="default", subject=study.subject, idempotency_key="browser-1",
        state="running", progress=0.25, progress_text="Registering T2", started_at=timezone.now(), attempts=1,
    )  # fmt: skip
    chromium = signed_in(radiologist)
    chromium.get(f"{site}/studies/{study.pk}/")
    until(lambda: chromium.find_elements("css selector", ".steps progress"))
    assert "Registering T2" in one(chromium, ".steps").text
    Job.objects.filter(pk=job.pk).update(progress=0.75, progress_text="Finding the brain")
    until(lambda: "Finding the brain" in one(chromium, ".steps").text)
    assert one(chromium, ".steps progress").get_property("value") == 0.75
    # The end: the page loads itself again and says what is to be said.
    Job.objects.filter(pk=job.pk).update(state="done", finished_at=timezone.now())
    raise_finding(study, "no_t1c", "There is no contrast-enhanced T1.", severity=FindingSeverity.STOPS, by="test")
    Study.objects.filter(pk=study.pk).update(state="flagged")
    until(lambda: texts(chromium, "p.note[role=status]") == ["There is no contrast-enhanced T1."])
    assert not chromium.find_elements("css selector", "[data-events]")
    assert "Not assessed" in one(chromium, "#measures + p").text


def test_signing_in_the_browser(signed_in: Any, site: str, drafted: Report, radiologist: User) -> None:
    chromium = signed_in(radiologist)
    chromium.get(f"{site}/reports/{drafted.pk}/")
    assert texts(chromium, "#narrative ~ h3")[0] == "Measured on the images"
    assert "not a diagnosis" in one(chromium, "section[aria-labelledby=narrative]").text
    one(chromium, "#password").send_keys("wrong", "\n")
    assert "does not open your signing key" in until(lambda: texts(chromium, ".message.error"))[0]
    one(chromium, "#password").send_keys(PASSWORD, "\n")
    assert "signed and on its way" in until(lambda: texts(chromium, ".message.success"))[0]
    assert "final, signed" in one(chromium, "h1").text
    assert not chromium.find_elements("css selector", "#password")
    assert texts(chromium, "#versions + .table-wrap tbody th") == ["Version 2", "Version 1"]


def test_the_check_finds_faults(chromium: Any) -> None:
    page = (
        "<html><body><h1>A</h1><h1>B</h1><h3>C</h3><input name=x><img src=''><button></button><table><td>1</table>"
        "<p style='color:%23999'>pale</p><p style='color:%23666'>dark</p><div style='width:3000px'>wide</div>"
    )
    chromium.get(f"data:text/html,{page}")
    found = " | ".join(chromium.execute_script(ACCESSIBLE))
    for fault in (
        "no title", "no language", "2 of h1", "0 of main", "skips a level", "field x", "no alt", "button has no name",
        "no header cells", '"pale" has a contrast of 2.85', "pixels wider",
    ):  # fmt: skip
        assert fault in found, fault
    assert '"dark"' not in found


def test_pages_of_a_patient_are_accessible(signed_in: Any, site: str, drafted: Report, radiologist: User) -> None:
    chromium = signed_in(radiologist)
    found = []
    for path in (
        "/", f"/patients/{drafted.patient_id}/", f"/studies/{drafted.study_id}/", f"/reports/{drafted.pk}/", "/password/",
    ):  # fmt: skip
        found += faults(chromium, site + path)
    assert found == []


def test_pages_of_those_who_run_it_are_accessible(signed_in: Any, site: str) -> None:
    found = []
    for role, paths in (("compliance_officer", ("/", "/audit/")), ("admin", ("/system/",))):
        chromium = signed_in(User.objects.create_user(username=role, role=role, is_staff=role == "admin"))
        found += [fault for path in paths for fault in faults(chromium, site + path)]
    for path, heading in (("/api/docs/", ".opblock"), ("/admin/", "#site-name")):
        chromium.get(site + path)
        until(lambda shown=heading: chromium.find_elements("css selector", shown))
        assert "DEMO" in one(chromium, "body").text
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    found += faults(chromium, f"{site}/login/")
    assert found == []
