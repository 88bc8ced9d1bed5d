"""What speaks against trusting a panel on a study's volumes."""

from __future__ import annotations

from oncoflow_site.foundation.schema import Document, Schema

__all__ = ["CHECKS", "CheckedVolumes"]


class CheckedVolumes(Schema):
    """What `inference.domain_shift` says of one volume set.

    :param flags: sentences of `study_checks.study_flags`. :param sequences: that the volumes have.
    :param features: of `distribution.features`, in the order of `feature_names`; None where the brain is too small to say
        anything or millimetres are not known.
    """

    flags: tuple[str, ...]
    sequences: tuple[str, ...]
    features: tuple[float, ...] | None


CHECKS: Document[CheckedVolumes] = Document("study.checks", CheckedVolumes, version=1)
