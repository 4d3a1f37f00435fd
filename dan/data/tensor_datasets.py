"""Data sets that lie in one array: images as uint8 pixels, normalised when they are asked for, and feature vectors.

    image:  x = (pixel / 255 - mean) / std        as (channels, S, S), float32
    an item is (x, y); `batch(indices)` is many items at once, with the same bits.

Shapes: N samples; S pixels a side; F features.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dan.data.batched import BatchedDataset

# mean and standard deviation of each channel. "imagenet" is what torchvision's pre-trained networks were trained with;
# "half" brings [0, 1] to [-1, 1] and needs no statistics of any set.
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,), (0.5,)),
}

CROP_SCALE = (0.7, 1.0)  # share of the image's area that a training view keeps
CROP_RATIO = (3 / 4, 4 / 3)  # width over height of what it keeps


class Images(BatchedDataset, Dataset[tuple[Tensor, int]]):
    """Images (N, S, S, channels) as a data set of (x, y).

    pixels: uint8, in memory or memory-mapped; never written to. targets: N class indices, -1 where unknown. digest: a
    hash of the pixels. paths: where each image came from. groups: what belongs together (a patient, a series).
    augment: `batch` with a generator gives random training views; without one, and item by item, the plain image.
    rows: these of the arrays only, in this order.

    `fingerprint` tells two data sets apart by what an item is: pixels, rows, targets, classes, normalisation.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        targets: Sequence[int] | NDArray[np.int64],
        classes: Sequence[str],
        *,
        normalisation: str,
        digest: str,
        paths: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        augment: bool = False,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != len(targets):
            raise ValueError(f"images are uint8 (N, S, S, channels) with N targets, not {pixels.dtype} {pixels.shape}")
        self._pixels, self._digest, self._all_targets = pixels, digest, np.asarray(targets, dtype=np.int64)
        self._all_paths, self._all_groups = paths, groups
        self._rows = np.arange(len(pixels)) if rows is None else rows
        self.classes, self.normalisation, self.augment = tuple(classes), normalisation, augment
        self.targets = torch.from_numpy(self._all_targets[self._rows])
        self.paths = None if paths is None else tuple(paths[i] for i in self._rows)
        self.groups = None if groups is None else tuple(groups[i] for i in self._rows)
        mean, std = NORMALISATIONS[normalisation]
        self._mean, self._std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return self._pixels.shape[1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of what the items are: pixels, targets, classes, normalisation; the same wherever they lie."""
        return _hashed("images", self._digest, self._rows, self.targets.numpy(), self.classes, self.normalisation)

    def subset(self, rows: NDArray[np.int64]) -> "Images":
        """Those rows of this data set, as one of its own; no pixel is copied."""
        return Images(
            self._pixels,
            self._all_targets,
            self.classes,
            normalisation=self.normalisation,
            digest=self._digest,
            paths=self._all_paths,
            groups=self._all_groups,
            augment=self.augment,
            rows=self._rows[rows],
        )

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The samples at those positions: x (B, channels, S, S) and y (B,).

        generator: with `augment`, each x is a random training view instead (a crop of 70 to 100 % of the area, 3:4 to
        4:3, resized to S x S, and mirrored half of the time), drawn from this generator alone.
        """
        chosen = torch.from_numpy(self._pixels[self._rows[indices.numpy()]]).permute(0, 3, 1, 2)
        if self.augment and generator is not None:
            chosen = self._views(chosen, generator)
        x = chosen.to(torch.float32, memory_format=torch.contiguous_format).div_(255).sub_(self._mean).div_(self._std)
        return x, self.targets[indices]

    def _views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        from torchvision.transforms import v2

        crop = v2.RandomResizedCrop(self.image_size, scale=CROP_SCALE, ratio=CROP_RATIO, antialias=True)
        view = v2.Compose([crop, v2.RandomHorizontalFlip()])
        # torchvision draws from the global generator of the CPU: it is seeded from ours, and put back as it was.
        before = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            return torch.stack([view(image) for image in images])
        finally:
            torch.set_rng_state(before)


class Vectors(BatchedDataset, Dataset[tuple[Tensor, int]]):
    """Feature vectors (N, F) as a data set of (x, y): x (F,) float32. The rest as in `Images`."""

    augment = False
    paths = None

    def __init__(
        self, x: Tensor, targets: Tensor, classes: Sequence[str], *, groups: Sequence[str] | None = None
    ) -> None:
        if x.dim() != 2 or len(x) != len(targets):
            raise ValueError(f"vectors are (N, F) with N targets, not {tuple(x.shape)} with {len(targets)}")
        self.x, self.targets, self.classes = x, targets.to(torch.int64), tuple(classes)
        self.groups = None if groups is None else tuple(groups)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of what the items are: features, targets, classes."""
        return _hashed("vectors", self.x.numpy(), self.targets.numpy(), self.classes)

    def subset(self, rows: NDArray[np.int64]) -> "Vectors":
        """Those rows of this data set, as one of its own."""
        groups = None if self.groups is None else [self.groups[i] for i in rows]
        return Vectors(
            self.x[torch.from_numpy(rows)], self.targets[torch.from_numpy(rows)], self.classes, groups=groups
        )

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index].to(torch.float32), int(self.targets[index])

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The samples at those positions: x (B, F) and y (B,). Vectors have no training views."""
        return self.x[indices].to(torch.float32), self.targets[indices]


def _hashed(*facts: Any) -> str:
    digest = hashlib.sha256()
    for fact in facts:
        if isinstance(fact, np.ndarray):
            digest.update(f"{fact.dtype}{fact.shape}".encode())
            digest.update(np.ascontiguousarray(fact).data)
        else:
            digest.update(repr(fact).encode())
    return digest.hexdigest()[:32]


def held_out(data: Images | Vectors, share: float, *, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows for training and rows held out, each in rising order: a function of (targets, groups, share, seed) alone.

    Of each class round(share * its count) samples are held out, at least one and never all (a class of one stays in
    training). Where samples have groups, whole groups are held out, in random order, as long as they fit into the share
    (not stratified then), so that no group is on both sides.
    """
    rng = np.random.default_rng(seed)
    targets = data.targets.numpy()
    held = np.zeros(len(targets), dtype=bool)
    if data.groups is None:
        for target in np.unique(targets):
            rows = rng.permutation(np.flatnonzero(targets == target))
            held[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    else:
        names, member = np.unique(np.array(data.groups), return_inverse=True)
        sizes, room = np.bincount(member), share * len(targets)
        for group in rng.permutation(len(names)):
            if sizes[group] <= room:
                held[member == group] = True
                room -= sizes[group]
    return np.flatnonzero(~held), np.flatnonzero(held)
