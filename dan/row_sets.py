"""Some samples of a data set, by position: as they are, or with labels that were bought for them."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from dan.data.batched import BatchedDataset
from dan.data.batches import fetch, is_plain
from dan.feature_cache import CachedOutputs


def rows_of(data: Dataset[Any], rows: Tensor) -> Dataset[Any]:
    """The samples at positions `rows` (L,), with the labels that the data set has."""
    if isinstance(data, CachedOutputs):
        return data.rows(rows, data.tensors[1][rows])
    return Subset(data, rows.tolist())


def with_labels(data: Dataset[Any], rows: Tensor, labels: Tensor) -> Dataset[Any]:
    """The samples at positions `rows` (L,), with these labels (L,) in place of the data set's own.

    They are read from `data` when they are needed, so that a data set with random training views draws views of them.
    """
    if isinstance(data, CachedOutputs):
        return data.rows(rows, labels)
    if is_plain(data, TensorDataset):
        return TensorDataset(fetch(data, rows)[0], labels)
    return _Labelled(data, rows, labels)


class _Labelled(BatchedDataset, Dataset[tuple[Tensor, int]]):
    def __init__(self, data: Dataset[Any], rows: Tensor, labels: Tensor) -> None:
        self.data, self.rows, self.targets = data, rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return fetch(self.data, self.rows[indices], generator)[0], self.targets[indices]
