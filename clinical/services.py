"""What other rooms call. Each capability lives in the module it is imported from."""

from clinical.access import assign, break_glass, patients_for, require_patient, unassign, user_can_see
from clinical.documents import add_document, read_original, read_text, write_original
from clinical.orders import (
    accept_order,
    advance_order,
    cancel_order,
    change_order,
    find_order,
    find_order_by_accession,
    find_orders_by_index,
    find_orders_by_study_uid,
    reveal_order,
)
from clinical.patients.confirming import confirm_identity, require_confirmed
from clinical.patients.conflicts import note_conflict
from clinical.patients.matching import IdentityContradiction, matching_policy
from clinical.patients.merging import merge_patients, patient_at, unmerge
from clinical.registry import (
    current_patient,
    find_patient,
    merged_records,
    patients_with_number,
    register_patient,
    reveal_identity,
    search_patients,
)
from clinical.roles import can

__all__ = [
    "IdentityContradiction",
    "accept_order",
    "add_document",
    "advance_order",
    "assign",
    "break_glass",
    "can",
    "cancel_order",
    "change_order",
    "confirm_identity",
    "current_patient",
    "find_order",
    "find_order_by_accession",
    "find_orders_by_index",
    "find_orders_by_study_uid",
    "find_patient",
    "matching_policy",
    "merge_patients",
    "merged_records",
    "note_conflict",
    "patient_at",
    "patients_for",
    "patients_with_number",
    "read_original",
    "read_text",
    "register_patient",
    "require_confirmed",
    "require_patient",
    "reveal_identity",
    "reveal_order",
    "search_patients",
    "unassign",
    "unmerge",
    "user_can_see",
    "write_original",
]
