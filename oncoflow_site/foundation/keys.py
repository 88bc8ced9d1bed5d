"""Keys: one data key per subject, wrapped by a master keyset; keyed hashes for look-up and for UIDs. Google Tink.

The master keysets live in one JSON document ``{"format": 1, "aead": <Tink keyset>, "prf": <Tink keyset>}`` in
cleartext, so whoever can read it can read everything: it belongs in a secret store. It is taken from the environment
variable ``ONCOFLOW_KEYSET_JSON`` or else from the file ``settings.ONCOFLOW_KEYSET``. When there is none, everything that
needs it fails loudly.

A ciphertext is bound to its subject and to a ``context`` (Tink associated data), e.g. ``"clinical.PatientIdentity"``:
it cannot be moved to another field or patient. Every use reads the subject's row, so a key destroyed anywhere is gone
at once everywhere.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import tink
from django.conf import settings
from django.db import connection, transaction
from tink import aead, prf, secret_key_access

from oncoflow_site.foundation import files
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import EngineError, KeyDestroyed, UserVisibleError
from oncoflow_site.foundation.models import DataKey

__all__ = [
    "KeysetMissing",
    "create_keysets",
    "data_key",
    "decrypt",
    "decrypt_many",
    "destroy",
    "encrypt",
    "ensure_data_key",
    "keyed_hash",
    "keyset_path",
    "master_key_ids",
    "retire_old_master_keys",
    "rewrap_all",
    "rotate_master",
    "self_test",
]

_MASTER_TEMPLATE = aead.aead_key_templates.AES256_GCM
_DATA_TEMPLATE = aead.aead_key_templates.AES256_GCM

aead.register()
prf.register()

_lock = threading.Lock()
_loaded: tuple[object, _Master] | None = None


class KeysetMissing(EngineError):
    """The master keyset is not where it should be, or cannot be read."""


class _Master:
    """The opened master keysets."""

    def __init__(self, text: str) -> None:
        try:
            document = json.loads(text)
            if document["format"] != 1:
                raise ValueError("unknown format")
            self.aead_json: dict[str, Any] = document["aead"]
            self.prf_json: dict[str, Any] = document["prf"]
            handle = tink.json_proto_keyset_format.parse(json.dumps(self.aead_json), secret_key_access.TOKEN)
            hashes = tink.json_proto_keyset_format.parse(json.dumps(self.prf_json), secret_key_access.TOKEN)
            self.aead: aead.Aead = handle.primitive(aead.Aead)
            self.prf: prf.PrfSet = hashes.primitive(prf.PrfSet)
        except (tink.TinkError, ValueError, KeyError, TypeError):
            # The parser's message may quote what it read: key material. Hence no cause, no text of it.
            raise KeysetMissing("the master keyset is damaged or is not an OncoFlow keyset") from None
        self.primary_id = int(self.aead_json["primaryKeyId"])


def keyset_path() -> Path | None:
    """File of the master keysets, when one is configured."""
    named = getattr(settings, "ONCOFLOW_KEYSET", None)
    return Path(named) if named else None


def _master() -> _Master:
    """The master keysets, read again when the file changed (another process rotated it)."""
    global _loaded
    text = os.environ.get("ONCOFLOW_KEYSET_JSON", "")
    path = None if text else keyset_path()
    stamp: object = hash(text)
    if not text:
        if path is None:
            raise KeysetMissing("no master keyset: set ONCOFLOW_KEYSET_JSON or ONCOFLOW_KEYSET")
        try:
            status = path.stat()
        except OSError:
            raise KeysetMissing(f"no master keyset at {path}; `manage.py init_keys` creates one") from None
        stamp = (str(path), status.st_mtime_ns, status.st_ino, status.st_size)
    with _lock:
        if _loaded is None or _loaded[0] != stamp:
            if path is not None:
                try:
                    text = path.read_text()
                except OSError:
                    raise KeysetMissing(f"the master keyset at {path} cannot be read") from None
            _loaded = (stamp, _Master(text))
        return _loaded[1]


def _fresh_keyset(template: Any) -> dict[str, Any]:
    handle = tink.new_keyset_handle(template)
    return dict(json.loads(tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)))


def create_keysets(path: Path | str) -> None:
    """Make new master keysets in a file of mode 0600. Never overwrites: :raises UserVisibleError: the file exists."""
    path = Path(path)
    document = {
        "format": 1,
        "aead": _fresh_keyset(_MASTER_TEMPLATE),
        "prf": _fresh_keyset(prf.prf_key_templates.HMAC_SHA256),
    }
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        files.write_new(path, json.dumps(document, indent=1).encode(), mode=0o600)
    except FileExistsError:
        raise UserVisibleError(
            f"There is a keyset at {path} already.",
            what_to_do="Keep it: without it nothing stored can be read. Use rotate_keys to change the master key.",
            code="keyset-exists",
        ) from None


def master_key_ids() -> tuple[int, tuple[int, ...]]:
    """(id of the primary master key, ids of all master keys in the keyset)."""
    master = _master()
    return master.primary_id, tuple(int(key["keyId"]) for key in master.aead_json["key"])


def self_test() -> None:
    """Prove that the keysets open and work. :raises KeysetMissing:"""
    master = _master()
    if master.aead.decrypt(master.aead.encrypt(b"probe", b"self-test"), b"self-test") != b"probe":
        raise KeysetMissing("the master keyset does not decrypt what it encrypts")
    master.prf.primary().compute(b"probe", 32)


def _wrap_context(subject: str) -> bytes:
    return b"oncoflow data key\x00" + subject.encode()


@lru_cache(maxsize=1024)
def _open_wrapped(wrapped: bytes, subject: str, primary_id: int) -> aead.Aead:
    # The row is read each time; only the unwrapping of the very same bytes is remembered.
    try:
        handle = tink.proto_keyset_format.parse_encrypted(wrapped, _master().aead, _wrap_context(subject))
    except tink.TinkError:
        raise EngineError("a data key does not open with the present master keyset") from None
    primitive: aead.Aead = handle.primitive(aead.Aead)
    return primitive


def _open_row(row: DataKey) -> aead.Aead:
    if row.destroyed_at is not None:
        raise KeyDestroyed("this record was erased: its data key was destroyed")
    return _open_wrapped(bytes(row.wrapped), row.subject, _master().primary_id)


def ensure_data_key(subject: str) -> DataKey:
    """The subject's row, made when missing.

    Joins the caller's transaction: rolled back, the key is gone with the rest.
    """
    row = DataKey.objects.filter(subject=subject).first()
    if row is not None:
        return row
    if not subject or len(subject) > 200:
        raise ValueError("a data key's subject has 1 to 200 characters")
    master = _master()
    handle = tink.new_keyset_handle(_DATA_TEMPLATE)
    wrapped = tink.proto_keyset_format.serialize_encrypted(handle, master.aead, _wrap_context(subject))
    row, _ = DataKey.objects.get_or_create(
        subject=subject, defaults={"wrapped": wrapped, "master_key_id": master.primary_id}
    )
    return row


def data_key(subject: str, *, create: bool = True) -> aead.Aead:
    """The subject's Tink AEAD. :raises KeyDestroyed: :raises EngineError: there is none and ``create`` is False."""
    # Asked for several times for every image: written out, since building the query costs ten times its execution.
    with connection.cursor() as cursor:
        cursor.execute("SELECT wrapped FROM foundation_datakey WHERE subject = %s AND destroyed_at IS NULL", [subject])
        found = cursor.fetchone()
    if found is not None:
        return _open_wrapped(bytes(found[0]), subject, _master().primary_id)
    if create:
        return _open_row(ensure_data_key(subject))
    row = DataKey.objects.filter(subject=subject).first()
    if row is None:
        raise EngineError("there is no data key for this record")
    return _open_row(row)


def _associated(subject: str, context: str) -> bytes:
    one, two = subject.encode(), context.encode()
    return struct.pack(">II", len(one), len(two)) + one + two


def encrypt(subject: str, plaintext: bytes, context: str, *, key: aead.Aead | None = None) -> bytes:
    """Encrypt under the subject's key, bound to ``subject`` and ``context``. :raises KeyDestroyed:

    :param key: `data_key` of ``subject``, where the caller has read it just now.
    """
    return (key or data_key(subject)).encrypt(plaintext, _associated(subject, context))


def decrypt(subject: str, ciphertext: bytes, context: str) -> bytes:
    """Undo `encrypt`. :raises KeyDestroyed: :raises EngineError: not this subject's, not this context's, or altered."""
    return _decrypt_with(data_key(subject, create=False), subject, ciphertext, context)


def _decrypt_with(primitive: aead.Aead, subject: str, ciphertext: bytes, context: str) -> bytes:
    try:
        return primitive.decrypt(bytes(ciphertext), _associated(subject, context))
    except tink.TinkError:
        raise EngineError(f"a ciphertext ({context}) is damaged or belongs elsewhere") from None


def decrypt_many(items: Iterable[tuple[str, bytes, str]]) -> list[bytes]:
    """`decrypt` for many (subject, ciphertext, context) with one query. :raises KeyDestroyed: for any of them."""
    wanted = list(items)
    rows = {row.subject: row for row in DataKey.objects.filter(subject__in={one[0] for one in wanted})}
    plain = []
    for subject, ciphertext, context in wanted:
        if subject not in rows:
            raise EngineError("there is no data key for this record")
        plain.append(_decrypt_with(_open_row(rows[subject]), subject, ciphertext, context))
    return plain


def keyed_hash(purpose: str, value: str | bytes) -> bytes:
    """32 bytes of HMAC-SHA256 (Tink PRF) over ``purpose`` and ``value``: blind indexes, UID remapping.

    The PRF key does not rotate with the master key: every index made with it would have to be made anew.
    """
    body = value.encode() if isinstance(value, str) else value
    label = purpose.encode()
    return bytes(_master().prf.primary().compute(struct.pack(">I", len(label)) + label + body, 32))


def destroy(subject: str) -> bool:
    """Destroy the subject's key: all it encrypted is erased for ever. The row stays as proof, and no new key is made
    for the subject. False when it was destroyed before. The caller audits it and asks twice.

    Backups of the database still hold the wrapped key; they must be let expire (and the master key rotated and
    retired).
    """
    ensure_data_key(subject)
    gone = DataKey.objects.filter(subject=subject, destroyed_at=None).update(wrapped=b"", destroyed_at=now())
    return bool(gone)


@contextmanager
def _keyset_file() -> Iterator[Path]:
    path = keyset_path()
    if os.environ.get("ONCOFLOW_KEYSET_JSON") or path is None:
        raise UserVisibleError(
            "The master keyset comes from the environment and cannot be changed from here.",
            what_to_do="Write it to a file, point ONCOFLOW_KEYSET at it, rotate, and put the result in the store.",
            code="keyset-read-only",
        )
    with files.locked(path.with_name(path.name + ".lock")):
        yield path


def _write(path: Path, aead_json: dict[str, Any], prf_json: dict[str, Any]) -> None:
    document = {"format": 1, "aead": aead_json, "prf": prf_json}
    text = json.dumps(document, indent=1)
    _Master(text)
    files.replace(path, text.encode(), mode=0o600)


def rotate_master() -> int:
    """Put a new primary master key into the keyset file and wrap every data key with it. Returns how many were wrapped.

    Old keys stay in the keyset until `retire_old_master_keys`. A process reads the changed file at its next use.
    """
    with _keyset_file() as path:
        master = _master()
        fresh = _fresh_keyset(_MASTER_TEMPLATE)
        used = {key["keyId"] for key in master.aead_json["key"]}
        while fresh["primaryKeyId"] in used:
            fresh = _fresh_keyset(_MASTER_TEMPLATE)
        joined = {"primaryKeyId": fresh["primaryKeyId"], "key": [*master.aead_json["key"], *fresh["key"]]}
        _write(path, joined, master.prf_json)
    return rewrap_all()


def rewrap_all(batch: int = 200) -> int:
    """Wrap with the primary master key every data key that is not yet.

    Can be stopped and started again at any point.
    """
    master, count = _master(), 0
    last = ""
    while True:
        rows = list(
            DataKey.objects.filter(subject__gt=last, destroyed_at=None)
            .exclude(master_key_id=master.primary_id)
            .order_by("subject")[:batch]
        )
        if not rows:
            return count
        last = rows[-1].subject
        with transaction.atomic():
            for row in rows:
                context, old = _wrap_context(row.subject), bytes(row.wrapped)
                handle = tink.proto_keyset_format.parse_encrypted(old, master.aead, context)
                fresh = tink.proto_keyset_format.serialize_encrypted(handle, master.aead, context)
                # Only the very row that was read: one destroyed meanwhile must not come back.
                mine = DataKey.objects.filter(pk=row.pk, wrapped=old, destroyed_at=None)
                count += mine.update(wrapped=fresh, master_key_id=master.primary_id, rewrapped_at=now())


def retire_old_master_keys() -> tuple[int, ...]:
    """Remove from the keyset file every master key that wraps no data key any more; returns their ids."""
    with _keyset_file() as path:
        master = _master()
        in_use = set(DataKey.objects.filter(destroyed_at=None).values_list("master_key_id", flat=True).distinct())
        in_use.add(master.primary_id)
        kept = [key for key in master.aead_json["key"] if int(key["keyId"]) in in_use]
        gone = tuple(int(key["keyId"]) for key in master.aead_json["key"] if int(key["keyId"]) not in in_use)
        if gone:
            _write(path, {"primaryKeyId": master.primary_id, "key": kept}, master.prf_json)
    return gone
