"""A change is said only between outlines that can show one: of one making, trusted, on the same sequences."""

from __future__ import annotations

import pytest
from django.db import transaction

from imaging.longitudinal.acceptance import accept_outline
from imaging.models import Measurement
from imaging.segmentation.label_maps import current_segmentation
from tests.factories import studies
from tests.factories.studies import DAY, FIRST, SMALL, brain_like, ready_study, segment, tumour

pytestmark = pytest.mark.django_db

JOB = "imaging.compare_study"
BIG, LITTLE = (-25.0, 10.0, 5.0), (28.0, -15.0, 8.0)


def dated(person, *lesions, when=FIRST, outline=None):
    """A study of one date, its outline made as ``outline`` says."""
    study, volumes = ready_study(person, brain_like(SMALL, 1), performed_at=when)
    segment(study, volumes, tumour(SMALL, *lesions), **(outline or {}))
    return study


def latest(study):
    studies.run(JOB, study)
    measurement = Measurement.objects.filter(study=study).order_by("-created_at").first()
    rows = measurement.comparisons.all()
    return measurement, max(rows, key=lambda one: one.prior_study.performed_at if one.prior_study else FIRST).result


def test_the_same_images_under_two_dates_are_stable_where_the_outlines_may_be_compared():
    person = studies.patient()
    one = dated(person, (BIG, 6.0, 10.0, 14.0))
    two = dated(person, (BIG, 6.0, 10.0, 14.0), when=FIRST + 90 * DAY)
    latest(one)
    after, result = latest(two)
    assert {region: change.change_percent for region, change in result.regions.items()} == {"ET": 0, "TC": 0, "WT": 0}
    assert result.response.category == "SD"
    assert {lesion.status for lesion in after.lesions} == {"followed"}


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ({"band": "hold"}, {}, "outline of the earlier study was held"),
        ({}, {"band": "manual"}, "outline of this study was held"),
        ({"band": None}, {}, "was not judged"),
        ({"kind": "person", "author": "rhea"}, {}, "A person outlined the earlier study and the models this one"),
        ({}, {"kind": "import", "author": "rhea"}, "A person outlined this study and the models the earlier one"),
    ],
)
def test_no_change_is_said_between_outlines_that_nobody_trusts_or_of_different_making(before, after, why):
    person = studies.patient()
    latest(dated(person, (BIG, 6.0, 10.0, 14.0), outline=before))
    two = dated(person, (BIG, 6.0, 14.0, 18.0), (LITTLE, 0.0, 8.0, 9.0), when=FIRST + 90 * DAY, outline=after)
    measured, result = latest(two)
    assert result.response.category == "not assessed"
    assert why in result.response.reason
    for change in result.regions.values():
        assert (change.change_percent, change.change_mm3) == (None, None)
        assert why in change.reason
    assert "new" not in {lesion.status for lesion in measured.lesions}
    assert "new" not in {lesion.status for lesion in result.lesions}


def test_an_outline_that_a_person_accepted_is_compared():
    person = studies.patient()
    one = dated(person, (BIG, 6.0, 10.0, 14.0), outline={"band": "hold"})
    two = dated(person, (BIG, 6.0, 10.0, 14.0), when=FIRST + 90 * DAY)
    latest(one)
    assert latest(two)[1].response.category == "not assessed"
    with transaction.atomic():
        accept_outline(current_segmentation(one), by="rhea")
    result = latest(two)[1]
    assert result.response.category == "SD"
    assert result.outlines.prior.reviewer == "rhea"


def test_growth_after_a_complete_response_is_no_partial_response():
    person = studies.patient()
    latest(dated(person, (BIG, 6.0, 14.0, 16.0)))
    assert latest(dated(person, (BIG, 0.0, 0.0, 12.0), when=FIRST + 90 * DAY))[1].response.category == "CR"
    three = dated(person, (BIG, 0.0, 4.0, 12.0), when=FIRST + 180 * DAY)
    result = latest(three)[1]
    assert result.response.category == "not assessed"
    assert "RANO2-REGROWTH-AFTER-CR" in result.response.rule_ids


def test_what_is_alike_is_compared_beside_a_mixed_pair():
    """A person's outline on one date, the models' on both: the mixed pair says nothing, the models' pair stands beside it;
    with a person's on both dates the two persons' outlines are compared, and the models' beside them."""
    person = studies.patient()
    first, volumes = ready_study(person, brain_like(SMALL, 1), performed_at=FIRST)
    segment(first, volumes, tumour(SMALL, (BIG, 6.0, 10.0, 14.0)))
    latest(first)
    second, later = ready_study(person, brain_like(SMALL, 1), performed_at=FIRST + 90 * DAY)
    segment(second, later, tumour(SMALL, (BIG, 6.0, 10.0, 14.0)))
    assert latest(second)[1].alike == (), "the pair in force is the pair"
    segment(second, later, tumour(SMALL, (BIG, 6.0, 13.0, 16.0)), kind="person", author="rhea")
    result = latest(second)[1]
    assert {one.change_percent for one in result.regions.values()} == {None}
    (pair,) = result.alike
    assert pair.maker == "consensus"
    assert {name: one.change_percent for name, one in pair.regions.items()} == {"ET": 0, "TC": 0, "WT": 0}
    segment(first, volumes, tumour(SMALL, (BIG, 6.0, 9.0, 14.0)), kind="person", author="rhea")
    latest(first)
    result = latest(second)[1]
    assert result.regions["ET"].change_percent > 100
    assert [one.maker for one in result.alike] == ["consensus"]


def test_outlines_of_one_making_that_nobody_trusts_are_no_pair():
    person = studies.patient()
    latest(dated(person, (BIG, 6.0, 10.0, 14.0), outline={"band": "hold"}))
    second, later = ready_study(person, brain_like(SMALL, 1), performed_at=FIRST + 90 * DAY)
    segment(second, later, tumour(SMALL, (BIG, 6.0, 10.0, 14.0)))
    latest(second)
    segment(second, later, tumour(SMALL, (BIG, 6.0, 13.0, 16.0)), kind="person", author="rhea")
    assert latest(second)[1].alike == ()
