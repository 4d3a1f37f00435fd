"""Views of images: the first is the image, they are the same for every image, and a known turn is that turn."""

import math

import pytest
import torch

from dan.data.views import SCALE, SHIFT, TURN, Views
from dan.errors import UserError


def drawn(count=8, mirror=False, seed=0):
    return Views(count, mirror=mirror, generator=torch.Generator().manual_seed(seed))


def test_the_first_view_is_the_image_and_the_others_are_not():
    images = torch.rand(3, 2, 9, 9, generator=torch.Generator().manual_seed(1))
    seen = list(drawn()(images))
    assert len(seen) == len(drawn()) == 8
    assert torch.equal(seen[0], images)
    assert all(not torch.equal(view, images) and view.shape == images.shape for view in seen[1:])


def test_a_view_depends_on_neither_its_neighbours_nor_the_order():
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    together = list(drawn(mirror=True)(images))
    for i in range(4):
        for view, alone in zip(together, drawn(mirror=True)(images[i : i + 1]), strict=True):
            assert torch.equal(view[i : i + 1], alone)
    assert not torch.equal(drawn(seed=1).theta, drawn().theta)


def test_a_constant_image_stays_constant():
    images = torch.full((1, 3, 7, 7), 0.25)
    assert all(torch.allclose(view, images) for view in drawn(mirror=True)(images))


def test_transformations_stay_within_what_is_said():
    theta = drawn(500, mirror=True).theta[1:]
    size = theta[:, :, 1].norm(dim=1)
    assert float(size.min()) >= SCALE[0] and float(size.max()) <= SCALE[1]
    turn = torch.atan2(-theta[:, 0, 1], theta[:, 1, 1]) * 180 / math.pi
    assert float(turn.abs().max()) <= TURN
    assert float(theta[:, :, 2].abs().max()) <= 2 * SHIFT
    mirrored = (theta[:, 0, 0] * theta[:, 1, 1] - theta[:, 0, 1] * theta[:, 1, 0]) < 0
    assert 0.4 < float(mirrored.double().mean()) < 0.6
    assert not bool(((drawn(500).theta[:, :, :2]).det() < 0).any())


def test_a_mirrored_view_of_the_whole_image_is_its_mirror_image():
    views = drawn(2)
    views.theta[1] = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    images = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    assert torch.allclose(list(views(images))[1], images.flip(3))


def test_what_is_no_image_or_no_count_is_refused():
    with pytest.raises(UserError, match="views are of images"):
        list(drawn()(torch.rand(3, 5)))
    with pytest.raises(ValueError, match="at least 1 view"):
        drawn(0)
