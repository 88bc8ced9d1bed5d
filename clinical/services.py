"""What other rooms call. Each capability lives in the module it is imported from."""

from clinical.access import assign, break_glass, patients_for, require_patient, unassign, user_can_see
from clinical.documents import add_document, read_original, read_text
from clinical.orders import (
    accept_order,
    advance_order,
    cancel_order,
    change_order,
    find_order,
    find_order_by_accession,
    find_orders_by_study_uid,
    reveal_order,
)
from clinical.registry import current_patient, find_patient, register_patient, reveal_identity, search_patients
from clinical.roles import can

__all__ = [
    "accept_order",
    "add_document",
    "advance_order",
    "assign",
    "break_glass",
    "can",
    "cancel_order",
    "change_order",
    "current_patient",
    "find_order",
    "find_order_by_accession",
    "find_orders_by_study_uid",
    "find_patient",
    "patients_for",
    "read_original",
    "read_text",
    "register_patient",
    "require_patient",
    "reveal_identity",
    "reveal_order",
    "search_patients",
    "unassign",
    "user_can_see",
]
