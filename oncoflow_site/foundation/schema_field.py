"""A JSON column that is read and written only through its schema: the attribute is the object, never a dictionary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import models
from django.db.models.fields.json import KeyTransform
from django.db.models.query_utils import DeferredAttribute
from pydantic import BaseModel

from oncoflow_site.foundation.schema import Document

__all__ = ["SchemaField", "schema_field"]

T = TypeVar("T")
_ST = TypeVar("_ST")
_GT = TypeVar("_GT")

if TYPE_CHECKING:
    _Base = models.JSONField[_ST, _GT]
else:

    class _Base(models.JSONField):
        def __class_getitem__(cls, item: Any) -> type:
            return cls


class _Facts(DeferredAttribute):
    """Whatever is assigned becomes the field's facts, so that a row never holds a loose dictionary."""

    def __set__(self, instance: models.Model, value: Any) -> None:
        instance.__dict__[self.field.attname] = self.field.to_python(value)


class SchemaField(_Base[_ST, _GT]):
    """A JSONField with a `Document`. In migrations it is a plain JSONField: a schema changes without one."""

    descriptor_class = _Facts

    def __init__(self, *args: Any, document: Document[Any] | None = None, **kwargs: Any) -> None:
        self.document = document
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        """As the JSONField that it is in the database."""
        name, _, args, kwargs = super().deconstruct()
        kwargs.pop("encoder", None)
        return name, "django.db.models.JSONField", args, kwargs

    def to_python(self, value: Any) -> Any:
        """Facts from facts, or from a stored document of any version."""
        if value is None or self.document is None or hasattr(value, "resolve_expression") or _are_facts(value):
            return value
        return self.document.read(value)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        """Facts of the stored document."""
        found = super().from_db_value(value, expression, connection)
        return found if isinstance(expression, KeyTransform) else self.to_python(found)

    def get_prep_value(self, value: Any) -> Any:
        """The stored form of facts."""
        if self.document is None or hasattr(value, "resolve_expression") or isinstance(value, (str, int, float)):
            return super().get_prep_value(value)
        facts = self.to_python(value)
        return None if facts is None and self.null else self.document.write(facts)

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        """SQL NULL only where the column allows it; else the stored form says that there is nothing."""
        if value is None and not self.null:
            return self.get_db_prep_value(value, connection)
        return super().get_db_prep_save(value, connection)

    def value_to_string(self, obj: models.Model) -> Any:
        """For fixtures."""
        return self.get_prep_value(self.value_from_object(obj))


def _are_facts(value: Any) -> bool:
    """Whether a value is facts already. JSON has neither models nor tuples."""
    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(one, BaseModel) for one in value.values())
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, BaseModel) for one in value)
    return isinstance(value, (BaseModel, tuple))


def schema_field(document: Document[T], **kwargs: Any) -> SchemaField[Any, T]:
    """A column of ``document``; its attribute has the document's type."""
    return SchemaField(document=document, encoder=_Encoder, **kwargs)


class _Encoder(json.JSONEncoder):
    """For the administration pages, which show the attribute and not the stored form."""

    def default(self, o: Any) -> Any:
        return o.model_dump(mode="json") if isinstance(o, BaseModel) else super().default(o)
