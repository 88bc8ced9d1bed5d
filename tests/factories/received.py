"""A file as it comes through the door."""

from __future__ import annotations

from imaging.archive.store_instance import store_instance


def take(data: bytes, **options):
    return store_instance(data, source="dicom", peer="SCANNER1", **options)
