"""A small receiving EMR for the demo.

``python -m oncoflow_site.demo.emr --http-port P --mllp-port P --store DIR --token T``, a process of its own that shares
no code with the service: FHIR R4 over HTTP (transaction, create, update, read, history, search by identifier) and an
MLLP receiver. It keeps every version it gets in DIR and reads them again when it starts. ``POST /control`` with
``{"fhir": "refuse"}`` answers the next FHIR write with 503, ``{"fhir": "swallow"}`` stores the next one and breaks the
connection without an answer; ``"mllp"`` takes the same two words (AE, or stored without an ACK). ``GET /control`` says
what it holds and what it was sent. Both need the token.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import hmac
import json
import os
import re
import signal
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Emr", "FhirError", "FhirStore", "main"]

Resource = dict[str, Any]
MAX_BODY = 128 << 20


class FhirError(Exception):
    """Answered as an OperationOutcome. :param status: HTTP status. :param code: FHIR issue-type."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


def _write_new(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(path)


def _bare(resource: Resource) -> Resource:
    """The resource without what the server itself maintains."""
    plain = copy.deepcopy(resource)
    meta = plain.get("meta", {})
    meta.pop("versionId", None)
    meta.pop("lastUpdated", None)
    if not meta:
        plain.pop("meta", None)
    return plain


def _identifiers(resource: Resource) -> set[tuple[str, str]]:
    found = resource.get("identifier", [])
    found = found if isinstance(found, list) else [found]
    if isinstance(resource.get("masterIdentifier"), dict):
        found = [*found, resource["masterIdentifier"]]
    return {(str(one.get("system", "")), str(one.get("value", ""))) for one in found if isinstance(one, dict)}


class FhirStore:
    """Resources by type and id, each a list of versions. A PUT of the very same content makes no version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.resources: dict[str, dict[str, list[Resource]]] = {}
        for path in sorted(folder.glob("*/*/*.json"), key=lambda one: (one.parent, int(one.stem))):
            resource = json.loads(path.read_bytes())
            self.resources.setdefault(resource["resourceType"], {}).setdefault(resource["id"], []).append(resource)

    def read(self, kind: str, logical_id: str) -> Resource:
        """The current version; raises `FhirError` 404."""
        versions = self.resources.get(kind, {}).get(logical_id)
        if not versions:
            raise FhirError(404, "not-found", f"There is no {kind} of that id.")
        return versions[-1]

    def search(self, kind: str, query: dict[str, list[str]]) -> list[Resource]:
        """Current versions that have every ``identifier`` (``system|value`` or value) and ``_id`` asked for."""
        found = []
        for logical_id, versions in self.resources.get(kind, {}).items():
            current = versions[-1]
            wanted = query.get("identifier", [])
            have = _identifiers(current)
            if all(any(self._token(token, one) for one in have) for token in wanted):
                if logical_id in query.get("_id", [logical_id]):
                    found.append(current)
        return found

    @staticmethod
    def _token(token: str, have: tuple[str, str]) -> bool:
        system, bar, value = token.rpartition("|")
        return have[1] == value and (not bar or have[0] == system)

    def transaction(self, bundle: Resource) -> Resource:
        """All entries or none (FHIR R4 http, section 3.1.0.11). Answers a transaction-response."""
        entries = bundle.get("entry")
        if (
            bundle.get("resourceType") != "Bundle"
            or bundle.get("type") != "transaction"
            or not isinstance(entries, list)
        ):
            raise FhirError(400, "invalid", "A Bundle of type transaction is expected.")
        plan: list[tuple[str, str, str, Resource]] = []
        rewrite: dict[str, str] = {}
        for entry in entries:
            request, resource = entry.get("request", {}), entry.get("resource", {})
            action, kind, logical_id = self._plan(request, resource)
            plan.append((action, kind, logical_id, resource))
            if entry.get("fullUrl"):
                rewrite[entry["fullUrl"]] = f"{kind}/{logical_id}"
        written: list[Resource] = []
        answers = []
        pending = {(kind, logical_id) for _, kind, logical_id, _ in plan}
        for action, kind, logical_id, resource in plan:
            if action == "keep":
                current = self.read(kind, logical_id)
                answers.append(self._answer("200 OK", current))
                continue
            rewritten = self._rewrite(resource, rewrite)
            self._check_references(rewritten, pending)
            version, fresh = self._next(kind, logical_id, rewritten)
            created = fresh and version["meta"]["versionId"] == "1"
            answers.append(self._answer("201 Created" if created else "200 OK", version))
            if fresh:
                written.append(version)
        for version in written:
            self._keep(version)
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": answers}

    def _plan(self, request: Resource, resource: Resource) -> tuple[str, str, str]:
        method, url = str(request.get("method", "")), str(request.get("url", ""))
        kind = str(resource.get("resourceType", ""))
        path, _, query = url.partition("?")
        parts = path.split("/")
        if not re.fullmatch(r"[A-Z][A-Za-z]{1,60}", kind) or parts[0] != kind or method not in ("POST", "PUT"):
            raise FhirError(400, "invalid", "An entry's request does not fit its resource.")
        condition = request.get("ifNoneExist", "") if method == "POST" else query
        if condition:
            matches = self.search(kind, parse_qs(condition))
            if len(matches) > 1:
                raise FhirError(412, "multiple-matches", f"Several {kind} resources match the condition.")
            if matches:
                return ("keep" if method == "POST" else "put"), kind, matches[0]["id"]
            return "put", kind, str(uuid.uuid4())
        if method == "PUT":
            if (
                len(parts) != 2
                or parts[1] != resource.get("id")
                or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.\-]{0,63}", parts[1])
            ):
                raise FhirError(400, "invalid", "The id in the address is not the resource's.")
            return "put", kind, parts[1]
        return "put", kind, str(uuid.uuid4())

    def _rewrite(self, value: Any, rewrite: dict[str, str]) -> Any:
        if isinstance(value, dict):
            return {
                key: rewrite.get(one, one)
                if key in ("reference", "url") and isinstance(one, str)
                else self._rewrite(one, rewrite)
                for key, one in value.items()
            }
        if isinstance(value, list):
            return [self._rewrite(one, rewrite) for one in value]
        return value

    def _check_references(self, value: Any, pending: set[tuple[str, str]]) -> None:
        if isinstance(value, dict):
            reference = value.get("reference")
            if isinstance(reference, str):
                match = re.fullmatch(r"([A-Z][A-Za-z]+)/([A-Za-z0-9.\-]{1,64})", reference)
                if not match:
                    raise FhirError(422, "invalid", "A reference cannot be resolved.")
                if match.groups() not in pending and match.group(2) not in self.resources.get(match.group(1), {}):
                    raise FhirError(422, "not-found", f"A reference to {match.group(1)} leads nowhere.")
            for one in value.values():
                self._check_references(one, pending)
        elif isinstance(value, list):
            for one in value:
                self._check_references(one, pending)

    def _next(self, kind: str, logical_id: str, resource: Resource) -> tuple[Resource, bool]:
        versions = self.resources.get(kind, {}).get(logical_id, [])
        fresh = {**resource, "id": logical_id}
        if versions and _bare(versions[-1]) == _bare(fresh):
            return versions[-1], False
        meta = {
            **fresh.get("meta", {}),
            "versionId": str(len(versions) + 1),
            "lastUpdated": datetime.now(UTC).isoformat(),
        }
        return {**fresh, "meta": meta}, True

    def _keep(self, version: Resource) -> None:
        kind, logical_id, number = version["resourceType"], version["id"], version["meta"]["versionId"]
        _write_new(self.folder / kind / logical_id / f"{number}.json", json.dumps(version).encode())
        self.resources.setdefault(kind, {}).setdefault(logical_id, []).append(version)

    @staticmethod
    def _answer(status: str, resource: Resource) -> Resource:
        version = resource["meta"]["versionId"]
        location = f"{resource['resourceType']}/{resource['id']}/_history/{version}"
        response = {"status": status, "location": location, "etag": f'W/"{version}"'}
        return {"response": response | {"lastModified": resource["meta"]["lastUpdated"]}}


@dataclass
class Emr:
    """Both receivers over one folder."""

    folder: Path
    token: str
    store: FhirStore = field(init=False)
    orders: dict[str, str] = field(default_factory=lambda: {"fhir": "", "mllp": ""})
    log: list[dict[str, Any]] = field(default_factory=list)
    messages: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = FhirStore(self.folder / "fhir")
        for path in sorted((self.folder / "hl7").glob("*.hl7")):
            self.messages[path.stem.partition("-")[2]] = path

    def _ordered(self, door: str) -> str:
        word, self.orders[door] = self.orders[door], ""
        return word

    # --- FHIR over HTTP -----------------------------------------------------------------------------------------------

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer, closed."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            async with asyncio.timeout(120):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *rows = head.split("\r\n")
                method, target, _ = (*line.split(" "), "", "")[:3]
                headers = {
                    name.strip().lower(): value.strip() for name, _, value in (row.partition(":") for row in rows)
                }
                length = int(headers.get("content-length") or 0)
                if length > MAX_BODY:
                    await self._send(writer, 413, self._outcome(FhirError(413, "too-long", "The body is too large.")))
                    return
                body = await reader.readexactly(length)
                await self._respond(writer, method, target, headers, body)
        writer.close()

    async def _respond(
        self, writer: asyncio.StreamWriter, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> None:
        split = urlsplit(target)
        path, query = split.path.strip("/"), parse_qs(split.query)
        entry: dict[str, Any] = {"door": "fhir", "method": method, "path": split.path, "bytes": len(body)}
        self.log.append(entry)
        try:
            given = headers.get("authorization", "").encode()
            if path != "fhir/metadata" and not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                raise FhirError(401, "login", "A bearer token is required.")
            if path == "control":
                status, answer = self._control(method, body)
            elif path.split("/")[0] == "fhir":
                word = self._ordered("fhir") if method in ("POST", "PUT") else ""
                if word == "refuse":
                    raise FhirError(503, "transient", "Refused on command.")
                status, answer = self._fhir(method, path.split("/")[1:], query, body)
                if word == "swallow":
                    entry["status"] = "stored, not answered"
                    writer.transport.abort()
                    return
            else:
                raise FhirError(404, "not-found", "There is nothing here.")
        except FhirError as error:
            status, answer = error.status, self._outcome(error)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            status, answer = 400, self._outcome(FhirError(400, "structure", "The body cannot be read."))
        entry["status"] = status
        await self._send(writer, status, answer)

    def _fhir(self, method: str, path: list[str], query: dict[str, list[str]], body: bytes) -> tuple[int, Resource]:
        if method == "POST" and not path:
            return 200, self.store.transaction(json.loads(body))
        if method == "POST" and len(path) == 1:
            resource = json.loads(body)
            bundle = {"resourceType": "Bundle", "type": "transaction"}
            entry = {"resource": resource, "request": {"method": "POST", "url": path[0]}}
            answer = self.store.transaction({**bundle, "entry": [entry]})["entry"][0]["response"]
            return 201, self.store.read(*answer["location"].split("/")[:2])
        if method != "GET":
            raise FhirError(405, "not-supported", "This interaction is not offered.")
        if path == ["metadata"]:
            return 200, _capabilities()
        if len(path) == 2:
            return 200, self.store.read(path[0], path[1])
        if len(path) == 3 and path[2] == "_history":
            self.store.read(path[0], path[1])
            return 200, _bundle("history", list(reversed(self.store.resources[path[0]][path[1]])))
        if len(path) == 1:
            return 200, _bundle("searchset", self.store.search(path[0], query))
        raise FhirError(404, "not-found", "There is nothing here.")

    def _control(self, method: str, body: bytes) -> tuple[int, Resource]:
        if method == "POST":
            wanted = json.loads(body)
            for door, word in wanted.items():
                if door not in self.orders or word not in ("", "refuse", "swallow"):
                    raise FhirError(400, "value", "fhir and mllp take refuse or swallow.")
                self.orders[door] = word
        held = {
            kind: {logical_id: len(versions) for logical_id, versions in rows.items()}
            for kind, rows in self.store.resources.items()
        }
        return 200, {
            "orders": self.orders,
            "fhir": held,
            "hl7": [path.name for path in self.messages.values()],
            "log": self.log,
        }

    @staticmethod
    def _outcome(error: FhirError) -> Resource:
        issue = {"severity": "error", "code": error.code, "diagnostics": str(error)}
        return {"resourceType": "OperationOutcome", "issue": [issue]}

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, status: int, answer: Resource) -> None:
        body = json.dumps(answer).encode()
        rows = ("Content-Type: application/fhir+json", f"Content-Length: {len(body)}", "Connection: close", "", "")
        head = "\r\n".join((f"HTTP/1.1 {status} -", *rows))
        writer.write(head.encode() + body)
        await writer.drain()

    # --- HL7 v2 over MLLP ---------------------------------------------------------------------------------------------

    async def mllp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Store each message once (by MSH-10), then acknowledge it."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                framed = await reader.readuntil(b"\x1c\r")
                message = framed[framed.find(b"\x0b") + 1 : -2]
                word = self._ordered("mllp")
                entry: dict[str, Any] = {
                    "door": "mllp",
                    "bytes": len(message),
                    "status": "AE" if word == "refuse" else "AA",
                }
                self.log.append(entry)
                fields = message.split(b"\r", 1)[0].decode("latin-1").split("|")
                control_id = fields[9] if len(fields) > 11 else ""
                entry["control_id"] = control_id
                if word != "refuse":
                    self._store_message(control_id, message)
                if word == "swallow":
                    entry["status"] = "stored, not answered"
                    writer.transport.abort()
                    return
                writer.write(b"\x0b" + self._ack(fields, entry["status"]) + b"\x1c\r")
                await writer.drain()
        writer.close()

    def _store_message(self, control_id: str, message: bytes) -> None:
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", control_id)[:60] or "none"
        if safe in self.messages:
            return
        path = self.folder / "hl7" / f"{len(self.messages) + 1:06d}-{safe}.hl7"
        _write_new(path, message)
        self.messages[safe] = path

    @staticmethod
    def _ack(fields: list[str], code: str) -> bytes:
        fields = fields + [""] * 20
        moment = datetime.now(UTC).strftime("%Y%m%d%H%M%S+0000")
        trigger = fields[8].split("^")[1] if "^" in fields[8] else ""
        header = ["MSH", "^~\\&", *fields[4:6], *fields[2:4], moment, "", f"ACK^{trigger}^ACK", uuid.uuid4().hex[:20]]
        return ("|".join([*header, fields[10], fields[11]]) + f"\rMSA|{code}|{fields[9]}\r").encode(
            "latin-1", "replace"
        )


def _bundle(kind: str, resources: list[Resource]) -> Resource:
    entries = [{"fullUrl": f"{one['resourceType']}/{one['id']}", "resource": one} for one in resources]
    return {"resourceType": "Bundle", "type": kind, "total": len(entries), "entry": entries}


def _capabilities() -> Resource:
    rest = {"mode": "server", "interaction": [{"code": "transaction"}]}
    fixed = {"status": "active", "date": "2026-11-21", "kind": "instance", "fhirVersion": "4.0.1", "format": ["json"]}
    return {"resourceType": "CapabilityStatement", **fixed, "rest": [rest]}


async def _serve(
    emr: Emr, http: tuple[str, int], mllp: tuple[str, int], ready: Callable[[int, int], Awaitable[None]]
) -> None:
    first = await asyncio.start_server(emr.http, *http, limit=1 << 20)
    second = await asyncio.start_server(emr.mllp, *mllp, limit=MAX_BODY)
    await ready(first.sockets[0].getsockname()[1], second.sockets[0].getsockname()[1])
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    first.close()
    second.close()


def main(argv: list[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT; prints ``ready http PORT mllp PORT`` when both doors are open."""
    parser = argparse.ArgumentParser(description="A small receiving EMR for the demo.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--mllp-port", type=int, default=0)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument(
        "--token", default=os.environ.get("EMR_TOKEN", ""), help="or the environment variable EMR_TOKEN"
    )
    options = parser.parse_args(argv)
    if not options.token:
        parser.error("a token is required: --token or EMR_TOKEN")
    options.store.mkdir(parents=True, exist_ok=True)

    async def ready(http_port: int, mllp_port: int) -> None:
        print(f"ready http {http_port} mllp {mllp_port}", flush=True)

    emr = Emr(options.store, options.token)
    asyncio.run(_serve(emr, (options.host, options.http_port), (options.host, options.mllp_port), ready))


if __name__ == "__main__":
    main()
