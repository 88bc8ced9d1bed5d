"""The JSON of FHIR R4 as types. Its schema is fhir.resources', which checks what comes in and what goes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

__all__ = ["Element", "FhirJson", "Resource", "element", "elements"]

FhirJson: TypeAlias = "str | int | float | bool | Sequence[FhirJson] | Mapping[str, FhirJson] | None"
"""The value of an element. Where it is read, it is told apart by ``isinstance``, as for every foreign JSON."""

Resource: TypeAlias = dict[str, FhirJson]
"""A resource as FHIR R4 JSON (R4 section 2.6.2): names of elements -> what the resource's own definition says."""

Element: TypeAlias = Resource
"""A data type as FHIR R4 JSON, such as a CodeableConcept or a Quantity."""


def element(value: FhirJson) -> Mapping[str, FhirJson]:
    """A data type that was read; empty where there is none."""
    return value if isinstance(value, Mapping) else {}


def elements(value: FhirJson) -> list[Mapping[str, FhirJson]]:
    """The data types of a repeating element that was read, as many as it has; none where it is absent."""
    return [element(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else []
