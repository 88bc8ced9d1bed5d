"""Every kind of job says what becomes of its subject when it ends for good, or why nothing does."""

from __future__ import annotations

from oncoflow_site.foundation.jobs import job_kinds

NOTHING_WAITS = {
    "clinical.tell_staff": "a notice that was not written; the failure itself is on the system page",
    "clinical.end_assignment": "the permission stays until it is run again; the failure is a notice",
    "foundation.deliver": "the outbox makes another job for a delivery that has none",
    "foundation.after_death": "it is what becomes of others; its own failure is a notice",
    "imaging.follow_merge": "the rows have moved; a link or a comparison is behind, and the failure is a notice",
    "imaging.file_waiting": "what waits stays in quarantine, where people see it",
    "fhir_api.process_waiting": "the message stays held, where people see it",
    "imaging.complete_study": "a study stays open for more images, and the next one arms another look",
    "imaging.match_order_to_study": "the study stays unsolicited, and people see that",
    "imaging.match_study": "the study stays unsolicited, and people see that",
    "imaging.release_order": "the link stays, and the order says that it is cancelled",
    "imaging.find_priors": "nothing is asked for; the report says that there was nothing to compare with",
    "imaging.ask_for_priors": "as for find_priors",
    "imaging.publish_study": "viewers are offered what was there before; the failure is a notice",
    "imaging.publish_segmentations": "as for publish_study",
    "imaging.deface_study": "a head that is not defaced is never exported; the failure is a notice",
    "imaging.purge_discarded": "what was discarded stays a while longer; the failure is a notice",
    "inference.evaluate_panel": "a figure of quality is missing; no study waits for it",
    "inference.evaluate_against_review": "as for evaluate_panel",
    "reports.redraft_open": "the open draft stays as it is, and reads as it did",
    "fhir_api.backfill": "the report stays offered on the system page; the failure is a notice",
    "fhir_api.deliver_report": "the report is issued; the failure is a notice, and the job can be started again",
}
"""Kinds without `on_dead`, and what people see then."""


def test_every_kind_says_what_follows_from_its_end() -> None:
    product = {name: kind for name, kind in job_kinds().items() if not name.startswith(("t.", "effects."))}
    without = {name for name, kind in product.items() if kind.on_dead is None}
    assert without == NOTHING_WAITS.keys()


def test_what_must_not_meet_has_a_lock_and_experts_have_none() -> None:
    locked = {name for name, kind in job_kinds().items() if kind.locks is not None}
    assert {
        "imaging.deidentify_study",
        "imaging.prepare_study",
        "imaging.measure_study",
        "imaging.compare_study",
        "inference.conclude_panel",
        "reports.draft",
    } <= locked
    assert "inference.run_expert" not in locked
