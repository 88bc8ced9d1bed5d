"""The lives of a study and of an upload as tables (state, event) -> state. No Django model is needed to read it."""

from __future__ import annotations

from django.db import models

from oncoflow_site.foundation.machines import StateMachine

__all__ = ["STUDY_MACHINE", "UPLOAD_MACHINE", "StudyState", "UploadState"]


class StudyState(models.TextChoices):
    """Where a study stands."""

    RECEIVING = "receiving", "instances are still arriving"
    COMPLETE = "complete", "no instance for the quiet period"
    PREPARING = "preparing", "volumes are being prepared"
    READY = "ready", "volumes are ready"
    FLAGGED = "flagged", "cannot be segmented; see the reason"
    FAILED = "failed", "preparation failed"


_R, _C, _P, _Y, _G, _F = (state.value for state in StudyState)

# One target per event, so that a transition is one UPDATE ... WHERE state IN (sources).
STUDY_MACHINE = StateMachine(
    name="study",
    states=tuple(StudyState.values),
    table={
        (_R, "receive"): _R,
        (_R, "quiet"): _C,
        # a late instance reopens whatever the study has become
        **{(state, "reopen"): _R for state in (_C, _P, _Y, _G, _F)},
        # prepared again after an override, a retry, or a killed worker
        **{(state, "prepare"): _P for state in (_C, _P, _Y, _G, _F)},
        (_P, "volumes"): _Y,
        (_P, "flag"): _G,
        (_Y, "flag"): _G,
        (_G, "flag"): _G,
        # its job ended for good, perhaps before it had begun
        (_C, "fail"): _F,
        (_P, "fail"): _F,
    },
)


class UploadState(models.TextChoices):
    """Where an upload stands."""

    RECEIVED = "received", "its files are still arriving"
    STAGED = "staged", "all files are here; it waits for its turn"
    INGESTING = "ingesting", "its files are being read and filed"
    DONE = "done", "filed"
    FAILED = "failed", "cannot be filed as declared; see the notes"
    EXPIRED = "expired", "withdrawn, or not completed in time; its bytes are gone"


UPLOAD_MACHINE = StateMachine(
    name="upload",
    states=tuple(UploadState.values),
    table={
        ("received", "complete"): "staged",
        ("failed", "complete"): "staged",  # the same files under a better declaration
        ("staged", "ingest"): "ingesting",
        ("ingesting", "ingest"): "ingesting",  # the attempt before was killed
        ("ingesting", "finish"): "done",
        ("staged", "fail"): "failed",
        ("ingesting", "fail"): "failed",
        ("received", "expire"): "expired",
        ("failed", "expire"): "expired",
    },
)
