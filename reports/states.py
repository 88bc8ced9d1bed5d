"""The two state machines of a report, as data.

A *version* is one rendering of one content. What has left the house (``preliminary``, ``final``, ``amended``) never
changes again; only a version that nobody outside has seen (``draft``, ``held``) may be overtaken by a newer one.

A *report* is where the newest version stands. After a final version a new measurement may open a draft again: the report
then reads ``held`` until a radiologist signs the amendment, while `reports.lifecycle.versions.issued_version` still answers with
the final version that is in force.
"""

from __future__ import annotations

from django.db import models

from oncoflow_site.foundation.machines import StateMachine

__all__ = ["ISSUED", "REPORT_MACHINE", "VERSION_MACHINE", "ReportState", "VersionStatus"]


class ReportState(models.TextChoices):
    """Where the newest version of a report stands."""

    DRAFTING = "drafting", "being drafted"
    FAILED = "failed", "could not be drafted"
    HELD = "held", "held for a radiologist"
    PRELIMINARY = "preliminary", "preliminary, not signed"
    FINAL = "final", "final, signed"
    AMENDED = "amended", "amended, signed"


class VersionStatus(models.TextChoices):
    """Status of one version; the issued ones are named as FHIR ``DiagnosticReport.status`` names them."""

    DRAFT = "draft", "draft"
    HELD = "held", "held for a radiologist"
    PRELIMINARY = "preliminary", "preliminary, not signed"
    FINAL = "final", "final, signed"
    AMENDED = "amended", "amended, signed"
    SUPERSEDED = "superseded", "overtaken before it was issued"


ISSUED: tuple[str, ...] = (VersionStatus.PRELIMINARY, VersionStatus.FINAL, VersionStatus.AMENDED)
"""Statuses of versions that have been sent out and are therefore immutable."""

REPORT_MACHINE = StateMachine(
    name="report",
    states=tuple(ReportState.values),
    table={
        ("drafting", "draft"): "drafting",
        ("held", "draft"): "drafting",
        ("preliminary", "draft"): "drafting",
        ("final", "draft"): "drafting",
        ("amended", "draft"): "drafting",
        ("drafting", "issue"): "preliminary",
        ("drafting", "hold"): "held",
        ("drafting", "fail"): "failed",
        # its job was started again
        ("failed", "draft"): "drafting",
        ("failed", "issue"): "preliminary",
        ("failed", "hold"): "held",
        ("held", "sign"): "final",
        ("preliminary", "sign"): "final",
        ("held", "amend"): "amended",
    },
)

VERSION_MACHINE = StateMachine(
    name="report version",
    states=tuple(VersionStatus.values),
    table={
        ("draft", "issue"): "preliminary",
        ("draft", "hold"): "held",
        ("draft", "overtake"): "superseded",
        ("held", "overtake"): "superseded",
    },
)
