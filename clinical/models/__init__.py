"""What the clinical room keeps."""

from clinical.models.documents import ClinicalDocument, DocumentState
from clinical.models.identity import (
    CONFLICT_MACHINE,
    MERGE_MACHINE,
    AssigningAuthority,
    ConflictState,
    IdentityConflict,
    MergedRecord,
    MergeState,
    PatientMerge,
)
from clinical.models.orders import ORDER_MACHINE, Order, OrderPriority, OrderStatus
from clinical.models.patients import (
    CareAssignment,
    Patient,
    PatientGroupPermission,
    PatientIdentifier,
    PatientIdentity,
    PatientIndex,
    PatientUserPermission,
)
from clinical.models.staff import Notice, User

__all__ = [
    "CONFLICT_MACHINE",
    "MERGE_MACHINE",
    "ORDER_MACHINE",
    "AssigningAuthority",
    "CareAssignment",
    "ClinicalDocument",
    "ConflictState",
    "DocumentState",
    "IdentityConflict",
    "MergeState",
    "MergedRecord",
    "Notice",
    "Order",
    "OrderPriority",
    "OrderStatus",
    "Patient",
    "PatientGroupPermission",
    "PatientIdentifier",
    "PatientIdentity",
    "PatientIndex",
    "PatientMerge",
    "PatientUserPermission",
    "User",
]
