"""The request id on its way in, through and out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from oncoflow_site.foundation import ids
from oncoflow_site.foundation.request_id import (
    RequestIdFilter,
    RequestIdMiddleware,
    bind_request_id,
    current_request_id,
)


def answer(request: Any) -> HttpResponse:
    return HttpResponse(current_request_id())


@pytest.mark.parametrize("given", ["", "short", "x" * 65, "with space 123", "new\nline-123", "ünïcödé-123", "a;b=c'--"])
def test_a_malformed_id_is_replaced(given: str) -> None:
    response = RequestIdMiddleware(answer)(RequestFactory().get("/", HTTP_X_REQUEST_ID=given))
    assert response.headers["X-Request-Id"] != given
    assert len(response.headers["X-Request-Id"]) == 32
    assert response.content.decode() == response.headers["X-Request-Id"]
    assert current_request_id() == ""


def test_a_good_id_is_kept() -> None:
    response = RequestIdMiddleware(answer)(RequestFactory().get("/", HTTP_X_REQUEST_ID="Client.id_0-1"))
    assert response.headers["X-Request-Id"] == "Client.id_0-1"
    assert response.content == b"Client.id_0-1"


async def test_the_same_under_asgi() -> None:
    async def view(request: Any) -> HttpResponse:
        return HttpResponse(current_request_id() + request.request_id)

    middleware: Any = RequestIdMiddleware(view)
    response = await middleware(RequestFactory().get("/", HTTP_X_REQUEST_ID="client-id-1"))
    assert response.content == b"client-id-1client-id-1"
    assert response.headers["X-Request-Id"] == "client-id-1"


def test_the_log_filter_and_nesting() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "m", (), None)
    RequestIdFilter().filter(record)
    assert record.request_id == "-"
    with bind_request_id("outer-id") as outer, bind_request_id():
        inner = current_request_id()
        RequestIdFilter().filter(record)
        assert record.request_id == inner != outer
    assert current_request_id() == ""


def test_identifiers() -> None:
    many = [ids.new_id() for _ in range(1000)]
    assert len(set(many)) == 1000
    assert {one.version for one in many} == {7}
    assert [one.int >> 80 for one in many] == sorted(one.int >> 80 for one in many)
    uid = ids.new_uid()
    assert uid.startswith("2.25.")
    assert len(uid) <= 64
