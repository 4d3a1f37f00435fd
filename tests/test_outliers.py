"""Model-based outliers: the rank as the definition counts it, its symmetries, and planted outliers."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import active.strategies.outliers as outliers
from active import Query
from active.strategies.outliers import ask_outliers, mean_rank


def rank(value, others):
    """The definition, by counting: one activation among the validation activations of its unit."""
    others = sorted(others)
    if value >= others[-1]:
        return 1.0
    if value < others[0]:
        return 0.0
    places = [place for place, other in enumerate(others) if other == value]
    if places:
        return sum(places) / len(places) / (len(others) - 1)
    below = max(place for place, other in enumerate(others) if other < value)
    gap = (value - others[below]) / (others[below + 1] - others[below])
    return (below + gap) / (len(others) - 1)


def looped(activations, validation):
    units = range(activations.shape[1])
    rows = [[rank(row[u].item(), validation[:, u].tolist()) for u in units] for row in activations]
    return torch.tensor([sum(row) / len(row) for row in rows], dtype=torch.float64)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def ask(query, budget):
    return ask_outliers(query, budget, generator=torch.Generator()).tolist()


def test_one_unit_with_ties_by_hand():
    validation = torch.tensor([[3.0], [0.0], [1.0], [0.0], [0.0]])
    values = torch.tensor([[-1.0], [0.0], [0.5], [1.0], [2.0], [3.0], [5.0]])
    assert mean_rank(values, validation).tolist() == [0, 1 / 4, 2.5 / 4, 3 / 4, 3.5 / 4, 1, 1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=9),
    st.lists(st.tuples(st.integers(-8, 8), st.integers(-8, 8)), min_size=1, max_size=6),
)
def test_equals_the_definition_with_ties_and_half_steps(validation, values):
    validation = torch.tensor(validation, dtype=torch.float64)
    values = torch.tensor(values, dtype=torch.float64) / 2
    torch.testing.assert_close(mean_rank(values, validation), looped(values, validation), atol=1e-15, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("relu", [False, True])
def test_equals_the_definition_over_blocks(dtype, relu, monkeypatch):
    values, validation = normal(23, 7, dtype=dtype), normal(40, 7, seed=1, dtype=dtype)
    if relu:
        values, validation = values.relu(), validation.relu()
    expected = looped(values, validation)
    torch.testing.assert_close(mean_rank(values, validation), expected, atol=1e-14, rtol=0)
    whole = mean_rank(values, validation)
    monkeypatch.setattr(outliers, "BLOCK", 5 * 7)  # 23 rows in blocks of 5
    assert torch.equal(mean_rank(values, validation), whole)


def test_only_the_order_of_the_validation_matters_to_a_value_among_them():
    validation = normal(30, 4)
    picked = validation[::3]
    expected = mean_rank(picked, validation)
    torch.testing.assert_close(mean_rank(picked.exp(), validation.exp()), expected)
    torch.testing.assert_close(mean_rank(picked.flip(1), validation[torch.randperm(30)].flip(1)), expected)


def test_moves_and_stretches_with_a_unit_without_change():
    values, validation = normal(20, 3), normal(30, 3, seed=1)
    scale, shift = torch.tensor([2.0, 0.5, 8.0]).double(), torch.tensor([1.0, -4.0, 0.0]).double()
    torch.testing.assert_close(
        mean_rank(values * scale + shift, validation * scale + shift), mean_rank(values, validation), atol=1e-12, rtol=0
    )


def test_the_validation_itself_has_rank_a_half_on_average():
    validation = normal(31, 5)
    assert mean_rank(validation, validation).mean().item() == pytest.approx(0.5)


def test_single_precision_pools_meet_double_validation():
    values, validation = normal(9, 3, dtype=torch.float32), normal(12, 3, seed=1)
    torch.testing.assert_close(mean_rank(values, validation), looped(values.double(), validation))


def test_one_validation_sample_splits_at_its_value():
    assert mean_rank(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0]])).tolist() == [0, 1, 1]


@pytest.mark.parametrize(("values", "validation"), [((3, 2), (5, 3)), ((3,), (5,)), ((3, 2), (0, 2)), ((3, 0), (5, 0))])
def test_shapes_without_a_rank_are_refused(values, validation):
    with pytest.raises(ValueError, match="validation"):
        mean_rank(torch.zeros(values), torch.zeros(validation))


def query(n=40, seed=0):
    return Query(
        ids=100 + 3 * torch.arange(n),
        logits=normal(n, 6, seed=seed),
        layers=normal(n, 10, seed=seed + 1),
        validation_logits=normal(50, 6, seed=seed + 2),
        validation_layers=normal(50, 10, seed=seed + 3),
    )


def test_planted_outliers_come_first_the_strangest_before_the_others():
    whole = query()
    logits, layers = whole.logits.clone(), whole.layers.clone()
    for row, shift in ((7, 1.3), (21, 30), (33, 3)):
        logits[row] -= shift
        layers[row] -= shift
    assert ask(replace(whole, logits=logits, layers=layers), 3) == [163, 199, 121]
    assert ask(replace(whole, logits=logits, layers=None), 1) == [163]
    # What excites the network more than all that it knows is no outlier of this kind.
    assert ask(replace(whole, logits=-logits, layers=-layers), 40)[-3:] == [121, 199, 163]


def test_layers_count_by_unit_beside_the_logits():
    whole = query()
    together = looped(
        torch.cat((whole.logits, whole.layers), 1), torch.cat((whole.validation_logits, whole.validation_layers), 1)
    )
    assert ask(whole, 40) == whole.ids[together.sort(stable=True).indices].tolist()
    of_logits = looped(whole.logits, whole.validation_logits)
    assert of_logits.argsort().tolist() != together.argsort().tolist()
    for absent in ("layers", "validation_layers"):
        assert ask(replace(whole, **{absent: None}), 40) == whole.ids[of_logits.sort(stable=True).indices].tolist()


def test_equal_samples_tie_to_the_lowest_id():
    whole = query(5)
    same = replace(whole, logits=whole.logits[:1].repeat(5, 1), layers=whole.layers[:1].repeat(5, 1))
    assert ask(same, 5) == [100, 103, 106, 109, 112]


@pytest.mark.parametrize("where", ["validation_logits", "layers", "validation_layers"])
def test_values_that_are_not_finite_are_refused(where):
    whole = query()
    broken = getattr(whole, where).clone()
    broken[4, 1] = float("nan")
    with pytest.raises(ValueError, match="layers of sample 112 " if where == "layers" else where):
        ask(replace(whole, **{where: broken}), 3)
