"""MCC against its definition in loops, its bounds and symmetries."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_outputs import normal, output
from torch import Tensor

from dan.losses.mcc import ClassConfusion, class_confusion


def confusion_by_loops(logits: Tensor, temperature: float) -> Tensor:
    """The definition, its weights normalised to a mean of 1, and without gradient."""
    m, c = logits.shape
    y = [[torch.exp(v / temperature) / torch.exp(row / temperature).sum() for v in row] for row in logits]
    raw = [1 + math.exp(sum(float(p.detach()) * math.log(float(p.detach())) for p in row)) for row in y]
    w = [m * value / sum(raw) for value in raw]
    matrix = [[sum(w[i] * y[i][j] * y[i][k] for i in range(m)) for k in range(c)] for j in range(c)]
    return sum(matrix[j][k] / sum(matrix[j]) for j in range(c) for k in range(c) if k != j) / c  # type: ignore[return-value]


@settings(max_examples=15)
@given(m=st.integers(1, 6), c=st.integers(2, 5), temperature=st.sampled_from([0.5, 2.5]), seed=st.integers(0, 1000))
def test_class_confusion_is_its_definition(m: int, c: int, temperature: float, seed: int) -> None:
    logits = (3 * normal(m, c, seed=seed)).requires_grad_()
    fast, plain = class_confusion(logits, temperature=temperature), confusion_by_loops(logits, temperature)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(fast, logits), torch.autograd.grad(plain, logits), rtol=1e-9, atol=1e-12
    )


def test_class_confusion_bounds_and_symmetries() -> None:
    c = 4
    sure = torch.eye(c).repeat(3, 1) * 1000
    assert float(class_confusion(sure)) == pytest.approx(0, abs=1e-6)
    assert float(class_confusion(torch.zeros(6, c))) == pytest.approx(1 - 1 / c)
    logits = normal(9, c)
    value = class_confusion(logits)
    torch.testing.assert_close(class_confusion(logits.flip(0)), value)
    torch.testing.assert_close(class_confusion(logits.flip(1)), value)
    torch.testing.assert_close(class_confusion(logits + normal(9, 1, seed=1)), value)
    torch.testing.assert_close(class_confusion(2 * logits, temperature=5.0), value)
    assert 0 < float(value) < 1 - 1 / c


def test_class_confusion_of_classes_without_any_probability_is_finite() -> None:
    logits = torch.tensor([[1e5, 0.0, -1e5], [1e5, 0.0, -3e4]]).requires_grad_()
    loss = class_confusion(logits)
    loss.backward()
    assert bool(loss.isfinite()) and bool(logits.grad.isfinite().all())
    assert class_confusion(torch.zeros(2, 3).half()).dtype == torch.float32


def test_class_confusion_looks_at_the_target_alone() -> None:
    source, target = output(5), output(4, seed=7)
    source.logits.requires_grad_()
    terms = ClassConfusion(temperature=1.5)(source, target)
    assert not terms["confusion"].requires_grad
    torch.testing.assert_close(terms["confusion"], class_confusion(target.logits, temperature=1.5))


def test_class_confusion_bad_input() -> None:
    with pytest.raises(ValueError, match="the temperature must be positive, not 0"):
        class_confusion(normal(3, 2), temperature=0)
    with pytest.raises(ValueError, match="C >= 2"):
        class_confusion(normal(3, 1))
