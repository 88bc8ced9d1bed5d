"""A person's word about a series, kept for the next series of that protocol.

A protocol is told by its name and kinds, which must be equal (description and protocol name, image type, scanning
sequence, 2D or 3D, contrast, manufacturer, model, field), and by times and angles, which must agree within what scanners
vary by themselves. A series whose numbers differ is another protocol, whatever it is called. A name may hold what a
person typed, so it is kept as a keyed hash only, with its cleaned words beside it for people to read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NotRequired, TypedDict

from django.db.models import F

from audit import services as audit
from imaging.deidentification.value_cleaning import clean_words
from imaging.dicom.acquisition import AcquisitionParameters
from imaging.models import MrSequence, ProtocolRule
from imaging.recognition.rules import Recognition
from oncoflow_site.foundation import keys

if TYPE_CHECKING:
    from clinical.models import User

__all__ = ["as_said", "keep", "protocol_of", "remove"]

# How far a number may be from that of the series a person looked at: (absolute, share).
TOLERANCES = {"tr": (5.0, 0.05), "te": (0.5, 0.05), "ti": (10.0, 0.05), "flip": (3.0, 0.1)}
_VENDORS = (
    "siemens",
    "ge",
    "philips",
    "canon",
    "toshiba",
    "hitachi",
    "fujifilm",
    "united imaging",
    "uih",
    "esaote",
    "bruker",
)


class Protocol(TypedDict):
    """What tells a protocol: no identity, names as keyed hashes, times in ms, angle in degrees, field in tesla."""

    words: list[str]
    name: str
    image_type: list[str]
    scanning: list[str]
    acquisition: str
    contrast: bool
    frame_type: NotRequired[list[str]]
    manufacturer: str
    model: str
    field: float | None
    numbers: dict[str, float | None]


def protocol_of(facts: AcquisitionParameters) -> Protocol | None:
    """What tells the protocol, JSON-able and without identity; None for a series that no rule can be kept for.

    A series without echo and repetition time has none: its name alone would carry the answer to other physics.
    """
    if facts.modality != "MR" or facts.tr is None or facts.te is None:
        return None
    words = sorted({word.lower() for word in clean_words(facts.words).split()})
    maker = facts.manufacturer.lower()
    protocol: Protocol = {
        "words": words,
        "name": _hash(facts.words),
        "image_type": sorted({clean_words(one) for one in facts.image_type} - {""}),
        "scanning": sorted(facts.scanning & {"SE", "IR", "GR", "EP", "RM"}),
        "acquisition": facts.acquisition if facts.acquisition in ("2D", "3D") else "",
        "contrast": bool(facts.contrast.given) and not facts.contrast.denied,
        "manufacturer": next((one for one in _VENDORS if re.search(rf"(?<![a-z]){one}(?![a-z])", maker)), ""),
        "model": _hash(facts.model),
        "field": None if facts.field is None else round(facts.field * 2) / 2,
        "numbers": {"tr": facts.tr, "te": facts.te, "ti": facts.ti, "flip": facts.flip},
    }
    if facts.frame_type:  # a key of its own only where it is stated: rules that were kept before stay findable
        protocol["frame_type"] = sorted({clean_words(one) for one in facts.frame_type} - {""})
    return protocol


def as_said(recognition: Recognition, protocol: Protocol | None, *, count: bool = True) -> Recognition:
    """What a person said of this protocol, or ``recognition`` where nobody did. Counts the use, if ``count``.

    Of several rules the newest that fits counts; what is not MR stays what it is.
    """
    rule = _rule(protocol)
    if rule is None:
        return recognition
    if count:
        ProtocolRule.objects.filter(pk=rule.pk).update(used=F("used") + 1)
    reason = f"as said by a person on {rule.said_at:%Y-%m-%d} for this protocol (the header says: {recognition.reason})"
    return Recognition(rule.sequence, 0.99, reason, recognition.parameters)


def keep(protocol: Protocol | None, sequence: str, *, by: User) -> ProtocolRule | None:
    """Keep the answer for the protocol, replacing an earlier one, on the record. Inside the caller's transaction.

    None for a series that has no protocol (NIfTI, no physics).
    """
    if not protocol or sequence not in MrSequence.values or sequence == MrSequence.UNKNOWN:
        return None
    while (earlier := _rule(protocol)) is not None:
        remove(earlier, by=by, why="replaced")
    rule = ProtocolRule.objects.create(key=_key(protocol), protocol=protocol, sequence=sequence, said_by=by)
    audit.record(
        "protocol.keep",
        action="C",
        resource=f"protocol:{rule.pk}",
        actor=audit.Actor.user(by),
        detail={"sequence": sequence},
    )
    return rule


def remove(rule: ProtocolRule, *, by: User, why: str = "removed") -> None:
    """Forget a rule, on the record. Series that were named by it stay as they are."""
    audit.record(
        "protocol.remove",
        action="D",
        resource=f"protocol:{rule.pk}",
        actor=audit.Actor.user(by),
        detail={"sequence": rule.sequence, "why": why, "used": rule.used},
    )
    rule.delete()


def _hash(text: str) -> str:
    plain = " ".join(text.lower().split())
    return keys.keyed_hash("protocol-name", plain).hex()[:24] if plain else ""


def _key(protocol: Protocol) -> str:
    kinds = {name: value for name, value in protocol.items() if name not in ("words", "numbers")}
    return hashlib.sha256(json.dumps(kinds, sort_keys=True).encode()).hexdigest()


def _rule(protocol: Protocol | None) -> ProtocolRule | None:
    if not protocol:
        return None
    rules = ProtocolRule.objects.filter(key=_key(protocol)).order_by("-said_at", "-id")
    return next((rule for rule in rules if _near(rule.protocol["numbers"], protocol["numbers"])), None)


def _near(one: Mapping[str, float | None], other: Mapping[str, float | None]) -> bool:
    for name, (absolute, share) in TOLERANCES.items():
        first, second = one.get(name), other.get(name)
        if first is None or second is None:
            if first is not second:
                return False
        elif abs(first - second) > max(absolute, share * abs(first)):
            return False
    return True
