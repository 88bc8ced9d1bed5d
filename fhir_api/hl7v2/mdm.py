"""A report version as a document: MDM^T02 for the first that is sent, T10 for one that replaces another, T11 to withdraw one
(HL7 v2.5.1, sections 9.6.2, 9.6.10, 9.6.11), built and strictly validated by hl7apy."""

from __future__ import annotations

import base64
import logging

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.core import Message as Hl7apyMessage
from hl7apy.parser import parse_segment

from fhir_api.hl7v2.er7 import escape
from fhir_api.hl7v2.oru import (
    control_id,
    encode_message,
    order_numbers,
    performed_at,
    timestamp,
    write_header,
    write_pid,
    write_returned,
)
from fhir_api.models import Endpoint
from fhir_api.report_out.disclosed_report import DisclosedReport
from oncoflow_site.foundation.errors import PermanentError

__all__ = ["build_mdm", "document_number"]

logger = logging.getLogger(__name__)

# hl7apy limits ED.5 to 199 characters; base64 holds no delimiter, so it goes in afterwards.
_PDF_PLACE = "PDF5f0c2b7e6d"


def document_number(report_id: str, number: int) -> str:
    """TXA-12 of version ``number``; EI has at most 30 characters there, and the last 12 digits of the id are its random part."""
    return f"{report_id[-12:].upper()}-{number}^ONCOFLOW"


def build_mdm(facts: DisclosedReport, endpoint: Endpoint, *, withdrawn: bool = False) -> bytes:
    """The message for ``endpoint``, without frame characters; the same bytes each time.

    Raises `PermanentError` for contents that do not make a valid message.
    """
    charset = str((endpoint.capabilities or {}).get("charset") or "UNICODE UTF-8")
    try:
        try:
            message = _build(facts, endpoint, charset, withdrawn=withdrawn, with_visit=True)
            message.validate()
        except PermanentError:
            raise
        except Exception as error:
            kind = type(error).__name__
            logger.warning("report %s: visit and provider are not valid as sent: %s", facts.report_id, kind)
            message = _build(facts, endpoint, charset, withdrawn=withdrawn, with_visit=False)
            message.validate()
    except PermanentError:
        raise
    except Exception as error:  # hl7apy's messages quote the value, which may be a name
        raise PermanentError(f"the report does not make a valid MDM message ({type(error).__name__})") from None
    text = message.to_er7().rstrip("\r") + "\r"
    if not withdrawn:
        head, place, tail = text.rpartition(_PDF_PLACE)
        if not place:
            raise PermanentError("the MDM message has no place for the PDF")
        text = f"{head}{base64.b64encode(facts.pdf).decode('ascii')}{tail}"
    return encode_message(text, charset)


def _build(
    facts: DisclosedReport, endpoint: Endpoint, charset: str, *, withdrawn: bool, with_visit: bool
) -> Hl7apyMessage:
    echo = facts.order.echo if facts.order else {}
    # Where only signed versions go, the first of them replaces nothing that is there.
    first = not facts.replaces_number or (facts.status == "final" and (endpoint.capabilities or {}).get("final_only"))
    trigger = "T11" if withdrawn else "T02" if first else "T10"
    structure = "MDM_T01" if withdrawn else "MDM_T02"
    message = Hl7apyMessage(structure, version="2.5.1", validation_level=VALIDATION_LEVEL.STRICT)
    write_header(message.msh, facts, endpoint, charset, f"MDM^{trigger}^{structure}")
    if withdrawn:
        # Another message about the same version.
        message.msh.msh_10 = control_id(facts.version_id, f"{endpoint.id}:withdrawn")
    evn = message.add_segment("EVN")
    evn.evn_1 = trigger
    evn.evn_2 = timestamp(facts.issued_at)
    pid = message.add_segment("PID")
    write_pid(pid, facts, echo)
    pv1 = message.add_segment("PV1")  # required here; U: the class of the visit is not known
    pv1.pv1_2 = "U"
    if with_visit:
        write_returned(pid, 18, echo)
        for number in (2, 3, 7, 8, 19):
            write_returned(pv1, number, echo)
    placer, filler = order_numbers(facts, echo)
    txa = message.add_segment("TXA")
    txa.txa_1 = "1"
    txa.txa_2 = "DI"  # diagnostic imaging (table 0270)
    txa.txa_3 = "AP"  # application data (table 0191)
    txa.txa_4 = performed_at(facts)
    txa.txa_6 = timestamp(facts.issued_at)
    txa.txa_12 = document_number(facts.report_id, facts.number)
    if trigger == "T10":
        txa.txa_13 = document_number(facts.report_id, facts.replaces_number)
    if placer:
        txa.txa_14 = placer
    txa.txa_15 = filler
    # Documented, or authenticated by a person's signature (table 0271).
    txa.txa_17 = "AU" if facts.signer else "DO"
    txa.txa_19 = "CA" if withdrawn else "AV"
    if facts.signer:
        person = facts.signer_npi or facts.signer_employee_number or facts.signer[0]
        txa.txa_22 = f"{escape(person)}^{escape(facts.signer[1])}{'^' * 13}{timestamp(facts.issued_at)}"
    if withdrawn:
        return message
    group = message.add_group("MDM_T02_OBXNTE_SUPPGRP")
    status = {"preliminary": "P", "final": "F", "amended": "C"}[facts.status]
    code = "68604-8^Radiology Diagnostic study note^LN"
    line = f"OBX|1|ED|{code}||ONCOFLOW^AP^PDF^Base64^{_PDF_PLACE}||||||{status}|||{performed_at(facts)}"
    group.add(parse_segment(line, version="2.5.1", validation_level=VALIDATION_LEVEL.STRICT))
    return message
