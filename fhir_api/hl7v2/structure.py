"""What a message must have before it is accepted, and what becomes of each message type."""

from __future__ import annotations

import re
from dataclasses import dataclass

from django.conf import settings

from fhir_api.hl7v2.ack import Fault
from fhir_api.hl7v2.er7 import Er7Message, Segment
from oncoflow_site.foundation.keys import keyed_hash

__all__ = ["ADT_EVENTS", "ORDER_TYPES", "MessageDisposition", "examine", "identifiers", "orders"]

# Patient registration and update: A31 has the structure ADT_A05, the others ADT_A01.
ADT_EVENTS = frozenset({"A01", "A04", "A08", "A31"})
ORDER_TYPES = frozenset({("OMI", "O23"), ("ORM", "O01"), ("OMG", "O19")})

# Families an EMR sends as a matter of course: kept, shown as ignored, and not refused, so that its queue moves on.
KEPT_FAMILIES = frozenset({"ADT", "ORU", "MDM", "OMI", "OMG", "ORM", "SIU", "BAR", "DFT", "PPR", "VXU"})

_PROCESSING = re.compile(r"[PTD]\Z")
_VERSION = re.compile(r"2\.\d(\.\d)?\Z")


@dataclass(frozen=True)
class MessageDisposition:
    """What is to happen with a message.

    :param state: ``stored`` (to be processed), ``ignored`` or ``refused``.
    :param lane: keyed hash of the patient's identifier; messages of one lane are processed in order.
    """

    state: str
    message_type: str = ""
    lane: str = ""
    faults: tuple[Fault, ...] = ()
    reason: str = ""


def assigning_authority(pid: Segment, repetition: str) -> str:
    """CX.4 as one name: the namespace, or the one configured for the OID, or the OID itself."""
    namespace, oid = pid.part(repetition, 4, 1), pid.part(repetition, 4, 2)
    known: dict[str, str] = getattr(settings, "ONCOFLOW_AUTHORITY_OIDS", {})
    return namespace or known.get(oid, oid)


def identifiers(pid: Segment) -> list[tuple[str, str, str]]:
    """(assigning authority, value, type) of each PID-3 repetition that names its authority; type MR first."""
    found = []
    for repetition in pid.repetitions(3):
        value, authority = pid.part(repetition, 1), assigning_authority(pid, repetition)
        if value and value != '""' and authority:
            found.append((authority, value, pid.part(repetition, 5).upper() or "MR"))
    home = settings.ONCOFLOW_ASSIGNING_AUTHORITY
    return sorted(found, key=lambda one: (one[2] != "MR", one[0] != home))


def orders(message: Er7Message) -> list[dict[str, Segment]]:
    """The order groups: each ORC with the first OBR, TQ1, IPC and ZDS that follow it, by segment name."""
    groups: list[dict[str, Segment]] = []
    for segment in message.segments:
        if segment.name == "ORC":
            groups.append({"ORC": segment})
        elif groups and segment.name in ("OBR", "TQ1", "IPC", "ZDS"):
            groups[-1].setdefault(segment.name, segment)
    return groups


def _missing(location: str, text: str) -> Fault:
    return Fault("101", location, text)


def _header_faults(message: Er7Message) -> list[Fault]:
    msh, faults = message.msh, []
    if not msh.get(9, 1):
        faults.append(_missing("MSH^1^9", "The message type is missing."))
    if not msh.get(10):
        faults.append(_missing("MSH^1^10", "The message control id is missing."))
    elif len(msh.get(10)) > 199:
        faults.append(Fault("104", "MSH^1^10", "The message control id is too long."))
    if not _VERSION.match(msh.get(12)):
        faults.append(Fault("203", "MSH^1^12", "The version must be 2.x."))
    if not _PROCESSING.match(msh.get(11)):
        faults.append(Fault("202", "MSH^1^11", "The processing id must be P, T or D."))
    elif msh.get(11) != "P" and not settings.ONCOFLOW_DEMO_MODE:
        faults.append(Fault("202", "MSH^1^11", "This installation takes production messages (P) only."))
    return faults


def _patient_faults(message: Er7Message) -> list[Fault]:
    pid = message.first("PID")
    if pid is None:
        return [_missing("PID^1", "The PID segment is missing.")]
    if not any(pid.part(repetition, 1) for repetition in pid.repetitions(3)):
        return [_missing("PID^1^3^1^1", "The patient identifier is missing.")]
    if not identifiers(pid):
        return [_missing("PID^1^3^1^4", "No patient identifier names its assigning authority.")]
    return []


def _order_faults(message: Er7Message) -> list[Fault]:
    groups = orders(message)
    if not groups:
        return [_missing("ORC^1", "The ORC segment is missing.")]
    faults = []
    for number, group in enumerate(groups, start=1):
        orc, obr = group["ORC"], group.get("OBR")
        if not orc.get(1):
            faults.append(_missing(f"ORC^{number}^1", "The order control code is missing."))
        if obr is None:
            faults.append(_missing(f"OBR^{number}", "The OBR segment is missing."))
            continue
        if not any(segment.get(field) for segment in (orc, obr) for field in (2, 3)):
            faults.append(_missing(f"ORC^{number}^2", "The order has neither a placer nor a filler number."))
        if orc.get(1) == "NW" and not (obr.get(4, 1) or obr.get(4, 2)):
            faults.append(_missing(f"OBR^{number}^4", "The universal service identifier is missing."))
    return faults


def examine(message: Er7Message) -> MessageDisposition:
    """Check header, required segments and fields. Everything wrong is reported at once."""
    code, event = message.type
    kind = f"{code}^{event}"[:32]
    faults = _header_faults(message)
    if not faults:
        if code == "ADT" and event in ADT_EVENTS:
            faults = _patient_faults(message)
        elif (code, event) in ORDER_TYPES:
            faults = _patient_faults(message) + _order_faults(message)
        elif message.first("MSA") is not None:
            return MessageDisposition("ignored", kind, reason="an acknowledgement")
        elif code in KEPT_FAMILIES:
            return MessageDisposition("ignored", kind, reason="message type not processed here")
        else:
            faults = [Fault("200", "MSH^1^9", "This message type is not supported.")]
    if faults:
        return MessageDisposition(
            "refused", kind, faults=tuple(faults), reason=", ".join(sorted({one.condition for one in faults}))
        )
    pid = message.first("PID")
    authority, value, _ = identifiers(pid)[0] if pid else ("", "", "")
    return MessageDisposition("stored", kind, lane=keyed_hash("fhir_api.hl7_lane", f"{authority}|{value}").hex())
