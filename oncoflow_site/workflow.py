"""What follows what: the whole service on one page.

A room records a fact (an event, in the same transaction as what it tells); this table says which jobs follow. The job row is
created in that same transaction, so a process killed at any point loses nothing, and (event, job) is unique, so nothing follows
twice. An event that nothing follows is named too: a forgotten line and a deliberate silence must not look alike.
"""

from __future__ import annotations

from typing import Final

from oncoflow_site.foundation.events import follow, nothing_follows

# event: the jobs that follow; each takes the entries of the event's payload that it names as arguments
FOLLOWS: Final[dict[str, tuple[str, ...]]] = {
    # an order comes in; its images may be here already
    "order.accepted": ("imaging.match_order_to_study", "imaging.find_priors"),
    "order.changed": ("imaging.match_order_to_study",),
    "order.cancelled": ("imaging.release_order",),
    # two records turn out to be one person's, or two people's after all: rows have moved already; signed reports stay as they are
    "patients.merged": ("imaging.follow_merge",),
    "patients.unmerged": ("imaging.follow_merge",),
    # a person has said whose something is: what waited for that goes on
    "identity.decided": ("fhir_api.process_waiting", "imaging.file_waiting"),
    # the patient's documents
    "document.arrived": ("clinical.read_document",),
    "document.read": ("reports.redraft_open",),
    # images: from the scanner to volumes on one grid
    "study.complete": ("imaging.deidentify_study",),
    "study.deidentified": ("imaging.match_study", "imaging.prepare_study", "imaging.publish_study"),
    "study.defaced": ("imaging.publish_study",),
    "study.flagged": ("imaging.deface_study",),  # without volumes there is no face to be told: it says so
    "volumes.ready": ("inference.convene_panel", "imaging.deface_study"),
    # the panel: outlines, agreement, gate; then the tape measure
    "panel.concluded": (
        "imaging.measure_study",
        "imaging.publish_segmentations",
        "inference.evaluate_panel",
    ),
    "consensus.chosen": ("imaging.measure_study", "imaging.publish_segmentations"),
    "mask.corrected": (
        "imaging.measure_study",
        "imaging.publish_segmentations",
        "inference.evaluate_against_review",
    ),
    "study.measured": ("imaging.compare_study",),
    # the report: drafted, then issued as preliminary or held, as the gate says; signed by a person; delivered
    "comparison.ready": ("reports.draft",),
    "report.drafted": ("reports.release",),
    "report.issued": ("fhir_api.deliver_report",),
}

# What viewers are offered waits for what the report waits for.
LATER: Final[frozenset[str]] = frozenset(
    {"imaging.deface_study", "imaging.publish_study", "imaging.publish_segmentations"}
)

# Jobs that have something to do only while a setting is on.
ONLY_WITH: Final[dict[str, str]] = {"imaging.deface_study": "ONCOFLOW_DEFACE"}

# Facts that a person should hear about: each becomes a notice on the dashboard of those concerned.
TOLD: Final[tuple[str, ...]] = (
    "study.reopened",
    "study.flagged",
    "panel.manual",
    "model.demotion_proposed",
    "report.held",
    "identity.conflict",
    "merge.requested",
    "job.failed",
    "delivery.dead",
    "endpoint.stopped",
    "endpoint.moved",
)

# Facts that are recorded and need no answer.
SILENT: Final[dict[str, str]] = {
    "delivery.done": "the outbox row itself shows it",
    "endpoint.resumed": "what waited goes on by itself, and the system page shows it",
    "panel.cancelled": "whoever stopped it knows, and the study shows it",
}


def install() -> None:
    """Fill the registry of followers. Called once, when every room is loaded."""
    for event, jobs in FOLLOWS.items():
        for job in jobs:
            follow(event, job, priority=-1 if job in LATER else 0, only_with=ONLY_WITH.get(job, ""))
    for event in TOLD:
        follow(event, "clinical.tell_staff")
    for event, why in SILENT.items():
        nothing_follows(event, why)
