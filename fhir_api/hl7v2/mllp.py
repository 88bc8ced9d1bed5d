"""MLLP, the transport of HL7 v2: ``0x0B message 0x1C 0x0D`` over TCP, many frames a connection.

The server answers frames of one connection strictly in order. Handlers run in threads; only what a handler returned is
sent, so an acknowledgement never precedes what it acknowledges.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum

from oncoflow_site.foundation.errors import EndpointError, TransientError, required, safe_error_text

__all__ = [
    "END",
    "START",
    "FrameTooLarge",
    "MllpLimits",
    "MllpServer",
    "RemoteAddress",
    "Verdict",
    "connect",
    "exchange",
    "frame",
    "read_frames",
]

logger = logging.getLogger(__name__)

START = b"\x0b"
END = b"\x1c\r"

Handler = Callable[[bytes, str], bytes]


@dataclass(frozen=True)
class MllpLimits:
    """Bounds of one server.

    :param frame_bytes: largest message. :param frame_s: seconds a begun frame may take to arrive.
    :param idle_s: seconds without a byte after which a silent connection is closed.
    :param connections: open at the same time; further ones are closed at once.
    """

    frame_bytes: int = 64 << 20
    frame_s: float = 120.0
    idle_s: float = 3600.0
    connections: int = 64


class RemoteAddress(str):
    """The IP address of the other side, with the SHA-256 of the client certificate that it showed, if any."""

    certificate_sha256: str = ""


class FrameTooLarge(Exception):
    """A frame passed the limit. ``head`` is its beginning."""

    def __init__(self, head: bytes) -> None:
        super().__init__("frame too large")
        self.head = head


def frame(message: bytes) -> bytes:
    """``message`` between the frame characters."""
    return START + message + END


async def read_frames(reader: asyncio.StreamReader, limits: MllpLimits) -> AsyncIterator[bytes]:
    """The messages of a connection, without their frame characters.

    Bytes before 0x0B are discarded. A second 0x0B inside a frame begins anew: what stood before it was cut off by its
    sender, was never acknowledged, and will be sent again. Raises `FrameTooLarge`; `TimeoutError` when a begun frame or
    an idle connection takes too long.
    """
    buffer = bytearray()
    searched = 0
    clock = asyncio.get_running_loop().time
    deadline = clock() + limits.idle_s
    while True:
        if buffer[:1] != START:
            at = buffer.find(START)
            if at != 0:
                junk = len(buffer) if at < 0 else at
                if buffer[:junk].strip():
                    logger.warning("mllp: %d bytes outside of a frame discarded", junk)
                del buffer[:junk]
                searched = 0
        if buffer:
            end = buffer.find(END, max(searched - 1, 0))
            if end >= 0:
                message = bytes(buffer[1:end])
                del buffer[: end + len(END)]
                searched = 0
                deadline = clock() + (limits.frame_s if buffer else limits.idle_s)
                cut = message.rfind(START)
                if cut >= 0:
                    logger.warning("mllp: a frame of %d bytes had no end and was discarded", cut)
                    message = message[cut + 1 :]
                yield message
                deadline = clock() + (limits.frame_s if buffer else limits.idle_s)
                continue
            searched = len(buffer)
            if len(buffer) > limits.frame_bytes:
                raise FrameTooLarge(bytes(buffer[1:4096]))
        began = bool(buffer)
        async with asyncio.timeout_at(deadline):
            chunk = await reader.read(1 << 18)
        if not chunk:
            if began:
                logger.warning("mllp: connection ended inside a frame after %d bytes", len(buffer))
            return
        buffer += chunk
        if not began:
            deadline = clock() + limits.frame_s


class MllpServer:
    """Listens, hands each message to ``handler(message, remote_address)`` and sends what that returns.

    An empty return sends nothing. When the handler raises, the connection is closed without an answer: the sender will
    send again. ``too_large(head)`` gives the answer to a frame over the limit, after which the connection is closed.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        too_large: Callable[[bytes], bytes],
        limits: MllpLimits | None = None,
        tls: ssl.SSLContext | None = None,
        threads: int = 4,
    ) -> None:
        self._handler = handler
        self._too_large = too_large
        self._limits = limits or MllpLimits()
        self._tls = tls
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="mllp")
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._stopping = False

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (useful with port 0)."""
        self._server = await asyncio.start_server(self._connected, host, port, ssl=self._tls, limit=1 << 18)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, grace_s: float = 8.0) -> None:
        """Stop listening, let messages in hand be answered, close every connection."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for task in self._tasks - self._busy:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in self._tasks:
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = required(asyncio.current_task(), "the task of the connection")
        if self._stopping or len(self._tasks) >= self._limits.connections:
            logger.warning("mllp: connection refused, %d are open", len(self._tasks))
            writer.close()
            return
        self._tasks.add(task)
        try:
            await self._serve(task, reader, writer)
        except (ConnectionError, TimeoutError, ssl.SSLError, asyncio.CancelledError) as error:
            logger.info("mllp: connection closed (%s)", type(error).__name__)
        except Exception as error:
            logger.error("mllp: connection closed after an error: %s", safe_error_text(error))
        finally:
            self._tasks.discard(task)
            self._busy.discard(task)
            writer.close()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(writer.wait_closed(), 5)

    async def _serve(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        remote = _remote(writer)
        try:
            async for message in read_frames(reader, self._limits):
                self._busy.add(task)
                answer = await loop.run_in_executor(self._pool, self._handler, message, remote)
                if answer:
                    writer.write(frame(answer))
                    await writer.drain()
                self._busy.discard(task)
                if self._stopping:
                    return
        except FrameTooLarge as error:
            logger.warning("mllp: a frame over %d bytes was refused", self._limits.frame_bytes)
            answer = await loop.run_in_executor(self._pool, self._too_large, error.head)
            writer.write(frame(answer))
            await writer.drain()
            # Closing while bytes are still coming in resets the connection, and the sender never sees the answer.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    while chunk := await reader.read(1 << 18):
                        if END in chunk:
                            break


def _remote(writer: asyncio.StreamWriter) -> RemoteAddress:
    """The other side's address, with the hash of its certificate where it showed one."""
    remote = RemoteAddress((writer.get_extra_info("peername") or ("",))[0])
    secured = writer.get_extra_info("ssl_object")
    certificate = secured.getpeercert(binary_form=True) if secured is not None else None
    remote.certificate_sha256 = hashlib.sha256(certificate).hexdigest() if certificate else ""
    return remote


class Verdict(Enum):
    """What an answer is to whoever waits for one."""

    NOT_OURS = "not ours"
    MORE_MAY_FOLLOW = "more may follow"
    LAST = "last"


async def _exchange(
    host: str,
    port: int,
    message: bytes,
    verdict: Callable[[bytes], Verdict],
    timeout_s: float,
    more_s: float,
    tls: ssl.SSLContext | None,
) -> bytes:
    limits = MllpLimits(frame_bytes=4 << 20, frame_s=timeout_s, idle_s=timeout_s)
    best: bytes | None = None
    try:
        async with _connection(host, port, tls, min(10.0, timeout_s)) as (reader, writer):
            async with asyncio.timeout(timeout_s) as deadline:
                writer.write(frame(message))
                await writer.drain()
                async for answer in read_frames(reader, limits):
                    said = verdict(answer)
                    if said is Verdict.LAST:
                        return answer
                    if said is Verdict.MORE_MAY_FOLLOW:
                        best = answer
                        deadline.reschedule(asyncio.get_running_loop().time() + more_s)
    except (TimeoutError, OSError, FrameTooLarge):
        if best is None:
            raise
    if best is None:
        raise ConnectionError("closed without an answer")
    return best


@contextlib.asynccontextmanager
async def _connection(
    host: str, port: int, tls: ssl.SSLContext | None, connect_s: float
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """An open connection. Raises `EndpointError` when there is none to be had; what goes wrong later is the caller's."""
    try:
        async with asyncio.timeout(connect_s):
            reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=1 << 18)
    except ssl.SSLError as error:
        text = f"No trusted TLS connection to the MLLP peer ({type(error).__name__})."
        raise EndpointError(text, code="tls", passing=False) from None
    except OSError as error:
        raise EndpointError(f"The MLLP peer is not there ({type(error).__name__}).", code="connection") from None
    try:
        yield reader, writer
    finally:
        writer.close()


def connect(host: str, port: int, *, timeout_s: float = 10.0, tls: ssl.SSLContext | None = None) -> None:
    """Open a connection and close it again. Raises `EndpointError`."""

    async def once() -> None:
        async with _connection(host, port, tls, timeout_s):
            pass

    asyncio.run(once())


def exchange(
    host: str,
    port: int,
    message: bytes,
    verdict: Callable[[bytes], Verdict],
    *,
    timeout_s: float = 60.0,
    more_s: float = 0.0,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    """Send one message over a connection of its own and return the answer to it: the last, or the one after which no other
    came within ``more_s``.

    Raises `EndpointError` when the peer is not there or closes first, `TransientError` when it does not answer in time.
    """
    try:
        return asyncio.run(_exchange(host, port, message, verdict, timeout_s, more_s, tls))
    except TimeoutError:
        raise TransientError("The MLLP peer did not answer in time.", code="timeout") from None
    except ssl.SSLError as error:  # with TLS 1.3 a refused certificate shows at the first read
        text = f"The MLLP peer ended the TLS connection ({type(error).__name__})."
        raise EndpointError(text, code="tls", passing=False) from None
    except (OSError, FrameTooLarge) as error:
        raise TransientError(f"The MLLP connection failed ({type(error).__name__}).", code="connection") from None
