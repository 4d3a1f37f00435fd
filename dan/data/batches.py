"""Batches as a pure function of (seed, step): a run that resumes at step s needs no sampler state to go on alike.

Shapes: N samples.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from dan.data.batched import BatchedDataset
from dan.data.items import stack_items
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


def fetch(
    data: Any, indices: Tensor, generator: torch.Generator | None = None, *, name: str = "the data set"
) -> tuple[Tensor, Tensor]:
    """The samples (x, y) at those positions, stacked; y is -1 for items without a label.

    Tensors are indexed at once, and a `BatchedDataset` gives its batch, which may draw augmented views from the
    generator (None: the plain samples). Every other data set, and a subclass of these that overrides how items are
    read, is read through its own `__getitems__` or `__getitem__`.
    Raises UserError, with the data set's name, for items that cannot be stacked: see `dan.data.items.stack_items`.
    """
    if is_plain(data, Subset):
        return fetch(data.dataset, torch.as_tensor(data.indices)[indices], generator, name=name)
    if gives_batches(data):
        return data.batch(indices, generator)
    if is_plain(data, TensorDataset) and len(data.tensors) > 1:
        x, y = data.tensors[:2]
        return x.index_select(0, indices), y.index_select(0, indices)
    rows = indices.tolist()
    own = hasattr(type(data), "__getitems__") and not _overrides(data, "__getitem__", "__getitems__")
    return stack_items(data.__getitems__(rows) if own else [data[i] for i in rows], rows, name)


def gives_batches(data: Any) -> bool:
    """Whether `data` is a `BatchedDataset`, and its items are those that `batch` gives."""
    return isinstance(data, BatchedDataset) and not _overrides(data, "__getitem__", "batch")


def is_plain(data: Any, kind: type) -> bool:
    """Whether `data` is of that class, TensorDataset or Subset, and reads its items exactly as the class does."""
    names = ("__getitem__", "__getitems__")
    return isinstance(data, kind) and all(getattr(type(data), n, None) is getattr(kind, n, None) for n in names)


def _overrides(data: Any, name: str, base: str) -> bool:
    """Whether method `name` is defined by a further subclass than method `base` is."""
    order = [vars(cls) for cls in type(data).__mro__]
    return next(i for i, own in enumerate(order) if name in own) < next(i for i, own in enumerate(order) if base in own)


def iter_batches(data: Dataset, batch_size: int, which: slice = slice(None)) -> Iterator[tuple[Tensor, Tensor]]:
    """All samples once, in the data set's order. which: of these batches only, counted from 0."""
    for indices in torch.arange(num_samples(data)).split(batch_size)[which]:
        yield fetch(data, indices)


def labels_of(data: Any) -> Tensor:
    """All labels (N,) of a data set of (x, y). Its samples are read only where it keeps no labels by themselves."""
    if is_plain(data, TensorDataset) and len(data.tensors) > 1:
        return data.tensors[1]
    own = getattr(data, "targets", None)
    return torch.cat([y for _, y in iter_batches(data, 500)]) if own is None else torch.as_tensor(own)
