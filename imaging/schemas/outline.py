"""Who or what made an outline: a model, a panel's fusion, a person; with the gate's band and the sequences it stands on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from oncoflow_site.foundation.schema import Document, OldData, Schema, with_defaults

__all__ = [
    "MADE_BY",
    "FusedExpert",
    "FusedOutline",
    "GateBand",
    "Maker",
    "ModelOutline",
    "OutlineSource",
    "made_by_of_v1",
]

Maker = Literal["consensus", "expert", "person", "import"]
GateBand = Literal["issue", "hold", "manual"]


class ModelOutline(Schema):
    """The model whose outline it is. ``sha256`` and ``architecture`` are empty where they were not recorded."""

    name: str
    version: str
    sha256: str = ""
    architecture: str = ""


class FusedExpert(Schema):
    """One expert of a fusion; ``segmentation`` is the id of its outline."""

    name: str
    role: str
    segmentation: str | None


class FusedOutline(Schema):
    """A panel's consensus. ``chosen_by``: the user who chose this fusion; empty: automatic. ``band``: what the gate said of it."""

    fusion: str
    experts: tuple[FusedExpert, ...]
    chosen_by: str = ""
    band: GateBand | None = None


class OutlineSource(Schema):
    """What one must know of an outline to compare what was measured on it.

    :param maker: consensus, expert, person or import. :param band: of the gate, for a consensus, or for the consensus that a
        person corrected; None: no gate has judged it, or it was not recorded.
    :param sequences: that its study has. :param reviewer: user name of who drew, corrected or accepted it; empty: nobody.
    """

    maker: Maker
    band: GateBand | None
    sequences: tuple[str, ...]
    reviewer: str = ""


def made_by_of_v1(data: Mapping[str, Any] | None) -> OldData | None:
    """Plain dictionaries of two shapes, without the gate's band."""
    if data is None:
        return None
    if "fusion" not in data and "experts" not in data:
        return with_defaults(data, name="", version="")
    experts = [with_defaults(one, role="", segmentation=None) for one in data.get("experts") or ()]
    return with_defaults({**data, "experts": experts}, fusion="")


MADE_BY: Document[ModelOutline | FusedOutline | None] = Document(
    "segmentation.model", ModelOutline | FusedOutline | None, version=2, upgrades={1: made_by_of_v1}
)
