"""The JSON of FHIR R4 in words of its own. Its schema is fhir.resources', which checks what comes in and what goes out."""

from __future__ import annotations

from typing import Any

__all__ = ["Element", "Resource"]

Resource = dict[str, Any]
"""A resource as FHIR R4 JSON (R4 section 2.6.2): names of elements -> what the resource's own definition says."""

Element = Resource
"""A data type as FHIR R4 JSON, such as a CodeableConcept or a Quantity."""
