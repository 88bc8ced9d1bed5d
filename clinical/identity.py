"""What identifies a patient or an order. These values leave this room only through an audited, purposeful call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from oncoflow_site.foundation.schema import JsonDict

__all__ = ["SEXES", "Identifier", "IdentityData", "OrderIdentity"]

SEXES = ("M", "F", "O", "U")


@dataclass(frozen=True)
class Identifier:
    """A patient's number.

    :param authority: assigning authority (HL7 CX.4 namespace, or the configured name for its OID or URI).
    :param value: the number itself (CX.1), kept exactly, surrounding blanks apart.
    :param kind: HL7 table 0203 code (CX.5), ``MR`` for a medical record number.
    :param use: FHIR identifier-use: ``usual``, or ``old`` for a number that a later one has replaced. Not compared.
    """

    authority: str
    value: str
    kind: str = "MR"
    use: str = field(default="usual", compare=False)

    def __post_init__(self) -> None:
        for name in ("authority", "value", "kind"):
            object.__setattr__(self, name, str(getattr(self, name)).strip())
        if not self.authority or not self.value or not self.kind:
            raise ValueError("an identifier needs an assigning authority, a value and a kind")

    def __repr__(self) -> str:
        return f"Identifier(kind={self.kind!r})"


@dataclass(frozen=True)
class IdentityData:
    """Who a patient is. Its ``repr`` shows nothing, so that no traceback or log line can.

    :param birth_date: None where the sender did not say.
    :param sex: administrative sex, M, F, O or U (HL7 table 0001); anything else becomes U.
    :param identifiers: at least one to be registered.
    :param cleared: of ``family``, ``given``, ``birth_date`` and ``sex``: what the sender deletes (HL7: two quotes), while an
        empty field says nothing. An instruction, not a fact: it is never kept.
    """

    family: str = ""
    given: str = ""
    birth_date: date | None = None
    sex: str = "U"
    identifiers: tuple[Identifier, ...] = ()
    cleared: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", self.family.strip())
        object.__setattr__(self, "given", self.given.strip())
        object.__setattr__(self, "sex", self.sex if self.sex in SEXES else "U")
        object.__setattr__(self, "identifiers", tuple(dict.fromkeys(self.identifiers)))

    def __repr__(self) -> str:
        return "IdentityData(...)"

    @property
    def display_name(self) -> str:
        """``FAMILY, Given`` for people to read; empty where no name is known."""
        return ", ".join(part for part in (self.family, self.given) if part)

    def identifier(self, authority: str, kind: str = "MR") -> str | None:
        """The number under ``authority``, the one in use before an old one, or None."""
        numbers = [one for one in self.identifiers if one.authority == authority and one.kind == kind]
        return min(numbers, key=lambda one: one.use == "old").value if numbers else None

    def to_json(self) -> JsonDict:
        """Plain values for encryption."""
        return {
            "family": self.family,
            "given": self.given,
            "birth_date": self.birth_date.isoformat() if self.birth_date else None,
            "sex": self.sex,
            "identifiers": [
                [one.authority, one.value, one.kind, *([one.use] if one.use != "usual" else [])]
                for one in self.identifiers
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> IdentityData:
        """The reverse of `to_json`."""
        born = data.get("birth_date")
        return cls(
            family=data.get("family", ""),
            given=data.get("given", ""),
            birth_date=date.fromisoformat(born) if born else None,
            sex=data.get("sex", "U"),
            identifiers=tuple(Identifier(*row) for row in data.get("identifiers", ())),
        )


@dataclass(frozen=True)
class OrderIdentity:
    """The numbers and words of an order that point at a person.

    :param accession: accession number (OBR-18, IPC-1; DICOM Accession Number).
    :param placer_number: ORC-2 EI.1, with its namespace in ``placer_authority``.
    :param filler_number: ORC-3 EI.1, with its namespace in ``filler_authority``.
    :param study_instance_uid: IPC-3 or ZDS-1.1, where the order carries one.
    :param reason: reason for the study (OBR-31, FHIR reasonCode).
    :param echo: raw HL7 fields to be sent back unchanged, e.g. ``{"ORC-2": ..., "OBR-4": ...}``.
    """

    accession: str = ""
    placer_number: str = ""
    placer_authority: str = ""
    filler_number: str = ""
    filler_authority: str = ""
    study_instance_uid: str = ""
    reason: str = ""
    ordering_provider: str = ""
    echo: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "accession",
            "placer_number",
            "placer_authority",
            "filler_number",
            "filler_authority",
            "study_instance_uid",
        ):
            object.__setattr__(self, name, str(getattr(self, name)).strip())
        object.__setattr__(self, "echo", dict(self.echo))

    def __repr__(self) -> str:
        return "OrderIdentity(...)"

    def to_json(self) -> JsonDict:
        """Plain values for encryption."""
        return {
            "accession": self.accession,
            "placer_number": self.placer_number,
            "placer_authority": self.placer_authority,
            "filler_number": self.filler_number,
            "filler_authority": self.filler_authority,
            "study_instance_uid": self.study_instance_uid,
            "reason": self.reason,
            "ordering_provider": self.ordering_provider,
            "echo": dict(self.echo),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OrderIdentity:
        """The reverse of `to_json`."""
        return cls(**dict(data))
