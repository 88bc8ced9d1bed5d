"""Progress of background work: polling, and server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from audit.services import Actor, record_view
from clinical.roles import can
from imaging.models import Study, Upload
from oncoflow_site.api.answers import JobStatus
from oncoflow_site.api.steps import current_steps
from oncoflow_site.api.studies import Base, visible_study
from oncoflow_site.foundation.models import Job
from oncoflow_site.foundation.schema import plain
from reports.models import Report

POLL_S = 0.7
LONGEST_S = 900  # then the browser connects again by itself
HEARTBEAT_S = 15


def _study_of(job: Job) -> Study | None:
    kind, _, identifier = job.subject.partition(":")
    try:
        key = uuid.UUID(identifier)
    except ValueError:
        return None
    if kind == "study":
        return Study.objects.filter(pk=key).first()
    if kind == "report":
        report = Report.objects.select_related("study").filter(pk=key).first()
        return report.study if report else None
    return None


def visible_job(user: Any, job_id: uuid.UUID) -> Job:
    """The job if it is about a study the user may see or an upload of theirs, or the user looks after the system; else Http404."""
    job = Job.objects.filter(pk=job_id).first()
    if job is None:
        raise Http404
    if can(user, "manage_system"):
        return job
    kind, _, identifier = job.subject.partition(":")
    if kind == "upload" and Upload.objects.filter(pk=identifier, owner=user).exists():
        return job
    study = _study_of(job)
    if study is None:
        raise Http404
    visible_study(user, study.pk, "job.view")
    return job


def job_status(job: Job) -> JobStatus:
    """What a caller may know of a job."""
    return JobStatus(
        id=str(job.id),
        kind=job.kind,
        state=job.state,
        progress=job.progress,
        text=job.progress_text,
        attempts=job.attempts,
        error=job.error,
        finished=job.finished,
    )


class JobDetail(Base):
    """State and progress of one job."""

    @extend_schema(responses={200: JobStatus})
    def get(self, request: Request, job_id: uuid.UUID) -> Response:
        job = visible_job(request.user, job_id)
        record_view("job.view", resource=f"job:{job.id}", actor=Actor.user(request.user))
        return Response(plain(job_status(job)))


async def _stream(read: Callable[[], tuple[object, bool]]) -> AsyncIterator[bytes]:
    """Events whenever what ``read`` returns has changed; ends when it says so. A comment keeps proxies awake."""

    def fresh() -> tuple[object, bool]:
        close_old_connections()
        return read()

    last = ""
    silent = elapsed = 0.0
    while elapsed < LONGEST_S:
        state, finished = await sync_to_async(fresh)()
        text = json.dumps(plain(state), separators=(",", ":"))
        if text != last:
            last, silent = text, 0.0
            yield f"event: progress\ndata: {text}\n\n".encode()
        elif silent >= HEARTBEAT_S:
            silent = 0.0
            yield b": waiting\n\n"
        if finished:
            yield b"event: end\ndata: {}\n\n"
            return
        await asyncio.sleep(POLL_S)
        silent += POLL_S
        elapsed += POLL_S


def _event_stream(read: Callable[[], tuple[object, bool]]) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        _stream(read),
        content_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def job_events(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse | StreamingHttpResponse:
    """Progress of one job as server-sent events."""
    user = await request.auser()
    if not user.is_authenticated:
        return JsonResponse({"title": "Unauthorized", "status": 401}, status=401)
    await sync_to_async(visible_job)(user, job_id)

    def read() -> tuple[object, bool]:
        job = Job.objects.get(pk=job_id)
        return job_status(job), job.finished

    return _event_stream(read)


async def study_events(request: HttpRequest, study_id: uuid.UUID) -> HttpResponse | StreamingHttpResponse:
    """Progress of all the steps of one study as server-sent events; ends when its report is issued or held."""
    user = await request.auser()
    if not user.is_authenticated:
        return JsonResponse({"title": "Unauthorized", "status": 401}, status=401)

    def admit() -> None:
        study = visible_study(user, study_id, "study.progress")
        record_view("study.progress", resource=study.subject, patient_id=study.patient_id, actor=Actor.user(user))

    await sync_to_async(admit)()

    def read() -> tuple[object, bool]:
        study = Study.objects.get(pk=study_id)
        report = Report.objects.filter(study=study).first()
        steps = current_steps(study)
        done = report is not None and report.state in {"preliminary", "held", "final", "amended"}
        resting = all(step.state not in {"waiting", "running"} for step in steps)
        state = {"state": study.state, "report": report.state if report else None, "steps": steps}
        return state, (done or study.state in {"flagged", "failed"}) and resting

    return _event_stream(read)
