"""A candidate is one thing that a person labels (an image, a lesion, a nucleus); a network sees patches of it.

    all patches of candidate i have its label      prediction of i = mean of the predictions of its patches

Patches are views of one image, the images that a CSV file lists under one candidate, or those in its folder.

Shapes: N candidates; R patches of all of them; M_i patches of one; P the patches that each is scored by; C classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torch.utils.data import Dataset, TensorDataset

from dan.data.batched import BatchedDataset
from dan.data.batches import fetch, iter_batches, num_samples
from dan.data.candidate_files import CandidateListing, read_candidates
from dan.data.folders import images_of
from dan.data.views import Views
from dan.errors import UserError

__all__ = [
    "CandidateListing", "Candidates", "PatchSet", "Viewed", "candidates_of", "read_candidates", "turned_views",
    "viewed",
]  # fmt: skip


class Candidates:
    """N candidates and their patches, candidate by candidate.

    patches: a data set of R items (x, y), whose y is not read. owners: (R,) the candidate of each patch, 0 .. N - 1 in
    rising order, each at least once. targets: (N,) a class each, -1 where unknown. names, groups: one a candidate, what
    people call it and what it belongs to (a patient), or None.

    ids are positions 0 .. N - 1: `active.Pool(torch.arange(len(candidates)), candidates.targets)`.
    Raises ValueError where the lengths or the order don't fit.
    """

    def __init__(
        self,
        patches: Dataset[Any],
        owners: Tensor,
        targets: Tensor,
        classes: Sequence[str],
        *,
        names: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        counts = torch.bincount(owners, minlength=len(targets))
        if len(owners) != num_samples(patches) or len(counts) != len(targets) or bool((owners.diff() < 0).any()):
            raise ValueError("owners must name, in rising order, one of the candidates for each patch")
        if bool((counts == 0).any()):
            raise ValueError(f"candidate {int((counts == 0).nonzero()[0])} has no patch: each needs at least one")
        for told in (names, groups):
            if told is not None and len(told) != len(targets):
                raise ValueError(f"{len(told)} names or groups for {len(targets)} candidates")
        self.patches, self.owners, self.counts = patches, owners, counts  # counts: (N,), M_i
        self.targets, self.classes = targets.long(), tuple(classes)
        self.names = None if names is None else tuple(names)
        self.groups = None if groups is None else tuple(groups)
        self._first = counts.cumsum(0) - counts  # the first patch of each candidate

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, ids: Tensor) -> Tensor:
        """Positions in `patches` of all patches of these candidates, candidate by candidate: (sum of M_i,)."""
        counts = self.counts[ids]
        begin = counts.cumsum(0) - counts
        return torch.arange(int(counts.sum())) - (begin - self._first[ids]).repeat_interleave(counts)

    def data(self, ids: Tensor, labels: Tensor | None = None) -> PatchSet:
        """The patches of these candidates as a data set of (x, y), y the candidate's label: `labels` (n,), or its own.

        What a network is trained on, and what it is asked about.
        """
        labels = self.targets[ids] if labels is None else labels
        return PatchSet(self.patches, self.rows(ids), labels.repeat_interleave(self.counts[ids]))

    def mean(self, values: Tensor, ids: Tensor) -> Tensor:
        """The mean over each candidate's patches: values (sum of M_i, ...), as `rows(ids)` are ordered -> (n, ...)."""
        counts = self.counts[ids]
        total = values.new_zeros(len(ids), *values.shape[1:])
        total.index_add_(0, torch.arange(len(ids)).repeat_interleave(counts), values)
        return total / counts.reshape(-1, *[1] * (values.ndim - 1)).to(values)

    def scored(self, values: Tensor, ids: Tensor, patches: int | None = None) -> Tensor:
        """The same as (n, P, ...), P patches of each: what scores by patches are of.

        patches: P; by default the most that a candidate has. The p-th is patch floor(p M_i / P): of one with more
        patches P that are evenly spaced, of one with fewer each patch as often as any other, or once more. A score that
        is a sum over patches would else grow with their number. Raises ValueError for fewer than 1 patch.
        """
        counts = self.counts[ids]
        most = int(self.counts.max()) if patches is None else patches
        if most < 1:
            raise ValueError(f"a candidate is scored by 1 patch or more, not {patches}")
        begin = counts.cumsum(0) - counts
        return values[begin[:, None] + torch.arange(most) * counts[:, None] // most]

    def in_memory(self) -> Candidates:
        """The same candidates with all patches computed, as tensors: R times the size of a patch."""
        x = torch.cat([x for x, _ in iter_batches(self.patches, 500)])
        patches = TensorDataset(x, self.targets.repeat_interleave(self.counts))
        return Candidates(patches, self.owners, self.targets, self.classes, names=self.names, groups=self.groups)


class PatchSet(BatchedDataset, Dataset[tuple[Tensor, int]]):
    """Some patches, with labels of the caller's: (x, y). after_stages: that of the patches, if they have been through
    the first stages of a backbone."""

    def __init__(self, patches: Dataset[Any], rows: Tensor, labels: Tensor) -> None:
        self.patches, self.rows, self.targets = patches, rows, labels
        self.after_stages: int = getattr(patches, "after_stages", 0)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The patches at those positions: x (B, ...) and y (B,). generator: for patches with random training views."""
        return fetch(self.patches, self.rows[indices], generator)[0], self.targets[indices]


# --- from views of an image -------------------------------------------------------------------------------------------


class Viewed(BatchedDataset, Dataset[tuple[Tensor, int]]):
    """Patch r of the images is view r mod P of image r // P; view 0 is the image itself."""

    def __init__(self, images: Dataset[Any], views: Views) -> None:
        self.images, self.views = images, views

    @property
    def fingerprint(self) -> str | None:
        """The same for the same patches only, as `dan.feature_cache` wants it; None where the images have none."""
        own = getattr(self.images, "fingerprint", None)
        if own is None:
            return None
        return f"{own} {hashlib.sha256(self.views.theta.numpy().tobytes()).hexdigest()[:32]}"

    def __len__(self) -> int:
        return num_samples(self.images) * len(self.views)

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The patches at those positions: x (B, channels, H, W) and y (B,). Nothing is drawn: the views are fixed.

        Raises UserError for samples that are no images.
        """
        x, y = fetch(self.images, indices // len(self.views))
        if x.ndim != 4:
            raise UserError(f"views are of images, and these samples are of shape {tuple(x.shape[1:])}")
        which = indices % len(self.views)
        grid = affine_grid(self.views.theta[which].to(x), list(x.shape), align_corners=False)
        seen = grid_sample(x, grid, padding_mode="border", align_corners=False)
        return torch.where((which == 0)[:, None, None, None], x, seen), y


def turned_views(count: int, *, seed: int) -> Views:
    """Views for what has no upper side, such as tissue: `dan.data.views.Views` with mirrors, view p turned by p
    quarters.

    So each is a flip or none, a turn by any of four quarters and up to 15 degrees, a shift by up to a tenth of the
    side, and a crop of 80 to 100 % of it; view 0 is the image itself. The same seed gives the same views.
    """
    views = Views(count, mirror=True, generator=torch.Generator().manual_seed(seed))
    angle = torch.arange(count) * (math.pi / 2)
    cos, sin = angle.cos().round(), angle.sin().round()
    quarter = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2).to(views.theta)
    views.theta[:, :, :2] = views.theta[:, :, :2] @ quarter
    return views


def viewed(images: Dataset[Any], views: Views, classes: Sequence[str]) -> Candidates:
    """Each image is a candidate, and its patches are the views of it. Groups and names are the images' own, if any."""
    labels = getattr(images, "targets", None)
    targets = torch.cat([y for _, y in iter_batches(images, 500)]) if labels is None else torch.as_tensor(labels)
    owners = torch.arange(len(targets)).repeat_interleave(len(views))
    told = {"names": getattr(images, "paths", None), "groups": getattr(images, "groups", None)}
    return Candidates(Viewed(images, views), owners, targets, classes, **told)


# --- from files -------------------------------------------------------------------------------------------------------


def candidates_of(found: CandidateListing, *, classes: tuple[str, ...] = (), **how: Any) -> Candidates:
    """The candidates of a listing, decoded. classes: where it is unlabelled. how: see `dan.data.folders.images_of`:
    image_size, channels, normalisation, augment, cache, quiet."""
    images = images_of(found.listing, classes=classes, **how)
    names = tuple(dict.fromkeys(found.owners))
    number = {name: i for i, name in enumerate(names)}
    owners = torch.tensor([number[name] for name in found.owners])
    first = torch.bincount(owners).cumsum(0) - torch.bincount(owners)
    groups = None if images.groups is None else [images.groups[int(row)] for row in first]
    return Candidates(images, owners, images.targets[first], images.classes, names=names, groups=groups)
