"""Acknowledgements (HL7 v2.5.1 sections 2.9.2 and 2.9.3, segments MSA and ERR).

hl7apy builds and strictly validates each one. Header values that it refuses (hostile or overlong ones) are cut to plain
short text and the acknowledgement is built again: there is always an answer.
"""

from __future__ import annotations

import logging
import re
import uuid
from dataclasses import dataclass

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.core import Message as Hl7apyMessage

from fhir_api.hl7v2.er7 import Delimiters, Er7Error, Segment, charset_codec, declared_charset, escape, unescape
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import safe_error_text

__all__ = ["CONDITIONS", "ERROR_CLASS", "Ack", "Fault", "accept_mode", "build_ack", "read_ack"]

logger = logging.getLogger(__name__)

# HL7 table 0357. 1xx are errors, 2xx rejections by the table; the code in MSA-1 follows our policy (see ERROR_CLASS).
CONDITIONS = {
    "0": "Message accepted",
    "100": "Segment sequence error",
    "101": "Required field missing",
    "102": "Data type error",
    "103": "Table value not found",
    "104": "Value too long",
    "200": "Unsupported message type",
    "201": "Unsupported event code",
    "202": "Unsupported processing id",
    "203": "Unsupported version id",
    "204": "Unknown key identifier",
    "207": "Application internal error",
}

# Permanent faults are rejected: an engine that gets AE repeats the same message for ever and blocks its queue.
ERROR_CLASS = dict.fromkeys(CONDITIONS, "R") | {"0": "A", "207": "E"}

_ANSWERABLE = ("2.2", "2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7")


@dataclass(frozen=True)
class Fault:
    """What an ERR segment says. ``text`` never quotes the message."""

    condition: str
    location: str
    text: str

    @classmethod
    def of(cls, error: Er7Error) -> Fault:
        """The fault of an unreadable message."""
        return cls(error.condition, error.location, str(error))


@dataclass(frozen=True)
class Ack:
    """A received acknowledgement.

    :param code: MSA-1. :param control_id: MSA-2. :param text: ERR-3.1 codes, nothing else of the peer's text.
    """

    code: str
    control_id: str
    text: str


def accept_mode(msh: Segment) -> tuple[bool, str]:
    """(enhanced, MSH-15 of table 0155).

    Original mode where MSH-15 and MSH-16 are both empty. ``NE|AL`` and ``|AL`` mean in practice the same: no accept
    acknowledgement is wanted, and the sender waits on this connection for the application's AA, AE or AR.
    """
    accept, application = msh.get(15).upper(), msh.get(16).upper()
    if accept in ("", "NE") and application in ("", "AL", "ER", "SU") and (accept, application) != ("NE", ""):
        return False, application or "AL"
    return bool(accept or application), accept or "AL"


def _version(msh: Segment | None) -> str:
    wanted = msh.get(12) if msh else ""
    if wanted in _ANSWERABLE:
        return wanted
    return "2.7" if re.fullmatch(r"2\.[89](\.\d)?|2\.7\.1", wanted) else "2.5.1"


def _translate(text: str, delimiters: Delimiters, limit: int) -> str:
    """A header field in the standard delimiters; at most three components (HD)."""
    components = text.split(delimiters.repetition)[0].split(delimiters.component)[:3]
    return "^".join(escape(unescape(part, delimiters))[:limit] for part in components).rstrip("^")


def build_ack(code: str, msh: Segment | None, faults: tuple[Fault, ...] = ()) -> bytes:
    """The acknowledgement of the message that ``msh`` heads, without frame characters.

    MSH-3/4 and 5/6 change places; MSH-10 is new, MSH-11 and MSH-18 are echoed, MSH-12 too where it is 2.2 to 2.7.
    Up to 2.4 the error goes to ERR-1, from 2.5 to ERR-2, 3, 4 and 8.

    :param code: MSA-1: AA, AE, AR, CA, CE or CR.
    :param msh: the header, or None when the message had none that could be read.
    """
    values: dict[str, str] = {"trigger": "", "control_id": "", "processing": "P", "charset": ""}
    sides = ["", "", "", ""]
    codec = "ascii"
    if msh is not None:
        sides = [_translate(msh.field(number), msh.delimiters, 199) for number in (5, 6, 3, 4)]
        values["trigger"] = msh.get(9, 2) if re.fullmatch(r"[A-Z0-9]{3}", msh.get(9, 2)) else ""
        values["control_id"] = escape(msh.get(10))
        values["processing"] = msh.get(11) if msh.get(11) in ("P", "T", "D") else "P"
        try:
            codec = charset_codec(declared_charset(msh)) or "ascii"
            values["charset"] = declared_charset(msh)
        except Er7Error:
            pass
    version = _version(msh)
    try:
        text = _strict(code, version, sides, values, faults)
    except (
        Exception
    ):  # hl7apy raises many types; any of them means that an echoed value was unfit, or longer than its tables
        # The sender looks for its own control id and its own name, however long: they go in after the check, escaped as they are.
        mark = uuid.uuid4().hex[:16].upper()
        places = [f"{mark}{number}" if side else "" for number, side in enumerate(sides)]
        checked = {**values, "control_id": f"{mark}4", "charset": ""}
        try:
            text = _strict(code, version, places, checked, faults)
            for number, value in enumerate([*sides, values["control_id"] or "-"]):
                text = text.replace(f"{mark}{number}", value, 1)
            if values["charset"] and version >= "2.3":
                head, end, rest = text.partition("\r")
                fields = head.split("|") + [""] * 18
                fields[17] = escape(values["charset"])
                text = "|".join(fields).rstrip("|") + end + rest
        except Exception as error:  # an answer that is plain beats a sender left waiting
            logger.error("ack: built without validation: %s", safe_error_text(error))
            moment = now().strftime("%Y%m%d%H%M%S+0000")
            header = ["MSH", "^~\\&", *sides, moment, "", "ACK", uuid.uuid4().hex[:20], values["processing"], version]
            text = "|".join(header) + f"\rMSA|{code}|{values['control_id'] or '-'}"
    return text.encode(codec, "replace") + b"\r"


def _strict(code: str, version: str, sides: list[str], values: dict[str, str], faults: tuple[Fault, ...]) -> str:
    message = Hl7apyMessage("ACK", version=version, validation_level=VALIDATION_LEVEL.STRICT)
    msh = message.msh
    for number, value in zip((3, 4, 5, 6), sides, strict=True):
        if value:
            setattr(msh, f"msh_{number}", value)
    at = now()
    msh.msh_7 = at.strftime("%Y%m%d%H%M%S" if version < "2.3" else "%Y%m%d%H%M%S+0000")
    trigger = values["trigger"]
    if version < "2.3.1":
        msh.msh_9 = f"ACK^{trigger}" if trigger else "ACK"
    elif trigger:
        msh.msh_9 = f"ACK^{trigger}^ACK"
    else:
        msh.msh_9 = "ACK^^ACK" if version >= "2.5" else "ACK"
    msh.msh_10 = uuid.uuid4().hex[:20]
    msh.msh_11 = values["processing"]
    msh.msh_12 = version
    if values["charset"] and version >= "2.3":
        msh.msh_18 = values["charset"]
    message.msa.msa_1 = code
    # MSA-2 is required; a message without MSH-10 gets a dash, which no sender waits for.
    message.msa.msa_2 = values["control_id"] or "-"
    # Up to 2.4 one ERR with one location is what receivers read.
    for fault in faults[: 1 if version < "2.5" else 10]:
        condition = fault.condition if fault.condition in CONDITIONS else "207"
        if version < "2.5":
            place = "^".join([*fault.location.split("^"), "", ""][:3])
            message.add_segment("ERR").err_1 = f"{place}^{condition}&{CONDITIONS[condition]}&HL70357"
            continue
        err = message.add_segment("ERR")
        err.err_2 = fault.location
        err.err_3 = f"{condition}^{CONDITIONS[condition]}^HL70357"
        err.err_4 = "E"
        err.err_8 = escape(fault.text)[:250]
    message.validate()
    return str(message.to_er7())


def read_ack(segments: tuple[Segment, ...]) -> Ack:
    """MSA and ERR of an answer. Raises `Er7Error` when there is no MSA."""
    msa = next((segment for segment in segments if segment.name == "MSA"), None)
    if msa is None:
        raise Er7Error("The answer has no MSA segment.", location="MSA^1")
    conditions = [
        code
        for segment in segments
        if segment.name == "ERR"
        for code in (segment.get(3), segment.get(1, 4, 1))
        if re.fullmatch(r"\d{1,3}", code)
    ]
    return Ack(msa.get(1).upper(), msa.get(2), ",".join(conditions))
