"""Overview, notices and health."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.templatetags.static import static
from django.urls import reverse
from django.views.decorators.http import require_POST

from audit.services import record
from clinical.access import patients_for
from clinical.notices import notices_for, see_notice
from clinical.registry import reveal_identity
from clinical.roles import can
from imaging.models import Instance, InstanceState, Study
from oncoflow_site.foundation import health

MOST_PATIENTS = 100


# Subject of a notice -> the page it is about, which checks again who may see it.
NOTICE_PAGES = {
    "study": "web:study",
    "report": "web:report",
    "patient": "web:patient",
    "identityconflict": "web:identity-conflict",
    "patientmerge": "web:merge",
}


def notice_rows(user: Any) -> list[dict[str, Any]]:
    """This person's unseen notices, each with the page it is about (empty where there is none)."""
    rows = []
    for notice in notices_for(user).filter(seen_at__isnull=True).select_related("patient")[:30]:
        kind, _, key = notice.subject.partition(":")
        page = reverse(NOTICE_PAGES[kind], args=[key]) if kind in NOTICE_PAGES and _is_uuid(key) else ""
        if kind in {"job", "delivery"} and can(user, "manage_system"):
            page = reverse("web:system")
        rows.append({"notice": notice, "page": page})
    return rows


def _is_uuid(text: str) -> bool:
    try:
        return bool(uuid.UUID(text))
    except ValueError:
        return False


def _kept_apart(user: Any) -> int:
    """Images in quarantine of the patients that ``user`` may see."""
    rows = Instance.objects.filter(state=InstanceState.QUARANTINED, discarded_at=None)
    return rows.filter(study__patient__in=patients_for(user)).count()


@login_required
def home(request: HttpRequest) -> HttpResponse:
    """What waits for this person: notices, their patients, the studies under way."""
    user = request.user
    may_see = can(user, "view_patient")
    with transaction.atomic():
        patients = list(patients_for(user).order_by("pseudonym")[:MOST_PATIENTS]) if may_see else []
        reveals = may_see and can(user, "reveal_identity")
        studies = (
            Study.objects.filter(patient__in=patients).select_related("patient", "report").order_by("-performed_at")
            if patients
            else Study.objects.none()
        )
        by_patient: dict[uuid.UUID, list[Study]] = {}
        for study in studies:
            by_patient.setdefault(study.patient_id, []).append(study)
        rows = [
            {
                "patient": patient,
                "identity": reveal_identity(patient, purpose="overview") if reveals else None,
                "studies": by_patient.get(patient.pk, []),
                "last": next(iter(by_patient.get(patient.pk, [])), None),
            }
            for patient in patients
        ]
        context = {
            "rows": rows,
            "may_see": may_see,
            "notices": notice_rows(user),
            "most": MOST_PATIENTS if len(patients) == MOST_PATIENTS else 0,
            "under_way": [one for one in studies if one.state in {"receiving", "complete", "preparing"}],
            "quarantined": _kept_apart(user) if can(user, "upload_study") else 0,
            "may_release": can(user, "release_image"),
            "may_manage": can(user, "manage_system"),
        }
        record("web.overview", action="R", resource="overview", detail={"patients": len(rows)})
        return render(request, "web/home.html", context)


@login_required
@require_POST
def notice_seen(request: HttpRequest, notice_id: uuid.UUID) -> HttpResponse:
    """Take a notice off this person's overview."""
    notice = notices_for(request.user).filter(pk=notice_id).first()
    if notice is None:
        raise Http404
    with transaction.atomic():
        see_notice(notice, request.user)
        record("web.notice", action="U", resource=f"notice:{notice.pk}")
    return HttpResponseRedirect(reverse("web:home"))


def favicon(request: HttpRequest) -> HttpResponse:
    """Browsers ask for this address wherever a page names no icon (the API's documentation)."""
    return HttpResponseRedirect(static("web/icon.svg"))


def health_live(request: HttpRequest) -> HttpResponse:
    """200 while this process answers."""
    return JsonResponse({"status": "ok"})


def health_ready(request: HttpRequest) -> HttpResponse:
    """200 when the service can do its work, else 503; names what is not ready, in words for operators."""
    checks = health.ready()
    state = {one.name: {"ok": one.ok, "detail": one.detail} for one in checks}
    ok = all(one.ok for one in checks)
    return JsonResponse({"status": "ok" if ok else "not ready", "checks": state}, status=200 if ok else 503)
