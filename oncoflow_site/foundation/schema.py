"""Facts as typed, frozen, versioned schemas: the base of every schema and how one is kept as JSON. Pure: no Django.

A stored document is ``{"schema": n, "data": ...}``; what has no such envelope was written before there were schemas and is
version 1. An older version is read through its upgrades, one step at a time; a newer one than this code knows is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, PlainSerializer, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from oncoflow_site.foundation.errors import PermanentError

__all__ = [
    "Document",
    "Instant",
    "JsonDict",
    "JsonObject",
    "OldData",
    "Schema",
    "UnknownSchema",
    "plain",
    "with_defaults",
]

T = TypeVar("T")
JsonObject = Mapping[str, JsonValue]
JsonDict = dict[str, JsonValue]
"""A JSON object that its maker still fills: what it holds is told apart by `isinstance`, as for every foreign JSON."""
OldData = dict[str, Any]
"""Data of an older schema on their way to the next one: what they hold is checked at the end."""

Instant = Annotated[AwareDatetime, PlainSerializer(datetime.isoformat, return_type=str)]
"""A moment with its zone; ISO 8601 with the offset written out in JSON."""


class UnknownSchema(PermanentError):
    """A stored document has a version that is not known here, or is not what its version says."""


class Schema(BaseModel):
    """Base of all schemas: frozen, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")


class Document(Generic[T]):
    """One kind of stored document.

    :param name: for messages, e.g. ``measurement.regions``. :param kind: the type of ``data``: a `Schema` or a collection.
    :param version: that is written. :param upgrades: version n -> how its data become those of n + 1.
    """

    def __init__(
        self, name: str, kind: Any, *, version: int, upgrades: Mapping[int, Callable[[Any], Any]] | None = None
    ) -> None:
        self.name, self.kind, self.version = name, kind, version
        self.upgrades = dict(upgrades or {})
        if set(self.upgrades) != set(range(1, version)):
            raise ValueError(f"{name}: an upgrade is needed for every version before {version}")

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        return TypeAdapter(self.kind)

    def read(self, stored: Any) -> T:
        """The facts of a stored document of any known version.

        :raises UnknownSchema: a version that is not known, or data that are not of it. The message holds no value.
        """
        version, data = _opened(stored)
        if not 1 <= version <= self.version:
            raise UnknownSchema(f"{self.name}: schema {version} is not known here")
        try:
            for step in range(version, self.version):
                data = self.upgrades[step](data)
            return self._adapter.validate_python(data)
        except ValidationError as error:
            raise UnknownSchema(f"{self.name}: not of schema {version} ({_places(error)})") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnknownSchema(f"{self.name}: not of schema {version} ({type(error).__name__})") from None

    def write(self, facts: T) -> dict[str, JsonValue]:
        """The stored form, of the version that this code writes. Facts of another type are refused."""
        return {"schema": self.version, "data": self.dump(facts)}

    def dump(self, facts: T) -> JsonValue:
        """The data alone, as JSON values."""
        checked = self._adapter.validate_python(facts)
        data: JsonValue = self._adapter.dump_python(checked, mode="json")
        return data


def _opened(stored: Any) -> tuple[int, Any]:
    if isinstance(stored, Mapping) and set(stored) == {"schema", "data"} and isinstance(stored["schema"], int):
        return stored["schema"], stored["data"]
    return 1, stored


def _places(error: ValidationError) -> str:
    """Where, and what rule, without the values, which may be a person's words."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['type']}" for one in found[:5])


def plain(value: Any) -> Any:
    """``value`` (facts, or a part of them) as JSON values."""
    return value.isoformat() if isinstance(value, datetime) else to_jsonable_python(value)


def with_defaults(data: Mapping[str, Any], **missing: Any) -> OldData:
    """``data`` with what it lacks: the usual part of an upgrade."""
    return {**missing, **data}
