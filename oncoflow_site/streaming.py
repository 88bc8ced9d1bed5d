"""Request bodies that are read while they arrive.

Django's ASGI handler collects a whole body, in a temporary file once it is large, before a view runs: bytes with patients'
names would lie on disk in plain, and what a broken connection had brought would be lost. Under `STREAMED` the view reads the
body itself, from its own thread; the server stops reading from the network while the view does not.
"""

from __future__ import annotations

import asyncio
import contextvars
import io
from collections.abc import Awaitable, Callable
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from django.core.handlers.asgi import ASGIHandler

__all__ = ["STREAMED", "StreamingHandler"]

STREAMED = ("/api/uploads/",)
IDLE_S = 60.0
_METHODS = {"POST", "PUT", "PATCH"}

Receive = Callable[[], Awaitable[dict[str, Any]]]


class Body(io.RawIOBase):
    """The body of one request as a blocking stream, for a thread that is not the event loop's.

    :raises OSError: the client went away, or was silent for `IDLE_S` seconds.
    """

    def __init__(self, receive: Receive, loop: asyncio.AbstractEventLoop) -> None:
        self._receive, self._loop = receive, loop
        self._have = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        if size is None or size < 0:
            pieces = []
            while piece := self.read(1 << 20):
                pieces.append(piece)
            return b"".join(pieces)
        while not self._have and not self._ended and size:
            self._have = self._next()
        data, self._have = self._have[:size], self._have[size:]
        return data

    def _next(self) -> bytes:
        # In a context of its own: the server may register the socket's next callbacks from within `receive`, and later
        # requests of the same connection would inherit this thread's context (and with it an executor that is gone).
        waiting = contextvars.Context().run(asyncio.run_coroutine_threadsafe, self._message(), self._loop)
        try:
            message = waiting.result(IDLE_S)
        except FutureTimeout:
            waiting.cancel()
            self._ended = True
            raise OSError("the client was silent for too long") from None
        if message["type"] == "http.disconnect":
            self._ended = True
            raise OSError("the client went away")
        self._ended = not message.get("more_body", False)
        return bytes(message.get("body", b""))

    async def _message(self) -> dict[str, Any]:
        return await self._receive()


class _Withheld:
    """In place of ``receive``, for whoever waits for the client to go: the view itself finds out, by reading."""

    def __init__(self, body: Body) -> None:
        self.body = body

    async def __call__(self) -> dict[str, Any]:
        await asyncio.Event().wait()  # until the answer is out and this task is cancelled
        raise AssertionError("unreachable")


class StreamingHandler(ASGIHandler):
    """Django's handler, but bodies below `STREAMED` are given to their view as they come."""

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] in _METHODS and scope["path"].startswith(STREAMED):
            receive = _Withheld(Body(receive, asyncio.get_running_loop()))
        await super().handle(scope, receive, send)

    async def read_body(self, receive: Any) -> Any:
        return receive.body if isinstance(receive, _Withheld) else await super().read_body(receive)
