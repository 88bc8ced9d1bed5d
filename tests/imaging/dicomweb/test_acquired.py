"""What headers say of the acquisition: another unit is no tesla, an enhanced object says it in its functional groups."""

from __future__ import annotations

from typing import Any

import pytest

from imaging.dicomweb.acquired import _acquisition


@pytest.mark.parametrize(
    ("stated", "tesla"),
    [(3, 3.0), ("1.494", 1.494), (15000, None), (1500, None), (0, None), ("NaN", None), (None, None)],
)
def test_only_tesla_is_a_field_strength(stated: Any, tesla: float | None) -> None:
    assert _acquisition("T1", {"00180087": {"vr": "DS", "Value": [stated]}}, {}).field_t == tesla


def test_slice_thickness_of_an_enhanced_object_stands_in_its_shared_groups() -> None:
    thickness: Any = {"00180050": {"vr": "DS", "Value": [1.2]}}
    groups: Any = {"00289110": {"vr": "SQ", "Value": [thickness]}}
    assert _acquisition("T1", {"52009229": {"vr": "SQ", "Value": [groups]}}, {}).slice_thickness_mm == 1.2
    assert _acquisition("T1", thickness, {}).slice_thickness_mm == 1.2
    silent_headers: tuple[Any, ...] = (
        {},
        {"52009229": {"vr": "SQ"}},
        {"52009229": {"vr": "SQ", "Value": [{"00289110": {"vr": "SQ"}}]}},
    )
    for silent in silent_headers:
        assert _acquisition("T1", silent, {}).slice_thickness_mm is None
