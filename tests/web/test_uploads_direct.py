"""Files put directly by a signed address, the same on local files, S3 and Azure; and bodies read while they arrive."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.conf import settings as live
from django.test import Client

from clinical.models import User
from imaging.intake import upload_job, upload_session
from imaging.models import Instance, Study, Upload, UploadFile
from oncoflow_site.foundation import stores
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.jobs import run_pending
from oncoflow_site.foundation.models import StoredObject
from tests.factories.dicom_files import study_files
from tests.peers import buckets, served_site
from tests.web.uploading import STREAM, Sender, archive, pairs, sha

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def nothing_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    from imaging.archive import completion

    monkeypatch.setattr(completion, "emit", lambda *a, **k: None)


@pytest.fixture
def site(transactional_db: None) -> Iterator[str]:
    """The whole service behind uvicorn, as it runs."""
    with served_site() as address:
        yield address


@pytest.fixture
def technician(transactional_db: None) -> User:
    return User.objects.create_user(username="tech", role="technician")


@pytest.fixture
def signed_in(technician: User) -> Client:
    client = Client()
    client.force_login(technician, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def browser(site: str, signed_in: Client) -> Iterator[httpx.Client]:
    """A session over the network, with its form token."""
    cookies = {live.SESSION_COOKIE_NAME: signed_in.cookies[live.SESSION_COOKIE_NAME].value, "csrftoken": "a" * 32}
    with httpx.Client(base_url=site, cookies=cookies, headers={"X-CSRFToken": "a" * 32}, timeout=60) as client:
        yield client


@pytest.fixture(params=["local", "s3", "azure"])
def staging(request: pytest.FixtureRequest, settings: Any) -> stores.Store:
    buckets.configure(settings, staging=buckets.storage_options(request, request.param, "staging"))
    return stores.store("staging")


def put(address: dict[str, Any], data: bytes, **headers: str) -> httpx.Response:
    return httpx.request(
        address["method"], address["url"], content=data, headers=address["headers"] | headers, timeout=60
    )


def names(store: stores.Store) -> list[str]:
    return [one.name for one in store.entries()]


def test_one_contract_on_every_store(staging: stores.Store, browser: httpx.Client) -> None:
    data = archive()
    answer = browser.post("/api/uploads/presign", json={"name": "a.zip", "size": len(data), "sha256": sha(data)})
    assert answer.status_code == 201, answer.text
    address = answer.json()
    assert {"id", "url", "method", "headers", "expires_at", "max_bytes"} <= address.keys()
    assert address["max_bytes"] == len(data)
    upload = address["id"]
    assert browser.post(f"/api/uploads/{upload}/complete", json={}).status_code == 409  # nothing came yet
    assert put(address, data).status_code in (200, 201)
    assert put(address, data).status_code in (200, 201)  # the client's retry
    second = study_files(study="1.2.3.9", slices=1)[0]
    answer = browser.post("/api/uploads/presign", json={"size": len(second), "upload": upload})
    assert put(answer.json(), second).is_success
    assert browser.post(f"/api/uploads/{upload}/complete", json={}).status_code == 202
    assert browser.post(f"/api/uploads/{upload}/complete", json={}).status_code == 202
    run_pending("default")
    state = browser.get(f"/api/uploads/{upload}/").json()
    assert (state["state"], state["counts"]["stored"]) == ("done", 9), state
    assert Study.objects.count() == 2
    assert names(staging) == []
    assert not StoredObject.objects.filter(kind="upload-part").exists()


def test_another_size_or_content_is_not_filed(staging: stores.Store, browser: httpx.Client) -> None:
    data = archive()
    address = browser.post("/api/uploads/presign", json={"size": len(data), "sha256": sha(b"else")}).json()
    longer = put(address, data + b"x")
    answer = browser.post(f"/api/uploads/{address['id']}/complete", json={})
    # S3 and our own service refuse what has another length; Azure's signature cannot say it, so complete does.
    assert longer.status_code >= 400 or "bytes" in answer.text
    assert answer.status_code in (400, 409)
    assert names(staging) == []
    put(address, data)
    browser.post(f"/api/uploads/{address['id']}/complete", json={})
    run_pending("default")
    state = browser.get(f"/api/uploads/{address['id']}/").json()
    assert (state["state"], state["code"]) == ("failed", "sha256")
    assert not Instance.objects.exists()
    Upload.objects.update(expires_at=now() - timedelta(seconds=1))
    upload_job.expire_due()
    assert names(staging) == []


def test_bytes_replaced_after_completion_are_not_filed(staging: stores.Store, browser: httpx.Client) -> None:
    data = study_files(slices=1)[0]
    address = browser.post("/api/uploads/presign", json={"size": len(data)}).json()
    put(address, data)
    browser.post(f"/api/uploads/{address['id']}/complete", json={})
    other = put(address, study_files(slices=1, PatientID="another")[0][: len(data)].ljust(len(data), b"\0"))
    run_pending("default")
    state = browser.get(f"/api/uploads/{address['id']}/").json()
    if "/api/uploads/put/" in address["url"]:
        assert (other.status_code, state["state"]) == (409, "done")
    else:
        assert (state["state"], state["code"]) == ("failed", "bytes-lost")
        assert not Instance.objects.exists()


def test_what_lies_in_staging_too_long_goes(staging: stores.Store, db: None, settings: Any) -> None:
    staging.write("0123abcd", b"never completed")
    assert upload_job.expire_due() == 0
    settings.ONCOFLOW_STAGING_HOURS = -1
    assert upload_job.expire_due() == 1
    assert names(staging) == []


def test_s3_signs_length_and_encryption(request: pytest.FixtureRequest, settings: Any, browser: httpx.Client) -> None:
    buckets.configure(settings, staging=buckets.storage_options(request, "s3", "staging"))
    address = browser.post("/api/uploads/presign", json={"size": 10}).json()
    assert address["headers"]["x-amz-server-side-encryption"] == "AES256"
    signed = address["url"].split("X-Amz-SignedHeaders=")[1].split("&")[0].split("%3B")
    assert {"content-length", "x-amz-server-side-encryption", "host"} <= set(signed)
    # Somebody writes into the bucket without encryption: found at completion, deleted.
    plain = stores.store("staging")
    name = UploadFile.objects.get().staged_name
    plain._client.put_object(Bucket=plain._bucket, Key=plain._key(name), Body=b"0123456789")  # type: ignore[attr-defined]
    answer = browser.post(f"/api/uploads/{address['id']}/complete", json={})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:oncoflow:problem:not-encrypted")
    assert names(plain) == []


def test_our_own_address(settings: Any, browser: httpx.Client, signed_in: Client) -> None:
    data = study_files(slices=1)[0]
    address = browser.post("/api/uploads/presign", json={"size": len(data)}).json()
    url = address["url"]
    assert httpx.put(url[:-3] + "AAA", content=data).status_code == 403
    assert httpx.put(url, content=data[:-1]).status_code == 400
    chunked = httpx.put(url, content=iter([data]))
    assert chunked.status_code == 411
    # The address names one file: it opens no other, and none that comes by parts.
    sender = Sender(signed_in)
    place = sender.announce(sender.begin()["id"], len(data), filename="b").headers["Location"]
    key = url.rsplit("/", 1)[1].split(":")[0]
    assert httpx.put(url.replace(key, place.rsplit("/", 1)[1]), content=data).status_code == 403
    assert httpx.put(url, content=data).headers["ETag"]
    settings.ONCOFLOW_PRESIGN_SECONDS = -1
    assert httpx.put(url, content=data).status_code == 403
    row = StoredObject.objects.get(kind="upload-part")
    assert data[200:300] not in stores.store("objects").read(row.storage_name, 0, row.size + 9999)


def test_a_connection_that_breaks_keeps_what_came(
    site: str, browser: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_session, "PART", 200_000)
    data = archive() + b"\0" * 700_000
    upload = browser.post("/api/uploads/", json={}).json()["id"]
    headers = {"Upload-Length": str(len(data)), "Upload-Metadata": pairs(filename="a.zip"), "Tus-Resumable": "1.0.0"}
    place = browser.post(f"/api/uploads/{upload}/files/", headers=headers).headers["Location"]
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    head = (
        f"PATCH {place} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookies}\r\nX-CSRFToken: {'a' * 32}\r\n"
        f"Content-Type: {STREAM}\r\nUpload-Offset: 0\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    host, port = site.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as wire:
        wire.sendall(head.encode() + data[:450_000])
        deadline = time.monotonic() + 20
        while UploadFile.objects.get().offset < 400_000:  # durable while the rest is still to come
            assert time.monotonic() < deadline
            time.sleep(0.02)
    while (offset := int(browser.head(place).headers["Upload-Offset"])) < 450_000:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    answer = browser.patch(place, content=data[offset:], headers={"Upload-Offset": str(offset), "Content-Type": STREAM})
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, str(len(data)))
    source = upload_job._source(Upload.objects.get(), UploadFile.objects.get())
    with source.open() as stream:
        assert sha(stream.read()) == sha(data)
        stream.seek(-5, io.SEEK_END)
        assert stream.read() == data[-5:]


def test_bodies_are_not_collected_first(browser: httpx.Client, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body far larger than what Django would keep in memory never touches a temporary file, nor the memory at once."""
    import django.core.handlers.asgi as asgi

    monkeypatch.setattr(asgi.tempfile, "SpooledTemporaryFile", None)
    size = 48 << 20
    address = browser.post("/api/uploads/presign", json={"size": size})
    assert address.status_code == 201

    def body() -> Iterator[bytes]:
        for _ in range(48):
            yield b"\0" * (1 << 20)

    headers = address.json()["headers"] | {"Content-Length": str(size)}
    answer = httpx.put(address.json()["url"], content=body(), headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    assert StoredObject.objects.get(kind="upload-part").size == size


def test_early_refusals_do_not_hang(browser: httpx.Client, site: str) -> None:
    for path in ("/api/uploads/put/nonsense", "/api/uploads/nonsense"):
        answer = httpx.put(f"{site}{path}", content=b"\0" * (3 << 20), timeout=20)
        assert answer.status_code in (403, 404)
    answer = browser.post("/api/uploads/", content=b"{" * 100, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert browser.get("/health/live").status_code == 200


def test_a_connection_serves_other_requests_afterwards(browser: httpx.Client) -> None:
    """What reads a body leaves nothing behind in the connection: an event stream follows on the same one."""
    options: dict[str, Any] = {"cookies": browser.cookies, "headers": browser.headers, "timeout": 60}
    with httpx.Client(base_url=browser.base_url, **options) as one:
        upload = one.post("/api/uploads/", json={}).json()["id"]
        data = archive() + b"\0" * 2_000_000
        headers = {"Upload-Length": str(len(data)), "Content-Type": STREAM}
        assert one.post(f"/api/uploads/{upload}/files/", content=data, headers=headers).status_code == 201
        state = one.post(f"/api/uploads/{upload}/complete", json={}).json()
        seen = 0
        with one.stream("GET", f"/api/jobs/{state['job']}/events", timeout=30) as events:
            for line in events.iter_lines():
                seen += line.startswith("data:")
                if seen == 1:
                    run_pending("default")
        assert seen >= 2
