"""An identity as one keyed hash, so that the same contradiction is recognised when it comes again."""

from __future__ import annotations

from clinical.identity import IdentityData
from clinical.vault import blind_index, normal_name

__all__ = ["fingerprint"]


def fingerprint(identity: IdentityData) -> str:
    """Keyed hash of what was said of a person, numbers and all; 64 hexadecimal digits."""
    numbers = sorted(f"{one.authority}\x1e{one.kind}\x1e{one.value}" for one in identity.identifiers)
    return blind_index(
        "identity.conflict",
        normal_name(identity.family),
        normal_name(identity.given),
        identity.birth_date.isoformat() if identity.birth_date else "",
        identity.sex,
        *numbers,
    )
