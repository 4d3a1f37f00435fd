"""The batches of a training: a pure function of (seed, step), whoever computes it.

    rows of stream s at step t      an endless sequence of permutations, each a function of (seed, s, epoch)
    random views of these rows      drawn from generators of (seed, s, t), in the order of the rows

So a resumed training needs no sampler's state, and worker processes change no batch. Tensors in memory are indexed once
a batch; images and other data sets come through a `torch.utils.data.DataLoader`.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from dan.data.batches import Batches, derived_seed, fetch, num_samples
from dan.data.tensor_datasets import Images, Vectors
from dan.distributed import DistContext
from dan.errors import UserError

NUMBERS = {"source": 0, "target": 1, "labelled": 2, "united": 8}  # each stream has seeds of its own
Samples = tuple[Tensor, Tensor]


def check_batch_size(batch_size: int, *, source: Dataset | None = None, target: Dataset | None = None) -> None:
    """Raises UserError for a batch larger than a domain.

    It would hold some samples twice: a pair of equal ones is no draw from the domain, and the unbiased MMD^2 is biased.
    """
    for name, data in (("source", source), ("target", target)):
        if data is not None and batch_size > num_samples(data):
            raise UserError(
                f"batch_size {batch_size} is larger than the {name}'s {num_samples(data)} samples: lower --batch-size"
            )


class Stream:
    """The batches of one data set. number: of NUMBERS. context: the processes that share each batch."""

    def __init__(self, data: Dataset, batch_size: int, *, seed: int, number: int, context: DistContext) -> None:
        self.data, self.batch_size, self.seed, self.number, self.context = data, batch_size, seed, number, context
        self._order = Batches(num_samples(data), batch_size, derived_seed(seed, number))
        self._in_memory, self._draws_globally = in_memory(data), not indexed_at_once(data)

    def rows(self, step: int) -> Tensor:
        """Positions (B,) of the whole batch's samples, in all processes."""
        return self._order.indices(step)

    def load(self, step: int, rows: Tensor) -> Samples:
        """This process's share of the batch: x and y. rows: `self.rows(step)`."""
        rows = self.context.share(rows)
        if self._in_memory:
            return fetch(self.data, rows)
        seed = derived_seed(self.seed, 5, self.number, step, *self.context.path)
        views = torch.Generator().manual_seed(seed)
        if not self._draws_globally:
            return fetch(self.data, rows, views)
        with seeded_draws(seed):
            return fetch(self.data, rows, views)


@dataclass(frozen=True)
class StepBatch:
    """What one step reads, by stream: "source", and "target" and "labelled" where the training has them.

    samples: this process's share. rows: positions of the whole batch's samples. joining: how many of the labelled
    samples stand on the source's side of the alignment.
    """

    samples: Mapping[str, Samples]
    rows: Mapping[str, Tensor]
    joining: int | None = None


class BatchStreams:
    """The streams of a training by name; `batch(step)` may be called for any step, and in any order.

    Within `loading(steps)` the batches of those steps, in their order, come from a DataLoader where the data is worth
    one. united: N + L, the number of source and labelled samples together, where the source's side is drawn from both.
    """

    def __init__(self, streams: Mapping[str, Stream], *, united: int | None = None, num_workers: int = 0) -> None:
        self.streams, self.num_workers = dict(streams), num_workers
        source = self.streams["source"]
        self._united = None
        if united is not None:
            self._united = Batches(united, source.batch_size, derived_seed(source.seed, NUMBERS["united"]))
        self._iterator: Iterator[Any] | None = None
        self._next = 0

    def batch(self, step: int) -> StepBatch:
        """All that step `step` reads."""
        rows = {name: stream.rows(step) for name, stream in self.streams.items()}
        joining = None
        if self._united is not None:
            joining = int((self._united.indices(step) >= num_samples(self.streams["source"].data)).sum())
        return StepBatch(self._loaded(step, rows), rows, joining)

    @contextmanager
    def loading(self, steps: range, *, pin_memory: bool = False) -> Iterator[None]:
        """Load the batches of these steps ahead, in `num_workers` processes. pin_memory: for copies to a GPU."""
        data = [stream.data for stream in self.streams.values()]
        if all(map(in_memory if self.num_workers else indexed_at_once, data)):
            yield
            return
        loader = DataLoader(
            _Steps(self.streams),
            batch_size=None,
            sampler=steps,
            num_workers=self.num_workers,
            pin_memory=pin_memory,
            generator=torch.Generator().manual_seed(0),  # or it would draw from the global one, as dropout does
        )
        self._iterator, self._next = iter(loader), steps.start
        try:
            yield
        finally:
            self._iterator = None

    def _loaded(self, step: int, rows: Mapping[str, Tensor]) -> dict[str, Samples]:
        if self._iterator is None or step != self._next:
            return {name: stream.load(step, rows[name]) for name, stream in self.streams.items()}
        self._next += 1
        try:
            found = next(self._iterator)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            line = str(error).splitlines()[0]
            raise UserError(f"a process that loads data has ended ({line}): lower --num-workers") from None
        if isinstance(found, UserError):
            raise found
        return {name: (x, y) for name, (x, y) in found.items()}


class _Steps(Dataset[Any]):
    """Item t is all that step t reads; a user's mistake comes back as the error itself, in its one line."""

    def __init__(self, streams: Mapping[str, Stream]) -> None:
        self.streams = streams

    def __getitem__(self, step: int) -> dict[str, Samples] | UserError:
        try:
            return {name: stream.load(step, stream.rows(step)) for name, stream in self.streams.items()}
        except UserError as error:
            return error


@contextmanager
def seeded_draws(seed: int) -> Iterator[None]:
    """Python's, NumPy's and PyTorch's global generators on the CPU start at `seed`, and are put back afterwards.

    A data set's own transforms draw from them: so their views are a function of the seed too.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  (it is put back)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs, too
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def in_memory(data: Dataset) -> bool:
    """Whether a batch is rows of tensors and nothing else: no worker could be faster."""
    data = _base(data)
    if isinstance(data, TensorDataset):
        return type(data).__getitem__ is TensorDataset.__getitem__ and not hasattr(data, "__getitems__")
    return type(data) is Vectors


def indexed_at_once(data: Dataset) -> bool:
    """Whether a batch is one indexing that draws, if at all, from the generator that it is given."""
    return in_memory(data) or type(_base(data)) is Images


def _base(data: Dataset) -> Dataset:
    """The data set that a Subset is of."""
    while type(data) is Subset:
        data = data.dataset
    return data
