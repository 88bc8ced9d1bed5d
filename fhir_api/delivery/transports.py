"""The two ways out: a FHIR transaction over HTTP, and HL7 v2 over MLLP. Both are driven by the outbox.

What a peer says about a failure is kept as codes only: its free text may quote the patient.
"""

from __future__ import annotations

import json
import re
import ssl
from typing import Any

import httpx

from fhir_api.hl7v2.ack import read_ack
from fhir_api.hl7v2.er7 import Er7Error, parse, read_header
from fhir_api.hl7v2.mllp import exchange
from fhir_api.models import Endpoint
from fhir_api.r4.resources.resource import Resource
from oncoflow_site.foundation import keys
from oncoflow_site.foundation.errors import PermanentError, TransientError
from oncoflow_site.foundation.models import Delivery
from oncoflow_site.foundation.outbox import DeliveryResult, register_transport

__all__ = ["CREDENTIAL", "register", "send_fhir", "send_mllp", "split_address"]

CREDENTIAL = "fhir_api.Endpoint.credential"  # context of the encrypted bearer token
_PASSING = frozenset({408, 409, 423, 425, 429})
_MAX_ANSWER = 16 << 20


def register() -> None:
    """Tell the outbox."""
    register_transport("fhir", send_fhir)
    register_transport("mllp", send_mllp)


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port``. Raises `PermanentError`."""
    match = re.fullmatch(r"\[?([0-9A-Za-z.:_\-]+?)\]?:(\d{1,5})", address.strip())
    if not match or not 0 < int(match.group(2)) < 65536:
        raise PermanentError("The endpoint's address is not host:port.")
    return match.group(1), int(match.group(2))


def _endpoint(delivery: Delivery) -> Endpoint:
    endpoint = Endpoint.objects.filter(name=delivery.endpoint).first()
    if endpoint is None:
        raise PermanentError("There is no endpoint of this name any more.")
    if not endpoint.active:
        raise TransientError("The endpoint is switched off.", retry_after=300)
    return endpoint


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    capabilities = endpoint.capabilities or {}
    context = ssl.create_default_context(cafile=capabilities.get("ca") or None)
    if capabilities.get("client_cert"):
        context.load_cert_chain(capabilities["client_cert"], capabilities.get("client_key") or None)
    return context


def _timeout(endpoint: Endpoint) -> float:
    return min(max(float((endpoint.capabilities or {}).get("timeout_s") or 60.0), 1.0), 240.0)


# --- FHIR -------------------------------------------------------------------------------------------------------------


def send_fhir(delivery: Delivery, payload: bytes) -> DeliveryResult:
    """POST the transaction to the endpoint's base and check that every entry was taken.

    4xx is final but for 408, 409, 423, 425 and 429; 5xx, time-outs and broken connections are tried again: the transaction
    may then have been stored, which its fixed ids make harmless.
    """
    endpoint = _endpoint(delivery)
    headers = {
        "Content-Type": "application/fhir+json; charset=utf-8",
        "Accept": "application/fhir+json",
        "Prefer": "return=minimal",
        # HAPI FHIR: the tags of this version replace those of the last, so that a final report loses "AI asserted".
        "X-Meta-Snapshot-Mode": "TAG,SECURITY_LABEL",
        "X-Request-Id": delivery.request_id or str(delivery.id),
        "User-Agent": "OncoFlow",
    }
    if endpoint.credential:
        token = keys.decrypt(endpoint.key_subject, bytes(endpoint.credential), CREDENTIAL).decode()
        headers["Authorization"] = f"Bearer {token}"
    timeout = httpx.Timeout(_timeout(endpoint), connect=min(10.0, _timeout(endpoint)))
    secure = endpoint.address.lower().startswith("https:")
    try:
        with (
            httpx.Client(
                timeout=timeout, verify=_tls(endpoint) if secure else True, follow_redirects=False, trust_env=False
            ) as client,
            client.stream("POST", endpoint.address.rstrip("/"), content=payload, headers=headers) as response,
        ):
            body = _read(response)
            status, retry_after = response.status_code, _retry_after(response)
    except httpx.InvalidURL:
        raise PermanentError("The endpoint's address is not a URL.") from None
    except (httpx.TransportError, OSError) as error:
        raise TransientError(f"No answer from the FHIR endpoint ({type(error).__name__}).", code="connection") from None
    if status == 200:
        _check_response(json.loads(payload), body)
        return DeliveryResult("200")
    issues = _issue_codes(body)
    text = f"The FHIR endpoint answered {status}{f' ({issues})' if issues else ''}."
    if status in _PASSING or status >= 500:
        raise TransientError(text, retry_after=retry_after, code=str(status))
    raise PermanentError(text, code=str(status))


def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _MAX_ANSWER:
            raise TransientError("The FHIR endpoint's answer is too long.", code="too-long")
    return bytes(body)


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if re.fullmatch(r"\d{1,6}", text) else None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _issue_codes(body: bytes) -> str:
    outcome = _json(body)
    issues = outcome.get("issue") if isinstance(outcome, dict) else None
    found = [one.get("code") for one in issues if isinstance(one, dict)] if isinstance(issues, list) else []
    return ", ".join(
        dict.fromkeys(code for code in found if isinstance(code, str) and re.fullmatch(r"[a-z\-]{1,30}", code))
    )


def _check_response(sent: Resource, body: bytes) -> None:
    """A 200 counts only with one 2xx response an entry (FHIR R4 http, section 3.1.0.11.2)."""
    answer = _json(body)
    entries = answer.get("entry") if isinstance(answer, dict) and answer.get("type") == "transaction-response" else None
    if not isinstance(entries, list) or len(entries) != len(sent["entry"]):
        raise TransientError("The FHIR endpoint's answer is not that of a transaction.", code="bad-answer")
    for entry in entries:
        status = str((entry.get("response") or {}).get("status", "")) if isinstance(entry, dict) else ""
        if not status.startswith("2"):
            raise TransientError("The FHIR endpoint did not take every entry.", code=status[:3])


# --- HL7 v2 -----------------------------------------------------------------------------------------------------------


def send_mllp(delivery: Delivery, payload: bytes) -> DeliveryResult:
    """Send the message and wait for the acknowledgement that names its MSH-10.

    AA and CA: taken. AE and CE are tried again, AR and CR are final (the receiver puts such a message aside).
    """
    endpoint = _endpoint(delivery)
    host, port = split_address(endpoint.address)
    try:
        wanted = read_header(payload).get(10)
    except Er7Error:
        raise PermanentError("The message to be sent has no header.") from None

    def ours(answer: bytes) -> bool:
        try:
            return read_ack(parse(answer).segments).control_id == wanted
        except Er7Error:
            return False

    tls = _tls(endpoint) if (endpoint.capabilities or {}).get("tls") else None
    ack = read_ack(parse(exchange(host, port, payload, ours, timeout_s=_timeout(endpoint), tls=tls)).segments)
    text = f"The receiver answered {ack.code[:2]}{f' ({ack.text})' if ack.text else ''}."
    if ack.code in ("AA", "CA"):
        return DeliveryResult(ack.code)
    if ack.code in ("AR", "CR"):
        raise PermanentError(text, code=ack.code)
    raise TransientError(text, code=ack.code[:2])
