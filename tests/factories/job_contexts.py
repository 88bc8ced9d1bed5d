"""The context of a running job, for what jobs call."""

from __future__ import annotations

from imaging.models import Study
from oncoflow_site.foundation.jobs import JobContext, JobKind, enqueue
from oncoflow_site.foundation.models import Job


def context(study: Study) -> JobContext:
    row = enqueue(
        "imaging.complete_study", subject=study.subject, key=f"test:{study.pk}", kwargs={"study_id": study.pk}
    )
    token = __import__("uuid").uuid4()
    Job.objects.filter(pk=row.pk).update(state="running", lease_token=token, fence=1)
    kind = JobKind("test", lambda ctx: None, "default", 1, 60.0, 600.0, frozenset(), frozenset())
    return JobContext(Job.objects.get(pk=row.pk), kind)
