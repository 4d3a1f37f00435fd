"""Each validator against its definition as a loop, on a case that it must judge right and on one where it fails.

Rows of logits are drawn; "sharp" ones are sure of a class. Higher is better in all rules.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dan.errors import UserError
from dan.evaluation.metrics import predict
from dan.evaluation.validators import VALIDATORS, ValidatorInputs, available, linear_reverse, validate, validator_inputs
from dan.evaluation.validators.probing_rules import mixed_samples
from dan.evaluation.validators.source_rules import control_variate_risk, density_ratios, thresholded_confidence
from dan.evaluation.validators.target_rules import matrix_norm, soft_neighbourhood_density
from dan.models.dan import DAN
from tests.made_outputs import normal

N, M, C, F = 14, 11, 3, 2


def drawn(seed: int = 0, *, n: int = N, m: int = M) -> ValidatorInputs:
    return ValidatorInputs(
        target_logits=2 * normal(m, C, seed=seed),
        source_logits=2 * normal(n, C, seed=seed + 1),
        source_labels=torch.arange(n) % C,
        source_features=normal(n, F, seed=seed + 2),
        target_features=normal(m, F, seed=seed + 3) + 0.5,
    )


def sharp(classes: Tensor | list[int], size: float = 20.0) -> Tensor:
    return size * torch.eye(C, dtype=torch.float64)[torch.as_tensor(classes)]


def score(name: str, inputs: ValidatorInputs) -> float:
    return VALIDATORS[name].score(inputs)


def of_target(logits: Tensor) -> ValidatorInputs:
    return ValidatorInputs(target_logits=logits)


def softmax(row: list[float]) -> list[float]:
    e = [math.exp(v - max(row)) for v in row]
    return [v / sum(e) for v in e]


def entropy_of(p: list[float]) -> float:
    return -sum(v * math.log(v) for v in p if v > 0)


# The definitions, as loops


def entropy_loop(x: ValidatorInputs) -> float:
    rows = x.target_logits.tolist()
    return -sum(entropy_of(softmax(row)) for row in rows) / len(rows)


def information_loop(x: ValidatorInputs) -> float:
    p = [softmax(row) for row in x.target_logits.tolist()]
    mean = [sum(row[c] for row in p) / len(p) for c in range(C)]
    return entropy_of(mean) + entropy_loop(x)


def nuclear_norm_loop(x: ValidatorInputs) -> float:
    p = torch.tensor([softmax(row) for row in x.target_logits.tolist()], dtype=torch.float64)
    values = torch.linalg.eigvalsh(p.T @ p).clamp_min(0)  # squares of the singular values
    return sum(math.sqrt(v) for v in values.tolist()) / math.sqrt(len(p) * C)


def snd_loop(x: ValidatorInputs) -> float:
    p = [softmax(row) for row in x.target_logits.tolist()]
    total = 0.0
    for i, a in enumerate(p):
        others = [
            sum(u * v for u, v in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b) / 0.05
            for j, b in enumerate(p)
            if j != i
        ]
        total += entropy_of(softmax(others))
    return total / len(p)


def mano_loop(x: ValidatorInputs) -> float:
    rows = x.target_logits.tolist()
    criterion = -sum(math.log(v) for row in rows for v in softmax(row)) / len(rows) / C
    total = 0.0
    for row in rows:
        values = [1 + q + q * q / 2 for q in row]
        v = [value - min(values) for value in values]
        s = softmax(row) if criterion > 5 else [value / sum(v) for value in v]
        total += sum(value**4 for value in s)
    return (total / len(rows) / C) ** 0.25


def source_risk_loop(x: ValidatorInputs) -> float:
    assert x.source_logits is not None and x.source_labels is not None
    wrong = [
        max(range(C), key=row.__getitem__) != y
        for row, y in zip(x.source_logits.tolist(), x.source_labels.tolist(), strict=True)
    ]
    return -sum(wrong) / len(wrong)


def atc_loop(x: ValidatorInputs) -> float:
    """Of all thresholds the one with as many source samples below it as there are errors."""
    assert x.source_logits is not None and x.source_labels is not None
    sure = [-entropy_of(softmax(row)) for row in x.source_logits.tolist()]
    errors = round(-source_risk_loop(x) * len(sure))
    for t in sure:
        if sum(s < t for s in sure) == errors:
            return sum(-entropy_of(softmax(row)) >= t for row in x.target_logits.tolist()) / len(x.target_logits)
    return 0.0


def weighted_loop(x: ValidatorInputs, *, control_variate: bool) -> float:
    assert x.source_features is not None and x.target_features is not None
    assert x.source_logits is not None and x.source_labels is not None
    w = density_ratios(x.source_features, x.target_features).tolist()
    wrong = (x.source_logits.argmax(1) != x.source_labels).tolist()
    products = [a * b for a, b in zip(w, wrong, strict=True)]
    n = len(w)
    mean_w, mean_p = sum(w) / n, sum(products) / n
    covariance = sum((a - mean_w) * (b - mean_p) for a, b in zip(w, products, strict=True)) / (n - 1)
    eta = -covariance / (sum((a - mean_w) ** 2 for a in w) / (n - 1)) if control_variate else 0.0
    return -(mean_p + eta * mean_w - eta)


LOOPS: dict[str, Callable[[ValidatorInputs], float]] = {
    "entropy": entropy_loop,
    "information": information_loop,
    "nuclear_norm": nuclear_norm_loop,
    "snd": snd_loop,
    "mano": mano_loop,
    "source_risk": source_risk_loop,
    "atc": atc_loop,
    "iwcv": lambda x: weighted_loop(x, control_variate=False),
    "dev": lambda x: weighted_loop(x, control_variate=True),
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("seed", [0, 10])
def test_a_rule_is_its_definition(name: str, seed: int) -> None:
    inputs = drawn(seed)
    assert score(name, inputs) == pytest.approx(LOOPS[name](inputs), rel=1e-10)
    sure = replace(inputs, target_logits=12 * inputs.target_logits)  # above the threshold of MaNo
    assert score(name, sure) == pytest.approx(LOOPS[name](sure), rel=1e-10)


def test_memory_bound_of_snd_does_not_change_it() -> None:
    inputs = drawn()
    expected = soft_neighbourhood_density(inputs)
    assert [soft_neighbourhood_density(inputs, rows=rows) for rows in (1, 4)] == pytest.approx([expected] * 2)


@pytest.mark.parametrize("name", ["entropy", "information", "nuclear_norm", "snd", "mano", "source_risk", "atc"])
def test_orders_of_samples_and_of_classes_do_not_matter(name: str) -> None:
    """Class names are arbitrary, and so are positions."""
    inputs = drawn(3)
    assert inputs.source_logits is not None and inputs.source_labels is not None
    rows, places = torch.randperm(M, generator=torch.Generator().manual_seed(1)), torch.tensor([2, 0, 1])
    turned = ValidatorInputs(
        target_logits=inputs.target_logits[rows][:, places],
        source_logits=inputs.source_logits.flip(0)[:, places],
        source_labels=places.argsort()[inputs.source_labels.flip(0)],
    )
    assert score(name, turned) == pytest.approx(score(name, inputs), rel=1e-10)


# Right and wrong


def test_rules_of_the_target_prefer_sure_and_spread_predictions() -> None:
    classes = torch.arange(12) % C
    good = of_target(sharp(classes) + 0.1 * normal(12, C))
    blurred = of_target(sharp(classes, 1.0) + normal(12, C))
    for name in ("entropy", "information", "nuclear_norm", "mano"):
        assert score(name, good) > score(name, blurred)
    assert score("information", good) == pytest.approx(math.log(C), abs=1e-6)
    assert score("nuclear_norm", good) == pytest.approx(1, abs=1e-6)


def test_snd_prefers_dense_clusters_to_scattered_predictions_but_also_a_network_that_is_unsure_everywhere() -> None:
    clusters = of_target(sharp(torch.arange(60) % C) + 0.5 * normal(60, C))
    assert score("snd", clusters) == pytest.approx(math.log(19), abs=1e-3)  # 19 others of its class
    assert score("snd", clusters) > score("snd", of_target(3 * normal(60, C, seed=5)))
    unsure = of_target(0.1 * normal(60, C, seed=5))
    assert score("snd", unsure) > score("snd", clusters)


def test_a_collapsed_network_deceives_entropy_snd_and_mano() -> None:
    right = of_target(sharp(torch.arange(12) % C) + 0.5 * normal(12, C))
    collapsed = of_target(sharp([0] * 12))
    for name in ("entropy", "snd", "mano"):
        assert score(name, collapsed) > score(name, right)
    assert score("snd", collapsed) == pytest.approx(math.log(11))  # everybody's neighbour
    for name in ("information", "nuclear_norm"):
        assert score(name, collapsed) < score(name, right)


def test_equal_class_shares_are_taken_for_granted() -> None:
    """11 of 12 samples are of class 0: the right network scores below one that spreads its predictions."""
    right, spread = of_target(sharp([0] * 11 + [1])), of_target(sharp(torch.arange(12) % C))
    for name in ("information", "nuclear_norm"):
        assert score(name, spread) > score(name, right)


def test_no_rule_of_the_target_sees_classes_that_have_changed_places() -> None:
    right = drawn().target_logits
    wrong = right[:, [1, 0, 2]]
    for name in ("entropy", "information", "nuclear_norm", "snd", "mano"):
        assert score(name, of_target(wrong)) == pytest.approx(score(name, of_target(right)))


def test_mano_of_two_classes_is_constant_and_depends_on_the_centre_of_the_logits() -> None:
    for seed in range(3):
        assert score("mano", of_target(normal(7, 2, seed=seed))) == pytest.approx(0.5**0.25)
    logits = sharp(torch.arange(6) % C, 3.0)  # t is (8.5, 1, 1), and (1, 2.5, 2.5) once 3 is taken from all
    assert score("mano", of_target(logits)) == pytest.approx((1 / C) ** 0.25)
    assert score("mano", of_target(logits - 3)) == pytest.approx((2 * 0.5**4 / C) ** 0.25)
    assert score("mano", of_target(torch.ones(4, C))) == pytest.approx(1 / C)  # equal logits are uniform
    sure = of_target(sharp(torch.arange(6) % C))
    assert matrix_norm(sure) == pytest.approx((1 / C) ** 0.25)
    assert matrix_norm(drawn(), p=200) == pytest.approx(1, abs=0.05)  # the largest entry, near 1


def test_source_risk_does_not_look_at_the_target() -> None:
    inputs = drawn()
    moved = replace(inputs, target_logits=-inputs.target_logits, target_features=None)
    assert score("source_risk", moved) == score("source_risk", inputs)
    assert inputs.source_labels is not None
    solved = replace(inputs, source_logits=sharp(inputs.source_labels))
    assert score("source_risk", solved) == 0


def shifted(*, apart: float, flipped: bool = False) -> tuple[ValidatorInputs, float]:
    """One feature x, label [x > 0], source N(0, 1), target N(apart, 1); a network that is wrong for x > 1; its target
    accuracy. flipped: the target's labels are the other ones."""
    x, t = normal(400, 1, seed=1), normal(400, 1, seed=2) + apart
    logits = torch.cat([-x, x], dim=1) * torch.where(x > 1, -1.0, 1.0)
    of_t = torch.cat([-t, t], dim=1) * torch.where(t > 1, -1.0, 1.0)
    right = of_t.argmax(1) == (t[:, 0] > 0).long()
    inputs = ValidatorInputs(
        target_logits=of_t,
        source_logits=logits,
        source_labels=(x[:, 0] > 0).long(),
        source_features=x,
        target_features=t,
    )
    return inputs, float((~right if flipped else right).double().mean())


def test_importance_weights_estimate_the_target_under_covariate_shift() -> None:
    inputs, accuracy = shifted(apart=1.0)
    plain, weighted, with_variate = (1 + score(name, inputs) for name in ("source_risk", "iwcv", "dev"))
    assert abs(plain - accuracy) > 0.2
    assert weighted == pytest.approx(accuracy, abs=0.1)
    assert with_variate == pytest.approx(accuracy, abs=0.1)


def test_the_control_variate_lowers_the_variance() -> None:
    """w = exp(x - 1/2) is the ratio of N(1, 1) to N(0, 1); the error on x > 1 is Phi(0) = 1/2 of the target."""
    plain, varied = [], []
    for seed in range(60):
        x = normal(100, seed=seed)
        w, wrong = torch.exp(x - 0.5), (x > 1).double()
        plain.append(float((w * wrong).mean()))
        varied.append(control_variate_risk(w, wrong))
    assert torch.tensor(varied).var() < 0.5 * torch.tensor(plain).var()
    assert sum(varied) / 60 == pytest.approx(0.5, abs=0.03)
    assert control_variate_risk(torch.full((4,), 2.0), torch.tensor([1.0, 0, 0, 0])) == pytest.approx(0.5)
    assert control_variate_risk(torch.tensor([1.0, 3]), torch.ones(2)) == pytest.approx(1)  # mean loss 1, exactly


def test_density_ratios_are_those_of_two_normals() -> None:
    x, t = normal(600, 1, seed=3), normal(300, 1, seed=4) + 1
    expected = torch.exp(x[:, 0] - 0.5)
    assert float((density_ratios(x, t).log() - expected.log()).abs().mean()) < 0.2


def test_weights_do_not_see_labels_that_have_changed() -> None:
    inputs, accuracy = shifted(apart=1.0, flipped=True)
    for name in ("iwcv", "dev", "two_sample"):
        assert score(name, inputs) == score(name, shifted(apart=1.0)[0])
    assert accuracy == pytest.approx(1 - shifted(apart=1.0)[1])


def test_weights_say_nothing_where_the_domains_do_not_overlap() -> None:
    inputs, accuracy = shifted(apart=8.0)
    assert accuracy == 0
    assert 1 + score("iwcv", inputs) > 0.9  # no source sample looks like a target sample
    assert 1 + score("dev", inputs) < -0.01  # extrapolated to below an accuracy of 0


def test_two_sample_prefers_features_that_are_aligned() -> None:
    near, far = shifted(apart=0.0)[0], shifted(apart=3.0)[0]
    assert score("two_sample", near) > score("two_sample", far)
    assert -2 <= score("two_sample", far) < score("two_sample", near) <= 0


def test_atc_is_the_source_accuracy_on_the_source_itself() -> None:
    inputs = drawn(n=40)
    assert inputs.source_logits is not None
    itself = replace(inputs, target_logits=inputs.source_logits, target_features=None)
    assert score("atc", itself) == pytest.approx(1 + score("source_risk", inputs))
    by_confidence = thresholded_confidence(itself, score="confidence")
    assert by_confidence == pytest.approx(1 + score("source_risk", inputs))
    never = replace(inputs, source_labels=inputs.source_logits.argmin(1))
    assert score("atc", never) == 0


def test_atc_takes_a_sure_network_for_a_right_one() -> None:
    labels = torch.arange(12) % C
    source = torch.cat([sharp(labels), torch.zeros(4, C)])  # unsure of four samples, and wrong there
    inputs = ValidatorInputs(
        target_logits=sharp((labels + 1) % C),  # sure, and wrong of labels everywhere
        source_logits=source,
        source_labels=torch.cat([labels, torch.tensor([1, 2, 1, 2])]),
    )
    assert score("atc", inputs) == 1
    unsure = replace(inputs, target_logits=torch.cat([sharp(labels)[:6], 0.01 * normal(6, C)]))
    assert score("atc", unsure) == 0.5


def test_calibration_divides_by_the_temperature_of_the_source_and_keeps_predictions() -> None:
    inputs = drawn(n=200, m=20)
    assert inputs.source_logits is not None
    chosen = torch.multinomial(inputs.source_logits.softmax(1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    sure = replace(inputs, source_labels=chosen, source_logits=5 * inputs.source_logits)
    after = replace(sure, source_features=None).calibrated()
    ratio = sure.target_logits / after.target_logits
    assert ratio.flatten().tolist() == pytest.approx([float(ratio[0, 0])] * 60)
    assert float(ratio[0, 0]) == pytest.approx(5, rel=0.25)


# Rules that try the network out


def on_a_line(x: Tensor, network: Callable[[Tensor], Tensor]) -> ValidatorInputs:
    """Target samples x (M,), and a network on them."""
    return ValidatorInputs(
        target_logits=network(x), mixed_logits=lambda a, b, share: network(share * x[a] + (1 - share) * x[b])
    )


def threshold_at(value: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.stack([value - x, x - value], dim=1)


CLUSTERS = torch.cat([-1 + 0.05 * normal(10, seed=1), 1 + 0.05 * normal(10, seed=2)])


def test_mixval_is_its_definition() -> None:
    partners = torch.arange(20).flip(0)
    partners[[3, 16]] = torch.tensor([5, 2])
    inputs = on_a_line(CLUSTERS, threshold_at(0.3))
    kept: dict[bool, list[bool]] = {True: [], False: []}
    for i, j in enumerate(partners.tolist()):
        mixed = 0.55 * float(CLUSTERS[i]) + 0.45 * float(CLUSTERS[j])
        first, second = float(CLUSTERS[i]) > 0.3, float(CLUSTERS[j]) > 0.3
        kept[first == second].append((mixed > 0.3) == first)
    expected = sum(sum(k) / len(k) for k in kept.values()) / 2
    assert 0 < expected < 1
    assert mixed_samples(inputs, partners=partners) == pytest.approx(expected)
    with_itself = partners.clone()
    with_itself[0] = 0  # no mix: left out
    without = len(kept[False]) - 1  # the pair of rows 0 and 19 was of two classes
    expected = (sum(kept[True]) / len(kept[True]) + (sum(kept[False]) - kept[False][0]) / without) / 2
    assert mixed_samples(inputs, partners=with_itself) == pytest.approx(expected)
    cut = on_a_line(CLUSTERS, threshold_at(1.0))
    assert len({mixed_samples(cut, seed=seed) for seed in range(4)}) > 1


def test_mixval_prefers_a_boundary_in_the_gap_and_is_deceived_by_a_collapse() -> None:
    gap, cut = on_a_line(CLUSTERS, threshold_at(0.0)), on_a_line(CLUSTERS, threshold_at(1.0))
    collapsed = on_a_line(CLUSTERS, threshold_at(9.0))
    assert score("mixval", gap) > score("mixval", cut)
    assert score("mixval", collapsed) == 1


def reversing(target: Tensor, source: Tensor, logits: Tensor) -> ValidatorInputs:
    labels = (torch.arange(20) >= 10).long()
    return ValidatorInputs(
        target_logits=logits, source_labels=labels, reverse_prediction=linear_reverse(source[:, None], target[:, None])
    )


def test_circular_prefers_the_right_predictions_and_is_deceived_by_a_reflection() -> None:
    source = CLUSTERS + 0.01
    right = threshold_at(0.0)(CLUSTERS)
    assert score("circular", reversing(CLUSTERS, source, right)) == 1
    part = right.clone()
    part[10:18] = part[10:18].flip(1)  # most of one class is said to be the other
    assert score("circular", reversing(CLUSTERS, source, part)) < 1
    collapsed = threshold_at(9.0)(CLUSTERS)
    assert score("circular", reversing(CLUSTERS, source, collapsed)) == 0.5  # the mean of 1 and 0
    mirrored = -CLUSTERS  # the classes have changed places: source labels are by the sign of the source
    wrong_everywhere = threshold_at(0.0)(mirrored)
    right_everywhere = wrong_everywhere.flip(1)
    assert score("circular", reversing(mirrored, source, wrong_everywhere)) == 1
    assert score("circular", reversing(mirrored, source, right_everywhere)) == 0


def test_circular_weighs_classes_alike() -> None:
    labels = torch.tensor([0] * 9 + [1])
    inputs = ValidatorInputs(target_logits=sharp([0, 1, 2]), source_labels=labels)
    always_0 = replace(inputs, reverse_prediction=lambda classes: torch.zeros(10, dtype=torch.long))
    assert score("circular", always_0) == 0.5
    seen: list[list[int]] = []

    def keep(classes: Tensor) -> Tensor:
        seen.append(classes.tolist())
        return labels

    assert score("circular", replace(inputs, reverse_prediction=keep)) == 1
    assert seen == [[0, 1, 2]]


# The registry, a network, and bad input


def test_registry_says_what_each_rule_needs() -> None:
    full = replace(
        drawn(),
        mixed_logits=lambda a, b, share: drawn().target_logits[a],
        reverse_prediction=lambda classes: torch.arange(N) % C,
    )
    assert available(full) == list(VALIDATORS)
    for name, entry in VALIDATORS.items():
        assert entry.line and entry.source
        given = ValidatorInputs(
            **{"target_logits": full.target_logits, **{field: getattr(full, field) for field in entry.needs}}
        )
        assert name in available(given)
        assert validate(given, [name]) == {name: entry.score(full)}
        for field in set(entry.needs) - {"target_logits"}:
            lacking = replace(given, **{field: None})
            assert name not in available(lacking)
            with pytest.raises(ValueError, match=f"^the validator {name} needs .*{field}") as error:
                entry.score(lacking)
            assert "\n" not in str(error.value)
    assert list(validate(full)) == list(VALIDATORS)
    assert available(of_target(full.target_logits)) == ["entropy", "information", "nuclear_norm", "snd", "mano"]
    with pytest.raises(UserError, match='unknown validator "entropie" .did you mean "entropy"'):
        validate(full, ["entropie"])


def test_every_validator_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "validators.md").read_text(encoding="utf-8")
    for name in VALIDATORS:
        assert f"| `{name}` |" in page


def test_inputs_of_a_network() -> None:
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Dropout(0.5))
    model = DAN(backbone, num_classes=C, layers=(6,))
    source, labels, target = normal(9, 4, dtype=torch.float32), torch.arange(9) % C, normal(7, 4, seed=2)
    inputs = validator_inputs(model, (source, labels), target, batch_size=3, reverse_features=(source, target.float()))
    expected = predict(model, target)[0]
    torch.testing.assert_close(inputs.target_logits, expected.logits)
    torch.testing.assert_close(inputs.target_features, expected.features)
    assert inputs.source_labels is not None and inputs.source_labels.tolist() == labels.tolist()
    assert inputs.mixed_logits is not None
    a, b = torch.tensor([0, 1, 2, 6]), torch.tensor([3, 3, 5, 0])
    by_hand = predict(model, (0.7 * target[a] + 0.3 * target[b]).float())[0].logits
    torch.testing.assert_close(inputs.mixed_logits(a, b, 0.7), by_hand)
    assert model.training and available(inputs) == list(VALIDATORS)
    assert all(math.isfinite(value) for value in validate(inputs).values())
    with_labels = validator_inputs(model, (source, labels), (target, torch.zeros(7)))  # target labels are not read
    assert score("entropy", with_labels) == pytest.approx(score("entropy", inputs))
    assert "circular" not in available(with_labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_logits": torch.zeros(0, C)}, r"target_logits must be \(M, C\), M >= 1, C >= 2, not \(0, 3\)"),
        ({"target_logits": torch.zeros(5, 1)}, "target_logits must be"),
        ({"target_logits": torch.full((M, C), math.nan)}, "target_logits holds NaN"),
        ({"source_logits": torch.zeros(N, C + 1)}, rf"source_logits must be \({N}, {C}\)"),
        ({"source_labels": torch.zeros(N - 1, dtype=torch.long)}, "source_labels must be class numbers"),
        ({"source_labels": torch.full((N,), C)}, "source_labels must be classes 0 to 2"),
        ({"source_labels": torch.zeros(N)}, "source_labels must be class numbers"),
        ({"target_features": torch.zeros(M - 1, F)}, rf"target_features must be \({M}, F\)"),
        ({"source_features": torch.zeros(N, F + 1)}, rf"source_features must be \({N}, {F}\)"),
    ],
)
def test_bad_inputs(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as error:
        replace(drawn(), **change)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_bad_options() -> None:
    one = of_target(torch.zeros(1, C))
    with pytest.raises(ValueError, match="snd needs 2 target samples"):
        score("snd", one)
    with pytest.raises(ValueError, match="order of mano's norm must be positive, not 0"):
        matrix_norm(one, p=0)
    line = on_a_line(CLUSTERS, threshold_at(0))
    with pytest.raises(ValueError, match="share of the first sample must be above 0.5"):
        mixed_samples(line, share=0.5)
    with pytest.raises(ValueError, match="partners must be one target row for each of 20"):
        mixed_samples(line, partners=torch.arange(3))
    with pytest.raises(ValueError, match="mixval needs 2 target samples that are mixed"):
        mixed_samples(line, partners=torch.arange(20))
    wrong = replace(drawn(), reverse_prediction=lambda classes: classes)
    with pytest.raises(ValueError, match=r"reverse_prediction must return \(14,\) classes, not \(11,\)"):
        score("circular", wrong)
    with pytest.raises(ValueError, match=r"source and target must be \(N, D\), \(M, D\)"):
        linear_reverse(torch.zeros(3, 2), torch.zeros(3, 4))


# Other libraries' implementations, on the same outputs


@pytest.mark.filterwarnings("ignore")
def test_pytorch_adapt_agrees() -> None:
    reason = 'no pytorch-adapt: pip install "active-dan[benchmarks]"'
    peers = pytest.importorskip("pytorch_adapt.validators", reason=reason, exc_type=ImportError)
    from pytorch_adapt.validators.deep_embedded_validator import get_dev_risk

    inputs = drawn(m=30)
    outputs = {"logits": inputs.target_logits, "preds": inputs.target_logits.softmax(1)}
    factor = math.sqrt(30 * C) / 30  # its nuclear norm is divided by M
    for name, validator, scale in (
        ("entropy", peers.EntropyValidator(), 1.0),
        ("information", peers.IMValidator(), 1.0),
        ("snd", peers.SNDValidator(layer="preds"), 1.0),
        ("nuclear_norm", peers.BNMValidator(layer="logits"), factor),
    ):
        assert scale * score(name, inputs) == pytest.approx(validator(target_train=outputs), rel=1e-5), name
    w, losses = normal(20, seed=5).exp(), normal(20, seed=6).square()
    assert control_variate_risk(w, losses) == pytest.approx(get_dev_risk(w[:, None], losses[:, None], None))


@pytest.mark.filterwarnings("ignore")
def test_skada_agrees() -> None:
    """Its soft neighbourhood density is no peer: it normalises the whole matrix at once, not row by row."""
    metrics = pytest.importorskip("skada.metrics", reason='no skada: pip install "active-dan[benchmarks]"')
    scorer = metrics.MaNoScorer()
    for scale in (1.0, 20.0):
        logits = scale * normal(9, C, seed=4)
        criterion = scorer._get_criterion(logits.numpy().copy())
        said = scorer._softrun(logits.numpy().copy(), criterion, scorer.threshold)
        assert score("mano", of_target(logits)) == pytest.approx(float((said**4).mean() ** 0.25))
    x = CLUSTERS.numpy()[:, None]
    order = metrics.check_random_state(0).permutation(20)

    class Estimator:
        _estimator_type, classes_ = "classifier", [0, 1]

        def fit(self, *_: object) -> None: ...

        def predict(self, X: object, **_: object) -> object:
            return (X[:, 0] > 0.3).astype(int)  # type: ignore[index]

        def score(self, X: object, y: object, **_: object) -> float:
            return float((self.predict(X) == y).mean())  # type: ignore[attr-defined]

    labels = (torch.arange(20) >= 10).long().numpy()
    said = metrics.MixValScorer(random_state=0)._score(
        None, Estimator(), x, labels, sample_domain=-torch.ones(20).long().numpy()
    )
    assert mixed_samples(on_a_line(CLUSTERS, threshold_at(0.3)), partners=torch.from_numpy(order)) == pytest.approx(
        said
    )
