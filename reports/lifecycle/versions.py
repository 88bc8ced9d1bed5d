"""Which version of a report is current, in force or next; every change of a report's versions starts with its lock."""

from __future__ import annotations

import uuid

from django.db.models import Max

from audit.services import Actor, record
from oncoflow_site.foundation.clock import now
from reports.models import Report, ReportVersion
from reports.states import REPORT_MACHINE, VERSION_MACHINE, VersionStatus

__all__ = ["current_version", "fail_drafting", "issued_version", "locked_report", "next_number", "overtake_open"]


WORKER = Actor.system("worker")
OPEN_STATUSES = VERSION_MACHINE.sources("overtake")


def locked_report(report_id: uuid.UUID | str) -> Report:
    """The report's row, locked until the transaction ends; every change of a report's versions starts with it."""
    return Report.objects.select_for_update().get(pk=report_id)


def next_number(report: Report) -> int:
    """Number of the next version, from 1. Under the lock of `locked_report`."""
    return int(report.versions.aggregate(last=Max("number"))["last"] or 0) + 1


def overtake_open(report: Report) -> None:
    """Mark drafts and held versions of ``report`` as superseded: a newer version takes their place."""
    VERSION_MACHINE.apply(ReportVersion.objects.filter(report=report), "overtake")


def fail_drafting(report: Report) -> None:
    """A draft that was on its way will not come of itself: people see it, and the job can be started again."""
    moved = REPORT_MACHINE.apply(
        Report.objects.filter(pk=report.pk),
        "fail",
        state_reason="The draft could not be made. Those who run the service see why.",
        updated_at=now(),
    )
    if moved:
        record(
            "report.fail",
            action="U",
            resource=report.subject,
            patient_id=report.patient_id,
            actor=WORKER,
            outcome=8,
            source="worker",
        )


def current_version(report: Report) -> ReportVersion | None:
    """The newest version that has not been overtaken: the one a person works on."""
    return report.versions.exclude(status=VersionStatus.SUPERSEDED).order_by("-number").first()


def issued_version(report: Report) -> ReportVersion | None:
    """The newest version that has been sent out (preliminary, final or amended): the one in force."""
    return report.versions.filter(issued_at__isnull=False).order_by("-number").first()
