"""Encrypted objects: integrity, random access, crash safety, the janitor."""

from __future__ import annotations

import hashlib
import io
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from oncoflow_site.foundation import files, keys, objects, stores
from oncoflow_site.foundation.errors import KeyDestroyed, TransientError
from oncoflow_site.foundation.models import StoredObject
from tests.peers import buckets

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 1000 bytes, so that small data has many."""
    monkeypatch.setattr(objects, "CHUNK_SIZE", 1000)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, settings: Any) -> Path:
    """A storage of this test's own."""
    buckets.configure(settings, objects=buckets.local(tmp_path / "objects"))
    return tmp_path / "objects"


@pytest.fixture(params=["local", "s3", "azure"])
def anywhere(request: pytest.FixtureRequest, root: Path, settings: Any) -> stores.Store:
    """The same storage in a folder, on S3 and on Azure; another one's things lie beside ours."""
    buckets.configure(settings, objects=buckets.storage_options(request, request.param))
    return stores.store("objects")


def put(data: bytes, subject: str = "patient:1") -> StoredObject:
    return objects.put(data, subject=subject, kind="test", content_type="application/x-test")


def path_of(root: Path, row: StoredObject) -> Path:
    return root / row.storage_name


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 16_000, 16_001, 40_123])
def test_round_trip_of_every_size(anywhere: stores.Store, size: int) -> None:
    data = os.urandom(size)
    row = put(data)
    assert objects.get(row) == objects.get(row.id) == objects.get(str(row.id)) == data
    assert (row.size, row.sha256, row.content_type) == (size, hashlib.sha256(data).hexdigest(), "application/x-test")
    objects.verify(row)
    if size >= 16:
        assert data[:16] not in anywhere.read(row.storage_name, 0, 1 << 20)


def test_a_stream_that_gives_little_at_a_time() -> None:
    class Dribble(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self.inner = io.BytesIO(data)

        def read(self, size: int = -1) -> bytes:
            return self.inner.read(min(size, 7))

    data = os.urandom(5003)
    assert objects.get(objects.put(Dribble(data), subject="patient:1", kind="test")) == data


@pytest.mark.parametrize(
    ("start", "length"), [(0, 1), (0, 5000), (999, 2), (1000, 1000), (4999, 10), (5000, 5), (1234, 2345), (0, 0)]
)
def test_ranges(anywhere: stores.Store, start: int, length: int) -> None:
    data = os.urandom(5000)
    assert objects.open_range(put(data), start, length) == data[start : start + length]


def test_a_range_reads_only_its_chunks(anywhere: stores.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(50_000)
    row = put(data)
    read: list[int] = []
    original = type(anywhere).read

    def counted(*arguments: Any, **options: Any) -> bytes:
        got = original(*arguments, **options)
        read.append(len(got))
        return got

    monkeypatch.setattr(type(anywhere), "read", counted)
    assert objects.open_range(row, 30_500, 100) == data[30_500:30_600]
    assert sum(read) < 1200
    with pytest.raises(ValueError, match="outside"):
        objects.open_range(row, 50_001, 1)


def test_every_kind_of_tampering_is_found(root: Path) -> None:
    one, two = put(os.urandom(5000)), put(os.urandom(5000))
    path = path_of(root, one)
    good = path.read_bytes()
    chunk = 1000 + 33
    swapped = good[:16] + good[16 + chunk : 16 + 2 * chunk] + good[16 : 16 + chunk] + good[16 + 2 * chunk :]
    tampered = {
        "a bit": good[:500] + bytes([good[500] ^ 1]) + good[501:],
        "swapped chunks": swapped,
        "a lost last chunk": good[:-chunk],
        "cut": good[:-1],
        "cut header": good[:10],
        "empty": b"",
        "another header": b"OFO1" + (2000).to_bytes(4, "big") + good[8:],
        "no magic": b"XXXX" + good[4:],
        "another object": path_of(root, two).read_bytes(),
    }
    for name, bad in tampered.items():
        path.write_bytes(bad)
        with pytest.raises(objects.ObjectDamaged):
            objects.get(one)
            pytest.fail(name)
    path.write_bytes(good)
    StoredObject.objects.filter(pk=one.pk).update(size=3000)
    with pytest.raises(objects.ObjectDamaged):
        objects.get(one.pk)
    StoredObject.objects.filter(pk=one.pk).update(size=5000, sha256="0" * 64)
    with pytest.raises(objects.ObjectDamaged, match="SHA-256"):
        objects.get(one.pk)
    with pytest.raises(objects.ObjectDamaged, match="SHA-256"):
        objects.verify(one.pk)
    path.unlink()
    with pytest.raises(objects.ObjectMissing):
        objects.get(one.pk)


def test_a_destroyed_key_erases_its_objects() -> None:
    mine, other = put(b"mine"), put(b"other", subject="patient:2")
    keys.destroy("patient:1")
    with pytest.raises(KeyDestroyed):
        objects.get(mine)
    with pytest.raises(KeyDestroyed):
        put(b"more")
    assert objects.get(other) == b"other"


def test_a_failed_write_leaves_no_row_and_no_file(root: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 2000:
                raise OSError("the upload broke off")
            return super().read(size)

    with pytest.raises(TransientError, match="cannot be written"):
        objects.put(Broken(os.urandom(9000)), subject="patient:1", kind="test")
    assert not StoredObject.objects.exists()
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_bytes_are_synced_and_named_before_the_row(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_fsync, real_link, real_save = os.fsync, os.link, StoredObject.save
    monkeypatch.setattr(files.os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(files.os, "link", lambda a, b: (calls.append("name"), real_link(a, b))[1])
    monkeypatch.setattr(StoredObject, "save", lambda *a, **kw: (calls.append("row"), real_save(*a, **kw))[1])
    put(b"x")
    tail = calls[-4:]
    assert tail == ["fsync", "name", "fsync", "row"]


def test_a_rollback_leaves_an_orphan_that_the_janitor_removes_after_its_grace(root: Path) -> None:
    kept = put(b"kept")
    orphan = objects.write(b"orphan", subject="patient:1", kind="test")
    with pytest.raises(RuntimeError), transaction.atomic():
        objects.keep(orphan)
        raise RuntimeError
    (root / "ab").mkdir(exist_ok=True)
    (root / "ab" / "half-written.tmp").write_bytes(b"x")
    assert len([p for p in root.rglob("*") if p.is_file()]) == 3
    assert objects.janitor() == 0
    old = time.time() - 2 * 86_400
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (old, old))
    assert objects.janitor() == 2
    assert objects.get(kept) == b"kept"
    assert objects.janitor(timedelta(0)) == 0


def test_deleting_waits_for_the_commit(root: Path, django_capture_on_commit_callbacks: Any) -> None:
    row = put(b"x")
    path = path_of(root, row)
    with django_capture_on_commit_callbacks(execute=True):
        objects.delete(row.id)
        assert path.exists()
    assert not path.exists()
    assert not StoredObject.objects.exists()


def test_names_say_nothing_and_are_never_reused(root: Path) -> None:
    first, second = put(b"same"), put(b"same")
    assert first.storage_name != second.storage_name
    assert path_of(root, first).read_bytes() != path_of(root, second).read_bytes()
    assert path_of(root, first).stat().st_mode & 0o077 == 0


def test_rollback_damage_loss_and_the_janitor_everywhere(anywhere: stores.Store) -> None:
    data = os.urandom(20_500)
    row = put(data)
    orphan = objects.write(b"orphan", subject="patient:1", kind="test")
    with pytest.raises(RuntimeError), transaction.atomic():
        objects.keep(orphan)
        raise RuntimeError
    anywhere.write("staging/of-another-purpose", b"x")
    assert objects.janitor() == 0
    assert objects.janitor(timedelta(seconds=-60)) == 1
    assert objects.get(row) == data
    assert anywhere.stat("staging/of-another-purpose").size == 1
    sealed = anywhere.read(row.storage_name, 0, 1 << 20)
    for bad in (sealed[:5000], sealed[:16], sealed[:9000] + bytes([sealed[9000] ^ 1]) + sealed[9001:]):
        anywhere.write(row.storage_name, bad)
        with pytest.raises(objects.ObjectDamaged):
            objects.get(row)
    anywhere.delete(row.storage_name)
    with pytest.raises(objects.ObjectMissing):
        objects.get(row)


def test_deleting_everywhere(anywhere: stores.Store, django_capture_on_commit_callbacks: Any) -> None:
    row = put(b"x")
    with django_capture_on_commit_callbacks(execute=True):
        objects.delete(row)
        assert anywhere.stat(row.storage_name)
    with pytest.raises(FileNotFoundError):
        anywhere.stat(row.storage_name)


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_a_store_that_is_away_is_no_lost_object(request: pytest.FixtureRequest, settings: Any, kind: str) -> None:
    options = buckets.storage_options(request, kind)
    buckets.configure(settings, objects=options)
    row = put(b"x")
    name = {"s3": "bucket_name", "azure": "azure_container"}[kind]
    buckets.configure(settings, objects=options | {"OPTIONS": options["OPTIONS"] | {name: "not-there-at-all"}})
    with pytest.raises(TransientError):
        put(b"y")
    with pytest.raises(TransientError):
        objects.get(row)
    assert StoredObject.objects.get() == row


def test_a_store_names_changes_and_never_reads_other_bytes(anywhere: stores.Store) -> None:
    anywhere.write("in/here/a.dcm", b"0123456789")
    before = anywhere.stat("in/here/a.dcm")
    assert [one.name for one in anywhere.entries("in/")] == ["in/here/a.dcm"]
    assert list(anywhere.entries("elsewhere/")) == []
    assert next(iter(anywhere.entries())).etag == before.etag
    assert anywhere.read("in/here/a.dcm", 3, 4, etag=before.etag) == b"3456"
    anywhere.write("in/here/a.dcm", b"another!!!")
    with pytest.raises(stores.StoreChanged):
        anywhere.read("in/here/a.dcm", 3, 4, etag=before.etag)
    anywhere.move("in/here/a.dcm", "done/in/here/a.dcm")
    assert [one.name for one in anywhere.entries()] == ["done/in/here/a.dcm"]
    assert anywhere.read("done/in/here/a.dcm", 0, 99) == b"another!!!"
    with pytest.raises(FileNotFoundError):
        anywhere.read("in/here/a.dcm", 0, 1)
    anywhere.delete("in/here/a.dcm")
