"""What the clinical room keeps."""

from clinical.models.documents import ClinicalDocument, DocumentState
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
    "ORDER_MACHINE",
    "CareAssignment",
    "ClinicalDocument",
    "DocumentState",
    "Notice",
    "Order",
    "OrderPriority",
    "OrderStatus",
    "Patient",
    "PatientGroupPermission",
    "PatientIdentifier",
    "PatientIdentity",
    "PatientIndex",
    "PatientUserPermission",
    "User",
]
