"""The bytes of an instance as received: encrypted and durable before any transaction, then named by their rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

from imaging.archive.filing_header import FilingHeader
from imaging.identifiers import seal
from imaging.models import Instance
from oncoflow_site.foundation import keys, objects

__all__ = ["Original", "one_writer"]


class Original:
    """One instance, encrypted and durable before any transaction begins; `create` names it by its rows."""

    def __init__(self, header: FilingHeader, data: bytes, peer: str, subject: str) -> None:
        key = keys.data_key(subject)
        self._original = objects.write(
            data, subject=subject, kind="dicom-original", content_type="application/dicom", key=key
        )
        self._fields = {
            "sop_class_uid": header.sop_class_uid,
            "transfer_syntax_uid": header.transfer_syntax_uid,
            "number": header.instance_number,
            "sha256": self._original.sha256,
            "content_sha256": header.content_sha256,
            "peer": peer[:64],
            "ciphertext": seal(subject, header.sop_instance_uid, context="instance", key=key),
        }

    def create(self, **fields: Any) -> Instance:
        """The rows of the object and of the instance, in the caller's transaction."""
        self._original.save(force_insert=True)
        instance = Instance(original=self._original, **self._fields, **fields)
        instance.save(force_insert=True)
        return instance


_writers = threading.Lock()


@contextmanager
def one_writer() -> Iterator[None]:
    """SQLite has one writer at a time, and who must wait sleeps for up to 100 ms between looks: queue up here instead."""
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        yield
        return
    with _writers:
        yield
