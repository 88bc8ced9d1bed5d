"""Answers that are longer than memory: bodies sent piece by piece while they are decrypted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.http import StreamingHttpResponse
from rest_framework.request import Request

__all__ = ["stream"]

BLOCK = 512 * 1024


def stream(
    request: Request, pieces: Iterable[bytes], content_type: str, *, length: int | None = None
) -> StreamingHttpResponse:
    """An answer of ``pieces``, which are made one after another while the client reads.

    An error on the way breaks the connection off: the client sees an answer without its end, never a shorter one.
    """
    blocks = _blocks(pieces)
    # Django would collect the whole answer first where the kind of iterator is not that of the server.
    asynchronous = isinstance(request._request, ASGIRequest)
    response = StreamingHttpResponse(_asynchronous(blocks) if asynchronous else blocks, content_type=content_type)
    if length is not None:
        response.headers["Content-Length"] = str(length)
    return response


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer, larger pieces: each costs a change of threads."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= BLOCK:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


async def _asynchronous(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    def following() -> bytes | None:
        close_old_connections()
        return next(blocks, None)

    while (block := await sync_to_async(following)()) is not None:
        yield block
