"""Naming systems: HL7 v2 assigning authorities as FHIR identifier systems, and our own."""

from __future__ import annotations

from urllib.parse import quote, unquote

from django.conf import settings

from clinical import services as clinical

__all__ = ["authority_of", "known_authority", "own", "patient_system"]


def _base() -> str:
    return str(settings.ONCOFLOW_IDENTIFIER_SYSTEM).rstrip("/")


def own(name: str) -> str:
    """System of identifiers or codes that this installation gives out, e.g. ``report`` or ``code``."""
    return f"{_base()}/oncoflow/{name}"


def patient_system(authority: str, kind: str = "MR") -> str:
    """FHIR system of a patient number: the configured base, the assigning authority and, but for MR, its type."""
    tail = "" if kind == "MR" else f"/{quote(kind, safe='')}"
    return f"{_base()}/{quote(authority, safe='')}{tail}"


def authority_of(system: str) -> tuple[str, str] | None:
    """(assigning authority, type) of a patient identifier system; None for one that is not known here.

    The base itself means the hospital's own authority; ``urn:oid:`` is looked up in ONCOFLOW_AUTHORITY_OIDS.
    """
    base = _base()
    if system == base:
        return str(settings.ONCOFLOW_ASSIGNING_AUTHORITY), "MR"
    if system.startswith("urn:oid:"):
        known: dict[str, str] = getattr(settings, "ONCOFLOW_AUTHORITY_OIDS", {})
        authority = known.get(system.removeprefix("urn:oid:"))
        return (authority, "MR") if authority else None
    if system.startswith(f"{base}/"):
        parts = system[len(base) + 1 :].split("/")
        if len(parts) <= 2 and all(parts) and parts[0] != "oncoflow":
            return unquote(parts[0]), unquote(parts[1]) if len(parts) == 2 else "MR"
    return None


def known_authority(system: str) -> tuple[str, str] | None:
    """`authority_of`, and the systems that the administration holds for an assigning authority (its URI, its OID)."""
    found = authority_of(system)
    if found is not None or not system:
        return found
    policy = clinical.matching_policy()
    authority = policy.authority(system)
    return (authority, "MR") if authority in policy.types else None
