"""Identifiers."""

from __future__ import annotations

import secrets
import time
import uuid

__all__ = ["new_id", "new_uid"]


def new_id() -> uuid.UUID:
    """A UUID version 7 (RFC 9562 section 5.7): 48 bits of Unix milliseconds, then 74 random bits.

    The time prefix keeps index pages together. It tells when a row was made and nothing else.
    """
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80
    value |= 0x7 << 76
    value |= secrets.randbits(12) << 64
    value |= 0b10 << 62
    value |= secrets.randbits(62)
    return uuid.UUID(int=value)


def new_uid() -> str:
    """A DICOM UID derived from a random UUID (PS3.5 section B.2, root ``2.25.``), at most 44 characters."""
    return f"2.25.{uuid.uuid4().int}"
