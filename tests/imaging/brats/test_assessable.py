"""The table of what can be told from which sequences, and what a person's outline adds to it."""

from __future__ import annotations

import numpy as np
import pytest

from imaging.brats.assessability import assessable, left_unassessed
from imaging.segmentation.corrections import Correction, apply_corrections

FOUR = ("T1", "T1c", "T2", "FLAIR")


@pytest.mark.parametrize(
    ("present", "regions"),
    [
        (FOUR, ("ET", "TC", "WT")),
        (("T1c", "FLAIR"), ("ET", "TC", "WT")),
        (("T1c", "T2"), ("ET", "TC", "WT")),
        (("T1c",), ("ET", "TC")),
        (("T1", "T1c"), ("ET", "TC")),
        (("FLAIR",), ("WT",)),
        (("T2",), ("WT",)),
        (("T1", "T2", "FLAIR"), ("WT",)),
        (("T1",), ()),
        ((), ()),
    ],
)
def test_the_table(present, regions):
    found = assessable(present)
    assert found.regions == regions
    assert set(found.not_assessed) == {"ET", "TC", "WT"} - set(regions)
    assert all(reason.endswith(".") for reason in found.not_assessed.values())
    assert found.reduced == (set(present) != set(FOUR))


def test_the_reason_in_words():
    assert assessable(FOUR).reason == ""
    assert assessable(("T1c",)).reason == (
        "This study has no T1, no T2 and no FLAIR series. It is assessed from contrast-enhanced T1 alone and always held "
        "for review. Not assessed: WT."
    )
    assert assessable(("T1", "T1c", "T2")).reason == (
        "This study has no FLAIR series. It is assessed from T1, contrast-enhanced T1 and T2 alone and always held for review."
    )
    assert "No region of a tumour can be told from T1 alone" in assessable(("T1",)).reason


def test_a_persons_outline_assesses_what_it_outlines_and_what_they_say_they_looked_for():
    alone = assessable(("T1c",))
    assert set(left_unassessed(alone, [0, 1, 3])) == {"WT"}
    assert left_unassessed(alone, [0, 1, 2, 3]) == {}
    assert left_unassessed(alone, [0, 3], said=["WT"]) == {}
    flair = assessable(("FLAIR",))
    assert set(left_unassessed(flair, [0, 2])) == {"ET", "TC"}
    assert set(left_unassessed(flair, [0, 1, 2])) == {"ET"}
    # a correction leaves unassessed what its parent did, unless it outlines it
    assert left_unassessed(alone, [0, 3], before={}) == {}
    assert set(left_unassessed(assessable(("T1c", "T2")), [0, 3], before={"WT": "No model could."})) == {"WT"}


def test_what_leaves_the_core_is_no_oedema_where_nobody_looked_for_any():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1:3] = 3
    part = np.ones((1, 4, 4), bool)
    less = Correction("TC", "remove", (1, 0, 0), part)
    assert set(np.unique(apply_corrections(labels, [less]))) == {0, 2, 3}
    assert set(np.unique(apply_corrections(labels, [less], ["WT"]))) == {0, 3}
    more = Correction("WT", "add", (0, 0, 0), part)
    assert set(np.unique(apply_corrections(labels, [more], ["WT"]))) == {0, 2, 3}
