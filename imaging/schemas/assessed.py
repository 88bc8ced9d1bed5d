"""What was not assessed, and why: one type for the whole service."""

from __future__ import annotations

from collections.abc import Mapping

from imaging.brats.regions import Region
from oncoflow_site.foundation.schema import Document, Schema

__all__ = ["REGIONS_NOT_ASSESSED", "NotAssessed", "RegionsNotAssessed"]

RegionsNotAssessed = Mapping[Region, str]
"""Region -> a sentence why an outline says nothing about it; a region that is not named is assessed."""

REGIONS_NOT_ASSESSED: Document[RegionsNotAssessed] = Document(
    "segmentation.not_assessed", RegionsNotAssessed, version=1
)


class NotAssessed(Schema):
    """Something that was looked for and cannot be given. ``what`` it is, and the reason as a sentence or clause."""

    what: str
    reason: str
