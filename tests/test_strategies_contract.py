"""What every strategy promises, checked for each name in STRATEGIES: a new strategy is tested by being listed."""

from dataclasses import fields, replace

import pytest
import torch

from active import Query
from active.strategies import CARDS, STRATEGIES, get_strategy
from dan.errors import UserError
from dan.mmd import MultiKernel

every_strategy = pytest.mark.parametrize("name", STRATEGIES)
NEEDY = [(name, field) for name, card in CARDS.items() for field in card.needs]
PER_SAMPLE = dict.fromkeys(("probs", "logits", "features", "layers", "domain_probs", "patch_probs"), 0)
PER_SAMPLE["dropout_probs"] = 1


def full_query(n=23, dtype=torch.float64, seed=0):
    """A query with every field, and ids that are no positions: 1000 + 7 i, shuffled."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    logits = normal(n, 4)
    return Query(
        ids=1000 + 7 * torch.randperm(n, generator=generator),
        probs=logits.softmax(1),
        logits=logits,
        features=normal(n, 5),
        layers=normal(n, 9),
        labelled_ids=1000 + 7 * torch.arange(n, n + 6),
        labelled_features=normal(6, 5),
        labelled_layers=normal(6, 9),
        labelled_targets=torch.arange(6) % 4,
        source_features=normal(17, 5) - 1,
        source_layers=normal(17, 9) - 1,
        source_targets=torch.arange(17) % 4,
        validation_logits=normal(12, 4),
        validation_features=normal(12, 5),
        validation_layers=normal(12, 9),
        validation_targets=torch.arange(12) % 4,
        domain_probs=normal(n).sigmoid(),
        patch_probs=normal(n, 6, 4).softmax(2),
        dropout_probs=normal(3, n, 4).softmax(2),
    )


def ask(name, query, budget, seed=0):
    return STRATEGIES[name](query, budget, generator=torch.Generator().manual_seed(seed))


def tensors(query):
    values = {field.name: getattr(query, field.name) for field in fields(query)}
    return {name: value.clone() for name, value in values.items() if isinstance(value, torch.Tensor)}


def assert_answer(ids, query, budget):
    count = min(budget, len(query.ids))
    assert ids.dtype == torch.long
    assert ids.shape == (count,)
    assert len(set(ids.tolist())) == count
    assert set(ids.tolist()) <= set(query.ids.tolist())


@every_strategy
@pytest.mark.parametrize("budget", [0, 1, 9, 23, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answers_with_that_many_distinct_global_ids(name, budget, dtype):
    query = full_query(dtype=dtype)
    assert_answer(ask(name, query, budget), query, budget)


@every_strategy
def test_the_same_generator_seed_gives_the_same_answer(name):
    query = full_query()
    torch.manual_seed(1)
    first = ask(name, query, 9, seed=3)
    torch.manual_seed(2)
    torch.rand(5)
    assert torch.equal(ask(name, query, 9, seed=3), first)


@every_strategy
def test_draws_nothing_from_the_global_generator(name):
    before = torch.get_rng_state()
    ask(name, full_query(), 9)
    assert torch.equal(torch.get_rng_state(), before)


@every_strategy
def test_the_order_of_the_pool_decides_nothing(name):
    query = full_query()
    expected = ask(name, query, 9)
    for seed in range(3):
        order = torch.randperm(len(query.ids), generator=torch.Generator().manual_seed(seed))
        shuffled = {field: getattr(query, field).index_select(axis, order) for field, axis in PER_SAMPLE.items()}
        assert torch.equal(ask(name, replace(query, ids=query.ids[order], **shuffled), 9), expected)


@every_strategy
def test_changes_nothing_that_it_was_given(name):
    query = full_query()
    query = replace(query, kernel=MultiKernel.ladder(2.0))
    before = tensors(query)
    ask(name, query, 9)
    after = tensors(query)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[field], before[field]) for field in before)


@every_strategy
@pytest.mark.parametrize("budget", [5, 23])
def test_equal_features_still_give_distinct_samples(name, budget):
    query = full_query()
    same = torch.full_like(query.features, 0.1)
    query = replace(
        query, features=same, labelled_features=same[:6], source_features=torch.full_like(query.source_features, 0.1)
    )
    assert_answer(ask(name, query, budget), query, budget)


@every_strategy
@pytest.mark.parametrize("certain", [True, False])
def test_one_hot_and_uniform_probabilities_are_answered(name, certain):
    query = full_query()
    n = len(query.ids)
    probs = torch.eye(4, dtype=torch.float64)[torch.arange(n) % 4] if certain else torch.full((n, 4), 0.25).double()
    query = replace(
        query,
        probs=probs,
        logits=1e3 * probs,
        patch_probs=probs[:, None].expand(n, 6, 4).clone(),
        dropout_probs=probs.expand(3, n, 4).clone(),
    )
    assert_answer(ask(name, query, 9), query, 9)


@pytest.mark.parametrize("name", ["least_confidence", "margin", "ratio", "entropy"])
def test_scores_that_tie_are_asked_for_by_lowest_id(name):
    query = full_query()
    query = replace(query, probs=torch.full_like(query.probs, 0.25))
    assert torch.equal(ask(name, query, 9), query.ids.sort().values[:9])


@every_strategy
def test_works_without_labelled_samples_and_on_an_empty_pool(name):
    query = full_query()
    cold = replace(query, labelled_ids=None, labelled_features=None, labelled_layers=None, labelled_targets=None)
    assert_answer(ask(name, cold, 9), cold, 9)
    empty = replace(
        query,
        labelled_ids=query.ids[:0],
        labelled_features=query.labelled_features[:0],
        labelled_layers=query.labelled_layers[:0],
        labelled_targets=query.labelled_targets[:0],
    )
    assert torch.equal(ask(name, empty, 9), ask(name, cold, 9))
    nobody = replace(
        query,
        ids=query.ids[:0],
        **{field: getattr(query, field).narrow(axis, 0, 0) for field, axis in PER_SAMPLE.items()},
    )
    assert_answer(ask(name, nobody, 9), nobody, 9)


@every_strategy
@pytest.mark.parametrize("budget", [-1, 2.5])
def test_a_budget_that_is_no_count_is_refused(name, budget):
    with pytest.raises(ValueError, match="budget"):
        ask(name, full_query(), budget)


@pytest.mark.parametrize(("name", "field"), NEEDY)
def test_a_missing_field_is_named(name, field):
    with pytest.raises(ValueError, match=field):
        ask(name, replace(full_query(), **{field: None}), 3)


@every_strategy
def test_needs_no_more_than_its_card_says(name):
    query = full_query()
    only = Query(ids=query.ids, **{field: getattr(query, field) for field in CARDS[name].needs})
    assert_answer(ask(name, only, 9), only, 9)


@pytest.mark.parametrize(("name", "field"), [pair for pair in NEEDY if pair[1] in PER_SAMPLE])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_is_named_by_its_id(name, field, value):
    query = full_query()
    broken = getattr(query, field).clone()
    broken.select(PER_SAMPLE[field], 5).fill_(value)
    with pytest.raises(ValueError, match=rf"\b{int(query.ids[5])}\b"):
        ask(name, replace(query, **{field: broken}), 3)


def test_probabilities_that_do_not_sum_to_one_are_named_by_id():
    query = full_query()
    wrong = query.probs.clone()
    wrong[5] *= 2
    with pytest.raises(ValueError, match=rf"sample {int(query.ids[5])}\b"):
        ask("margin", replace(query, probs=wrong), 3)


def test_random_is_uniform_without_replacement():
    """Each of 23 samples is in a draw of 9 with probability 9/23; five standard deviations over 2000 draws."""
    query = full_query()
    counts = dict.fromkeys(query.ids.tolist(), 0)
    generator = torch.Generator().manual_seed(0)
    draws, share = 2000, 9 / 23
    for _ in range(draws):
        for sample in STRATEGIES["random"](query, 9, generator=generator).tolist():
            counts[sample] += 1
    tolerance = 5 * (draws * share * (1 - share)) ** 0.5
    assert all(abs(count - draws * share) < tolerance for count in counts.values())
    assert not torch.equal(ask("random", query, 9, seed=0), ask("random", query, 9, seed=1))


def test_every_strategy_has_a_card_and_every_card_a_strategy():
    assert list(CARDS) == list(STRATEGIES)
    known = {field.name for field in fields(Query)}
    for name, card in CARDS.items():
        assert card.name == name
        assert set(card.needs) <= known
        assert card.line
        assert "\n" not in card.line
        assert card.source
        assert card.cost.startswith("O(")


@every_strategy
def test_is_found_by_name(name):
    assert get_strategy(name) is STRATEGIES[name]


def test_the_users_own_function_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_own_ideas.py").write_text(
        "def lowest(query, budget, *, generator):\n    return query.ids[:budget]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    query = full_query()
    own = get_strategy("my_own_ideas:lowest")
    assert torch.equal(own(query, 2, generator=torch.Generator()), query.ids[:2])
    with pytest.raises(UserError, match=r'no function "lowset" \(did you mean "lowest"\?\)'):
        get_strategy("my_own_ideas:lowset")


def test_a_mixture_is_found_by_name_and_share():
    query = full_query()
    mixed = get_strategy("margin@0.4")(query, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mixed[:4], ask("margin", query, 4))
    assert_answer(mixed, query, 10)
    assert not torch.equal(mixed, ask("margin", query, 10))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("margin@1.5", "a number from 0 to 1"),
        ("entrpy@0.5", r'no strategy "entrpy"'),
        ("entrpy", r'no strategy "entrpy" \(did you mean "entropy"\?\)'),
        ("", 'no strategy ""'),
        ("no_such_module_here:f", 'cannot import "no_such_module_here"'),
        ("math:pi", 'no function "pi"'),
        (":f", "is not module:function"),
        ("math:", "is not module:function"),
        (".math:f", "is not module:function"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_clear_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        get_strategy(name)
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_on_import_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "my_broken_ideas.py").write_text("raise RuntimeError('first\\nsecond')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r'cannot import "my_broken_ideas".*RuntimeError: first second$'):
        get_strategy("my_broken_ideas:f")
