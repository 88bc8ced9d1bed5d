"""The network's look for lettering: on fonts, words and pictures that its training did not see."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from imaging.deidentification import lettering_network
from oncoflow_site.demo import lettering
from tests.factories.deidentification_files import head, written

FONTS = lettering.font_files(lettering.HELD_OUT_FONTS)


def grounds() -> list[np.ndarray]:
    """Pictures without text, of several kinds; made here, and not as training's were."""
    rng = np.random.default_rng(77)
    whole = head(224)
    bands = np.tile(np.sin(np.arange(200) / 7.0)[:, np.newaxis] * 0.4 + 0.5, (1, 220))
    folds = np.abs(ndimage.gaussian_filter(rng.normal(size=(256, 256)), 5))
    return [lettering.shown(one) for one in (whole, whole[::-1, ::2], bands, folds, np.pad(whole, 60))]


@pytest.mark.parametrize("turns", range(4))
def test_lettering_is_seen_in_every_direction(turns):
    rng = np.random.default_rng([31, turns])
    missed, tried = [], 0
    while tried < 6:
        ground = grounds()[tried % 5]
        height = float(rng.uniform(9, 24))
        made = lettering.write_words(ground, rng, FONTS, lettering.some_text(rng), height=height, turns=turns)
        if made is None:
            continue
        tried += 1
        if lettering_network.lettering(lettering.worn(made[0], rng)) < lettering_network.THRESHOLD:
            missed.append(made[1])
    assert len(missed) <= 1, missed


def test_what_tesseract_cannot_read_is_seen():
    """Dark letters on tissue and white ones on bright tissue, which Tesseract missed when it looked alone."""
    for image in (written("QUASTEN HILDE", ink=0.0, at=(40, 90)), written("4711-0815", at=(60, 90), height=11)):
        assert lettering_network.lettering(image) >= lettering_network.THRESHOLD


def test_pictures_without_a_word_are_left_alone():
    false = [
        number
        for number, one in enumerate(grounds())
        if lettering_network.lettering(one) >= lettering_network.THRESHOLD
    ]
    assert false == []
    assert lettering_network.lettering(np.zeros((32, 48))) < lettering_network.THRESHOLD
    assert lettering_network.lettering(np.zeros((3, 5))) < lettering_network.THRESHOLD


def test_a_large_frame_is_looked_at_in_tiles_and_shows_the_same():
    ground = np.pad(grounds()[0], ((380, 20), (500, 20)))
    rng = np.random.default_rng(3)
    made = None
    while made is None:
        made = lettering.write_words(ground, rng, FONTS, "HARTWELL 19400312", height=12, turns=0)
    assert lettering_network.lettering(made[0]) >= lettering_network.THRESHOLD
