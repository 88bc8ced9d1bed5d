"""The two ways out: a FHIR transaction over HTTP, and HL7 v2 over MLLP. Both are driven by the outbox.

What a peer says about a failure is kept as codes only: its free text may quote the patient.
"""

from __future__ import annotations

import json
import re
import ssl
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from fhir_api.hl7v2.ack import read_ack
from fhir_api.hl7v2.er7 import Er7Error, parse, read_header
from fhir_api.hl7v2.mllp import Verdict, connect, exchange
from fhir_api.models import Endpoint, Transport
from fhir_api.r4.resources.resource import Resource, elements
from oncoflow_site.foundation import keys
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import EndpointError, EngineError, PermanentError, TransientError
from oncoflow_site.foundation.models import Delivery
from oncoflow_site.foundation.outbox import DeliveryResult, register_transport

__all__ = ["CREDENTIAL", "check_endpoint", "register", "send_fhir", "send_mllp", "split_address"]

CREDENTIAL = "fhir_api.Endpoint.credential"  # context of the encrypted bearer token
_PASSING = frozenset({408, 409, 423, 425})
_NOT_LET_IN = frozenset({401, 403, 404, 407})  # the credential or the base URL is wrong, whatever is sent
_AWAY = frozenset({429, 502, 503, 504})  # busy, or a gateway in front of nobody
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
        raise EndpointError("The endpoint is switched off.", code="off", alarm=False)
    return endpoint


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    capabilities = endpoint.capabilities or {}
    try:
        context = ssl.create_default_context(cafile=capabilities.get("ca") or None)
        if capabilities.get("client_cert"):
            context.load_cert_chain(capabilities["client_cert"], capabilities.get("client_key") or None)
    except (OSError, ssl.SSLError):
        raise EndpointError("Our certificate or authority file cannot be read.", code="tls", passing=False) from None
    return context


def _timeout(endpoint: Endpoint) -> float:
    return min(max(float((endpoint.capabilities or {}).get("timeout_s") or 60.0), 1.0), 240.0)


# --- FHIR -------------------------------------------------------------------------------------------------------------


def send_fhir(delivery: Delivery, payload: bytes) -> DeliveryResult:
    """POST the transaction to the endpoint's base and check that every entry was taken.

    401, 403, 404, 429, 502 to 504, TLS faults and broken connections are the endpoint's (`EndpointError`). Other 4xx are
    final but for 408, 409, 423 and 425; other 5xx and time-outs are tried again: the transaction may then have been
    stored, which its fixed ids make harmless.
    """
    endpoint = _endpoint(delivery)
    headers = {
        "Content-Type": "application/fhir+json; charset=utf-8",
        "Prefer": "return=minimal",
        # HAPI FHIR: the tags of this version replace those of the last, so that a final report loses "AI asserted".
        "X-Meta-Snapshot-Mode": "TAG,SECURITY_LABEL",
        "X-Request-Id": delivery.request_id or str(delivery.id),
    }
    status, retry_after, body = _ask(endpoint, "POST", endpoint.address.rstrip("/"), headers, payload)
    if status == 200:
        _check_response(json.loads(payload), body)
        return DeliveryResult("200")
    raise _fault(status, retry_after, body)


def _ask(
    endpoint: Endpoint, method: str, url: str, headers: dict[str, str], payload: bytes | None = None
) -> tuple[int, float | None, bytes]:
    """One request with the endpoint's credential: status, Retry-After in seconds, body."""
    headers = {**headers, "Accept": "application/fhir+json", "User-Agent": "OncoFlow"}
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
            client.stream(method, url, content=payload, headers=headers) as response,
        ):
            body = _read(response)
            return response.status_code, _retry_after(response), body
    except httpx.InvalidURL:
        raise EndpointError("The endpoint's address is not a URL.", code="address", passing=False) from None
    except (httpx.ReadTimeout, httpx.WriteTimeout):
        raise TransientError("The FHIR endpoint did not answer in time.", code="timeout") from None
    except (httpx.TransportError, OSError) as error:
        tls = _is_tls_fault(error)
        text = f"No {'trusted TLS connection to' if tls else 'answer from'} the FHIR endpoint ({type(error).__name__})."
        raise EndpointError(text, code="tls" if tls else "connection", passing=not tls) from None


def _is_tls_fault(error: BaseException) -> bool:
    """Whether ``error`` comes from the TLS handshake; httpx says so only in what caused its error."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, ssl.SSLError):
            return True
        current = current.__cause__ or current.__context__
    return False


def _fault(status: int, retry_after: float | None, body: bytes) -> EngineError:
    """What an HTTP status other than 200 means for the delivery."""
    issues = _issue_codes(body)
    text = f"The FHIR endpoint answered {status}{f' ({issues})' if issues else ''}."
    if status in _NOT_LET_IN:
        return EndpointError(text, code=str(status), passing=False)
    if status in _AWAY:
        return EndpointError(text, retry_after=retry_after, code=str(status))
    if status in _PASSING or status >= 500:
        return TransientError(text, retry_after=retry_after, code=str(status))
    return PermanentError(text, code=str(status))


def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _MAX_ANSWER:
            raise TransientError("The FHIR endpoint's answer is too long.", code="too-long")
    return bytes(body)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of Retry-After, which is a number of them or an HTTP-date (RFC 9110, section 10.2.3)."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,6}", text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - now()).total_seconds())


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
    """A 200 counts only with one 2xx response an entry (FHIR R4 http, section 3.1.0.11.2).

    Anything else is final: the same transaction would be answered the same. An HTML page is what a proxy or a login
    answers, and a ``batch-response`` means that the entries were taken one by one, without regard to each other.
    """
    answer = _json(body)
    if not isinstance(answer, dict):
        raise PermanentError(
            "The FHIR endpoint answered 200 with something that is not FHIR JSON.", code="200-not-fhir"
        )
    kind = answer.get("type") if answer.get("resourceType", "Bundle") == "Bundle" else "no Bundle"
    if kind != "transaction-response":
        what = kind if kind in ("batch-response", "no Bundle") else "another Bundle"
        raise PermanentError(
            f"The FHIR endpoint answered 200 with {what}, not a transaction-response.", code="200-other"
        )
    entries = answer.get("entry")
    if not isinstance(entries, list) or len(entries) != len(elements(sent["entry"])):
        raise PermanentError("The FHIR endpoint's answer has not one entry for each that was sent.", code="200-entries")
    for number, entry in enumerate(entries, start=1):
        response = entry.get("response") if isinstance(entry, dict) else None
        status = str(response.get("status", "")) if isinstance(response, dict) else ""
        if status.startswith("2"):
            continue
        text = f"The FHIR endpoint did not take entry {number} of {len(entries)}"
        code = status[:3] if re.fullmatch(r"\d{3}.*", status) else ""
        if code.startswith("5"):
            raise TransientError(f"{text}: {code}.", code=code)
        raise PermanentError(f"{text}: {code or 'no status'}.", code=code or "200-entry")


# --- HL7 v2 -----------------------------------------------------------------------------------------------------------


def send_mllp(delivery: Delivery, payload: bytes) -> DeliveryResult:
    """Send the message and wait for the acknowledgement that names its MSH-10.

    AA: taken. CA: stored; an application acknowledgement that follows it on the same connection counts. AE and CE are
    tried again, AR and CR are final (the receiver puts such a message aside).
    """
    endpoint = _endpoint(delivery)
    host, port = split_address(endpoint.address)
    try:
        wanted = read_header(payload).get(10)
    except Er7Error:
        raise PermanentError("The message to be sent has no header.") from None

    def verdict(answer: bytes) -> Verdict:
        try:
            ack = read_ack(parse(answer).segments)
        except Er7Error:
            return Verdict.NOT_OURS
        if ack.control_id != wanted:
            return Verdict.NOT_OURS
        return Verdict.MORE_MAY_FOLLOW if ack.code == "CA" else Verdict.LAST

    settings = endpoint.capabilities or {}
    tls = _tls(endpoint) if settings.get("tls") else None
    after_accept = min(max(float(settings.get("application_ack_s") or 2.0), 0.0), 120.0)
    answer = exchange(host, port, payload, verdict, timeout_s=_timeout(endpoint), more_s=after_accept, tls=tls)
    ack = read_ack(parse(answer).segments)
    text = f"The receiver answered {ack.code[:2]}{f' ({ack.text})' if ack.text else ''}."
    if ack.code in ("AA", "CA"):
        return DeliveryResult(ack.code)
    if ack.code in ("AR", "CR"):
        raise PermanentError(text, code=ack.code)
    raise TransientError(text, code=ack.code[:2])


# --- is it there? -----------------------------------------------------------------------------------------------------


def check_endpoint(endpoint: Endpoint) -> None:
    """Ask the endpoint whether it is there and lets us in, without sending a report: its CapabilityStatement, or a TCP (and
    TLS) connection for HL7 v2. Raises `EndpointError`, or `TransientError` where it answers that it cannot."""
    if endpoint.transport == Transport.FHIR:
        status, retry_after, body = _ask(endpoint, "GET", f"{endpoint.address.rstrip('/')}/metadata", {})
        if status != 200:
            raise _fault(status, retry_after, body)
        answer = _json(body)
        if not isinstance(answer, dict) or answer.get("resourceType") != "CapabilityStatement":
            raise EndpointError(
                "No FHIR server answers there: its metadata is not FHIR.", code="metadata", passing=False
            )
        return
    host, port = split_address(endpoint.address)
    tls = _tls(endpoint) if (endpoint.capabilities or {}).get("tls") else None
    connect(host, port, timeout_s=min(10.0, _timeout(endpoint)), tls=tls)
