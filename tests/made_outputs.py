"""Samples and outputs of a network, drawn for the tests of losses."""

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from dan.models.dan import Output

SIZES = st.integers(2, 6)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def output(n: int, *, seed: int = 0, features: int = 6, classes: int = 3, dtype: torch.dtype = torch.float32) -> Output:
    logits = normal(n, classes, seed=seed + 1, dtype=dtype)
    layers = {"hidden1": normal(n, features + 1, seed=seed + 2, dtype=dtype)}
    layers |= {"hidden2": normal(n, features, seed=seed, dtype=dtype), "output": logits}
    return Output(logits, layers)


def gradients(value: Callable[[], Tensor], *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value(), inputs))
