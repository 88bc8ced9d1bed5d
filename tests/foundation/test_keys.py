"""Data keys, rotation of the master key, erasure, keyed hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from oncoflow_site.foundation import keys
from oncoflow_site.foundation.errors import EngineError, KeyDestroyed, UserVisibleError
from oncoflow_site.foundation.fields import EncryptedJSON, open_json_many, seal_json
from oncoflow_site.foundation.models import DataKey

pytestmark = pytest.mark.django_db


@pytest.fixture
def keyset(tmp_path: Path, settings: Any) -> Path:
    """A keyset of this test's own."""
    settings.ONCOFLOW_KEYSET = tmp_path / "keysets.json"
    keys.create_keysets(settings.ONCOFLOW_KEYSET)
    return Path(settings.ONCOFLOW_KEYSET)


def test_round_trip_bound_to_subject_and_context() -> None:
    sealed = keys.encrypt("patient:1", b"secret", "room.Model")
    assert b"secret" not in sealed
    assert keys.decrypt("patient:1", sealed, "room.Model") == b"secret"
    assert keys.encrypt("patient:1", b"secret", "room.Model") != sealed
    keys.ensure_data_key("patient:2")
    for subject, text, context in [
        ("patient:2", sealed, "room.Model"),
        ("patient:1", sealed, "room.Other"),
        ("patient:1", sealed[:-1] + bytes([sealed[-1] ^ 1]), "room.Model"),
        ("patient:1", b"", "room.Model"),
        ("patient:3", sealed, "room.Model"),
    ]:
        with pytest.raises(EngineError) as caught:
            keys.decrypt(subject, text, context)
        assert "patient" not in str(caught.value)
    assert not DataKey.objects.filter(subject="patient:3").exists()


def test_subject_and_context_cannot_be_shifted_into_each_other() -> None:
    assert keys._associated("ab", "c") != keys._associated("a", "bc")
    assert keys.keyed_hash("ab", "c") != keys.keyed_hash("a", "bc")


def test_a_rolled_back_key_is_never_used_afterwards() -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        keys.encrypt("patient:1", b"x", "c")
        raise RuntimeError
    assert not DataKey.objects.exists()
    sealed = keys.encrypt("patient:1", b"y", "c")
    assert keys.decrypt("patient:1", sealed, "c") == b"y"


def test_destroying_a_key_erases_at_once_and_for_ever() -> None:
    sealed = keys.encrypt("patient:1", b"secret", "c")
    other = keys.encrypt("patient:2", b"kept", "c")
    assert keys.destroy("patient:1") is True
    assert keys.destroy("patient:1") is False
    with pytest.raises(KeyDestroyed):
        keys.decrypt("patient:1", sealed, "c")
    with pytest.raises(KeyDestroyed):
        keys.encrypt("patient:1", b"new", "c")
    with pytest.raises(KeyDestroyed):
        keys.decrypt_many([("patient:2", other, "c"), ("patient:1", sealed, "c")])
    row = DataKey.objects.get(subject="patient:1")
    assert (bytes(row.wrapped), row.destroyed_at is not None) == (b"", True)
    assert keys.decrypt("patient:2", other, "c") == b"kept"


def test_rotation_keeps_everything_readable_and_retires_the_old_key(keyset: Path) -> None:
    sealed = {f"patient:{n}": keys.encrypt(f"patient:{n}", b"secret", "c") for n in range(5)}
    keys.destroy("patient:4")
    hashed = keys.keyed_hash("mrn", "123")
    old = keys.master_key_ids()[0]
    assert keys.rotate_master() == 4
    primary, known = keys.master_key_ids()
    assert primary != old
    assert known == (old, primary)
    assert keys.keyed_hash("mrn", "123") == hashed
    assert keys.retire_old_master_keys() == (old,)
    assert keys.master_key_ids() == (primary, (primary,))
    for subject in list(sealed)[:4]:
        assert keys.decrypt(subject, sealed[subject], "c") == b"secret"
    assert not DataKey.objects.filter(master_key_id=old, destroyed_at=None).exists()
    assert keyset.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in keyset.parent.iterdir() if path.suffix == ".tmp"] == []


def test_a_key_that_still_wraps_something_is_not_retired(keyset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = keys.encrypt("patient:1", b"secret", "c")
    monkeypatch.setattr(keys, "rewrap_all", lambda: 0)  # stopped in between
    keys.rotate_master()
    monkeypatch.undo()
    assert keys.retire_old_master_keys() == ()
    assert keys.decrypt("patient:1", sealed, "c") == b"secret"
    assert keys.rewrap_all(batch=1) == 1
    assert len(keys.retire_old_master_keys()) == 1
    assert keys.decrypt("patient:1", sealed, "c") == b"secret"


def test_rewrapping_does_not_bring_back_a_key_destroyed_meanwhile(
    keyset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.ensure_data_key("patient:1")
    serialise = keys.tink.proto_keyset_format.serialize_encrypted

    def destroy_first(*args: Any) -> bytes:
        keys.destroy("patient:1")
        return bytes(serialise(*args))

    monkeypatch.setattr(keys.tink.proto_keyset_format, "serialize_encrypted", destroy_first)
    assert keys.rotate_master() == 0
    assert bytes(DataKey.objects.get().wrapped) == b""


def test_a_missing_or_damaged_keyset_fails_loudly(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ONCOFLOW_KEYSET = tmp_path / "none.json"
    with pytest.raises(keys.KeysetMissing, match="init_keys"):
        keys.encrypt("patient:1", b"x", "c")
    for text in ("{}", "not json", '{"format": 1, "aead": {}, "prf": {}}', '{"format": 2}', "[]"):
        settings.ONCOFLOW_KEYSET.write_text(text)
        with pytest.raises(keys.KeysetMissing, match="damaged"):
            keys.self_test()
    settings.ONCOFLOW_KEYSET = None
    with pytest.raises(keys.KeysetMissing):
        keys.self_test()


def test_a_keyset_is_never_overwritten_and_is_private(keyset: Path) -> None:
    before = keyset.read_bytes()
    with pytest.raises(UserVisibleError, match="already"):
        keys.create_keysets(keyset)
    assert keyset.read_bytes() == before
    assert keyset.stat().st_mode & 0o777 == 0o600


def test_the_environment_comes_first_and_cannot_be_rotated(
    keyset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.json"
    keys.create_keysets(other)
    before = keys.keyed_hash("p", "v")
    monkeypatch.setenv("ONCOFLOW_KEYSET_JSON", other.read_text())
    assert keys.keyed_hash("p", "v") != before
    with pytest.raises(UserVisibleError, match="environment"):
        keys.rotate_master()


def test_the_wrong_master_key_opens_nothing(keyset: Path, tmp_path: Path, settings: Any) -> None:
    sealed = keys.encrypt("patient:1", b"x", "c")
    settings.ONCOFLOW_KEYSET = tmp_path / "wrong.json"
    keys.create_keysets(settings.ONCOFLOW_KEYSET)
    with pytest.raises(EngineError, match="does not open"):
        keys.decrypt("patient:1", sealed, "c")


def test_a_wrapped_key_belongs_to_its_subject() -> None:
    keys.ensure_data_key("patient:1")
    keys.ensure_data_key("patient:2")
    DataKey.objects.filter(subject="patient:2").update(wrapped=DataKey.objects.get(subject="patient:1").wrapped)
    with pytest.raises(EngineError, match="does not open"):
        keys.encrypt("patient:2", b"x", "c")


def test_keyed_hash_is_hmac_sha256(keyset: Path) -> None:
    import base64
    import hmac

    # Tink's HmacPrfKey is the protobuf {2: {1: hash}, 3: key bytes}; the key is the trailing field.
    document = json.loads(keyset.read_text())
    value = base64.b64decode(document["prf"]["key"][0]["keyData"]["value"])
    secret = value[-value[value.index(b"\x1a") + 1] :]
    message = (3).to_bytes(4, "big") + b"mrn" + b"123"
    assert keys.keyed_hash("mrn", "123") == hmac.new(secret, message, hashlib.sha256).digest()


def test_many_are_decrypted_with_one_query(django_assert_num_queries: Any) -> None:
    items = [(f"patient:{n}", seal_json(f"patient:{n}", {"n": n}, "c"), "c") for n in range(10)]
    with django_assert_num_queries(1):
        assert open_json_many(items) == [{"n": n} for n in range(10)]
    with pytest.raises(EngineError, match="no data key"):
        keys.decrypt_many([("patient:99", b"x", "c")])


def test_an_encrypted_attribute_keeps_nothing_in_clear() -> None:
    class Meta:
        label = "room.Thing"

    class Thing:
        _meta = Meta
        identity = EncryptedJSON("ciphertext", subject="owner.key_subject")

        def __init__(self) -> None:
            self.ciphertext = b""
            self.owner = type("Owner", (), {"key_subject": "patient:1"})()

    thing = Thing()
    assert thing.identity is None
    thing.identity = {"family": "Müller", "given": ["Ana"]}
    assert thing.identity == {"family": "Müller", "given": ["Ana"]}
    assert "ller" not in repr(vars(thing))
    thing.identity = None
    assert thing.ciphertext == b""
