"""Facts this room records. What follows them is said in ``oncoflow_site/workflow.py``."""

from __future__ import annotations

from typing import Final

from oncoflow_site.foundation.events import declare_event

__all__ = [
    "DOCUMENT_ARRIVED",
    "DOCUMENT_READ",
    "IDENTITY_CONFLICT",
    "IDENTITY_DECIDED",
    "MERGE_REQUESTED",
    "ORDER_ACCEPTED",
    "ORDER_CANCELLED",
    "ORDER_CHANGED",
    "PATIENTS_MERGED",
    "PATIENTS_UNMERGED",
]

ORDER_ACCEPTED: Final = "order.accepted"
ORDER_CHANGED: Final = "order.changed"
ORDER_CANCELLED: Final = "order.cancelled"
DOCUMENT_ARRIVED: Final = "document.arrived"
DOCUMENT_READ: Final = "document.read"
IDENTITY_CONFLICT: Final = "identity.conflict"
IDENTITY_DECIDED: Final = "identity.decided"
MERGE_REQUESTED: Final = "merge.requested"
PATIENTS_MERGED: Final = "patients.merged"
PATIENTS_UNMERGED: Final = "patients.unmerged"

for _kind in (
    *(ORDER_ACCEPTED, ORDER_CHANGED, ORDER_CANCELLED, DOCUMENT_ARRIVED, DOCUMENT_READ),
    *(IDENTITY_CONFLICT, IDENTITY_DECIDED, MERGE_REQUESTED, PATIENTS_MERGED, PATIENTS_UNMERGED),
):
    declare_event(_kind)
