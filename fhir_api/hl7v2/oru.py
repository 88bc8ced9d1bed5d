r"""A report version as ORU^R01 (HL7 v2.5.1 section 7.3.1), built and strictly validated by hl7apy.

Line ends inside TX are repetitions (``~``), which every receiver reads; hl7apy would double the escapes of ``\.br\``. The
same version gives the same bytes for the same endpoint, MSH-10 included, so that a receiver recognises a repetition.
"""

from __future__ import annotations

import base64
import logging
import textwrap
import unicodedata
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.core import Message as Hl7apyMessage
from hl7apy.parser import parse_segment

from fhir_api.hl7v2.er7 import charset_codec, escape
from fhir_api.models import Endpoint
from fhir_api.report_out.disclosed_report import DisclosedReport, disclose_report
from fhir_api.report_out.observations_common import (
    REGION_DISPLAY,
    RESPONSE_DISPLAY,
    is_loinc,
    procedure_loinc,
    reason_not_assessed,
)
from imaging.schemas.comparison import Response
from oncoflow_site.foundation.clock import local
from oncoflow_site.foundation.errors import PermanentError
from oncoflow_site.foundation.figures import NOT_ASSESSED, ml_value, mm_value, percent_value
from reports.models import ReportVersion

logger = logging.getLogger(__name__)

__all__ = [
    "build_oru",
    "control_id",
    "encode_message",
    "order_numbers",
    "performed_at",
    "report_oru",
    "timestamp",
    "write_header",
    "write_pid",
    "write_returned",
]

_STATUS = {"preliminary": "P", "final": "F", "amended": "C"}

_BASE_LETTERS = {
    "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ø": "o", "Ø": "O", "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE",
    "ı": "i", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'",
    "\u201c": '"', "\u201d": '"', "\u2264": "<=", "\u2265": ">=", "\u00d7": "x", "\u2212": "-", "\u00b3": "3",
    "\u2022": "-", "€": "EUR", "\u00b1": "+/-", "\u00b0": " degrees",
}  # fmt: skip
"""Letters and signs without a decomposition in Unicode."""

# hl7apy limits ED.5 to 199 characters (its tables type it ST); base64 holds no delimiter, so it goes in afterwards.
_PDF_PLACE = "PDF5f0c2b7e6d"


@dataclass(frozen=True)
class _ObxRow:
    """One OBX: value type, OBX-3, OBX-4, escaped OBX-5, OBX-6, and why there is no value."""

    kind: str
    code: str
    sub_id: str
    value: str
    unit: str = ""
    absent: str = ""


def control_id(version_id: str, endpoint_id: str) -> str:
    """MSH-10, 20 characters: the same each time this version goes to this endpoint."""
    return uuid.uuid5(uuid.UUID(version_id), endpoint_id).hex[:20]


def report_oru(version: ReportVersion, endpoint: Endpoint) -> bytes:
    """The message of an issued version for ``endpoint``, without frame characters. Identity is revealed, on the record.

    Raises `PermanentError` for a version that was not issued, or contents that do not make a valid message.
    """
    return build_oru(disclose_report(version), endpoint)


def build_oru(facts: DisclosedReport, endpoint: Endpoint) -> bytes:
    """`report_oru` without the database."""
    settings: Mapping[str, Any] = endpoint.capabilities or {}
    charset = str(settings.get("charset") or "UNICODE UTF-8")
    try:
        message = _valid(facts, endpoint, charset)
    except PermanentError:
        raise
    except Exception as error:  # hl7apy's messages quote the value, which may be a name
        raise PermanentError(f"the report does not make a valid ORU^R01 ({type(error).__name__})") from None
    text = message.to_er7().rstrip("\r") + "\r"
    head, place, tail = text.rpartition(_PDF_PLACE)
    if not place:
        raise PermanentError("the ORU^R01 has no place for the PDF")
    text = f"{head}{base64.b64encode(facts.pdf).decode('ascii')}{tail}"
    return encode_message(text, charset)


def _valid(facts: DisclosedReport, endpoint: Endpoint, charset: str) -> Hl7apyMessage:
    """The message with all that the order came with; without visit, account and provider where the sender's own fields do not
    hold what the standard's tables allow: the report goes out all the same."""
    try:
        message = _build(facts, endpoint, charset, with_visit=True)
        message.validate()
    except PermanentError:
        raise
    except Exception as error:
        logger.warning("report %s: visit and provider are not valid as sent: %s", facts.report_id, type(error).__name__)
        message = _build(facts, endpoint, charset, with_visit=False)
        message.validate()
    return message


def performed_at(facts: DisclosedReport) -> str:
    """Of a day there is no time (DTM of eight digits)."""
    return local(facts.performed_at).strftime("%Y%m%d") if facts.performed_on_day else timestamp(facts.performed_at)


def timestamp(moment: datetime) -> str:
    return local(moment).strftime("%Y%m%d%H%M%S%z")


def _build(facts: DisclosedReport, endpoint: Endpoint, charset: str, *, with_visit: bool) -> Hl7apyMessage:
    echo = facts.order.echo if facts.order else {}
    message = Hl7apyMessage("ORU_R01", version="2.5.1", validation_level=VALIDATION_LEVEL.STRICT)
    write_header(message.msh, facts, endpoint, charset, "ORU^R01^ORU_R01")
    result = message.add_group("ORU_R01_PATIENT_RESULT")
    patient = result.add_group("ORU_R01_PATIENT")
    pid = patient.add_segment("PID")
    write_pid(pid, facts, echo)
    if with_visit and echo.get("PID-18"):
        write_returned(pid, 18, echo)
    if with_visit and echo.get("PV1-19"):
        pv1 = patient.add_group("ORU_R01_VISIT").add_segment("PV1")
        pv1.pv1_2 = "U"
        for number in (2, 3, 7, 8, 19):
            write_returned(pv1, number, echo)
    order = result.add_group("ORU_R01_ORDER_OBSERVATION")
    placer, filler = order_numbers(facts, echo)
    orc = order.add_segment("ORC")
    orc.orc_1 = "RE"
    if placer:
        orc.orc_2 = placer
    orc.orc_3 = filler
    obr = order.add_segment("OBR")
    _obr(obr, facts, echo, placer, filler)
    if with_visit:
        for segment, number in ((orc, 12), (orc, 21), (obr, 16)):
            write_returned(segment, number, echo)
        reason = echo.get("OBR-31") or echo.get("DG1-3")
        if reason:
            write_repeated(obr, 31, reason)
    status = _STATUS[facts.status]
    for number, row in enumerate(_rows(facts), start=1):
        group = order.add_group("ORU_R01_OBSERVATION")
        # X: results cannot be obtained for this observation (table 0085).
        fields = {
            1: str(number),
            2: row.kind,
            3: row.code,
            4: escape(row.sub_id),
            5: row.value,
            6: row.unit,
            11: "X" if row.absent else status,
            14: performed_at(facts),
        }
        line = "|".join(["OBX", *(fields.get(position, "") for position in range(1, 15))])
        # OBX-5 has the type that OBX-2 names; hl7apy knows that only of a segment it has parsed.
        group.add(parse_segment(line, version="2.5.1", validation_level=VALIDATION_LEVEL.STRICT))
        if row.absent:
            note = group.add_segment("NTE")
            note.nte_1 = "1"
            note.nte_3 = escape(row.absent)
    return message


def write_header(msh: Any, facts: DisclosedReport, endpoint: Endpoint, charset: str, message_type: str) -> None:
    """MSH of a message about ``facts``: the receiver as configured, else the sender of the order."""
    settings: Mapping[str, Any] = endpoint.capabilities or {}
    echo = facts.order.echo if facts.order else {}
    msh.msh_3 = escape(str(settings.get("sending_application") or "ONCOFLOW"))
    msh.msh_4 = escape(str(settings.get("sending_facility") or facts.authority))
    receiver = [
        escape(str(settings[name])) if settings.get(name) else echo.get(field, "")
        for name, field in (("receiving_application", "MSH-3"), ("receiving_facility", "MSH-4"))
    ]
    if receiver[0]:
        msh.msh_5 = receiver[0]
    if receiver[1]:
        msh.msh_6 = receiver[1]
    msh.msh_7 = timestamp(facts.issued_at)
    msh.msh_9 = message_type
    msh.msh_10 = control_id(facts.version_id, str(endpoint.id))
    msh.msh_11 = str(settings.get("processing_id") or "P")
    msh.msh_12 = "2.5.1"
    msh.msh_18 = charset


def encode_message(text: str, charset: str) -> bytes:
    """The message in the character set of MSH-18. A letter that the set lacks is written by its base letter, never by ``?``.

    Raises `PermanentError` for text that cannot be written so: the endpoint needs UTF-8.
    """
    codec = charset_codec(charset) or "ascii"
    try:
        return text.encode(codec)
    except UnicodeEncodeError:
        pass
    written = []
    for letter in text:
        try:
            letter.encode(codec)
            written.append(letter)
        except UnicodeEncodeError:
            decomposed = unicodedata.normalize("NFKD", letter)
            base = _BASE_LETTERS.get(letter) or "".join(one for one in decomposed if not unicodedata.combining(one))
            written.append(base)
    try:
        return "".join(written).encode(codec)
    except UnicodeEncodeError:
        raise PermanentError(f"the report has letters that {charset} lacks: the endpoint needs UTF-8") from None


def write_repeated(segment: Any, number: int, text: str) -> None:
    """Set a field that may repeat: hl7apy takes a ``~`` for a character of the first repetition."""
    name = f"{segment.name.lower()}_{number}"
    first, *others = text.split("~")
    setattr(segment, name, first)
    for one in others:
        segment.add_field(name).value = one


def write_returned(segment: Any, number: int, echo: Mapping[str, str]) -> None:
    """Set a field as the order had it; one that does not hold what the standard's tables allow is left out by itself."""
    value = echo.get(f"{segment.name}-{number}")
    if not value:
        return
    try:
        write_repeated(segment, number, value)
    except Exception as error:  # hl7apy raises many types, and quotes the value
        logger.warning("%s-%d is not returned: not valid as sent (%s)", segment.name, number, type(error).__name__)


def write_pid(pid: Any, facts: DisclosedReport, echo: Mapping[str, str]) -> None:
    identity = facts.identity
    numbers = sorted(
        identity.identifiers, key=lambda one: (one.use == "old", one.kind != "MR", one.authority != facts.authority)
    )
    own = "~".join(f"{escape(one.value)}^^^{escape(one.authority)}^{escape(one.kind)}" for one in numbers)
    pid.pid_1 = "1"
    # As the order had them, unless the record was merged since: then under the numbers that are in force.
    current = {one.value for one in numbers if one.use != "old"}
    sent = echo.get("PID-3", "")
    in_force = any(repetition.split("^")[0] in current for repetition in sent.split("~"))
    write_repeated(pid, 3, (sent if in_force or not own else own) or f"{facts.pseudonym}^^^ONCOFLOW^PI")
    pid.pid_5 = f"{escape(identity.family)}^{escape(identity.given)}".rstrip("^") or "^"
    if identity.birth_date:
        pid.pid_7 = identity.birth_date.strftime("%Y%m%d")
    pid.pid_8 = identity.sex


def order_numbers(facts: DisclosedReport, echo: Mapping[str, str]) -> tuple[str, str]:
    """ORC-2/OBR-2 and ORC-3/OBR-3 exactly as the order had them; the filler number is our report's where it had none."""
    order = facts.order
    placer = echo.get("OBR-2") or echo.get("ORC-2", "")
    filler = echo.get("OBR-3") or echo.get("ORC-3", "")
    if order is not None:
        placer = placer or f"{escape(order.placer_number)}^{escape(order.placer_authority)}".rstrip("^")
        filler = filler or f"{escape(order.filler_number)}^{escape(order.filler_authority)}".rstrip("^")
    # EI of at most 22 characters in v2.5.1; the last 12 digits of the id are its random part.
    return placer, filler or f"{facts.report_id[-12:].upper()}^ONCOFLOW"


def _obr(obr: Any, facts: DisclosedReport, echo: Mapping[str, str], placer: str, filler: str) -> None:
    obr.obr_1 = "1"
    if placer:
        obr.obr_2 = placer
    obr.obr_3 = filler
    ordered = echo.get("OBR-4", "")
    if not ordered and facts.code[0]:
        ordered = f"{escape(facts.code[0])}^{escape(facts.code[1])}^L"
    parts = ordered.split("~")[0].split("^")
    done = "^".join((*procedure_loinc(facts.content.study), "LN"))
    if not ordered:
        obr.obr_4 = done
    elif len(parts) > 3 or is_loinc(parts[0]):
        obr.obr_4 = "^".join(parts[:6])
    else:
        obr.obr_4 = "^".join([*parts, "", ""][:3]) + f"^{done}"
    obr.obr_7 = performed_at(facts)
    if facts.order is not None and facts.order.accession:
        obr.obr_18 = echo.get("OBR-18") or escape(facts.order.accession)
    obr.obr_22 = timestamp(facts.issued_at)
    obr.obr_24 = "RAD"
    obr.obr_25 = _STATUS[facts.status]
    if facts.signer:
        # CNN: the national number with its authority, else the hospital's own number of the person, else the account.
        number = facts.signer_npi or facts.signer_employee_number or facts.signer[0]
        authority = "&&&&&&&NPI&2.16.840.1.113883.4.6&ISO" if facts.signer_npi else ""
        obr.obr_32 = f"{escape(number)}&{escape(facts.signer[1])}{authority}"


def _lines(text: str) -> str:
    """Text as repetitions of OBX-5, one a line; hl7apy's tables allow 199 characters each, counted with their escapes."""
    wrapped: list[str] = []
    for line in text.splitlines():
        width = 190
        parts = textwrap.wrap(line, width)
        while width > 20 and any(len(escape(part)) > 199 for part in parts):
            width //= 2
            parts = textwrap.wrap(line, width)
        wrapped += [escape(part) for part in parts]
    return "~".join(wrapped)


def _rows(facts: DisclosedReport) -> Iterator[_ObxRow]:
    content = facts.content
    regions, comparison = content.findings.regions, content.comparison
    for region, name in REGION_DISPLAY.items():
        measured = regions.get(region)
        reason = (measured.reason if measured else "") or NOT_ASSESSED
        volume = ml_value(measured.volume_mm3) if measured else None
        yield _number(f"{region}-volume^{name} volume^L", region, volume, "mL^mL^UCUM", reason)
        if region == "ET" or (measured is not None and measured.longest_axial_diameter_mm is not None):
            for mm, code in (
                (
                    measured.longest_axial_diameter_mm if measured else None,
                    "33728-7^Size.maximum dimension in Tumor^LN",
                ),
                (
                    measured.perpendicular_diameter_mm if measured else None,
                    "33729-5^Size additional dimension in Tumor^LN",
                ),
            ):
                yield _number(code, region, mm_value(mm), "mm^mm^UCUM", reason)
    if comparison is not None and comparison.prior_study_id:
        for region, name in REGION_DISPLAY.items():
            change = comparison.regions.get(region)
            yield _number(
                f"{region}-change^{name} change of volume since the prior study^L",
                region,
                percent_value(change.change_percent) if change else None,
                "%^%^UCUM",
                (change.reason if change else "") or NOT_ASSESSED,
            )
    for lesion in content.findings.lesions:
        for region, mm3 in lesion.regions.items():
            absent = reason_not_assessed(regions.get(region))
            if mm3 is not None or absent:
                code = f"lesion-{region}-volume^{REGION_DISPLAY[region]} volume of the lesion^L"
                yield _number(code, lesion.id, ml_value(mm3), "mL^mL^UCUM", absent)
        yield _ObxRow("ST", "lesion-status^Status of the lesion^L", lesion.id, escape(lesion.status))
    yield _response(comparison.response if comparison else None)
    warning = ["DEMO: simulated patient, models trained on simulated patients."] if facts.demo else []
    if facts.status == "preliminary":
        warning.append("PRELIMINARY: made by models, not read by a radiologist.")
    text = _lines("\n".join([*warning, content.impression]))
    yield _ObxRow("TX", "19005-8^Radiology Imaging study [Impression]^LN", "", text)
    narrative = [*(one.text for one in content.narrative), content.disclaimer]
    yield _ObxRow("TX", "18782-3^Radiology Study observation^LN", "", _lines("\n".join(narrative)))
    yield _ObxRow("ED", "68604-8^Radiology Diagnostic study note^LN", "", f"ONCOFLOW^AP^PDF^Base64^{_PDF_PLACE}")


def _number(code: str, sub_id: str, value: float | None, unit: str, reason: str) -> _ObxRow:
    if value is None:
        return _ObxRow("NM", code, sub_id, "", unit, reason or NOT_ASSESSED)
    return _ObxRow("NM", code, sub_id, f"{value:.3f}".rstrip("0").rstrip(".") if value else "0", unit)


def _response(response: Response | None) -> _ObxRow:
    code = "97509-4^Cancer disease progression^LN"
    if response is None or not response.assessed:
        return _ObxRow("CE", code, "", "", "", (response.reason if response else "") or NOT_ASSESSED)
    return _ObxRow("CE", code, "", f"RANO-{response.category}^{RESPONSE_DISPLAY[response.category]} (imaging only)^L")
