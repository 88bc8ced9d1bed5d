"""N-EVENT-REPORT of a storage commitment over an association that we open (PS3.4 section J.3.3)."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from imaging.dimse.calling import calling
from imaging.models import DicomPeer
from oncoflow_site.foundation.errors import TransientError

__all__ = ["send_event_report"]

_INSTANCE = "1.2.840.10008.1.20.1.1"  # the well-known Storage Commitment Push Model SOP Instance


def send_event_report(peer: DicomPeer, event_type: int, information: Dataset) -> None:
    """Tell ``peer``. :raises TransientError: it cannot be reached, or answers with a failure."""
    with calling(peer, [StorageCommitmentPushModel], as_scp=True) as assoc:
        status, _ = assoc.send_n_event_report(information, event_type, StorageCommitmentPushModel, _INSTANCE)
        code = int(status.Status) if "Status" in status else None
        if code is None or code & 0xF000 not in (0x0000, 0xB000) or 0x0100 <= code < 0x0300:
            raise TransientError(f"{peer.ae_title} did not take the report", code=f"{code:04X}" if code else "")
