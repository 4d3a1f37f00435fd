"""The protocol of a data set that gives many items at once: `BatchedDataset`, for sets that compute a batch faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor


class BatchedDataset:
    """Base class of a map-style data set whose items (x, y) come from `batch`.

    A subclass defines `__len__` and `batch`; `dan.data.batches.fetch` calls `batch` of subclasses of this class only,
    and not where a further subclass overrides `__getitem__`.
    """

    if TYPE_CHECKING:  # a subclass defines it, or another base class of it

        def __len__(self) -> int: ...

    def batch(self, indices: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """The samples at those positions: x (B, ...) and y (B,).

        generator: a data set with random training views draws them from it alone; None gives the plain samples.
        """
        raise NotImplementedError(f"{type(self).__name__} has no batch")

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        import torch

        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        x, y = self.batch(torch.tensor([index % len(self)]))
        return x[0], int(y[0])
