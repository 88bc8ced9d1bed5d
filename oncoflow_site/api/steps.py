"""The steps of a study as a person follows them: what an earlier run of the same work left behind is not shown."""

from __future__ import annotations

from imaging.models import Study
from oncoflow_site.api.answers import StudyStep
from oncoflow_site.api.studies import study_steps

__all__ = ["current_steps"]

# Every expert is a job of its own; of all other kinds only the newest job tells how far the study is.
_SIDE_BY_SIDE = "inference.run_expert"
_BEGINS_ANEW = "imaging.prepare_study"
# What goes before a preparation, or beside it.
_NOT_ANEW = frozenset(
    {"imaging.complete_study", "imaging.deidentify_study", "imaging.match_study", "imaging.publish_study"}
)


def current_steps(study: Study) -> list[StudyStep]:
    """`study_steps`, without what belongs to an earlier preparation, and only the newest job of a kind.

    A job that only stands guard (the panel's deadline) gives way to the one that did the work, so that a study that is
    done does not look as if something were still waiting.
    """
    shown: dict[str, StudyStep] = {}
    for step in study_steps(study):
        if step.kind == _BEGINS_ANEW:
            shown = {key: one for key, one in shown.items() if one.kind in _NOT_ANEW}
        key = step.id if step.kind == _SIDE_BY_SIDE else step.kind
        shown.pop(key, None)
        shown[key] = step
    return list(shown.values())
