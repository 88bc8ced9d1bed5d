"""Films for the second stage of SAM's training: what is drawn, and that the loss teaches the memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from inference.experts.sam.network import SMALL_OVERRIDES, build
from inference.training.common.preprocess import PreparedCase
from inference.training.sam.frames import FilmSampler, films_loss, held_films
from inference.training.sam.slices import SliceCase, slice_case
from inference.training.sam.train import films_dice

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def case() -> SliceCase:
    """A head whose whole tumour is bright in every sequence, off its middle, so that a wrong flip would show."""
    z, y, x = np.ogrid[:50, :60, :56]
    far = np.sqrt((z - 20) ** 2 + (y - 24.0) ** 2 + (x - 34) ** 2)
    labels = np.select([far < 4, far < 7, far < 12], [1, 3, 2], 0).astype(np.int8)
    data = np.where(labels > 0, 3.0, 0.2)[None].repeat(4, axis=0).astype(np.float16)
    empty = np.zeros((0, 3), np.int16)
    return slice_case(PreparedCase("made", data, labels, (empty, empty, empty)))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(5)
    built: torch.nn.Module = build([*SMALL_OVERRIDES, "model.multimask_output_in_sam=false"])
    return built


def test_a_film_shows_one_object_with_one_look(case: SliceCase) -> None:
    films = FilmSampler([case], 256, seed=2, length=5)
    absent = 0
    for _ in range(12):
        film = films.batch(2)
        assert film.images.shape == (5, 2, 3, 256, 256)
        assert film.targets.shape == (5, 2, 1, 128, 128)
        points, kinds = film.prompt
        assert points.shape == (2, 4, 2)
        assert set(kinds.unique().tolist()) <= {-1, 0, 1, 2, 3}
        shown = torch.nn.functional.interpolate(film.images.flatten(0, 1), (128, 128), mode="area").mean(1)
        inside = film.targets.flatten(0, 1)[:, 0] > 0.99
        assert (film.targets[0].amax((1, 2, 3)) > 0.99).all(), "the prompted frame shows the object"
        absent += int((film.targets.amax((2, 3, 4)) < 0.5).sum())
        for picture, mask in zip(shown, inside, strict=True):
            if mask.any():
                assert picture[mask].min() > picture.median() + 0.1, "the object lies where the picture is bright"
    assert absent, "some films outlast their object"


def test_the_loss_teaches_memory_and_stays_finite_when_nothing_is_seen(
    case: SliceCase, network: torch.nn.Module
) -> None:
    network.train()
    film = FilmSampler([case], 256, seed=3, length=3).batch(1)
    scores: Any = network.get_submodule("sam_mask_decoder.pred_obj_score_head.layers.2")
    with torch.no_grad():
        scores.bias += 50  # an object on every frame, and so a pointer to it that the next frames attend to
    films_loss(network, film).backward()
    taught = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"memory_attention", "memory_encoder", "sam_mask_decoder", "image_encoder", "obj_ptr_proj"} <= taught
    with torch.no_grad():
        scores.bias -= 100  # nowhere: the package then writes logits of -1024
    blind = films_loss(network, film)
    with torch.no_grad():
        scores.bias += 50
    assert torch.isfinite(blind)
    assert float(blind) < 60


def test_validation_follows_the_largest_section_upwards(case: SliceCase, network: torch.nn.Module) -> None:
    films = held_films([case], 256, reach=4)
    assert len(films) == 2
    assert all(film.images.shape == (5, 1, 3, 256, 256) for film in films)
    assert 0 <= films_dice(network, films)["dice_frames"] <= 1
    assert films_dice(network, []) == {}
