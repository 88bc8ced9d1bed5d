"""Messages between client, supervisor and experts: a JSON header and raw arrays. Nothing is ever unpickled.

A frame is: magic (4 bytes), length of the header (4 bytes, big endian), length of the body (8 bytes), authentication
code (32 bytes), header, body. The header is JSON and names the arrays of the body, each in NumPy's own .npy format read
with allow_pickle=False. On the socket every frame carries HMAC-SHA256 over the connection's nonce, the direction, a
counter and the frame (RFC 2104), so that a process without the key can neither ask nor answer nor replay. Between the
supervisor and its own children the code is 32 zero bytes: that pair of sockets has no name.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import secrets
import socket
import struct
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

__all__ = ["Channel", "ChannelClosed", "ProtocolError", "ProtocolMessage", "accept_channel", "open_channel"]

MAGIC = b"OFX1"
HEADER = struct.Struct(">4sIQ")
CODE_LENGTH = 32
NONCE_LENGTH = 32
MAXIMUM_HEADER = 1 << 20
MAXIMUM_BODY = 4 << 30
ALLOWED_TYPES = frozenset({"float16", "float32", "float64", "bool", "uint8", "int8", "int16", "uint16", "int32"})


class ProtocolError(Exception):
    """The other side sent what this protocol does not allow, or does not hold the key."""


class ChannelClosed(Exception):
    """The other side closed the connection."""


@dataclass
class ProtocolMessage:
    """kind says what it is; values are JSON; arrays by name."""

    kind: str
    values: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


class ExpertHealth(TypedDict):
    """One expert. :ivar state: starting, asleep, ready, busy or failed. :ivar model: name, version, sha256, architecture."""

    state: str
    pid: int | None
    restarts: int
    queued: int
    model: dict[str, str] | None
    error: str
    memory_bytes: int
    device_bytes: int


class SupervisorHealth(TypedDict):
    """The supervisor and its experts by name."""

    pid: int
    uptime_s: float
    experts: dict[str, ExpertHealth]
    interactive: dict[str, ExpertHealth]
    volumes_bytes: int
    memory_limit_bytes: int


class Channel:
    """One connection. `key` None on the unnamed socket pair between the supervisor and a child.

    Not safe for two threads sending at once; one sender and one receiver are fine.
    """

    def __init__(
        self, connection: socket.socket, key: bytes | None = None, nonce: bytes = b"", server: bool = False
    ) -> None:
        self.connection = connection
        self.key = key
        self.nonce = nonce
        self._own, self._other = (b"S", b"C") if server else (b"C", b"S")
        self._sent = self._received = 0
        self.maximum_body = MAXIMUM_BODY

    def _code(self, direction: bytes, counter: int, *parts: bytes | bytearray | memoryview) -> bytes:
        if self.key is None:
            return bytes(CODE_LENGTH)
        code = hmac.new(self.key, self.nonce + direction + struct.pack(">Q", counter), hashlib.sha256)
        for part in parts:
            code.update(part)
        return code.digest()

    def send(self, message: ProtocolMessage) -> None:
        """Raises Closed when the other side is gone."""
        buffer = io.BytesIO()
        names = []
        for name, array in message.arrays.items():
            start = buffer.tell()
            np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
            names.append([name, start, buffer.tell() - start])
        body = buffer.getbuffer()
        header = json.dumps({"kind": message.kind, "values": message.values, "arrays": names}).encode()
        if len(header) > MAXIMUM_HEADER or len(body) > MAXIMUM_BODY:
            raise ProtocolError("the message is too large")
        prefix = HEADER.pack(MAGIC, len(header), len(body))
        code = self._code(self._own, self._sent, prefix, header, body)
        self._sent += 1
        try:
            self.connection.sendall(prefix + code + header)
            if len(body):
                self.connection.sendall(body)
        except OSError as error:
            raise ChannelClosed from error

    def receive(self) -> ProtocolMessage:
        """The next message. Raises Closed, ProtocolError, or TimeoutError by the socket's own timeout."""
        prefix = self._read(HEADER.size)
        magic, header_length, body_length = HEADER.unpack(prefix)
        if magic != MAGIC or header_length > MAXIMUM_HEADER or body_length > self.maximum_body:
            raise ProtocolError("not a message of this protocol, or too large")
        code = self._read(CODE_LENGTH)
        header = self._read(header_length)
        body = self._read(body_length)
        expected = self._code(self._other, self._received, prefix, header, body)
        if not hmac.compare_digest(bytes(code), expected):
            raise ProtocolError("wrong authentication code")
        self._received += 1
        try:
            data = json.loads(bytes(header))
            message = ProtocolMessage(str(data["kind"]), dict(data["values"]))
            for name, start, length in data["arrays"]:
                if not (0 <= start <= start + length <= len(body)):
                    raise ValueError("an array lies outside the body")
                array = np.load(io.BytesIO(memoryview(body)[start : start + length]), allow_pickle=False)
                if array.dtype.name not in ALLOWED_TYPES:
                    raise ValueError("an array has a type that is not allowed")
                message.arrays[str(name)] = array
        except (ValueError, KeyError, TypeError, EOFError) as error:
            raise ProtocolError("the message is malformed") from error
        return message

    def _read(self, length: int) -> bytearray:
        data = bytearray(length)
        view, done = memoryview(data), 0
        while done < length:
            try:
                count = self.connection.recv_into(view[done:], min(length - done, 1 << 20))
            except TimeoutError:
                raise
            except OSError as error:
                raise ChannelClosed from error
            if count == 0:
                raise ChannelClosed
            done += count
        return data

    def close(self) -> None:
        """Close the connection; safe to repeat."""
        try:
            self.connection.close()
        except OSError:
            pass


def accept_channel(connection: socket.socket, key: bytes) -> Channel:
    """The server's side of a new connection: both add half of the nonce, the client shows that it holds the key.

    Raises Closed, ProtocolError, TimeoutError.
    """
    own = secrets.token_bytes(NONCE_LENGTH)
    channel = Channel(connection, key, server=True)
    try:
        connection.sendall(own)
    except OSError as error:
        raise ChannelClosed from error
    channel.nonce = own + bytes(channel._read(NONCE_LENGTH))
    channel.maximum_body = 0  # a stranger must not make us read gigabytes before it has shown that it holds the key
    if channel.receive().kind != "hello":
        raise ProtocolError("the first message must be hello")
    channel.maximum_body = MAXIMUM_BODY
    return channel


def open_channel(connection: socket.socket, key: bytes) -> Channel:
    """The client's side. Raises Closed."""
    own = secrets.token_bytes(NONCE_LENGTH)
    channel = Channel(connection, key)
    try:
        connection.sendall(own)
    except OSError as error:
        raise ChannelClosed from error
    channel.nonce = bytes(channel._read(NONCE_LENGTH)) + own
    channel.send(ProtocolMessage("hello"))
    return channel
