"""Some samples of a data set, with other labels."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from dan.data.batches import fetch
from dan.data.tensor_datasets import Images
from dan.row_sets import rows_of, with_labels

ROWS, LABELS = torch.tensor([4, 1, 4]), torch.tensor([2, 0, 1])
TENSORS = TensorDataset(torch.arange(12.0).reshape(6, 2), torch.zeros(6, dtype=torch.long))


def images() -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    return Images(pixels, [0] * 6, ["a", "b", "c"], normalisation="half", digest="x", augment=True)


@pytest.mark.parametrize("data", [TENSORS, images()], ids=["tensors", "images"])
def test_the_samples_are_those_at_the_positions_with_the_new_labels(data: Dataset[tuple[Tensor, Tensor]]) -> None:
    own = with_labels(data, ROWS, LABELS)
    x, y = fetch(own, torch.arange(3))
    assert torch.equal(x, fetch(data, ROWS)[0]) and torch.equal(y, LABELS)
    assert torch.equal(own[2][0], x[2]) and int(own[2][1]) == 1
    x, y = fetch(rows_of(data, ROWS), torch.arange(3))
    assert torch.equal(x, fetch(data, ROWS)[0]) and torch.equal(y, torch.zeros(3, dtype=torch.long))


def test_labelled_images_have_training_views() -> None:
    data = images()

    def views(seed: int) -> Tensor:
        return fetch(with_labels(data, ROWS, LABELS), torch.arange(3), torch.Generator().manual_seed(seed))[0]

    assert torch.equal(views(0), fetch(data, ROWS, torch.Generator().manual_seed(0))[0])
    assert torch.equal(views(0), views(0)) and not torch.equal(views(0), views(1))
    assert not torch.equal(views(0)[0], views(0)[2])  # the same image twice
