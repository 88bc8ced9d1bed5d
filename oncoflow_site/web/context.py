"""What every template knows."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from clinical.roles import can


def site(request: HttpRequest) -> dict[str, Any]:
    """Hospital name, time zone, and whether this installation runs on demo weights (then every page says DEMO)."""
    return {
        "hospital_name": settings.ONCOFLOW_HOSPITAL_NAME,
        "demo_mode": settings.ONCOFLOW_DEMO_MODE,
        "time_zone": settings.TIME_ZONE,
        "may_confirm": can(getattr(request, "user", None), "confirm_identity"),
        "may_upload": can(getattr(request, "user", None), "upload_study"),
    }
