"""`assess`: what is put together, for a network on a pool, in both modes; skipped audits; mistakes."""

import math

import numpy as np
import pytest
import torch

from active.assessment import HeldAudits, alpha_of_round, assess, audit_generator, draw_audits
from active.assessment.hypergeometric import lower_count, upper_count
from active.pool import Pool

N, C = 300, 3


def network(seed=0, accuracy=0.85, sharp=False, count=N):
    """Class probabilities (count, C) and targets (count,); confident where right if sharp."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(C, count, p=[0.1, 0.3, 0.6])
    right = rng.random(count) < accuracy
    predicted = np.where(right, targets, (targets + 1 + rng.integers(0, C - 1, count)) % C)
    confidence = np.where(right, 0.99, 0.4) if sharp else 0.6 + 0.39 * rng.random(count)
    probs = np.repeat((1 - confidence)[:, None] / (C - 1), C, axis=1)
    probs[np.arange(count), predicted] = confidence
    return torch.from_numpy(probs), torch.from_numpy(targets)


def labelled_pool(targets, labelled=30, first=10):
    """A pool with ids first, first + 1, ... and `labelled` of them labelled."""
    ids = torch.arange(first, first + len(targets))
    pool = Pool(ids, targets)
    picks = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(1))[:labelled]]
    pool.label(picks, pool.oracle(picks), round=1)
    return pool


def test_three_lines_give_the_exact_interval_of_the_whole_pool():
    probs, targets = network()
    pool = labelled_pool(targets)
    audits = draw_audits(pool.unlabelled_ids, 60, audit_generator(0, 1))
    answers = pool.oracle(audits).tolist()
    found = assess(pool, probs, audits, answers)

    right = probs.argmax(1) == targets
    hits, h = int(right[audits - 10].sum()), int(right[pool.labelled_ids - 10].sum())
    low, high = (int(f(hits, 60, 270, 0.025)[0]) for f in (lower_count, upper_count))
    assert (found.low, found.high) == pytest.approx(((h + low) / N, (h + high) / N))
    assert found.accuracy == pytest.approx((h + 270 * hits / 60) / N)
    assert (found.unlabelled.low, found.unlabelled.high) == pytest.approx((low / 270, high / 270))
    assert (found.method, found.audits, found.skipped) == ("hypergeometric", 60, 0)
    assert (found.pool, found.labelled, found.labelled_right) == (N, 30, h)
    assert len(found.by_class) == C and found.balanced.low < found.balanced.estimate < found.balanced.high
    text = f"{100 * found.accuracy:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f}; 60 audits)"
    assert str(found) == text


def test_the_deviation_is_the_spread_of_the_estimate():
    probs, targets = network()
    pool = labelled_pool(targets)
    generator = torch.Generator().manual_seed(0)
    draws = [draw_audits(pool.unlabelled_ids, 100, generator) for _ in range(60)]
    found = [assess(pool, probs, audits, pool.oracle(audits).tolist()) for audits in draws]
    spread = np.std([each.accuracy for each in found])
    assert np.mean([each.deviation for each in found]) == pytest.approx(spread, rel=0.25)
    assert assess(pool, probs, draws[0], [None] * 100).deviation == pytest.approx(0.5 * 270 / 300 * (270 / 269) ** 0.5)


def test_all_samples_as_audits_leave_nothing_open():
    probs, targets = network(count=40)
    pool = labelled_pool(targets, labelled=5)
    audits = draw_audits(pool.unlabelled_ids, 35, audit_generator(0))
    truth = float((probs.argmax(1) == targets).double().mean())
    for look in (None, 1):
        found = assess(pool, probs, audits, pool.oracle(audits).tolist(), look=look)
        assert found.low == pytest.approx(truth, abs=1e-6) and found.high == pytest.approx(truth, abs=1e-6)


def test_the_levels_of_rounds_sum_to_the_whole_and_later_looks_are_wider():
    assert sum(alpha_of_round(0.05, t) for t in range(1, 10_000)) == pytest.approx(0.05, rel=1e-3)
    probs, targets = network()
    pool = labelled_pool(targets)
    audits = draw_audits(pool.unlabelled_ids, 60, audit_generator(0, 1))
    answers = pool.oracle(audits).tolist()
    once, first, third = (assess(pool, probs, audits, answers, round=t) for t in (None, 1, 3))
    assert first.low < once.low and first.high >= once.high and third.low < first.low
    stricter = assess(pool, probs, audits, answers, level=1 - 0.05 / 12)
    assert (third.low, third.high) == (stricter.low, stricter.high)
    assert third.balanced.low == pytest.approx(stricter.balanced.low)
    looks = [assess(pool, probs, audits, answers, look=j) for j in (1, 4)]
    assert looks[0].low == looks[1].low < once.low  # one sequence for all looks
    assert looks[0].by_class[2].low > looks[1].by_class[2].low  # spent look by look
    assert looks[0].method == "prediction_powered"


def test_repeated_looks_at_growing_answers_are_nested():
    probs, targets = network()
    pool = labelled_pool(targets)
    audits = draw_audits(pool.unlabelled_ids, 60, audit_generator(2, 1))
    answers = pool.oracle(audits).tolist()
    looks = [assess(pool, probs, audits, answers[:count], look=j) for j, count in enumerate((10, 25, 60), 1)]
    assert looks[0].low <= looks[1].low <= looks[2].low and looks[0].high >= looks[1].high >= looks[2].high


def test_the_method_depends_on_confidences_and_plan_and_never_on_answers():
    probs, targets = network(sharp=True)
    pool = labelled_pool(targets)
    audits = draw_audits(pool.unlabelled_ids, 60, audit_generator(0, 1))
    answers = pool.oracle(audits).tolist()
    found = assess(pool, probs, audits, answers, look=1)
    for other in ([0] * 60, [None] * 60, [1]):
        assert assess(pool, probs, audits, other, look=1).method == found.method == "prediction_powered"
    assert assess(pool, probs, audits[:20], answers[:20], look=1).method == "betting"
    # Without confidences: the same predictions, all as sure. These networks' confidences are worth something.
    flat = torch.full_like(probs, 0.2).scatter(1, probs.argmax(1, keepdim=True), 0.6)
    blind = assess(pool, flat, audits, answers, look=1)
    assert blind.method == "betting" and found.high - found.low < 0.8 * (blind.high - blind.low)
    for given in (probs, flat):
        assert assess(pool, given, audits, answers).method == "hypergeometric"


def test_a_skipped_audit_is_wrong_for_the_lower_bound_and_right_for_the_upper():
    probs, targets = network()
    pool = labelled_pool(targets)
    audits = draw_audits(pool.unlabelled_ids, 60, audit_generator(0, 1))
    predicted = probs.argmax(1)[audits - 10].tolist()
    answers = pool.oracle(audits).tolist()
    skipped = [None, None, *answers[2:]]
    wrong = [(predicted[0] + 1) % C, (predicted[1] + 1) % C, *answers[2:]]
    right = [*predicted[:2], *answers[2:]]
    for look in (None, 1):
        found = assess(pool, probs, audits, skipped, look=look)
        assert found.skipped == 2 and "2 skipped" in str(found)
        assert found.low == pytest.approx(assess(pool, probs, audits, wrong, look=look).low)
        assert found.high == pytest.approx(assess(pool, probs, audits, right, look=look).high)
    nothing = assess(pool, probs, audits, [None] * 60)
    assert math.isnan(nothing.unlabelled.estimate) and nothing.unlabelled.high - nothing.unlabelled.low > 0.8


def test_coverage_where_the_hard_samples_are_skipped_and_dropping_them_fails():
    """The annotator skips half of what the network gets wrong. Intervals hold; those without the skipped ones fail."""
    probs, targets = network(accuracy=0.8)
    pool = Pool(range(N), targets)
    right = (probs.argmax(1) == targets).numpy()
    unclear = ~right & (np.random.default_rng(1).random(N) < 0.5)
    generator = torch.Generator().manual_seed(0)
    misses, dropped = 0, 0
    runs = 100
    for _ in range(runs):
        audits = draw_audits(pool.ids, 100, generator)
        answers = [None if unclear[i] else int(targets[i]) for i in audits.tolist()]
        found = assess(pool, probs, audits, answers)
        misses += not found.low <= right.mean() <= found.high
        kept = ~unclear[audits.numpy()]
        hits = int(right[audits.numpy()][kept].sum())
        dropped += lower_count(hits, int(kept.sum()), N, 0.025)[0] > right.sum()
    assert misses <= 5 and dropped > 30


def test_held_audits_measure_every_later_network_and_a_hit_moves_to_training():
    probs, targets = network(count=120)
    pool = Pool(range(120), targets)
    audits, _ = HeldAudits.start(pool.ids, audit_generator(3)).draw(30, pool.labelled_ids)
    picks = torch.tensor([audits.order[0], audits.order[50]])  # one of them is held
    pool.label(picks, pool.oracle(picks), round=1)
    held = audits.held(pool.labelled_ids)
    assert len(held) == 29
    found = assess(pool, probs, held, pool.oracle(held).tolist(), round=2)
    right = (probs.argmax(1) == targets).double()
    assert found.labelled_right == int(right[picks].sum()) and found.audits == 29
    assert found.low <= float(right.mean()) <= found.high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probs": torch.ones(5, C)}, "a row for each id"),
        ({"probs": torch.full((N, C), 3.0)}, "apply softmax"),
        ({"probs": torch.full((N, C), float("nan"))}, "finite"),
        ({"answers": [0] * 61}, "61 answers were given for 60 audits"),
        ({"answers": []}, "0 answers"),
        ({"answers": [0, 7]}, "7 is no class"),
        ({"answers": [0, -1]}, "-1 is no class"),
        ({"audits": torch.tensor([10, 10])}, "without repeats"),
        ({"audits": torch.tensor([9999])}, "unlabelled samples"),
        ({"level": 1.0}, "level"),
        ({"round": 0}, "numbered from 1"),
        ({"look": 0}, "numbered from 1"),
    ],
)
def test_mistakes_are_named(change, message):
    probs, targets = network()
    pool = labelled_pool(targets)
    audits = draw_audits(pool.unlabelled_ids, 60, audit_generator(0, 1))
    arguments = {"probs": probs, "audits": audits, "answers": pool.oracle(audits).tolist(), **change}
    with pytest.raises(ValueError, match=message):
        assess(pool, **arguments)


def test_an_audit_whose_label_is_trained_on_already_is_refused():
    probs, targets = network()
    pool = labelled_pool(targets)
    with pytest.raises(ValueError, match="before their labels are trained on"):
        assess(pool, probs, pool.labelled_ids[:3], [0, 0, 0])
