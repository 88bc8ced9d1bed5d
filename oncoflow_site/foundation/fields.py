"""Small encrypted values in a row.

The ciphertext sits in a ``BinaryField``; `EncryptedJSON` is the plaintext view of it::

    class PatientIdentity(models.Model):
        ciphertext = models.BinaryField(default=b"")
        identity = EncryptedJSON("ciphertext", subject="key_subject")

``key_subject`` names an attribute (or property, dots allowed) that gives the data key's subject. Reading decrypts each
time; assigning encrypts at once; nothing is kept in clear on the instance.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from django.db import models

from oncoflow_site.foundation import keys

__all__ = ["EncryptedJSON", "open_json", "open_json_many", "seal_json"]


def seal_json(subject: str, value: Any, context: str) -> bytes:
    """``value`` as JSON, encrypted; see `keys.encrypt`."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return keys.encrypt(subject, text.encode(), context)


def open_json(subject: str, ciphertext: bytes, context: str) -> Any:
    """Undo `seal_json`; see `keys.decrypt`."""
    return json.loads(keys.decrypt(subject, ciphertext, context))


def open_json_many(items: Iterable[tuple[str, bytes, str]]) -> list[Any]:
    """`open_json` of many (subject, ciphertext, context) with one query."""
    return [json.loads(plain) for plain in keys.decrypt_many(items)]


class EncryptedJSON:
    """Descriptor: JSON value kept encrypted in the binary field ``column``; empty bytes read as None.

    :param subject: attribute of the instance that gives the data key's subject.
    :param context: associated data; by default ``"<app label>.<model>.<column>"``.
    """

    def __init__(self, column: str, *, subject: str, context: str = "") -> None:
        self.column = column
        self._subject = attrgetter(subject)
        self._context = context

    def _bound(self, instance: models.Model) -> str:
        return self._context or f"{instance._meta.label}.{self.column}"

    def __get__(self, instance: models.Model | None, owner: type[models.Model]) -> Any:
        if instance is None:
            return self
        stored = bytes(getattr(instance, self.column) or b"")
        return open_json(self._subject(instance), stored, self._bound(instance)) if stored else None

    def __set__(self, instance: models.Model, value: Any) -> None:
        sealed = b"" if value is None else seal_json(self._subject(instance), value, self._bound(instance))
        setattr(instance, self.column, sealed)
