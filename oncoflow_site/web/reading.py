"""The report's page, and signing it."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.clickjacking import xframe_options_sameorigin
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from audit.services import record
from clinical.models import Patient
from clinical.patients.merging import patient_at
from clinical.roles import can
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.models import Delivery
from oncoflow_site.web.records import identity_of, visible_patient
from reports.content.schema import NarrativeSentence, ReportContent
from reports.lifecycle.sign_off import sign_off
from reports.lifecycle.versions import current_version
from reports.models import Report, ReportVersion
from reports.services import load_content, why_not_sign

# The same headings as in the PDF.
HEADINGS = (
    ("finding", "Measured on the images"),
    ("context", "From the patient's documents"),
    ("limitation", "Limits of this report"),
)


def by_kind(content: ReportContent | None) -> list[tuple[str, list[NarrativeSentence]]]:
    """The narrative's sentences under the headings of the PDF; kinds without a sentence are left out."""
    told = content.narrative if content else ()
    groups = [(title, [one for one in told if one.kind == kind]) for kind, title in HEADINGS]
    return [(title, sentences) for title, sentences in groups if sentences]


def visible_report(request: HttpRequest, report_id: uuid.UUID, event: str) -> Report:
    """The report if its patient is this person's; else 404."""
    report = Report.objects.select_related("study", "patient", "order").filter(pk=report_id).first()
    if report is None:
        raise Http404
    visible_patient(request, report.patient_id, event)
    return report


def signed_under(report: Report, versions: list[ReportVersion]) -> list[tuple[int, Patient]]:
    """(number, record) of the issued versions that were made under a record which has been merged since."""
    found = []
    for version in versions:
        if version.issued_at is not None:
            then = patient_at(report, version.issued_at)
            if then.pk != report.patient_id:
                found.append((version.number, then))
    return found


@login_required
@xframe_options_sameorigin
def report_page(request: HttpRequest, report_id: uuid.UUID) -> HttpResponse:
    """Versions, the PDF, the narrative with its sources, deliveries, and the form to sign."""
    report = visible_report(request, report_id, "web.report")
    with transaction.atomic():
        versions = list(report.versions.select_related("signer").order_by("-number"))
        current = current_version(report)
        shown = next((one for one in versions if str(one.number) == request.GET.get("version")), current)
        signer = can(request.user, "sign_report")
        content = load_content(shown) if shown else None
        context = {
            "report": report,
            "study": report.study,
            "patient": report.patient,
            "identity": identity_of(request, report.patient),
            "versions": versions,
            # Records may have been merged since: a signed version names the one under which it was signed.
            "signed_under": signed_under(report, versions),
            "shown": shown,
            "content": content,
            "narrative": by_kind(content),
            "deliveries": list(Delivery.objects.filter(subject=report.subject).order_by("created_at")),
            "current": current,
            "may_sign": signer,
            "why_not": why_not_sign(request.user, current) if signer and current else "",
        }
        record(
            "web.report",
            action="R",
            resource=report.subject,
            patient_id=report.patient_id,
            detail={"version": shown.number if shown else None},
        )
        return render(request, "web/report.html", context)


@login_required
@require_POST
@sensitive_post_parameters("password")
def sign(request: HttpRequest, report_id: uuid.UUID) -> HttpResponse:
    """Sign the version that was read, with the password that opens the signer's own key."""
    report = visible_report(request, report_id, "report.sign")
    version = report.versions.filter(pk=_uuid(request.POST.get("version", ""))).first()  # type: ignore[misc]
    if version is None:
        raise Http404
    try:
        signed = sign_off(version, request.user, request.POST.get("password", ""))
    except UserVisibleError as error:
        messages.error(request, str(error))
    except PermissionDenied:
        messages.error(request, "Your account does not sign reports.")
    else:
        messages.success(request, f"Version {signed.number} is signed and on its way to the EMR.")
    return HttpResponseRedirect(reverse("web:report", args=[report.pk]))


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
