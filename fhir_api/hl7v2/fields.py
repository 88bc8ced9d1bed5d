"""HL7 v2 fields to our own types: PID to an identity, an order group to an order, TS to a time.

Field numbers are those of v2.5.1; ORM^O01 of 2.3.1 and OMG^O19 carry accession and Study Instance UID elsewhere than
OMI^O23, and both places are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from django.conf import settings

from clinical.identity import Identifier, IdentityData, OrderIdentity
from fhir_api.hl7v2.er7 import Er7Message, Segment, standard
from fhir_api.hl7v2.peers import PeerReading
from fhir_api.hl7v2.structure import identifiers

__all__ = ["InboundOrder", "identity_of", "order_of", "recorded_at", "timestamp"]

_TS = re.compile(r"(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:\.\d{1,4})?([+-]\d{4})?\Z")
# TQ1-9 and its forerunners (table 0485). P (preoperative), C (callback) and T (timing critical) are urgent, not stat.
_PRIORITY = {"S": "stat", "A": "asap", "R": "routine", "P": "asap", "C": "asap", "T": "asap"}
_ORDER_ECHO = (("ORC", (2, 3, 4, 12, 21)), ("OBR", (2, 3, 4, 13, 16, 18, 19, 20, 31)), ("DG1", (3,)))
# Of the whole message: the visit (PV1-19) and who cares for the patient there, the account (PID-18), the identifiers as sent.
_MESSAGE_ECHO = (("PID", (3, 18)), ("PV1", (2, 3, 7, 8, 19)))


@dataclass(frozen=True)
class InboundOrder:
    """One order group. ``control`` is ORC-1."""

    control: str
    modality: str
    identity: OrderIdentity
    priority: str
    procedure_code: str
    procedure_text: str
    requested_at: datetime | None


def timestamp(text: str) -> datetime | None:
    """TS or DTM as an aware time; without an offset it is in the hospital's time zone. None when it is not a time."""
    match = _TS.match(text.strip())
    if not match:
        return None
    year, month, day, hour, minute, second, offset = match.groups()
    zone: ZoneInfo | timezone = ZoneInfo(settings.TIME_ZONE or "UTC")
    try:
        if offset:
            hours, minutes = int(offset[1:3]), int(offset[3:5])
            shift = timedelta(hours=hours, minutes=minutes)
            zone = timezone(-shift if offset[0] == "-" else shift)
        parts = (int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0))
        return datetime(*parts, tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _value(text: str) -> str:
    """Text of a field; the explicit null (two quotes) reads as absent."""
    return "" if text == '""' else text


def _birth_date(text: str) -> date | None:
    match = re.match(r"(\d{4})(\d\d)(\d\d)", text)
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def identity_of(pid: Segment, reading: PeerReading) -> IdentityData:
    """PID-3, 5, 7 and 8. PID-2, 4 and 19 are legacy and not read; a partial birth date is no birth date. Two quotes delete."""
    legal = next((one for one in pid.repetitions(5) if pid.part(one, 7) in ("", "L")), "") or pid.field(5)
    given = " ".join(filter(None, (_value(pid.part(legal, 2)), _value(pid.part(legal, 3)))))
    sex = pid.get(8).upper()
    return IdentityData(
        family=_value(pid.part(legal, 1)),
        given=given,
        birth_date=_birth_date(pid.get(7)),
        sex={"A": "O", "N": "O"}.get(sex, sex),
        identifiers=tuple(Identifier(authority, value, kind) for authority, value, kind in identifiers(pid, reading)),
        cleared=frozenset(
            name
            for name, text in (
                ("family", pid.part(legal, 1)),
                ("given", pid.part(legal, 2)),
                ("birth_date", pid.get(7)),
                ("sex", pid.get(8)),
            )
            if text == '""'
        ),
    )


def _entity(orc: Segment, obr: Segment, number: int) -> tuple[str, str]:
    """ORC-2/3 or else OBR-2/3: EI.1 with its namespace, or its universal id. Of several OBR of one ORC each has its own."""
    own = bool(orc.get(number) and obr.get(number) and orc.get(number) != obr.get(number))
    for segment in (obr, orc) if own else (orc, obr):
        if segment.get(number):
            return segment.get(number, 1), segment.get(number, 2) or segment.get(number, 3)
    return "", ""


def _priority(group: dict[str, Segment]) -> str:
    orc, obr, tq1 = group["ORC"], group["OBR"], group.get("TQ1")
    for code in (tq1.get(9) if tq1 else "", orc.get(7, 6), obr.get(27, 6), obr.get(5)):
        if code:
            return _PRIORITY.get(code[:1].upper(), "routine")
    return "routine"


def recorded_at(message: Er7Message) -> datetime | None:
    """When the sender recorded what the message says: EVN-2, else MSH-7."""
    evn = message.first("EVN")
    return timestamp(evn.get(2) if evn else "") or timestamp(message.msh.get(7))


def _first_text(segment: Segment, number: int) -> list[str]:
    return [
        text
        for repetition in segment.repetitions(number)
        if (text := segment.part(repetition, 2) or segment.part(repetition, 1)) and text != '""'
    ]


def _provider(group: dict[str, Segment]) -> str:
    for segment, number in ((group["ORC"], 12), (group["OBR"], 16)):
        name = ", ".join(filter(None, (segment.get(number, 2), segment.get(number, 3))))
        if name or segment.get(number):
            return name or segment.get(number)
    return ""


def order_of(message: Er7Message, group: dict[str, Segment]) -> InboundOrder:
    """One ORC group with its OBR, TQ1, IPC and ZDS. The raw fields an answer must repeat go into ``identity.echo``."""
    orc, obr, ipc, zds = group["ORC"], group["OBR"], group.get("IPC"), group.get("ZDS")
    placer, placer_authority = _entity(orc, obr, 2)
    filler, filler_authority = _entity(orc, obr, 3)
    echo = {
        f"{name}-{number}": standard(group[name].field(number), message.delimiters)
        for name, numbers in _ORDER_ECHO
        for number in numbers
        if name in group and group[name].field(number)
    }
    for name, numbers in _MESSAGE_ECHO:
        segment = message.first(name)
        for number in numbers:
            if segment is not None and segment.field(number):
                echo[f"{name}-{number}"] = standard(segment.field(number), message.delimiters)
    for number in (3, 4):
        echo[f"MSH-{number}"] = standard(message.msh.field(number), message.delimiters)
    local, text = obr.get(4, 1), obr.get(4, 2) or obr.get(4, 5)
    identity = OrderIdentity(
        accession=_value((ipc.get(1) if ipc else "") or obr.get(18)),
        placer_number=_value(placer),
        placer_authority=placer_authority,
        filler_number=_value(filler),
        filler_authority=filler_authority,
        study_instance_uid=_value((ipc.get(3) if ipc else "") or (zds.get(1) if zds else "")),
        reason="; ".join(dict.fromkeys(_first_text(obr, 31) + _first_text(obr, 13)))[:2000],
        ordering_provider=_provider(group)[:200],
        echo=echo,
    )
    return InboundOrder(
        control=orc.get(1).upper(),
        modality=(ipc.get(5) if ipc else "") or obr.get(24),
        identity=identity,
        priority=_priority(group),
        procedure_code=local or obr.get(4, 4),
        procedure_text=text,
        requested_at=timestamp(orc.get(9)) or timestamp(message.msh.get(7)),
    )
