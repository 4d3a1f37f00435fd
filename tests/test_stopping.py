"""Stopping rules on fabricated histories, and what a stop costs."""

import pytest
import torch

from active.stopping import (
    RULES,
    Regret,
    State,
    certified,
    cohen_kappa,
    first_stop,
    max_confidence,
    overall_uncertainty,
    regret,
    selected_accuracy,
    stabilising_predictions,
)


def labels(*values):
    return torch.tensor(values)


def test_kappa_by_hand():
    """Agreement on 4 of 6; shares (1/2, 1/2) and (2/3, 1/3), so chance is 1/2 and kappa (2/3 - 1/2) / (1/2)."""
    assert cohen_kappa(labels(0, 0, 0, 1, 1, 1), labels(0, 0, 0, 0, 1, 0)) == pytest.approx(1 / 3)
    assert cohen_kappa(labels(0, 1, 2), labels(0, 1, 2)) == 1
    assert cohen_kappa(labels(0, 0, 1, 1), labels(1, 1, 0, 0)) == -1
    assert cohen_kappa(labels(2, 2), labels(2, 2)) == 1
    with pytest.raises(ValueError, match="same length"):
        cohen_kappa(labels(0, 1), labels(0))


def test_kappa_is_symmetric_and_blind_to_the_names_of_classes():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(4, (50,), generator=generator) for _ in range(2))
    names = torch.tensor([3, 0, 2, 1])
    assert cohen_kappa(a, b) == pytest.approx(cohen_kappa(b, a)) == pytest.approx(cohen_kappa(names[a], names[b]))


def test_predictions_are_stable_after_three_agreeing_trainings():
    first, then = torch.zeros(100, dtype=torch.long), torch.zeros(100, dtype=torch.long)
    first[:50], then[:49] = 1, 1
    sequence = [first, then, then, then, then, then]
    history = [State(labelled=10 * i, predictions=p) for i, p in enumerate(sequence)]
    # Kappas: 0.98 (one of a hundred changed), then 1, 1, 1, 1; the mean of three is 0.9933 from the fourth network on.
    assert first_stop(stabilising_predictions, history) == 3
    assert first_stop(lambda h: stabilising_predictions(h, agreement=1.0), history) == 4
    assert first_stop(lambda h: stabilising_predictions(h, window=1), history) == 2
    assert first_stop(stabilising_predictions, history[:3]) is None


def test_uncertainty_rules_look_at_the_mean_and_at_the_largest():
    values = [[0.4, 0.4, 0.4], [0.0, 0.0, 0.12], [0.0, 0.0, 0.009], []]
    history = [State(labelled=i, uncertainty=torch.tensor(v)) for i, v in enumerate(values)]
    assert first_stop(overall_uncertainty, history) == 1
    assert first_stop(max_confidence, history) == 2
    assert first_stop(max_confidence, history[:2]) is None
    assert first_stop(lambda h: max_confidence(h, threshold=0.001), history) == 3  # nothing is left


def test_selected_accuracy_needs_a_batch_that_was_right():
    batches = [[True, False], [], [True] * 8 + [False] * 2, [True] * 9 + [False]]
    history = [State(labelled=i, batch_right=torch.tensor(v, dtype=torch.bool)) for i, v in enumerate(batches)]
    assert first_stop(selected_accuracy, history) == 3
    assert first_stop(lambda h: selected_accuracy(h, threshold=0.8), history) == 2


def test_the_certificate_stops_where_the_lower_bound_reaches_the_goal():
    history = [State(labelled=i, low=low) for i, low in enumerate((0.7, 0.89, 0.9, 0.88))]
    assert first_stop(lambda h: certified(h, goal=0.9), history) == 2
    assert first_stop(lambda h: certified(h, goal=0.95), history) is None


@pytest.mark.parametrize("rule", [*RULES.values(), lambda h: certified(h, goal=0.9)])
def test_a_rule_names_what_it_misses(rule):
    with pytest.raises(ValueError, match="this rule needs"):
        rule([State(labelled=i) for i in range(5)])


def test_regret_of_stopping_too_late_too_early_and_never():
    spent, accuracies = [0, 10, 20, 30], [0.7, 0.895, 0.9, 0.88]
    assert regret(spent, accuracies, 2) == Regret(10, 0.0, True)  # 10 labels give 0.895 already
    assert regret(spent, accuracies, 2, tolerance=0.0) == Regret(0, 0.0, True)
    early = regret(spent, accuracies, 0)
    assert early.labels == -10 and early.accuracy == pytest.approx(0.2)
    never = regret(spent, accuracies, None)
    assert (never.labels, never.stopped) == (20, False) and never.accuracy == pytest.approx(0.02)
    with pytest.raises(ValueError, match="numbers of labels"):
        regret([1], [], 0)
