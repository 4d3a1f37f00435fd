"""AIFT's candidate scores against the published patterns, and against the matrix R by its definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import active.strategies.aift as patches
from active import Query
from active.strategies import get_strategy, required_fields
from active.strategies.aift import (
    CODES,
    EPS,
    aift_strategy,
    ask_aift,
    candidate_scores,
    drawn_from_top,
    score_matrix,
)
from dan.errors import UserError

# Seven candidates of 11 patches, and what the formulas of the authors' demo give for them, with all patches and with a
# quarter: entropy, diversity, sum.
PATTERNS = {
    "A": ([0.4] * 3 + [0.5] * 6 + [0.6] * 2, (7.52, 4.38, 11.90), (2.02, 0, 2.02)),
    "B": ([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.6, 0.7, 0.8, 1, 1], (4.57, 1237.21, 1241.77), (0.83, 20.79, 21.62)),
    "C": ([0, 0, 0, 0.1, 0.1, 0.9, 0.9, 1, 1, 1, 1], (1.30, 2816.66, 2817.96), (0, 0, 0)),
    "D": ([1] * 7 + [0.9] * 4, (1.30, 189.54, 190.84), (0, 0, 0)),
    "E": ([0] * 7 + [0.1] * 4, (1.30, 189.54, 190.84), (0, 0, 0)),
    "F": ([0, 0, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.3, 0.9, 1], (3.24, 1076.87, 1080.11), (0.33, 13.54, 13.86)),
    "G": ([0, 0.1, 0.7, 0.8, 0.8, 0.9, 0.9, 0.9, 0.9, 1, 1], (3.24, 1076.87, 1080.11), (0.33, 13.54, 13.86)),
}


def loops(candidate, alpha, entropy_weight, diversity_weight, majority, eps=EPS):
    """The score of one candidate, a list of patches that are lists of class probabilities; and the sum of |terms|."""
    kept = candidate
    if majority:
        count, classes = len(candidate), range(len(candidate[0]))
        mean = [math.fsum(patch[c] for patch in candidate) / count for c in classes]
        dominant = next(c for c in classes if mean[c] >= max(mean) - 2e-12)
        keep = max(1, math.floor(alpha * count + 0.5 + 1e-9))
        order = sorted(range(count), key=lambda j: (-candidate[j][dominant], j))
        kept = [candidate[j] for j in order[:keep]]
    terms = []
    for j, p in enumerate(kept):
        terms += [-entropy_weight * a * math.log(a + eps) for a in p]
        for other, q in enumerate(kept):
            if other != j:
                terms += [
                    diversity_weight * (a - b) * (math.log(a + eps) - math.log(b + eps))
                    for a, b in zip(p, q, strict=True)
                ]
    return math.fsum(terms), math.fsum(abs(term) for term in terms)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [1, 2])
def test_the_published_patterns(name, dtype, classes):
    values, every, quarter = PATTERNS[name]
    p = torch.tensor([values], dtype=dtype)
    probs = p if classes == 1 else torch.stack((1 - p, p), dim=2)
    for alpha, expected in ((1.0, every), (0.25, quarter)):
        for weights, value in zip(((1, 0), (0, 1), (1, 1)), expected, strict=True):
            score = candidate_scores(probs, alpha, *weights, True).item()
            assert score == pytest.approx(value, abs=0.0051)


def test_the_defaults_are_a_quarter_by_majority():
    p = torch.tensor([values for values, _, _ in PATTERNS.values()], dtype=torch.float64)
    assert torch.equal(candidate_scores(p), candidate_scores(p, alpha=0.25, majority=True))
    # Without majority selection every patch counts, whatever alpha.
    assert torch.equal(candidate_scores(p, majority=False), candidate_scores(p, alpha=1.0))
    assert not torch.equal(candidate_scores(p, majority=False), candidate_scores(p))


@settings(max_examples=60)
@given(data=st.data())
def test_equals_the_definition_relative_to_the_sum_of_absolute_terms(data):
    n, m, c = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9)), data.draw(st.integers(2, 4))
    seed, sharp = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0.1, 1.0, 30.0, 3000.0]))
    alpha, majority = data.draw(st.sampled_from([0.1, 0.25, 0.5, 0.7, 1.0])), data.draw(st.booleans())
    a, b = data.draw(st.sampled_from([(1.0, 1.0), (0.3, 2.0), (0.0, 1.0), (1.0, 0.0)]))
    generator = torch.Generator().manual_seed(seed)
    probs = (sharp * torch.randn(n, m, c, generator=generator, dtype=torch.float64)).softmax(2)
    scores = candidate_scores(probs, alpha, a, b, majority)
    for candidate, score in zip(probs.tolist(), scores.tolist(), strict=True):
        expected, size = loops(candidate, alpha, a, b, majority)
        assert abs(score - expected) <= 1e-10 * size + 1e-300


def test_patches_that_all_but_agree_lose_nothing_to_cancellation():
    """The form m sum x l - sum x sum l would leave 1e-13 of 1e-15 here."""
    p = 0.3 + 1e-8 * torch.arange(16, dtype=torch.float64)[None]
    score = candidate_scores(p, entropy_weight=0.0, majority=False).item()
    expected, size = loops([[1 - x, x] for x in p[0].tolist()], 1.0, 0.0, 1.0, False)
    assert score == pytest.approx(expected, rel=1e-6)
    assert 0 < score < 1e-10


@pytest.mark.parametrize("shape", [(8,), (8, 4)])
def test_the_matrix_is_symmetric_and_sums_to_the_score(shape):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, generator=generator, dtype=torch.float64)
    probs = logits.sigmoid() if len(shape) == 1 else logits.softmax(1)
    matrix = score_matrix(probs, entropy_weight=0.7, diversity_weight=1.3)
    assert torch.equal(matrix, matrix.T)
    x = torch.stack((1 - probs, probs), 1) if len(shape) == 1 else probs
    torch.testing.assert_close(matrix.diagonal(), 0.7 * torch.special.entr(x).sum(1))
    kl = (x[2] * (x[2] / x[5]).log()).sum() + (x[5] * (x[5] / x[2]).log()).sum()
    torch.testing.assert_close(matrix[2, 5], 1.3 * kl)
    score = candidate_scores(probs[None], 1.0, 0.7, 1.3)
    torch.testing.assert_close(matrix.sum(), score[0], rtol=1e-12, atol=0)


def test_the_linear_form_in_closed_form():
    """Half the patches at p, half at q: m^2 / 2 ordered pairs differ, each by the symmetric KL divergence."""
    p, q, m = 0.2, 0.7, 10
    probs = torch.tensor([[p] * (m // 2) + [q] * (m // 2)], dtype=torch.float64)
    kl = 2 * (p - q) * (math.log(p / q) - math.log((1 - p) / (1 - q))) / 2
    assert candidate_scores(probs, 1.0, 0.0).item() == pytest.approx(m * m / 2 * kl, rel=1e-12)


def test_majority_keeps_the_side_that_the_mean_is_on():
    low, high = [0.05, 0.1, 0.2, 0.3], [0.6, 0.7, 0.75, 0.9]
    rest = torch.tensor([low + [0.3, 0.4, 0.45, 0.5], high + [0.3, 0.4, 0.45, 0.5]], dtype=torch.float64)
    alone = torch.tensor([low[:2], high[-2:]], dtype=torch.float64)
    torch.testing.assert_close(candidate_scores(rest), candidate_scores(alone, majority=False))
    # A mean of exactly one half is not above it: the bottom is kept, in float32 too, where 0.1 + ... rounds.
    for dtype in (torch.float32, torch.float64):
        for k in range(1, 5):
            half = torch.tensor([[0.1 * k, 0.5, 0.5, 1 - 0.1 * k]], dtype=dtype)
            bottom = torch.tensor([[0.1 * k]], dtype=dtype)
            torch.testing.assert_close(candidate_scores(half), candidate_scores(bottom), atol=1e-6, rtol=0)


def test_the_dominant_class_of_several_selects():
    """Class 2 has the highest mean; of the four patches the one that gives it most is kept, its classes and all."""
    probs = torch.tensor([[[0.6, 0.2, 0.2], [0.1, 0.1, 0.8], [0.2, 0.3, 0.5], [0.3, 0.3, 0.4]]], dtype=torch.float64)
    kept = probs[:, 1:2]
    assert candidate_scores(probs).item() == pytest.approx(torch.special.entr(kept).sum().item(), rel=1e-12)


@pytest.mark.parametrize(
    ("patches_given", "alpha", "kept"),
    [
        (11, 0.25, 3),
        (10, 0.25, 3),
        (9, 0.25, 2),
        (2, 0.25, 1),
        (1, 0.25, 1),
        (5, 0.1, 1),
        (3, 0.1, 1),
        (100, 0.145, 15),
    ],
)
def test_the_number_of_patches_kept_is_rounded_half_up(patches_given, alpha, kept):
    probs = torch.full((1, patches_given), 0.5, dtype=torch.float64)
    score = candidate_scores(probs, alpha, diversity_weight=0.0)
    assert score.item() == pytest.approx(kept * math.log(2), rel=1e-12)


def test_numbering_of_classes_and_order_of_patches_do_not_matter():
    generator = torch.Generator().manual_seed(1)
    probs = torch.randn(20, 9, 5, generator=generator, dtype=torch.float64).softmax(2)
    scores = candidate_scores(probs)
    torch.testing.assert_close(candidate_scores(probs[:, torch.randperm(9, generator=generator)]), scores)
    torch.testing.assert_close(candidate_scores(probs[:, :, torch.randperm(5, generator=generator)]), scores)


def test_eps_decides_between_hard_patches():
    probs = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    for eps in (EPS, 1e-6):
        score = candidate_scores(probs, majority=False, eps=eps).item()
        assert score == pytest.approx(-4 * math.log(eps), rel=1e-5)


def test_blocks_decide_nothing(monkeypatch):
    probs = torch.randn(50, 6, 3, generator=torch.Generator().manual_seed(2)).softmax(2)
    scores = candidate_scores(probs)
    monkeypatch.setattr(patches, "BLOCK", 7 * 18)
    assert torch.equal(candidate_scores(probs), scores)


def test_the_strategy_asks_for_the_candidates_of_the_highest_score():
    generator = torch.Generator().manual_seed(3)
    probs = (2 * torch.randn(30, 8, 3, generator=generator)).softmax(2)
    ids = 100 + torch.randperm(30, generator=generator)
    best = ids[candidate_scores(probs).argsort(descending=True)]
    assert torch.equal(ask_aift(Query(ids=ids, patch_probs=probs), 30, generator=generator), best)
    # Candidates whose patches disagree before those that are sure.
    sure = torch.tensor([0.98, 0.01, 0.01]).expand(30, 8, 3).clone()
    sure[11, ::2] = torch.tensor([0.5, 0.4, 0.1])
    sure[11, 1::2] = torch.tensor([0.55, 0.05, 0.4])
    query = Query(ids=ids, patch_probs=sure)
    assert ask_aift(query, 1, generator=generator).tolist() == [int(ids[11])]


def test_the_strategy_names_the_sample_of_a_patch_that_is_no_distribution():
    probs = torch.full((4, 3, 2), 0.5)
    probs[2, 1, 0] = 0.7
    query = Query(ids=torch.tensor([9, 7, 5, 3]), patch_probs=probs)
    with pytest.raises(ValueError, match="sample 5:"):
        ask_aift(query, 1, generator=torch.Generator())
    binary = Query(ids=torch.tensor([9, 7]), patch_probs=torch.tensor([[0.1, 0.2], [0.5, 0.5]]))
    assert ask_aift(binary, 1, generator=torch.Generator()).tolist() == [7]


@pytest.mark.parametrize(
    ("probs", "options", "message"),
    [
        (torch.zeros(3), {}, "patch_probs must be"),
        (torch.zeros(3, 0), {}, "at least 1 patch"),
        (torch.ones(3, 2, 1), {}, "2 classes"),
        (torch.tensor([[0.5, 1.2]]), {}, "patch 1 of row 0"),
        (torch.tensor([[0.5], [-0.1]]), {}, "patch 0 of row 1"),
        (torch.tensor([[0.5], [float("nan")]]), {}, "patch 0 of row 1"),
        (torch.full((2, 2, 2), 0.3), {}, "patch 0 of row 0"),
        (torch.full((2, 2), 0.3), {"alpha": 0.0}, "alpha"),
        (torch.full((2, 2), 0.3), {"alpha": 1.5}, "alpha"),
        (torch.full((2, 2), 0.3), {"entropy_weight": -1.0}, "entropy_weight"),
        (torch.full((2, 2), 0.3), {"diversity_weight": float("nan")}, "diversity_weight"),
        (torch.full((2, 2), 0.3), {"eps": 0.0}, "eps"),
    ],
)
def test_what_cannot_be_scored_is_refused(probs, options, message):
    with pytest.raises(ValueError, match=message):
        candidate_scores(probs, **options)


def test_no_candidates_have_no_scores():
    assert candidate_scores(torch.zeros(0, 4)).shape == (0,)
    assert candidate_scores(torch.zeros(0, 4, 3)).shape == (0,)


# --- a million candidates ---------------------------------------------------------------------------------------------


def test_memory_beside_the_probabilities_does_not_grow_with_the_candidates():
    """No tensor that is made on the way has more than a few blocks' numbers, and R, (N, M, M), is never there."""

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            for each in made if isinstance(made, tuple | list) else (made,):
                if isinstance(each, torch.Tensor) and each.untyped_storage().data_ptr() != given:
                    self.numbers = max(self.numbers, each.numel())
            return made

    # Many classes, so that the result, (N,), is small beside a block.
    probs = torch.full((60_000, 16, 8), 1 / 8)
    given = probs.untyped_storage().data_ptr()
    for majority in (True, False):
        with Largest() as largest:
            candidate_scores(probs, majority=majority)
        assert probs.numel() > 7 * patches.BLOCK >= 7 * largest.numbers > 0


# --- selection codes --------------------------------------------------------------------------------------------------


def test_the_codes_are_the_papers_eight_and_both_parts_at_once():
    assert CODES[:8] == ("D", "D+M", "D+R", "D+M+R", "E", "E+M", "E+R", "E+M+R")
    assert CODES[8:] == ("D+E", "D+E+M", "D+E+R", "D+E+M+R")


def a_query(n=40, m=8, classes=3, seed=3):
    generator = torch.Generator().manual_seed(seed)
    probs = (2 * torch.randn(n, m, classes, generator=generator)).softmax(2)
    return Query(ids=100 + torch.randperm(n, generator=generator), patch_probs=probs)


@pytest.mark.parametrize("code", [code for code in CODES if "R" not in code])
def test_a_code_without_r_is_the_order_of_its_score(code):
    query = a_query()
    weights = float("E" in code), float("D" in code)
    scores = candidate_scores(query.patch_probs, 0.25, *weights, "M" in code)
    order = query.ids[scores.argsort(descending=True)].tolist()
    assert len(set(scores.tolist())) == 40  # no ties: the order is one
    before = torch.Generator().manual_seed(0)
    asked = get_strategy(f"aift:{code}")(query, 12, generator=before)
    assert asked.tolist() == order[:12]
    assert torch.equal(before.get_state(), torch.Generator().manual_seed(0).get_state())  # nothing was drawn
    if code == "D+E+M":
        assert asked.tolist() == ask_aift(query, 12, generator=before).tolist()


def test_each_addition_changes_what_is_asked():
    query = a_query(n=200)
    asked = {code: get_strategy(f"aift:{code}")(query, 9, generator=torch.Generator().manual_seed(1)) for code in CODES}
    assert len({tuple(ids.tolist()) for ids in asked.values()}) == len(CODES)


@pytest.mark.parametrize("code", [code for code in CODES if "R" in code])
def test_a_code_with_r_draws_from_the_top_and_the_pools_order_decides_nothing(code):
    query = a_query()
    weights = float("E" in code), float("D" in code)
    scores = candidate_scores(query.patch_probs, 0.25, *weights, "M" in code)
    top = set(query.ids[scores.argsort(descending=True)[:20]].tolist())  # 5 batches of 4
    ask = aift_strategy(code)
    one, again, other = (ask(query, 4, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2))
    assert one == again != other and set(one + other) <= top and len(set(one)) == 4
    turned = Query(ids=query.ids.flip(0), patch_probs=query.patch_probs.flip(0))
    assert ask(turned, 4, generator=torch.Generator().manual_seed(1)).tolist() == one
    everything = ask(query, 99, generator=torch.Generator().manual_seed(3))
    assert sorted(everything.tolist()) == sorted(query.ids.tolist())


def test_options_reach_the_scores():
    query = a_query()
    generator = torch.Generator()
    for options, scored in (
        ({"alpha": 0.5}, {"alpha": 0.5}),
        ({"entropy_weight": 300.0}, {"entropy_weight": 300.0}),
        ({"diversity_weight": 0.01}, {"diversity_weight": 0.01}),
        ({"eps": 1e-2}, {"eps": 1e-2}),
    ):
        asked = aift_strategy("D+E+M", **options)(query, 40, generator=generator)
        assert (
            asked.tolist() == query.ids[candidate_scores(query.patch_probs, **scored).argsort(descending=True)].tolist()
        )
        assert asked.tolist() != ask_aift(query, 40, generator=generator).tolist()
    narrow = aift_strategy("E+R", extension=1.0)(query, 5, generator=generator)
    assert set(narrow.tolist()) == set(aift_strategy("E")(query, 5, generator=generator).tolist())


def test_draws_are_in_proportion_to_the_height_above_the_last_of_the_top():
    """The first and the second draw against their exact chances, by 8,000 draws."""
    scores = torch.tensor([0.0, 7.0, 4.0, 5.0, 1.0, 2.0], dtype=torch.float64)  # top of 4: 7, 5, 4, 2 -> 5, 3, 2, 0
    weights = {1: 5.0, 3: 3.0, 2: 2.0}
    generator = torch.Generator().manual_seed(0)
    draws = [tuple(drawn_from_top(scores, 2, extension=2.0, generator=generator).tolist()) for _ in range(8000)]
    for first, a in weights.items():
        for second, b in weights.items():
            if first != second:
                chance = a / 10 * b / (10 - a)
                share = draws.count((first, second)) / len(draws)
                assert abs(share - chance) < 4 * math.sqrt(chance * (1 - chance) / len(draws))
    assert all(set(pair) <= set(weights) for pair in draws)


def test_equal_scores_have_equal_chances_and_the_last_comes_last():
    generator = torch.Generator().manual_seed(1)
    firsts = [int(drawn_from_top(torch.ones(4), 2, extension=2.0, generator=generator)[0]) for _ in range(8000)]
    assert all(abs(firsts.count(row) / 8000 - 0.25) < 0.02 for row in range(4))
    # Of 3 with a weight and 2 without, all five are asked for: those without come last, the lowest row first.
    five = torch.tensor([1.0, 3.0, 1.0, 2.0, 5.0])
    assert drawn_from_top(five, 5, generator=generator).tolist()[3:] == [0, 2]
    assert drawn_from_top(five, 0, generator=generator).tolist() == []
    assert drawn_from_top(torch.zeros(0), 3, generator=generator).tolist() == []
    # The top is rounded up: 1.4 batches of 2 are 3 rows.
    drawn = {int(i) for _ in range(60) for i in drawn_from_top(five, 2, extension=1.4, generator=generator)}
    assert drawn == {4, 1}  # the third, row 3, has no weight, being the last of the top
    with pytest.raises(ValueError, match="1 or more, not 0.9"):
        drawn_from_top(five, 2, extension=0.9, generator=generator)


def test_codes_by_name_say_what_they_need_and_mix():
    for name in ("aift:E+M+R", "aift:D@0.5"):
        assert required_fields(name) == {"patch_probs"}
    asked = get_strategy("aift:D@0.5")(a_query(), 6, generator=torch.Generator().manual_seed(0))
    assert asked[:3].tolist() == get_strategy("aift:D")(a_query(), 3, generator=torch.Generator()).tolist()
    with pytest.raises(UserError, match=r'"E\+N" is no code of aift \(did you mean "E.*: one of D, D\+M'):
        get_strategy("aift:E+N")
    with pytest.raises(UserError, match="no code of aift"):
        get_strategy("aift:")
    with pytest.raises(ValueError, match="alpha"):
        aift_strategy("E+M", alpha=0.0)
    with pytest.raises(ValueError, match="extension"):
        aift_strategy("E+R", extension=0.0)


# --- the edges --------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_hard_patches_equal_the_matrix(data):
    """Probabilities of 0 and 1 only, where eps alone decides; the sum over R is the score to 1e-10 of the terms."""
    m = data.draw(st.integers(1, 12))
    p = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=m, max_size=m)), dtype=torch.float64)
    score = candidate_scores(p[None], majority=False).item()
    matrix = score_matrix(p)
    assert abs(score - matrix.sum().item()) <= 1e-10 * matrix.abs().sum().item() + 1e-12
    ones = int(p.sum())
    apart = -2 * math.log(EPS)  # of each ordered pair of a 0 and a 1, by both classes
    assert score == pytest.approx(2 * ones * (m - ones) * apart, rel=1e-12, abs=1e-12)


def test_one_patch_has_entropy_alone():
    p = torch.tensor([[0.3]], dtype=torch.float64)
    entropy = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    for alpha in (0.01, 0.25, 1.0):
        assert candidate_scores(p, alpha).item() == pytest.approx(entropy, rel=1e-12)
    assert candidate_scores(p, entropy_weight=0.0).item() == 0.0
    assert score_matrix(p[0]).tolist() == [[pytest.approx(entropy, rel=1e-12)]]


def test_alpha_of_one_keeps_all_and_alpha_of_zero_is_refused():
    p = torch.tensor([[0.2, 0.9, 0.6, 0.1, 0.5]], dtype=torch.float64)
    assert torch.equal(candidate_scores(p, 1.0), candidate_scores(p, majority=False))
    with pytest.raises(ValueError, match="above 0 and at most 1, not 0"):
        candidate_scores(p, 0)
    # As small as can be, one patch is left, the surest of the majority class.
    assert candidate_scores(p, 1e-300).item() == candidate_scores(torch.tensor([[0.1]], dtype=torch.float64)).item()


def test_ties_at_the_cut_keep_the_earlier_patch_and_tied_candidates_the_lower_id():
    """Both patches give class 0, the majority, 0.6; of the rest they differ, and the first of them is kept."""
    flat, sharp = [0.6, 0.2, 0.2], [0.6, 0.4, 0.0]
    for kept, other in ((flat, sharp), (sharp, flat)):
        score = candidate_scores(torch.tensor([[kept, other]], dtype=torch.float64), 0.5).item()
        assert score == pytest.approx(-sum(x * math.log(x) for x in kept if x), rel=1e-12)
    same = torch.full((4, 3), 0.3)
    query = Query(ids=torch.tensor([8, 2, 6, 4]), patch_probs=same)
    assert ask_aift(query, 3, generator=torch.Generator()).tolist() == [2, 4, 6]


def test_nan_is_refused_with_its_sample():
    probs = torch.full((3, 2, 2), 0.5)
    probs[1, 0] = float("nan")
    query = Query(ids=torch.tensor([7, 5, 9]), patch_probs=probs)
    for code in ("D+E+M", "E+R"):
        with pytest.raises(ValueError, match="patch_probs of sample 5 is NaN"):
            aift_strategy(code)(query, 1, generator=torch.Generator())
    with pytest.raises(ValueError, match="patch 0 of row 1"):
        candidate_scores(probs)
