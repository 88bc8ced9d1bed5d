"""multipart/related (RFC 2387), written part by part and read from a stream with bounded memory."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

__all__ = ["MultipartError", "MultipartWriter", "Part", "TooLarge", "read_parts"]

MAX_HEADERS = 16 * 1024
READ = 1 << 20


class MultipartError(Exception):
    """The body is not what its Content-Type says. The message holds nothing of it."""


class TooLarge(Exception):
    """A part is larger than is taken, and its sender is not worth waiting for its end."""


@dataclass(frozen=True)
class Part:
    """One part. ``headers`` with lower-case names; ``content`` is None where it was larger than allowed."""

    headers: dict[str, str]
    content: bytes | None


class MultipartWriter:
    """Frames parts. ``content_type(...)`` goes into the header of the answer."""

    def __init__(self) -> None:
        self.boundary = f"oncoflow-{secrets.token_hex(16)}"

    def content_type(self, inner: str, transfer_syntax: str = "") -> str:
        """Content-Type of the whole."""
        syntax = f"; transfer-syntax={transfer_syntax}" if transfer_syntax else ""
        return f'multipart/related; type="{inner}"; boundary={self.boundary}{syntax}'

    def part(self, content_type: str, content: Iterable[bytes], location: str = "") -> Iterator[bytes]:
        """One part, its content passed on piece by piece."""
        head = f"--{self.boundary}\r\nContent-Type: {content_type}\r\n"
        if location:
            head += f"Content-Location: {location}\r\n"
        yield (head + "\r\n").encode()
        yield from content
        yield b"\r\n"

    def end(self) -> bytes:
        """The closing delimiter."""
        return f"--{self.boundary}--\r\n".encode()


class _Lines:
    """A window over a stream: finds a marker without holding more than a part."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.held = bytearray()
        self.over = False

    def more(self) -> bool:
        block = b"" if self.over else self.stream.read(READ)
        self.over = not block
        self.held += block
        return bool(block)

    def take(self, count: int) -> bytes:
        taken = bytes(self.held[:count])
        del self.held[:count]
        return taken

    def until(self, marker: bytes, limit: int, *, skip: bool = True) -> bytes | None:
        """Everything before ``marker``, which is taken too; None (and all of it skipped) where that passes ``limit``.

        :raises MultipartError: the stream ends first. :raises TooLarge: it passes ``limit``, and not to be skipped.
        """
        seen, skipped = 0, False
        while True:
            # The marker may begin in the last bytes seen and end in the next block.
            place = self.held.find(marker, max(0, seen - len(marker) + 1))
            if place >= 0:
                found = self.take(place)
                self.take(len(marker))
                return None if skipped or place > limit else found
            if skipped or len(self.held) > limit + len(marker):
                if not skip:
                    raise TooLarge
                skipped = True
                self.take(max(0, len(self.held) - len(marker)))
            seen = len(self.held)
            if not self.more():
                raise MultipartError("it ends before its closing boundary")


def read_parts(stream: IO[bytes], boundary: str, *, largest: int, skip: bool = True) -> Iterator[Part]:
    """The parts of a multipart body, one at a time.

    :param largest: bytes of one part; a larger one is skipped and given with ``content`` None.
    :param skip: False: a larger one is the end; a body may have no other.
    :raises MultipartError: framing that is none, or the end too soon. :raises TooLarge: see ``skip``.
    """
    if not boundary or len(boundary) > 200:
        raise MultipartError("there is no usable boundary")
    lines = _Lines(stream)
    lines.held += b"\r\n"  # so that the first delimiter looks like the others
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    lines.until(delimiter, MAX_HEADERS, skip=skip)
    while True:
        while len(lines.held) < 2:
            if not lines.more():
                raise MultipartError("it ends before its closing boundary")
        if lines.held.startswith(b"--"):
            return
        # Blanks after a boundary are padding (RFC 2046 section 5.1.1).
        padding = lines.until(b"\r\n", 256)
        if padding is None or padding.strip(b" \t"):
            raise MultipartError("a boundary does not end its line")
        lines.held[:0] = b"\r\n"
        head = lines.until(b"\r\n\r\n", MAX_HEADERS)
        if head is None:
            raise MultipartError("the headers of a part are too long")
        headers = _headers(head)
        # The empty line may itself begin the delimiter of an empty part.
        lines.held[:0] = b"\r\n"
        content = lines.until(delimiter, largest + 2, skip=skip)
        yield Part(headers, None if content is None else content[2:])


def _headers(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n"):
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise MultipartError("a part has a header without a colon")
        found[name.strip().lower()] = value.strip()
    return found
