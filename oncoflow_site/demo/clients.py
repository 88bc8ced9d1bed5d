"""What the demo's EMR, scanner and people use to talk to the service: MLLP, FHIR, C-STORE and a browser's requests."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage, Verification  # type: ignore[attr-defined]

from oncoflow_site.demo.display import StepFailed
from oncoflow_site.foundation.schema import JsonDict

START, END = b"\x0b", b"\x1c\x0d"


class MllpSender:
    """One long-lived MLLP connection (HL7 v2 Transport: minimal lower layer protocol)."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=120)
        self._rest = b""

    def send(self, message: bytes) -> str:
        """Send one message and return its acknowledgement as text."""
        self._socket.sendall(START + message + END)
        while END not in self._rest:
            data = self._socket.recv(65536)
            if not data:
                raise StepFailed("The MLLP listener closed the connection without an acknowledgement.")
            self._rest += data
        frame, self._rest = self._rest.split(END, 1)
        return frame[frame.index(START) + 1 :].decode("utf-8")

    def close(self) -> None:
        self._socket.close()


def acknowledgement(ack: str) -> tuple[str, str]:
    """MSA-1 (code) and MSA-2 (the control id answered) of an acknowledgement."""
    msa = next((line.split("|") for line in ack.split("\r") if line.startswith("MSA|")), None)
    if msa is None or len(msa) < 3:
        raise StepFailed("The acknowledgement has no MSA segment.")
    return msa[1], msa[2]


def send_study(
    host: str, port: int, paths: Sequence[Path], *, calling: str, called: str, told: Callable[[int, int], None]
) -> int:
    """Send DICOM files by C-STORE over one association; returns how many were accepted.

    :raises StepFailed: no association, or a status other than success.
    """
    entity = AE(ae_title=calling)
    entity.dimse_timeout = entity.acse_timeout = entity.network_timeout = 180  # a busy laptop may take its time
    entity.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    entity.add_requested_context(Verification)
    association = entity.associate(host, port, ae_title=called)
    if not association.is_established:
        raise StepFailed("The DICOM listener refused the association.")
    try:
        echo = association.send_c_echo()
        if not echo or echo.Status != 0:
            raise StepFailed("C-ECHO was not answered with success.")
        for number, path in enumerate(paths, 1):
            status = association.send_c_store(dcmread(path))
            if not status or status.Status != 0:
                code = f"0x{status.Status:04X}" if status else "no answer"
                raise StepFailed(f"C-STORE of {path.name} was answered {code}.")
            told(number, len(paths))
    finally:
        association.release()
    return len(paths)


class Fhir:
    """A FHIR client with a bearer token."""

    def __init__(self, base: str, token: str) -> None:
        self._client = httpx.Client(
            base_url=base,
            headers={"Authorization": f"Bearer {token}", "Accept": "application/fhir+json"},
            timeout=60,
        )

    def create(self, resource: JsonDict) -> httpx.Response:
        return self._client.post(
            f"/{resource['resourceType']}", json=resource, headers={"Content-Type": "application/fhir+json"}
        )

    def get(self, path: str, **parameters: str) -> httpx.Response:
        return self._client.get(path, params=parameters)


class Person:
    """A person at a browser: signs in with the form, follows pages, keeps the cookies. No script runs."""

    def __init__(self, base: str, username: str, password: str) -> None:
        self._client = httpx.Client(base_url=base, timeout=120, follow_redirects=True)
        self.username = username
        answer = self.submit("/login/", {"username": username, "password": password}, page="/login/")
        if "/login/" in str(answer.url):
            raise StepFailed(f"{username} could not sign in.")

    def page(self, path: str) -> httpx.Response:
        return self._client.get(path)

    def submit(self, path: str, values: dict[str, str], *, page: str) -> httpx.Response:
        """Load ``page``, take its form token, and send a form with ``values`` to ``path``."""
        shown = self._client.get(page)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', shown.text)
        if token is None:
            raise StepFailed(f"The page {page} shows no form to {self.username} (status {shown.status_code}).")
        return self._client.post(
            path, data={"csrfmiddlewaretoken": token.group(1), **values}, headers={"Referer": str(shown.url)}
        )

    def json(self, path: str, **parameters: str) -> Any:
        """Body of a REST answer; raises `StepFailed` for anything but success."""
        answer = self._client.get(path, params=parameters)
        if answer.status_code != 200:
            raise StepFailed(f"GET {path} answered {answer.status_code} to {self.username}.")
        return answer.json()

    def bytes(self, path: str) -> bytes:
        answer = self._client.get(path)
        if answer.status_code != 200:
            raise StepFailed(f"GET {path} answered {answer.status_code} to {self.username}.")
        return answer.content
