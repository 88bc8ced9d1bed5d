"""Checks of a study's volumes: once for a volume set, whatever is fused or corrected afterwards."""

from __future__ import annotations

import pytest

from imaging.volumes.load import load_volumes
from inference.models import StudyChecks
from inference.panel import volume_checks
from inference.panel.volume_checks import checks_of
from tests.factories.job_contexts import context
from tests.factories.panels import LESION, painted

pytestmark = pytest.mark.django_db


def test_they_are_computed_once_and_read_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    study, volume_set = painted(LESION)
    loaded = load_volumes(study, volume_set=volume_set)
    ctx = context(study)
    first = checks_of(ctx, volume_set, loaded)
    assert first.features is not None
    assert first.sequences == tuple(sorted(loaded.images))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(volume_checks, "study_flags", never)
    monkeypatch.setattr(volume_checks.distribution, "features", never)
    assert checks_of(ctx, volume_set, loaded) == first
    monkeypatch.undo()
    monkeypatch.setattr(volume_checks, "VERSION", 2)
    assert checks_of(ctx, volume_set, loaded).flags == first.flags
    assert sorted(StudyChecks.objects.values_list("version", flat=True)) == [1, 2]
