"""Whether an instance whose SOP Instance UID is known is the same instance: by its bytes, else by its canonical form."""

from __future__ import annotations

import logging
import threading

from imaging.models import Instance
from oncoflow_site.foundation import objects

__all__ = ["find_same"]

logger = logging.getLogger(__name__)
_MAX_COMPARED = 8
# Decoding takes memory: one comparison at a time in a process.
_comparing = threading.Lock()


def find_same(known: Instance, content_sha256: str, data: bytes) -> tuple[Instance | None, str]:
    """The stored instance that ``data`` is, and the canonical hash of ``data`` where it had to be computed (else empty).

    Looked at are ``known``, which holds the UID, and those in quarantine because they came with it later. Pixels are decoded
    only where the bytes of the data sets differ.

    :param content_sha256: of the data set of ``data`` as it came.
    """
    if known.content_sha256 == content_sha256:
        return known, ""
    conflict = known.conflicts.filter(content_sha256=content_sha256).first()
    if conflict is not None:
        return conflict, ""
    with _comparing:
        canonical = _canonical(data)
        for other in [known, *known.conflicts.order_by("received_at")[:_MAX_COMPARED]] if canonical else []:
            if _canonical_of(other) == canonical:
                return other, canonical
    return None, canonical


def _canonical(data: bytes) -> str:
    """`imaging.dicom.content_hash.canonical_sha256`, empty where it cannot be had: such content counts as other content."""
    from imaging.dicom.content_hash import (  # pydicom's decoders: rarely needed, slow to load
        NotComparable,
        canonical_sha256,
    )

    try:
        return canonical_sha256(data)
    except NotComparable as error:
        logger.info("two instances could not be compared: %s", error)
        return ""


def _canonical_of(instance: Instance) -> str | None:
    """The hash of a stored instance, computed once and kept; None where it cannot be had."""
    if not instance.canonical_sha256:
        instance.canonical_sha256 = _canonical(objects.get(instance.original))
        Instance.objects.filter(pk=instance.pk).update(canonical_sha256=instance.canonical_sha256)
    return instance.canonical_sha256 or None
