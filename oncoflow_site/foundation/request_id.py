"""The request id: one short token that ties log lines, audit rows, jobs and answers of one request together."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

__all__ = ["RequestIdFilter", "RequestIdMiddleware", "bind_request_id", "current_request_id", "new_request_id"]

_VALID = re.compile(r"[A-Za-z0-9._-]{8,64}\Z")
_current: ContextVar[str] = ContextVar("request_id", default="")


def new_request_id() -> str:
    """A fresh request id, 32 hexadecimal digits."""
    return uuid.uuid4().hex


def current_request_id() -> str:
    """The request id of what is being done now; empty outside of any request or job."""
    return _current.get()


@contextmanager
def bind_request_id(request_id: str = "") -> Iterator[str]:
    """Do the block under ``request_id`` (a new one when empty or malformed): for jobs, MLLP messages, associations."""
    value = request_id if _VALID.match(request_id or "") else new_request_id()
    token = _current.set(value)
    try:
        yield value
    finally:
        _current.reset(token)


class RequestIdFilter(logging.Filter):
    """Puts ``request_id`` on every log record; ``-`` when there is none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record through."""
        record.request_id = current_request_id() or "-"
        return True


class RequestIdMiddleware:
    """Takes ``X-Request-Id`` from the client when it is well formed (8 to 64 of ``A-Za-z0-9._-``), else makes one, and
    returns it on the response. Goes first in ``MIDDLEWARE``; works under WSGI and ASGI."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        self._async = iscoroutinefunction(get_response)
        if self._async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._async:
            return self._acall(request)
        with bind_request_id(request.headers.get("X-Request-Id", "")) as value:
            request.request_id = value  # type: ignore[attr-defined]
            response = self.get_response(request)
            response.headers["X-Request-Id"] = value  # type: ignore[union-attr]
            return response

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        with bind_request_id(request.headers.get("X-Request-Id", "")) as value:
            request.request_id = value  # type: ignore[attr-defined]
            response = await self.get_response(request)  # type: ignore[misc]
            response.headers["X-Request-Id"] = value
            return response
