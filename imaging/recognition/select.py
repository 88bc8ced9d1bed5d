"""Which series of a study shows each sequence best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import Count, Q

from imaging.models import InstanceState, MrSequence

if TYPE_CHECKING:
    from imaging.models import Series, Study

__all__ = ["best_series", "ranked_series"]


def ranked_series(study: Study) -> dict[str, list[Series]]:
    """For each of T1, T1c, T2 and FLAIR that the study has, its series, the best first.

    A person's override wins; then confidence, 3D acquisition, and the number of images. One query.
    """
    ranked: dict[str, list[tuple[tuple[Any, ...], Series]]] = {}
    usable = Count("instances", filter=~Q(instances__state=InstanceState.QUARANTINED))
    rows = study.series.filter(sequence__in=(MrSequence.T1, MrSequence.T1C, MrSequence.T2, MrSequence.FLAIR))
    for series in rows.annotate(usable=usable):
        images = series.usable
        if series.nifti_id is None and images == 0:
            continue
        rank = (
            series.overridden_by_id is not None,
            round(series.sequence_confidence, 1),
            series.parameters.get("MRAcquisitionType") == "3D",
            series.nifti_id is not None,
            images,
            -(series.number or 0),
        )
        ranked.setdefault(series.sequence, []).append((rank, series))
    return {
        sequence: [series for _, series in sorted(found, key=lambda row: row[0], reverse=True)]
        for sequence, found in ranked.items()
    }


def best_series(study: Study) -> dict[str, Series]:
    """The first of `ranked_series` of each sequence."""
    return {sequence: rows[0] for sequence, rows in ranked_series(study).items()}
