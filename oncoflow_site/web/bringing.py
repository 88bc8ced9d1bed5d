"""The page on which a person brings in images. The bytes go through the upload interface (`oncoflow_site.api.uploads`)."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from audit.services import Actor, record, record_refusal
from clinical.access import patients_for
from clinical.registry import reveal_identity
from clinical.roles import can
from imaging.brats.sequences import PANEL_SEQUENCES

MOST_PATIENTS = 200


@login_required
def bring_in_page(request: HttpRequest) -> HttpResponse:
    """Choose files, declare whose they are, watch them come in. :raises PermissionDenied: not for this role."""
    user: Any = request.user
    if not can(user, "upload_study"):
        record_refusal("web.bring_in", action="R", resource="upload", actor=Actor.user(user), detail={"why": "role"})
        raise PermissionDenied
    with transaction.atomic():
        patients = list(patients_for(user).order_by("pseudonym")[:MOST_PATIENTS])
        reveals = can(user, "reveal_identity")
        rows = [(one, reveal_identity(one, purpose="bring in images") if reveals else None) for one in patients]
        rows.sort(key=lambda row: (row[1].display_name.casefold() if row[1] else "", row[0].pseudonym))
        record("web.bring_in", action="R", resource="upload", detail={"patients": len(rows)})
        context = {
            "rows": rows,
            "most": MOST_PATIENTS if len(patients) == MOST_PATIENTS else 0,
            "authority": settings.ONCOFLOW_ASSIGNING_AUTHORITY,
            "sequences": [str(one) for one in PANEL_SEQUENCES],
            "hours": settings.ONCOFLOW_STAGING_HOURS,
        }
        return render(request, "web/bring_in.html", context)
