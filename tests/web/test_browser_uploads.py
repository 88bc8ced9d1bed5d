"""Bringing in images in a real browser: many files, a declaration, a connection that breaks, a reload in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clinical.access import assign
from clinical.identity import Identifier, IdentityData
from clinical.models import User
from clinical.services import register_patient
from imaging.models import Series, Study, Upload, UploadFile
from oncoflow_site.foundation.jobs import run_pending
from tests.factories.dicom_files import study_files
from tests.web import browsing
from tests.web.browsing import faults, one, texts, until
from tests.web.uploading import nifti

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.xdist_group("browser")]
signed_in = browsing.signed_in
site = browsing.site


@pytest.fixture
def technician(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> User:
    from imaging.archive import completion

    monkeypatch.setattr(completion, "emit", lambda *a, **k: None)
    return User.objects.create_user(username="tech", role="technician")


def test_many_files_and_the_result(chromium: Any, site: str, signed_in: Any, technician: User, tmp_path: Path) -> None:
    paths = []
    for number, data in enumerate(study_files(slices=2)):
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(data)
    (tmp_path / "readme.txt").write_text("no image")
    signed_in(technician)
    assert faults(chromium, f"{site}/bring-in/") == []
    browsing.show(chromium)
    assert not one(chromium, "#go").is_enabled()
    one(chromium, "#files").send_keys("\n".join(map(str, [*paths, tmp_path / "readme.txt"])))
    until(lambda: "9 files" in one(chromium, "#chosen").text)
    one(chromium, "#go").send_keys("\n")
    until(lambda: Upload.objects.filter(state="staged").exists())
    run_pending("default")
    assert until(lambda: one(chromium, "#result .summary").text) == "8 stored, 1 ignored."
    assert texts(chromium, "#result .studies li") == [
        "1 of the studies belong to patients who are not assigned to you."
    ]
    assert chromium.execute_script("return localStorage.getItem('oncoflow-upload')") is None
    # The same again, by somebody who sees the patient: nothing is stored, and there is a way to the study.
    study = Study.objects.get()
    assign(technician, study.patient, reason="test", by=None)
    one(chromium, "#files").send_keys("\n".join(map(str, paths)))
    one(chromium, "#go").click()
    until(lambda: Upload.objects.filter(state="staged").exists())
    run_pending("default")
    until(lambda: one(chromium, "#result .summary").text == "8 duplicate.")
    one(chromium, "#result .studies a").click()
    until(lambda: str(study.pk) in chromium.current_url)


def test_interrupted_reloaded_and_declared(
    chromium: Any, site: str, signed_in: Any, technician: User, tmp_path: Path
) -> None:
    patient = register_patient(IdentityData(family="Wels", identifiers=(Identifier("DEMOHOSP", "77"),)), source="web")
    assign(technician, patient, reason="test", by=None)
    image = tmp_path / "scan.nii.gz"
    image.write_bytes(nifti(tmp_path))
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(9 << 20)  # three slices
    signed_in(technician)
    chromium.get(f"{site}/bring-in/")
    # The connection breaks with the second slice.
    chromium.execute_script(
        "const real = window.fetch; let patches = 0;"
        "window.fetch = (path, options) => options.method === 'PATCH' && ++patches >= 2"
        " ? Promise.reject(new TypeError('broken')) : real(path, options);"
    )
    one(chromium, "#files").send_keys(f"{image}\n{large}")
    one(chromium, "#go").click()
    until(lambda: UploadFile.objects.filter(offset=4 << 20).exists())
    until(lambda: one(chromium, "#status").text)
    one(chromium, "#pause").click()
    until(lambda: one(chromium, "#go").is_enabled())
    chromium.get(f"{site}/bring-in/")
    assert "1 of 2 files are here" in until(lambda: one(chromium, "#unfinished").text)
    one(chromium, "#files").send_keys(f"{image}\n{large}")
    until(lambda: "2 files" in one(chromium, "#chosen").text)
    one(chromium, "#go").click()
    until(lambda: Upload.objects.filter(state="staged").exists())
    assert [(part.offset, part.object.size) for part in UploadFile.objects.get(size=9 << 20).parts.all()] == [
        (0, 4 << 20), (4 << 20, 4 << 20), (8 << 20, 1 << 20),
    ]  # fmt: skip
    run_pending("default")
    # The name of the file says nothing: it was ignored; declared, it is filed.
    assert until(lambda: one(chromium, "#result .summary").text) == "2 ignored."
    one(chromium, "#files").send_keys(str(image))
    until(lambda: chromium.find_elements("css selector", "#list select"))
    one(chromium, "#list select option[value=T1]").click()
    one(chromium, f"#patient option[value='{patient.pk}']").click()
    one(chromium, "#go").click()
    until(lambda: Upload.objects.filter(state="staged").exists())
    run_pending("default")
    until(lambda: "say neither whose nor when" in one(chromium, "#result .notes").text)
    chromium.execute_script("const d = document.getElementById('date'); d.value = '2026-03-11';"
                            "d.dispatchEvent(new Event('change', {bubbles: true}));")  # fmt: skip
    one(chromium, "#go").click()
    until(lambda: Upload.objects.filter(state="staged").exists())
    run_pending("default")
    until(lambda: one(chromium, "#result .summary").text == "1 stored.")
    assert Series.objects.get().sequence == "T1"
    assert Study.objects.get().patient == patient
