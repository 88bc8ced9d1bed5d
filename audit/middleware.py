"""Names the person behind a web request to everything that is recorded while it is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from audit.actors import Actor, acting_as

__all__ = ["ActorMiddleware"]

_DOORS = (("/fhir/", "fhir"), ("/dicomweb/", "dicom"))


def _acting(request: HttpRequest) -> AbstractContextManager[object]:
    def who() -> Actor:
        # Asked for late: a token is checked only inside the view, and most static requests never ask.
        user = getattr(request, "user", None)
        if user is not None and user.is_authenticated:
            return Actor.user(user)
        return Actor.peer("anonymous")

    source = next((name for prefix, name in _DOORS if request.path.startswith(prefix)), "web")
    return acting_as(who, source=source)


class ActorMiddleware:
    """Goes after the authentication middleware. Works under WSGI and ASGI."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        self._async = iscoroutinefunction(get_response)
        if self._async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._async:
            return self._acall(request)
        with _acting(request):
            return self.get_response(request)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        with _acting(request):
            return await self.get_response(request)  # type: ignore[misc, no-any-return]
