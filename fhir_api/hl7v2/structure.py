"""What a message must have before it is accepted, and what becomes of each message type."""

from __future__ import annotations

import re
from dataclasses import dataclass

from django.conf import settings

from clinical.identity import Identifier
from fhir_api.hl7v2.ack import Fault
from fhir_api.hl7v2.er7 import Er7Message, Segment
from fhir_api.hl7v2.peers import PeerReading
from oncoflow_site.foundation.keys import keyed_hash

__all__ = [
    "ADT_CORRECTIONS",
    "ADT_EVENTS",
    "MERGE_EVENTS",
    "ORDER_TYPES",
    "RENUMBER_EVENTS",
    "MessageDisposition",
    "examine",
    "identifiers",
    "merge_pairs",
    "orders",
    "prior_numbers",
]

# Patient registration and update: A05, A28 and A31 have the structure ADT_A05, the others ADT_A01.
ADT_EVENTS = frozenset({"A01", "A04", "A05", "A08", "A28", "A31"})
# Messages that say on purpose that something about the patient has changed.
ADT_CORRECTIONS = frozenset({"A08", "A31"})
# Two records are one person's: A40 (ADT_A39, by repeating PID and MRG), A34 (ADT_A30), A18; A47 gives a record another number.
MERGE_EVENTS = frozenset({"A18", "A34", "A40"})
RENUMBER_EVENTS = frozenset({"A47"})
ORDER_TYPES = frozenset({("OMI", "O23"), ("ORM", "O01"), ("OMG", "O19")})

# What an EMR sends as a matter of course and nothing here uses: kept, shown as ignored, and not refused unless the peer wants it
# so. Queries (QBP, QRY, VXQ) are not among them: their sender waits for an answer that nobody here gives.
KEPT_FAMILIES = frozenset(
    [
        "ADT",
        "BAR",
        "CRM",
        "CSU",
        "DFT",
        "MDM",
        "MFN",
        "OMD",
        "OMG",
        "OMI",
        "OML",
        "OMN",
        "OMP",
        "OMS",
        "ORM",
        "ORU",
        "OUL",
        "PEX",
        "PGL",
        "PMU",
        "PPG",
        "PPP",
        "PPR",
        "PTR",
        "RAS",
        "RDE",
        "RDS",
        "REF",
        "RGV",
        "ROL",
        "RPA",
        "SIU",
        "SRM",
        "SSU",
        "TCU",
        "VXU",
    ]
)

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


def assigning_authority(segment: Segment, repetition: str, reading: PeerReading) -> str:
    """CX.4 as one name: the known authority of its namespace or its OID, the peer's default where it names none."""
    return reading.authority(segment.part(repetition, 4, 1), segment.part(repetition, 4, 2))


def identifiers(segment: Segment, reading: PeerReading, number: int = 3) -> list[tuple[str, str, str]]:
    """(assigning authority, value, type) of each repetition of PID-3, or MRG-1, that has an authority; those that recognise a
    patient first, of them the hospital's own."""
    found = []
    for repetition in segment.repetitions(number):
        value, authority = segment.part(repetition, 1), assigning_authority(segment, repetition, reading)
        if value and value != '""' and authority:
            found.append((authority, value, segment.part(repetition, 5).upper() or "MR"))
    home = settings.ONCOFLOW_ASSIGNING_AUTHORITY
    return sorted(found, key=lambda one: (not reading.policy.matches(Identifier(*one)), one[2] != "MR", one[0] != home))


def merge_pairs(message: Er7Message) -> list[tuple[Segment, Segment]]:
    """(PID, MRG) of each group: the survivor, and what is merged into it."""
    pairs: list[tuple[Segment, Segment]] = []
    pid: Segment | None = None
    for segment in message.segments:
        if segment.name == "PID":
            pid = segment
        elif segment.name == "MRG" and pid is not None:
            pairs.append((pid, segment))
    return pairs


def prior_numbers(pid: Segment, mrg: Segment, reading: PeerReading) -> list[tuple[str, str, str]]:
    """The numbers of MRG-1 that merge into the patient of ``pid``: each of an authority, and a type, that PID-3 has too."""
    kept = {(authority, kind) for authority, _, kind in identifiers(pid, reading)}
    return [one for one in identifiers(mrg, reading, 1) if (one[0], one[2]) in kept]


def orders(message: Er7Message) -> list[dict[str, Segment]]:
    """The order groups: each OBR with the ORC before it, and the TQ1, IPC, ZDS and DG1 that follow, by segment name. A second
    OBR of one ORC is an order of its own, and so is an IPC with another accession number."""
    groups: list[dict[str, Segment]] = []
    orc: Segment | None = None
    for segment in message.segments:
        if segment.name == "ORC":
            orc = segment
            groups.append({"ORC": segment})
        elif orc is None:
            continue
        elif segment.name == "OBR":
            if "OBR" in groups[-1]:
                timing = {name: one for name, one in groups[-1].items() if name == "TQ1"}
                groups.append({"ORC": orc, **timing})
            groups[-1]["OBR"] = segment
        elif segment.name == "IPC" and "IPC" in groups[-1] and segment.get(1) != groups[-1]["IPC"].get(1):
            groups.append({**groups[-1], "IPC": segment})
        elif segment.name in ("TQ1", "IPC", "ZDS", "DG1"):
            groups[-1].setdefault(segment.name, segment)
    return groups


def _missing(location: str, text: str) -> Fault:
    return Fault("101", location, text)


def _header_faults(message: Er7Message, reading: PeerReading) -> list[Fault]:
    msh, faults = message.msh, []
    if not msh.get(9, 1):
        faults.append(_missing("MSH^1^9", "The message type is missing."))
    if not msh.get(10):
        faults.append(_missing("MSH^1^10", "The message control id is missing."))
    elif len(msh.get(10)) > 199:
        faults.append(Fault("104", "MSH^1^10", "The message control id is too long."))
    if not _VERSION.match(msh.get(12)):
        faults.append(Fault("203", "MSH^1^12", "The version must be 2.x."))
    processing = msh.get(11).upper() or "P"  # a sender that never tests does not say that it does not
    if processing not in ("P", "T", "D"):
        faults.append(Fault("202", "MSH^1^11", "The processing id must be P, T or D."))
    elif processing not in reading.processing_ids:
        faults.append(Fault("202", "MSH^1^11", "Messages with this processing id are not taken here."))
    return faults


def _patient_faults(message: Er7Message, reading: PeerReading) -> list[Fault]:
    pid = message.first("PID")
    if pid is None:
        return [_missing("PID^1", "The PID segment is missing.")]
    if not any(pid.part(repetition, 1) for repetition in pid.repetitions(3)):
        return [_missing("PID^1^3^1^1", "The patient identifier is missing.")]
    if not identifiers(pid, reading):
        return [_missing("PID^1^3^1^4", "No patient identifier names its assigning authority.")]
    return []


def _merge_faults(message: Er7Message, reading: PeerReading) -> list[Fault]:
    pairs = merge_pairs(message)
    if not pairs:
        return [_missing("MRG^1", "The MRG segment is missing.")]
    faults = []
    for number, (pid, mrg) in enumerate(pairs, start=1):
        if not any(mrg.part(repetition, 1) for repetition in mrg.repetitions(1)):
            faults.append(_missing(f"MRG^{number}^1^1^1", "The prior patient identifier is missing."))
        elif not prior_numbers(pid, mrg, reading):
            text = "No prior identifier is of an assigning authority and a type that PID-3 has a number of."
            faults.append(Fault("204", f"MRG^{number}^1", text))
    return faults


def _order_faults(message: Er7Message) -> list[Fault]:
    groups = orders(message)
    if not groups:
        return [_missing("ORC^1", "The ORC segment is missing.")]
    faults = []
    seen: set[tuple[str, ...]] = set()
    for number, group in enumerate(groups, start=1):
        orc, obr, ipc = group["ORC"], group.get("OBR"), group.get("IPC")
        if not orc.get(1):
            faults.append(_missing(f"ORC^{number}^1", "The order control code is missing."))
        if obr is None:
            faults.append(_missing(f"OBR^{number}", "The OBR segment is missing."))
            continue
        accession = (ipc.get(1) if ipc else "") or obr.get(18)
        if not accession and not any(segment.get(field) for segment in (orc, obr) for field in (2, 3)):
            text = "The order has neither a placer, a filler nor an accession number."
            faults.append(_missing(f"ORC^{number}^2", text))
        if orc.get(1) == "NW" and not (obr.get(4, 1) or obr.get(4, 2)):
            faults.append(_missing(f"OBR^{number}^4", "The universal service identifier is missing."))
        names = (orc.get(1), obr.get(2) or orc.get(2), obr.get(3) or orc.get(3), accession)
        if any(names[1:]) and names in seen:
            faults.append(_missing(f"OBR^{number}^2", "Two orders of the message have the same numbers."))
        seen.add(names)
    return faults


def examine(message: Er7Message, reading: PeerReading, *, refuses_unused: bool = False) -> MessageDisposition:
    """Check header, required segments and fields. Everything wrong is reported at once.

    :param refuses_unused: the peer wants AR for types that nothing here uses.
    """
    code, event = message.type
    kind = f"{code}^{event}"[:32]
    faults = _header_faults(message, reading)
    if not faults:
        if code == "ADT" and event in ADT_EVENTS:
            faults = _patient_faults(message, reading)
        elif code == "ADT" and event in MERGE_EVENTS | RENUMBER_EVENTS:
            faults = _patient_faults(message, reading) or _merge_faults(message, reading)
        elif (code, event) in ORDER_TYPES:
            faults = _patient_faults(message, reading) + _order_faults(message)
        elif message.first("MSA") is not None:
            return MessageDisposition("ignored", kind, reason="an acknowledgement")
        elif code in KEPT_FAMILIES and not refuses_unused:
            return MessageDisposition("ignored", kind, reason="message type not processed here")
        else:
            faults = [Fault("200", "MSH^1^9", "This message type is not supported.")]
    if faults:
        return MessageDisposition(
            "refused", kind, faults=tuple(faults), reason=", ".join(sorted({one.condition for one in faults}))
        )
    pid = message.first("PID")
    authority, value, _ = identifiers(pid, reading)[0] if pid else ("", "", "")
    return MessageDisposition("stored", kind, lane=keyed_hash("fhir_api.hl7_lane", f"{authority}|{value}").hex())
