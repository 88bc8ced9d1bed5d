"""What each role may do. The object permission on a patient says to whom (see `clinical.access`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import models

__all__ = ["CAPABILITIES", "ROLE_CAPABILITIES", "Role", "can", "roles_with"]


class Role(models.TextChoices):
    """Role of an account. One role an account; a person with two jobs has two accounts."""

    ADMIN = "admin", "administrator"
    DOCTOR = "doctor", "doctor"
    RADIOLOGIST = "radiologist", "radiologist"
    CLINICIAN = "clinician", "clinician"
    TECHNICIAN = "technician", "technician"
    REGISTRAR = "registrar", "patient registration"
    COMPLIANCE_OFFICER = "compliance_officer", "compliance officer"
    INTEGRATION = "integration", "connected system"


CAPABILITIES: Mapping[str, str] = {
    "view_patient": "See patients assigned to them, their studies, documents and reports",
    "reveal_identity": "See a patient's name, number and birth date",
    "confirm_identity": "Confirm who a patient is",
    "resolve_identity": "Decide whose contradicting data are; merge records of one person and take a merge back",
    "all_identities": "Reach every patient's identity, and nothing clinical (patient registration only)",
    "sign_report": "Sign a report as its radiologist",
    "edit_segmentation": "Correct a mask or draw one",
    "steer_panel": "Stop a panel of models, run it again, choose its experts and how they are fused",
    "override_sequence": "Say what an MRI series shows",
    "upload_study": "Bring in images by hand",
    "release_image": "Look at an image that was kept apart for text in its pixels, and release it",
    "export_research": "Export de-identified, defaced images for research",
    "upload_document": "Bring in clinical documents",
    "create_order": "Place an imaging order",
    "assign_patient": "Put staff on a patient's care team, and take them off",
    "break_glass": "Open an unassigned patient's record in an emergency, with a reason",
    "all_patients": "Reach every patient without an assignment (connected systems only)",
    "send_data": "Send orders, documents and images through the interfaces",
    "read_audit": "Read the audit record",
    "manage_users": "Create and change accounts",
    "manage_system": "Change peers, endpoints and models; retry jobs and deliveries",
}

ROLE_CAPABILITIES: Mapping[str, frozenset[str]] = {
    Role.ADMIN.value: frozenset({"manage_users", "manage_system", "assign_patient"}),
    Role.DOCTOR.value: frozenset(
        {"view_patient", "reveal_identity", "upload_study", "upload_document", "create_order", "assign_patient"}
        | {"break_glass", "steer_panel", "confirm_identity", "resolve_identity"}
    ),
    Role.RADIOLOGIST.value: frozenset(
        {"view_patient", "reveal_identity", "sign_report", "edit_segmentation", "override_sequence", "upload_study"}
        | {"upload_document", "break_glass", "release_image", "export_research", "steer_panel"}
        | {"confirm_identity", "resolve_identity"}
    ),
    Role.CLINICIAN.value: frozenset(
        {"view_patient", "reveal_identity", "upload_document", "create_order", "break_glass", "confirm_identity"}
    ),
    Role.TECHNICIAN.value: frozenset(
        {"view_patient", "reveal_identity", "override_sequence", "upload_study", "release_image", "confirm_identity"}
    ),
    Role.REGISTRAR.value: frozenset({"reveal_identity", "confirm_identity", "resolve_identity", "all_identities"}),
    Role.COMPLIANCE_OFFICER.value: frozenset({"read_audit"}),
    Role.INTEGRATION.value: frozenset({"view_patient", "reveal_identity", "all_patients", "send_data"}),
}


def can(user: Any, capability: str) -> bool:
    """Whether the role of ``user`` includes ``capability``. An inactive or anonymous user can do nothing.

    :raises ValueError: a capability that the table does not know (a spelling mistake must not read as "no").
    """
    if capability not in CAPABILITIES:
        raise ValueError(f"{capability!r} is not a capability")
    if not getattr(user, "is_authenticated", False) or not getattr(user, "is_active", False):
        return False
    return capability in ROLE_CAPABILITIES.get(str(getattr(user, "role", "")), frozenset())


def roles_with(capability: str) -> tuple[str, ...]:
    """The roles that include ``capability``."""
    return tuple(role for role, granted in ROLE_CAPABILITIES.items() if capability in granted)
