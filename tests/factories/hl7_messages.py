"""HL7 v2 messages as an EMR sends them, what an answer says, and a raw connection to send them by."""

from __future__ import annotations

import socket

from fhir_api.hl7v2.er7 import parse


def adt(control: str = "C1", *, event: str = "A04", mrn: str = "MRN1", family: str = "Beispiel", **more: str) -> bytes:
    """An ADT message of the peer EMR/HOSP."""
    fields = {"charset": "UNICODE UTF-8", "version": "2.5.1", "processing": "P", "mode": "|", "sep": "\r"} | more
    msh = f"MSH|^~\\&|EMR|HOSP|ONCOFLOW|RAD|20260301101500||ADT^{event}|{control}"
    msh += f"|{fields['processing']}|{fields['version']}"
    msh += f"||{fields['mode']}|||{fields['charset']}" if fields["mode"] != "|" else f"||||||{fields['charset']}"
    pid = f"PID|1||{mrn}^^^DEMOHOSP^MR||{family}^Anna^Maria^^^^L||19610430|F"
    codec = {"8859/1": "latin-1"}.get(fields["charset"], "utf-8")
    return fields["sep"].join([msh, f"EVN|{event}|20260301101500", pid, "PV1|1|O", ""]).encode(codec)


def omi(
    control: str = "O1", *, order: str = "P1", accession: str = "ACC1", code: str = "NW", mrn: str = "MRN1"
) -> bytes:
    """An OMI^O23 imaging order of the peer EMR/HOSP."""
    lines = [
        f"MSH|^~\\&|EMR|HOSP|ONCOFLOW|RAD|20260301101500||OMI^O23^OMI_O23|{control}|P|2.5.1||||||UNICODE UTF-8",
        f"PID|1||{mrn}^^^DEMOHOSP&1.2.3&ISO^MR||Beispiel^Anna||19610430|F",
        "PV1|1|O",
        f"ORC|{code}|{order}^EMR^1.2.9^ISO||||||||||D1^Muster^Eva",
        "TQ1|1||||||20260302||S^Stat^HL70485",
        f"OBR|1|{order}^EMR^1.2.9^ISO||MRBRAIN^MR Schädel^L^24587-8^MR Brain WO and W contrast IV^LN|||||||||||||"
        "||||||||||||||^Follow-up \\T\\ staging",
        f"IPC|{accession}|RP1|1.2.840.99.{order[1:]}|SPS1|MR",
        "",
    ]
    return "\r".join(lines).encode()


class Wire:
    """A raw client connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.buffer = b""

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.socket.sendall(data)

    def answer(self) -> bytes:
        """The next frame's content; empty when the peer closed."""
        while b"\x1c\r" not in self.buffer:
            chunk = self.socket.recv(65536)
            if not chunk:
                return b""
            self.buffer += chunk
        message, _, self.buffer = self.buffer.partition(b"\x1c\r")
        assert message[:1] == b"\x0b"
        return message[1:]

    def ask(self, message: bytes) -> bytes:
        """Send framed, return the answer."""
        self.send(b"\x0b" + message + b"\x1c\r")
        return self.answer()


def msa(answer: bytes) -> tuple[str, str]:
    segment = parse(answer).first("MSA")
    assert segment is not None
    return segment.get(1), segment.get(2)


def conditions(answer: bytes) -> list[str]:
    return [err.get(3) for err in parse(answer).all("ERR")]
