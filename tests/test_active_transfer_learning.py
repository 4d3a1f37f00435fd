"""Active transfer learning: the head against its definition and scikit-learn's, planted errors, planted domains."""

from dataclasses import replace

import pytest
import torch

import active.strategies.linear_probe as linear
from active import Query
from active.strategies.active_transfer_learning import (
    ask_atl_representative,
    ask_atl_uncertainty,
    ask_atlas,
    atlas,
    incorrect,
    incorrect_log_odds,
    training_domain_log_odds,
)
from active.strategies.linear_probe import fit_head


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(m=80, f=6, seed=0):
    """Rows, answers that depend on them, and weights of which some are zero."""
    x = normal(m, f, seed=seed) @ normal(f, f, seed=seed + 1)
    yes = x[:, 0] + normal(m, seed=seed + 2) > 0.5
    weights = (normal(m, seed=seed + 3) + 1).relu()
    return x, yes, weights


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("penalty", [1e-3, 0.01, 1.0])
def test_the_head_is_the_minimum_of_its_definition(weighted, penalty):
    """The definition's gradient, by autograd, is zero at the answer."""
    x, yes, weights = problem()
    head = fit_head([x], yes, weights=weights if weighted else None, penalty=penalty)
    a = weights / weights.sum() if weighted else torch.full_like(weights, 1 / len(x))
    mean = a @ x
    std = (a @ (x - mean) ** 2).sqrt()
    w = (head.slope * std).requires_grad_()
    b = (head.offset + mean @ head.slope).requires_grad_()
    z = ((x - mean) / std) @ w + b
    loss = (a * torch.log1p(torch.exp(-torch.where(yes, z, -z)))).sum() + penalty / 2 * (w**2).sum()
    for gradient in torch.autograd.grad(loss, (w, b)):
        assert gradient.abs().max() < 1e-6
    torch.testing.assert_close(head.log_odds(x), z.detach())


def test_the_head_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    x, yes, _ = problem(seed=5)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    theirs = LogisticRegression(C=1 / (0.03 * len(x)), tol=1e-10, max_iter=1000).fit(z.numpy(), yes.numpy())
    ours = fit_head([x], yes, penalty=0.03).log_odds(x)
    torch.testing.assert_close(ours, torch.from_numpy(theirs.decision_function(z.numpy())), atol=1e-4, rtol=0)


def test_parts_are_stacked_and_a_weight_of_zero_is_a_row_that_is_not_there(monkeypatch):
    x, yes, weights = problem()
    whole = fit_head([x], yes, weights=weights)
    there = weights > 0
    assert 0 < int(there.sum()) < len(x)
    x[~there] = 1e3
    monkeypatch.setattr(linear, "BLOCK", 7 * x.shape[1])  # 80 rows in blocks of 7
    for head in (
        fit_head([x[:30], x[30:30], x[30:]], yes, weights=weights),
        fit_head([x[there]], yes[there], weights=weights[there]),
    ):
        torch.testing.assert_close(head.slope, whole.slope, atol=1e-5, rtol=0)
        torch.testing.assert_close(head.offset, whole.offset, atol=1e-5, rtol=0)


def test_units_and_origin_of_the_features_do_not_matter():
    x, yes, _ = problem()
    scale, shift = torch.tensor([1.0, 1e-6, 50.0, 1e4, 1.0, 0.1]).double(), torch.tensor([0, 0, 1e3, 0, -5, 1]).double()
    expected = fit_head([x], yes).log_odds(x)
    torch.testing.assert_close(
        fit_head([x * scale + shift], yes).log_odds(x * scale + shift), expected, atol=1e-4, rtol=0
    )
    single = fit_head([x.float()], yes).log_odds(x.float())
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, expected, atol=1e-4, rtol=0)


def test_a_feature_that_never_varied_is_not_believed():
    x, yes, _ = problem()
    with_constant = torch.cat((x, torch.full((len(x), 1), 0.1).double()), 1)
    head = fit_head([with_constant], yes)
    assert head.slope[-1] == 0
    torch.testing.assert_close(head.slope[:-1], fit_head([x], yes).slope)


def test_a_stronger_penalty_makes_a_flatter_head():
    x, yes, _ = problem()
    spread = [fit_head([x], yes, penalty=penalty).log_odds(x).std().item() for penalty in (1e-3, 1e-2, 0.1, 1.0, 100.0)]
    assert spread == sorted(spread, reverse=True)
    assert spread[-1] < 0.01 * spread[0]


def test_a_head_without_a_question_is_refused():
    x, yes, weights = problem()
    for bad in (lambda: fit_head([x], torch.ones_like(yes)), lambda: fit_head([x], yes, weights=yes.double())):
        with pytest.raises(ValueError, match="both answers"):
            bad()
    with pytest.raises(ValueError, match="penalty"):
        fit_head([x], yes, penalty=0.0)
    with pytest.raises(ValueError, match="same features"):
        fit_head([x, x[:, :2]], torch.cat((yes, yes)))
    with pytest.raises(ValueError, match="one answer each"):
        fit_head([x], yes[:3])


def planted(n=60, v=200, seed=0):
    """A network that is confidently wrong in one corner of its features, and unsure elsewhere: 1st feature > 3.

    Of the pool every third sample lies there.
    """
    features, validation = normal(n, 5, seed=seed), normal(v, 5, seed=seed + 1)
    features[::3, 0] += 6
    validation[::4, 0] += 6
    targets = torch.arange(v) % 3
    says = torch.where(validation[:, 0] > 3, (targets + 1) % 3, targets)
    logits = 0.5 * normal(n, 3, seed=seed + 2)
    logits[::3, 1] += 12
    return Query(
        ids=500 + 2 * torch.arange(n),
        logits=logits,
        features=features,
        validation_logits=4 * torch.nn.functional.one_hot(says, 3).double(),
        validation_features=validation,
        validation_targets=targets,
    )


def corner(query, ids):
    return (query.features[(ids - 500) // 2, 0] > 3).double().mean().item()


@pytest.mark.parametrize("ask", [ask_atl_uncertainty, ask_atlas])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planted_errors_come_first_however_confident(ask, dtype):
    query = planted()
    for name in ("logits", "features", "validation_logits", "validation_features"):
        query = replace(query, **{name: getattr(query, name).to(dtype)})
    assert corner(query, ask(query, 8, generator=generator())) == 1
    every = ask_atl_uncertainty(query, 60, generator=generator())
    assert corner(query, every[:20]) == 1 and corner(query, every[20:]) == 0
    confident = query.logits.softmax(1).amax(1)
    assert corner(query, query.ids[confident.argsort()[:20]]) == 0  # where doubt asks, and the errors are not


def test_ranks_by_the_probability_of_an_error():
    query = planted()
    wrong = incorrect(query.validation_logits, query.validation_targets)
    odds = incorrect_log_odds(query.features, query.validation_features, wrong)
    head = fit_head([query.validation_features], wrong)
    torch.testing.assert_close(odds.sigmoid(), head.log_odds(query.features).sigmoid())
    right = incorrect_log_odds(query.features, query.validation_features, ~wrong)
    torch.testing.assert_close(right, -odds, atol=1e-4, rtol=0)
    asked = ask_atl_uncertainty(query, 60, generator=generator())
    assert torch.equal(asked, query.ids[odds.argsort(descending=True)])


def test_incorrect_is_where_the_prediction_is_another_class():
    logits = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert incorrect(logits, torch.tensor([1, 1, 2])).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="hold some labelled samples out"):
        incorrect(logits[:0], torch.tensor([], dtype=torch.long))
    with pytest.raises(ValueError, match="a target each"):
        incorrect(logits, torch.tensor([1]))


def test_without_features_on_both_sides_the_head_sees_logits():
    query = planted()
    odds = incorrect_log_odds(
        query.logits, query.validation_logits, incorrect(query.validation_logits, query.validation_targets)
    )
    expected = query.ids[odds.argsort(descending=True, stable=True)]
    for absent in ("features", "validation_features"):
        asked = ask_atl_uncertainty(replace(query, **{absent: None}), 60, generator=generator())
        assert torch.equal(asked, expected)
    assert not torch.equal(ask_atl_uncertainty(query, 60, generator=generator()), expected)


@pytest.mark.parametrize("ask", [ask_atl_uncertainty, ask_atlas])
def test_a_network_that_makes_no_error_is_asked_where_it_is_least_confident(ask):
    query = planted()
    faultless = replace(query, validation_targets=query.validation_logits.argmax(1))
    expected = query.ids[query.logits.softmax(1).amax(1).argsort()]
    assert torch.equal(ask(faultless, 60, generator=generator()), expected)
    same = replace(faultless, logits=torch.ones_like(query.logits))
    assert torch.equal(ask(same, 7, generator=generator()), query.ids[:7])


def test_a_network_that_is_always_wrong_too_until_atlas_has_some_correct():
    query = planted()
    hopeless = replace(query, validation_targets=(query.validation_logits.argmax(1) + 1) % 3)
    expected = query.ids[query.logits.softmax(1).amax(1).argsort()]
    assert torch.equal(ask_atl_uncertainty(hopeless, 60, generator=generator()), expected)
    asked = ask_atlas(hopeless, 30, generator=generator())
    assert torch.equal(asked[:3], expected[:3])  # the first of ten steps
    assert not torch.equal(asked, expected[:30])


def two_corners(seed=0):
    """Errors in two corners of the features, more in the first: features, validation, wrong, corner of each."""
    where = torch.arange(300) % 15  # 0: first corner, 1: second, else neither
    features, validation = 0.5 * normal(300, 4, seed=seed), 0.5 * normal(300, 4, seed=seed + 1)
    for rows in (features, validation):
        rows[where == 0, 0] += 4
        rows[where == 1, 1] += 4
    # In the first corner all are wrong, in the second every other.
    wrong = (where == 0) | ((where == 1) & (torch.arange(300) // 15 % 2 > 0))
    return features, validation, wrong, where


@pytest.mark.parametrize("seed", range(4))
def test_atlas_turns_to_the_other_errors_where_plain_transfer_stays(seed):
    features, validation, wrong, where = two_corners(seed)
    flat = torch.ones(300)
    at_once = where[atlas(features, validation, wrong, flat, 20, steps=1)]
    in_steps = where[atlas(features, validation, wrong, flat, 20, steps=10)]
    assert bool((at_once < 2).all()) and bool((in_steps < 2).all())
    assert int((at_once == 1).sum()) <= 3  # of the second corner
    assert int((in_steps == 1).sum()) >= int((at_once == 1).sum()) + 2


@pytest.mark.parametrize(
    ("budget", "steps", "shares"), [(20, 10, [2] * 10), (7, 3, [3, 2, 2]), (3, 10, [1, 1, 1]), (9, 1, [9])]
)
def test_atlas_is_its_definition(budget, steps, shares):
    features, validation, wrong, _ = two_corners(seed=3)
    confidence = normal(300, seed=9).sigmoid()
    chosen = []
    for share in shares:
        rows = torch.cat((validation, features[chosen]))
        answers = torch.cat((wrong, torch.zeros(len(chosen), dtype=torch.bool)))
        odds = fit_head([rows], answers).log_odds(features)
        left = sorted(set(range(300)) - set(chosen), key=lambda i: (-odds[i].item(), confidence[i].item(), i))
        chosen += left[:share]
    assert atlas(features, validation, wrong, confidence, budget, steps=steps).tolist() == chosen


def test_atlas_gives_all_of_a_small_pool_and_takes_options():
    features, validation, wrong, _ = two_corners()
    flat = torch.ones(300)
    assert sorted(atlas(features[:12], validation, wrong, flat[:12], 50).tolist()) == list(range(12))
    assert atlas(features, validation, wrong, flat, 0).tolist() == []
    with pytest.raises(ValueError, match="at least one step"):
        atlas(features, validation, wrong, flat, 5, steps=0)
    with pytest.raises(ValueError, match="confidences"):
        atlas(features, validation, wrong, flat[:5], 5)
    with pytest.raises(ValueError, match="features of validation"):
        atlas(features[:, :2], validation, wrong, flat, 5)
    query = planted()
    assert torch.equal(
        ask_atlas(query, 20, generator=generator(), steps=1), ask_atl_uncertainty(query, 20, generator=generator())
    )
    assert not torch.equal(
        ask_atlas(query, 20, generator=generator(), steps=20), ask_atl_uncertainty(query, 20, generator=generator())
    )


def domains(n=60, s=50, f=5, seed=0):
    """A pool of which every third sample is of a new kind (last feature 4 higher), and a source without it."""
    features = normal(n, f, seed=seed)
    features[::3, -1] += 4
    return Query(
        ids=500 + 2 * torch.randperm(n, generator=generator(seed + 5)),
        features=features,
        source_features=normal(s, f, seed=seed + 1),
    )


def new_kind(query, ids):
    rows = [query.ids.tolist().index(sample) for sample in ids.tolist()]
    return (torch.tensor(rows) % 3 == 0).double().mean().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_training_domain_lacks_comes_first(dtype):
    query = domains()
    query = replace(query, features=query.features.to(dtype), source_features=query.source_features.to(dtype))
    assert new_kind(query, ask_atl_representative(query, 15, generator=generator())) == 1


def test_labelled_samples_belong_to_the_training_domain():
    query = domains()
    known = normal(40, 5, seed=7)
    known[:, -1] += 4
    labelled = replace(query, labelled_features=known, labelled_ids=torch.arange(40), labelled_targets=torch.zeros(40))
    assert new_kind(labelled, ask_atl_representative(labelled, 15, generator=generator())) < 0.5
    nobody = replace(query, labelled_features=known[:0])
    for count in (1, 60):
        asked = ask_atl_representative(nobody, count, generator=generator())
        assert torch.equal(asked, ask_atl_representative(query, count, generator=generator()))


def test_all_layers_are_seen_where_all_samples_have_them():
    """Here the features tell nothing and the layers all, for pool, source and labelled samples."""
    told = domains()
    blind = replace(
        told,
        features=normal(60, 3, seed=11),
        source_features=normal(50, 3, seed=12),
        layers=told.features,
        source_layers=told.source_features,
    )
    expected = ask_atl_representative(told, 15, generator=generator())
    assert torch.equal(ask_atl_representative(blind, 15, generator=generator()), expected)
    by_features = ask_atl_representative(replace(blind, layers=None), 15, generator=generator())
    assert new_kind(blind, by_features) < 0.7
    assert torch.equal(
        ask_atl_representative(replace(blind, source_layers=None), 15, generator=generator()), by_features
    )

    labels = {"labelled_features": normal(10, 3, seed=13), "labelled_layers": normal(10, 5, seed=14)}
    seen = ask_atl_representative(replace(blind, **labels), 15, generator=generator())
    on_layers = replace(told, labelled_features=labels["labelled_layers"])
    assert torch.equal(seen, ask_atl_representative(on_layers, 15, generator=generator()))
    # Without the labelled samples' layers all are judged by features, so that the labelled still count.
    del labels["labelled_layers"]
    without = ask_atl_representative(replace(blind, **labels), 15, generator=generator())
    on_features = ask_atl_representative(replace(blind, **labels, layers=None), 15, generator=generator())
    assert torch.equal(without, on_features)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_sample_is_scored_by_a_head_that_did_not_see_it(folds):
    """The folds of the definition, each side weighing one half."""
    pool, source, labelled = normal(17, 4, seed=1), normal(30, 4, seed=2) + 0.5, normal(5, 4, seed=3)
    order = torch.randperm(17, generator=generator(4))
    fold = torch.empty(17, dtype=torch.long)
    for place, row in enumerate(order.tolist()):
        fold[row] = place % folds
    training = torch.cat((source, labelled))
    expected = torch.empty(17, dtype=torch.float64)
    for row in range(17):
        others = pool[fold != fold[row]]
        yes = torch.arange(35 + len(others)) < 35
        weights = torch.where(yes, 1 / 35, 1 / len(others)).double()
        expected[row] = fit_head([torch.cat((training, others))], yes, weights=weights).log_odds(pool[row : row + 1])[0]
    score = training_domain_log_odds(pool, [source, labelled], generator=generator(4), folds=folds)
    torch.testing.assert_close(score, expected, atol=1e-4, rtol=0)


def test_scores_the_domain_and_not_memory():
    """More features than samples, one and the same distribution: a head tells the samples it learnt from, no others."""
    pool, source = normal(60, 300, seed=1), normal(60, 300, seed=2)
    yes = torch.arange(120) < 60
    remembered = fit_head([source, pool], yes).log_odds(pool)
    assert bool((remembered < 0).all())
    held_out = training_domain_log_odds(pool, [source], generator=generator())
    assert 0.3 < (held_out < 0).double().mean() < 0.7


def test_the_two_domains_weigh_the_same_whatever_their_sizes():
    pool, source = normal(40, 3, seed=1), normal(30, 3, seed=2) + 0.3
    once = training_domain_log_odds(pool, [source], generator=generator())
    thrice = training_domain_log_odds(pool, [source, source, source], generator=generator())
    torch.testing.assert_close(thrice, once, atol=1e-4, rtol=0)


def test_pools_of_one_and_of_fewer_samples_than_folds():
    query = domains()
    one = replace(query, ids=query.ids[:1], features=query.features[:1])
    assert torch.equal(ask_atl_representative(one, 5, generator=generator()), one.ids)
    two = replace(query, ids=query.ids[:2], features=query.features[:2])
    assert sorted(ask_atl_representative(two, 5, generator=generator(), folds=9).tolist()) == sorted(two.ids.tolist())


def test_a_comparison_with_nothing_is_refused():
    query = domains()
    with pytest.raises(ValueError, match="training domain has no samples"):
        ask_atl_representative(replace(query, source_features=query.features[:0]), 5, generator=generator())
    with pytest.raises(ValueError, match="head trained on others"):
        ask_atl_representative(query, 5, generator=generator(), folds=1)


@pytest.mark.parametrize(
    ("ask", "query", "field"),
    [
        (ask_atl_uncertainty, planted, "validation_features"),
        (ask_atlas, planted, "features"),
        (ask_atl_representative, domains, "source_features"),
    ],
)
def test_what_is_not_finite_is_refused(ask, query, field):
    query = query()
    broken = getattr(query, field).clone()
    broken[2, 1] = float("inf")
    with pytest.raises(ValueError, match=rf"^{field} .*NaN or infinite"):
        ask(replace(query, **{field: broken}), 3, generator=generator())
