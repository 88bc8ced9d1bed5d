"""Who sends, and how that system's messages are read: configuration that a peer carries."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from django.conf import settings
from django.db.models import F

from clinical import services as clinical
from clinical.patients.matching import MatchingPolicy
from fhir_api.hl7v2.er7 import Segment
from fhir_api.models import Peer, UnlistedSender
from oncoflow_site.foundation.clock import now

__all__ = ["PeerReading", "find_peer", "note_unlisted", "reading_of"]

MOST_UNLISTED = 500


def _may_send(peer: Peer, remote: str) -> bool:
    wanted = peer.certificate_sha256.replace(":", "").lower()
    if wanted and getattr(remote, "certificate_sha256", "") != wanted:
        return False
    if peer.remote_addr:
        return peer.remote_addr == remote
    # Outside the demo nobody is known by two words in a header alone: an address, a certificate, or a decision on record.
    return peer.any_address or bool(wanted) or bool(settings.ONCOFLOW_DEMO_MODE)


def _names(peer: Peer, msh: Segment) -> bool:
    return fnmatchcase(msh.get(3), _pattern(peer.sending_application)) and fnmatchcase(
        msh.get(4), _pattern(peer.sending_facility)
    )


def _pattern(text: str) -> str:
    return text.replace("[", "[[]").replace("?", "[?]")  # the asterisk alone stands for anything


def find_peer(msh: Segment | None, remote: str) -> Peer | None:
    """The active peer that MSH-3, MSH-4, the address and the certificate name; one named exactly before one with an asterisk."""
    if msh is None:
        return None
    exact = Peer.objects.filter(active=True, sending_application=msh.get(3), sending_facility=msh.get(4))
    for peer in exact:
        if _may_send(peer, remote):
            return peer
    patterns = [one for one in Peer.objects.filter(active=True).order_by("name") if _names(one, msh)]
    return next((one for one in patterns if _may_send(one, remote)), None)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.\- ]", "", text)[:60]


def note_unlisted(msh: Segment, remote: str) -> None:
    """Count a refused sender, so that a person can make a peer of it. At most `MOST_UNLISTED` are kept: a stranger who changes
    its name with every message fills no table."""
    try:
        address = str(ipaddress.ip_address(remote))
    except ValueError:
        return
    key: dict[str, Any] = {
        "address": address,
        "sending_application": _plain(msh.get(3)),
        "sending_facility": _plain(msh.get(4)),
    }
    known = UnlistedSender.objects.filter(**key)
    if known.update(messages=F("messages") + 1, last_at=now()) or UnlistedSender.objects.count() >= MOST_UNLISTED:
        return
    UnlistedSender.objects.get_or_create(**key)


@dataclass(frozen=True)
class PeerReading:
    """How to read a message: known authorities, the peer's own names for them, its default, and what it may send.

    :param processing_ids: MSH-11 values taken.
    """

    policy: MatchingPolicy
    default_authority: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    processing_ids: str = "P"
    order_modalities: tuple[str, ...] = ()
    order_codes: tuple[str, ...] = ()

    def authority(self, namespace: str, universal_id: str) -> str:
        """The assigning authority that CX.4 names; the peer's default where it names none, else ``""``."""
        for name in (namespace, universal_id):
            if name in self.names:
                return self.names[name]
        return self.policy.authority(namespace, universal_id) or self.default_authority

    def wants_order(self, modality: str, code: str) -> bool:
        """Whether an order of this modality (OBR-24, IPC-5) and code (OBR-4.1) is one for us."""
        if self.order_modalities and modality.upper() not in self.order_modalities:
            return False
        return not self.order_codes or any(fnmatchcase(code, _pattern(one)) for one in self.order_codes)


def reading_of(peer: Peer | None) -> PeerReading:
    """The reading of this peer's messages; without a peer, the installation's own."""
    policy = clinical.matching_policy()
    every = "PTD" if settings.ONCOFLOW_DEMO_MODE else ""
    if peer is None:
        return PeerReading(policy, processing_ids=every or "P")
    return PeerReading(
        policy,
        default_authority=peer.default_authority.strip(),
        names={str(name): str(authority) for name, authority in peer.authority_names.items()},
        processing_ids=every or peer.processing_ids.upper(),
        order_modalities=tuple(str(one).upper() for one in peer.order_modalities),
        order_codes=tuple(str(one) for one in peer.order_codes),
    )
