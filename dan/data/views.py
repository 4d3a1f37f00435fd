"""Views of an image that keep its class: the same few turned, shifted, scaled (and mirrored) ones of every image.

    view p of image x:    x(A_p u + b_p),   u in [-1, 1]^2 the position,   view 0 the image itself

What lies outside is the nearest pixel of the border. The transformations are drawn once, so that a sample's views
depend neither on the samples beside it nor on their order.

Shapes: B images; P views; H, W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from dan.errors import UserError

TURN = 15.0  # degrees, to either side
SHIFT = 0.1  # of the image's side, to either side
SCALE = (0.8, 1.0)  # of the image's side: what a view shows of it


class Views:
    """`count` fixed views; `views(images)` gives them one after the other, (B, channels, H, W) each.

    mirror: half of the views, at random, are mirrored: for photographs, not for digits or text.
    """

    def __init__(self, count: int, *, mirror: bool, generator: torch.Generator) -> None:
        if count < 1:
            raise ValueError(f"an image has at least 1 view, not {count}")
        draws = torch.rand(count, 5, generator=generator, dtype=torch.float64)
        turn = (2 * draws[:, 0] - 1) * math.radians(TURN)
        size = SCALE[0] + (SCALE[1] - SCALE[0]) * draws[:, 1]
        flip = torch.where((draws[:, 4] < 0.5) & mirror, -1.0, 1.0)
        cos, sin = size * turn.cos(), size * turn.sin()
        shift = (2 * draws[:, 2:4] - 1) * 2 * SHIFT  # positions run from -1 to 1: a side is 2 long
        theta = torch.stack([flip * cos, -sin, shift[:, 0], flip * sin, cos, shift[:, 1]], dim=1).reshape(-1, 2, 3)
        theta[0] = torch.eye(2, 3)
        self.theta = theta  # (P, 2, 3)

    def __len__(self) -> int:
        return len(self.theta)

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        """The views of images (B, channels, H, W). Raises UserError for samples that are no images."""
        if images.ndim != 4:
            raise UserError(f"views are of images, and these samples are of shape {tuple(images.shape[1:])}")
        yield images
        for theta in self.theta[1:].to(images):
            grid = affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
            yield grid_sample(images, grid, padding_mode="border", align_corners=False)
