"""Audits: uniform, of a stream of their own, and in hold mode still uniform whatever the strategy picks."""

from itertools import permutations

import pytest
import torch

from active.assessment import HeldAudits, audit_generator, draw_audits


def test_every_ordered_draw_is_equally_likely():
    counts = dict.fromkeys(permutations(range(4), 2), 0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6000):
        counts[tuple(draw_audits([0, 1, 2, 3], 2, generator).tolist())] += 1
    # Twelve ordered pairs, 500 times each: chi-square with 11 degrees of freedom, 31.3 at 0.1 %.
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 31.3


def test_the_order_of_the_ids_decides_nothing():
    ids = torch.tensor([40, 7, 19, 3, 88, 21])
    draws = [draw_audits(order, 3, audit_generator(5, 1)) for order in (ids, ids.flip(0), ids.sort().values)]
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])
    assert set(draws[0].tolist()) <= set(ids.tolist())


def test_the_generator_is_a_function_of_seed_and_round_alone():
    def numbers(seed, round):
        return tuple(torch.rand(4, generator=audit_generator(seed, round)).tolist())

    assert numbers(3, 2) == numbers(3, 2)
    assert len({numbers(seed, round) for seed in range(5) for round in range(5)}) == 25


@pytest.mark.parametrize("count", [0, 4])
def test_a_count_that_the_pool_does_not_have_is_refused(count):
    with pytest.raises(ValueError, match="draw 1 to 3"):
        draw_audits([1, 2, 3], count, torch.Generator())


def test_repeated_ids_are_refused():
    with pytest.raises(ValueError, match="without repeats"):
        draw_audits([1, 2, 2], 1, torch.Generator())
    with pytest.raises(ValueError, match="without repeats"):
        HeldAudits.start([4, 4], torch.Generator())


def test_held_audits_are_uniform_in_the_pool_minus_the_picks():
    """Picks of two rounds, some of which hit held audits; the held ones must be a uniform sample of what is left."""
    pool, picks = list(range(10)), [0, 1, 2, 3]
    counts = torch.zeros(10)
    pairs = torch.zeros(10, 10)
    generator = torch.Generator().manual_seed(1)
    runs = 4000
    for _ in range(runs):
        audits, _ = HeldAudits.start(pool, generator).draw(3, [])
        audits, _ = audits.draw(2, picks[:2])  # the first two are in training by now
        held = audits.held(picks)
        while len(held) < 3:  # labels that hits saved go to further audits
            audits, _ = audits.draw(1, picks)
            held = audits.held(picks)
        held = held[:3]
        counts[held] += 1
        pairs[held[0], held[1]] += 1
    assert counts[picks].sum() == 0
    expected = runs * 3 / 6
    spread = (runs * 0.25) ** 0.5
    assert ((counts[4:] - expected).abs() < 4 * spread).all()
    # The first two held ones: 30 ordered pairs of the 6 samples, equally likely; 58.3 is 0.1 % of chi-square with 29.
    cells = pairs[4:, 4:][~torch.eye(6, dtype=torch.bool)]
    assert ((cells - runs / 30) ** 2 / (runs / 30)).sum() < 58.3


def test_a_pick_moves_a_held_audit_to_training_and_draws_pass_over_training():
    audits = HeldAudits((5, 2, 9, 4, 7))
    audits, new = audits.draw(2, [2])
    assert new.tolist() == [5, 9] and audits.held([2]).tolist() == [5, 9]
    assert audits.held([2, 9]).tolist() == [5]
    resumed = HeldAudits(audits.order, audits.position)
    _, further = resumed.draw(1, [2, 9])
    assert further.tolist() == [4]
    _, none = audits.draw(0, [])
    assert none.tolist() == []
    with pytest.raises(ValueError, match="2 samples left"):
        audits.draw(3, [2, 9])
