"""Reports: drafted, released, and their text; the PDF of given content."""

from __future__ import annotations

import io
import subprocess
from typing import Any

from django.db import transaction
from PIL import Image

from oncoflow_site.foundation.jobs import enqueue
from oncoflow_site.foundation.models import Job
from reports.content.schema import with_status
from reports.lifecycle.assemble import build_content
from reports.lifecycle.versions import current_version
from reports.models import Report, ReportVersion
from reports.narrative.extractive import ExtractiveNarrator
from reports.pdf import HeaderData, Picture, RenderedPdf, RenderInput, SignatureText, render
from tests.factories.report_content import facts, source
from tests.factories.running import run_in_line


def run(kind: str, **kwargs: Any) -> Job:
    """Run one job now, as the worker does; each call is a job of its own."""
    with transaction.atomic():
        job = enqueue(
            kind,
            subject="test",
            key=f"test:{kind}:{Job.objects.count()}",
            kwargs={name: str(value) for name, value in kwargs.items()},
        )
    return run_in_line(job)


def draft(measurement: Any) -> ReportVersion | None:
    job = run("reports.draft", study_id=measurement.study_id, measurement_id=measurement.id)
    assert job.state == "done", job.error
    return current_version(Report.objects.get(study=measurement.study))


def release(version: ReportVersion) -> ReportVersion:
    job = run("reports.release", report_id=version.report_id, version_id=version.id)
    assert job.state == "done", job.error
    version.refresh_from_db()
    return version


def text_of(pdf: bytes) -> str:
    """All text of a PDF, blanks collapsed, by poppler."""
    done = subprocess.run(["pdftotext", "-layout", "-", "-"], input=pdf, capture_output=True, check=True)
    return " ".join(done.stdout.decode("utf-8").split())


def png(width: int = 60, height: int = 80) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (80, 80, 80)).save(out, "PNG")
    return out.getvalue()


def draw(
    status: str = "preliminary",
    signature: SignatureText | None = None,
    header: dict[str, Any] | None = None,
    **changes: Any,
) -> RenderedPdf:
    content = with_status(
        build_content(facts(**changes), [source()], ExtractiveNarrator()),
        status=status,
        version=2,
        report_id="0190-report",
    )
    pictures = [
        Picture(row, plane, png(), f"{plane}, slice 3 of 9")
        for row in ("T1c", "FLAIR")
        for plane in ("axial", "coronal", "sagittal")
    ]
    whose = {
        "patient_name": "ADLER, Berta",
        "birth_date": "3 April 1961",
        "patient_number": "R1 (DEMOHOSP)",
        **(header or {}),
    }
    return render(
        RenderInput(content, HeaderData("Hospital", "OF-1", **whose), pictures, signature=signature)  # type: ignore[arg-type]
    )


def words(pdf: bytes) -> str:
    done = subprocess.run(["pdftotext", "-layout", "-", "-"], input=pdf, capture_output=True, check=True)
    return " ".join(done.stdout.decode("utf-8").split())
