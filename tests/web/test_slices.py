"""Pictures of slices: decoded once, the same bytes from memory, within a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client

from clinical.models import User
from imaging.rendering.slices import render_slice
from imaging.segmentation.label_maps import current_segmentation, load_labels
from imaging.volumes.load import load_volume
from oncoflow_site.api import slice_cache
from oncoflow_site.foundation import objects
from reports.models import Report


@pytest.fixture(autouse=True)
def _nothing_held() -> Iterator[None]:
    slice_cache.clear()
    yield
    slice_cache.clear()


def picture(client: Client, report: Report, index: int) -> bytes:
    answer = client.get(f"/api/studies/{report.study_id}/slices/axial/{index}.png?sequence=T1c&overlay=current")
    assert answer.status_code == 200
    return answer.content


def test_the_second_picture_of_a_volume_reads_no_object(
    drafted: Report, client_of: Callable[[Any], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(User.objects.get(role="radiologist"))
    volume, grid = load_volume(drafted.study, "T1c")
    outline = current_segmentation(drafted.study)
    assert outline is not None
    labels = load_labels(outline)
    assert picture(client, drafted, 11) == render_slice(volume, grid, "axial", 11, labels)

    def refuse(*args: Any, **kwargs: Any) -> bytes:
        raise AssertionError("read again")

    monkeypatch.setattr(objects, "get", refuse)
    assert picture(client, drafted, 12) == render_slice(volume, grid, "axial", 12, labels)
    # who may not see the patient is not helped by what is in memory
    stranger = client_of(User.objects.create_user(username="stranger", role="doctor"))
    assert stranger.get(f"/api/studies/{drafted.study_id}/slices/axial/12.png").status_code == 404


def test_what_is_too_old_or_too_large_is_read_again(
    drafted: Report, client_of: Callable[[Any], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(User.objects.get(role="radiologist"))
    reads: list[str] = []
    get = objects.get
    monkeypatch.setattr(objects, "get", lambda item: reads.append(str(item)) or get(item))
    monkeypatch.setattr(slice_cache, "KEPT_S", -1.0)
    picture(client, drafted, 11)
    picture(client, drafted, 12)
    assert len(reads) == 4
    monkeypatch.setattr(slice_cache, "KEPT_S", 600.0)
    monkeypatch.setattr(slice_cache, "_held", slice_cache.ByteLru(100, slice_cache._bytes))
    picture(client, drafted, 11)
    picture(client, drafted, 12)
    assert len(reads) == 8
