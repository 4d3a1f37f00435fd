"""Batches as a pure function of (seed, step): a run that resumes at step s needs no sampler state to go on alike.

Shapes: N samples.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from dan.errors import UserError


def num_samples(data: Dataset) -> int:
    """The number of samples N. Raises UserError for an empty or unsized data set."""
    count = len(data) if hasattr(data, "__len__") else 0
    if count == 0:
        raise UserError("a data set is empty, or has no length: training and evaluation need at least one sample")
    return count


def derived_seed(seed: int, *path: int) -> int:
    """One 63-bit seed for each (seed, path): streams that share a seed must not share their numbers (splitmix64)."""
    state = seed & (2**64 - 1)
    for part in path:
        state = (state + 0x9E3779B97F4A7C15 * (part + 1)) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


class Batches:
    """An endless stream of batches, epoch after epoch, each epoch a fresh permutation; `indices(step)` is pure.

    A batch that runs over the end of an epoch goes on in the next, so that every sample is seen equally often.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def indices(self, step: int) -> Tensor:
        """Positions (batch_size,) of the samples in batch number `step` (from 0)."""
        parts, start, missing = [], step * self.batch_size, self.batch_size
        while missing:
            epoch, offset = divmod(start, self.count)
            part = self._permutation(epoch)[offset : offset + missing]
            parts.append(part)
            start, missing = start + len(part), missing - len(part)
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.count, generator=generator)
        return self._order


def fetch(data: Dataset, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """The samples (x, y) at those positions, stacked.

    Tensors are indexed at once, and so are data sets with a method batch(indices, generator), which may draw augmented
    views from the generator (None: the plain samples); others are asked item by item.
    """
    if isinstance(data, Subset):
        return fetch(data.dataset, torch.as_tensor(data.indices)[indices], generator)
    if hasattr(data, "batch"):
        return data.batch(indices, generator)
    if isinstance(data, TensorDataset):
        x, y = data.tensors[:2]
        return x[indices], y[indices]
    x, y = default_collate([data[i] for i in indices.tolist()])[:2]
    return x, y


def iter_batches(data: Dataset, batch_size: int, which: slice = slice(None)) -> Iterator[tuple[Tensor, Tensor]]:
    """All samples once, in the data set's order. which: of these batches only, counted from 0."""
    for indices in torch.arange(num_samples(data)).split(batch_size)[which]:
        yield fetch(data, indices)
