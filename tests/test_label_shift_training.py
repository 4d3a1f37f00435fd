"""Label shift in training: class weights in the losses, composed methods, and the estimate before alignment."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from dan import DAN, TrainConfig, fit
from dan.errors import UserError
from dan.evaluation import evaluate
from dan.losses import build_loss
from dan.losses.composed import ComposedLoss
from dan.losses.coral import coral
from dan.losses.jan import joint_mmd2
from dan.mmd import MultiKernel
from dan.models.dan import Output
from dan.training.label_shift import estimate_label_shift, shift_from_outputs, split_by_class
from dan.training.trainer import Trainer

CENTRES = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
FAST = TrainConfig(batch_size=20, lr=0.05, head_lr_mult=1.0, evaluate_every=200, feature_map=False)


def network(seed: int = 0) -> DAN:
    torch.manual_seed(seed)
    model = DAN(torch.nn.Identity(), 3, layers=(8,))
    model(torch.zeros(1, 3))  # learns the width of its input
    return model


def blobs(counts: tuple[int, ...], offset: float, seed: int) -> TensorDataset:
    """Three normal classes with these numbers of samples, moved by `offset`."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.full((count,), c) for c, count in enumerate(counts)])
    x = CENTRES[y] + 0.6 * torch.randn(len(y), 3, generator=generator) + offset
    order = torch.randperm(len(y), generator=generator)
    return TensorDataset(x[order], y[order])


def outputs(count: int, seed: int, weights: Tensor | None = None) -> Output:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(count, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    return Output(logits, {"hidden1": hidden, "output": logits}, weights)


def built(method: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(3)
    loss: torch.nn.Module = build_loss(method, network(), ("hidden1", "output"), **options).double()
    loss(outputs(6, 0), outputs(6, 1))  # a discriminator learns its width
    return loss.eval()


# --- weights of samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dan", "ddc", "jan", "deep_coral", "dann", "cdan", "cdan_e"])
def test_equal_weights_are_no_weights_gradients_too(method: str) -> None:
    loss = built(method)
    values, gradients = [], []
    for weights in (None, torch.full((8,), 2.5, dtype=torch.float64)):
        source, target = outputs(8, 4, weights), outputs(6, 5)
        value = torch.stack(list(loss(source, target).values())).sum()
        value.backward()
        values.append(value.item())
        gradients.append([layer.grad for part in (source, target) for layer in part.layers.values()])
    assert values[0] == pytest.approx(values[1], rel=1e-9, abs=1e-12)
    for one, other in zip(*gradients, strict=True):
        assert (one is None and other is None) or torch.allclose(one, other, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("method", ["dan", "jan", "dann", "cdan", "cdan_e"])
def test_a_whole_weight_is_a_sample_that_comes_so_often(method: str) -> None:
    """Weighted means over samples, and over pairs in the biased estimate, do not tell weight 2 from two copies."""
    loss = built(method, estimator="biased", bandwidth="mean", bandwidth_decay=0.5)
    counts = torch.tensor([2, 1, 3, 1, 1])
    plain, target = outputs(5, 6), outputs(7, 7)
    repeated = Output(
        plain.logits.repeat_interleave(counts, 0),
        {name: layer.repeat_interleave(counts, 0) for name, layer in plain.layers.items()},
    )
    weighted = Output(plain.logits, plain.layers, counts.double())
    if method in ("dan", "jan"):  # the bandwidth of the batch is of its samples, not of their weights: fix it
        for buffer in loss.bandwidths.buffers():  # gamma and the number of batches seen
            buffer.fill_(2)
        loss.eval()
    for name, value in loss(repeated, target).items():
        assert value.item() == pytest.approx(loss(weighted, target)[name].item(), rel=1e-7), name


def test_weighted_coral_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (7, 9))
    w = torch.rand(7, generator=generator, dtype=torch.float64)

    def covariance(z: Tensor, weights: Tensor) -> Tensor:
        total, mean = weights.sum(), (weights[:, None] * z).sum(0) / weights.sum()
        result = torch.zeros(3, 3, dtype=torch.float64)
        for i in range(len(z)):
            result += weights[i] * torch.outer(z[i] - mean, z[i] - mean)
        return result / (total - weights.square().sum() / total)

    expected = (covariance(x, w) - covariance(y, torch.ones(9, dtype=torch.float64))).square().sum() / 36
    assert float(coral(x, y, x_weights=w)) == pytest.approx(float(expected), rel=1e-10)
    wide_x, wide_y = x.repeat(1, 8), y.repeat(1, 8)  # more features than samples: by pairs
    narrow = float(coral(x, y, x_weights=w))
    assert float(coral(wide_x, wide_y, x_weights=w)) == pytest.approx(narrow, rel=1e-9)


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "linear"])
def test_weighted_joint_mmd_is_its_definition(estimator: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = ([torch.randn(6, f, generator=generator, dtype=torch.float64) for f in (2, 3)] for _ in range(2))
    a, b = (torch.rand(6, generator=generator, dtype=torch.float64) for _ in range(2))
    kernels = [MultiKernel.ladder(torch.tensor(2.0, dtype=torch.float64)) for _ in range(2)]

    def k(i: int, j: int, one: list[Tensor], other: list[Tensor]) -> float:
        value = 1.0
        for p, q, kernel in zip(one, other, kernels, strict=True):
            value *= float(kernel.of_squared_distances((p[i] - q[j]).square().sum()[None]))
        return value

    if estimator == "linear":
        sums = []
        for one, i0, wi, other, j0, wj in (
            (x, 0, a, x, 1, a),
            (y, 0, b, y, 1, b),
            (x, 0, a, y, 1, b),
            (x, 1, a, y, 0, b),
        ):
            pairs = [(2 * t + i0, 2 * t + j0) for t in range(3)]
            total = sum(float(wi[i] * wj[j]) for i, j in pairs)
            sums.append(sum(float(wi[i] * wj[j]) * k(i, j, one, other) for i, j in pairs) / total)
        expected = sums[0] + sums[1] - sums[2] - sums[3]
    else:

        def mean(one: list[Tensor], u: Tensor, other: list[Tensor], v: Tensor, within: bool) -> float:
            pairs = [(i, j) for i in range(6) for j in range(6) if not (within and estimator == "unbiased" and i == j)]
            total = sum(float(u[i] * v[j]) for i, j in pairs)
            return sum(float(u[i] * v[j]) * k(i, j, one, other) for i, j in pairs) / total

        expected = mean(x, a, x, a, True) + mean(y, b, y, b, True) - 2 * mean(x, a, y, b, False)
    value = joint_mmd2(x, y, kernels, estimator, x_weights=a, y_weights=b)
    assert float(value) == pytest.approx(expected, rel=1e-9)


def test_a_batch_of_one_effective_sample_is_skipped() -> None:
    weights = torch.zeros(8, dtype=torch.float64)
    weights[2] = 1.0
    source, target = outputs(8, 8, weights), outputs(8, 9)
    terms = built("dan")(source, target)
    assert all(value.item() == 0 for value in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert float(source.layers["hidden1"].grad.abs().max()) == 0


# --- class weights in training ----------------------------------------------------------------------------------------


def test_the_weighted_cross_entropy_is_its_mean() -> None:
    source, target = blobs((30, 30, 30), 0.0, 1), blobs((30, 30, 30), 1.0, 2)
    weights = torch.tensor([2.0, 1.0, 0.0])
    model = network()
    trainer = Trainer(model, source, target, trade_off=0.0, steps=1, config=FAST, class_weights=weights)
    batch = trainer.streams.batch(0)
    x, y = batch.samples["source"]
    loss = trainer.compute_loss(batch, 0)["source"].item()
    by_hand = [
        float(weights[c]) * cross_entropy(model(x[i : i + 1]).logits, y[i : i + 1]).item() for i, c in enumerate(y)
    ]
    assert loss == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)


def test_weights_of_one_change_nothing_but_rounding() -> None:
    source, target = blobs((30, 30, 30), 0.0, 1), blobs((30, 30, 30), 1.0, 2)
    found = []
    for weights in (None, torch.ones(3)):
        model = network()
        fit(model, source, target, trade_off=1.0, steps=30, config=FAST, class_weights=weights)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(found[0], found[1], atol=1e-4)


def test_true_weights_undo_the_harm_of_alignment() -> None:
    """The target holds mostly the class that the source has least of: plain alignment moves it onto the others."""
    source, target = blobs((100, 90, 10), 0.0, 1), blobs((10, 20, 170), 0.4, 2)
    accuracies = {}
    for name, weights in (("plain", None), ("true", torch.tensor([0.1, 0.22, 17.0]) / 2)):
        model = network()
        fit(model, source, target, trade_off=5.0, steps=200, config=FAST, log_mmd=False, class_weights=weights)
        accuracies[name] = evaluate(model, target).accuracy
    assert accuracies["true"] > accuracies["plain"] + 0.05


def test_class_weights_are_part_of_what_a_run_is(tmp_path) -> None:
    source, target = blobs((30, 30, 30), 0.0, 1), blobs((30, 30, 30), 1.0, 2)
    fit(network(), source, target, steps=2, config=FAST, run=tmp_path, class_weights=torch.ones(3))
    with pytest.raises(UserError, match="class_weights"):
        fit(network(), source, target, steps=2, config=FAST, run=tmp_path, class_weights=torch.tensor([2.0, 1, 0]))


@pytest.mark.parametrize("weights", [torch.ones(2), torch.tensor([1.0, -1.0, 1.0]), torch.tensor([1.0, math.nan, 1])])
def test_class_weights_that_cannot_be_are_one_line(weights: Tensor) -> None:
    data = blobs((30, 30, 30), 0.0, 1)
    with pytest.raises(UserError, match="class_weights must be 3 numbers"):
        fit(network(), data, data, steps=1, config=FAST, class_weights=weights)


# --- composed methods -------------------------------------------------------------------------------------------------


def test_a_composition_is_the_sum_of_its_methods() -> None:
    source, target = outputs(8, 10), outputs(8, 11)
    loss = built("dan+mcc", method_multiples=("mcc=0.5",))
    assert isinstance(loss, ComposedLoss)
    terms = loss(source, target)
    alone = {f"dan/{k}": v for k, v in built("dan")(source, target).items()}
    alone |= {f"mcc/{k}": 0.5 * v for k, v in built("mcc")(source, target).items()}
    assert set(terms) == set(alone)
    for name, value in alone.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-12)


def test_a_composition_trains_and_keeps_its_kernels(tmp_path) -> None:
    from dan.models.model_file import load_kernels

    source, target = blobs((30, 30, 30), 0.0, 1), blobs((30, 30, 30), 1.0, 2)
    config = TrainConfig(**{**FAST.__dict__, "method": "dan+mcc", "method_multiples": ("mcc=0.1",)})
    model = DAN("features", 3, layers=(8,))
    records = fit(model, source, target, steps=5, config=config, run=tmp_path)
    assert math.isfinite(records[-1]["loss"]) and set(load_kernels(tmp_path)) == {"hidden1", "output"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "dan+mccc"}, 'unknown method "mccc" .*mcc'),
        ({"method": "dan+dan"}, "twice"),
        ({"method": "dan+mcc", "method_multiples": ("mcc",)}, "METHOD=NUMBER"),
        ({"method": "dan+mcc", "method_multiples": ("mcc=-1",)}, "METHOD=NUMBER"),
        ({"method": "dan+mcc", "method_multiples": ("jan=1",)}, "not one of the methods"),
    ],
)
def test_compositions_that_cannot_be_are_one_line(options: dict, words: str) -> None:
    data = blobs((30, 30, 30), 0.0, 1)
    with pytest.raises(UserError, match=words) as caught:
        fit(network(), data, data, steps=1, config=TrainConfig(**{**FAST.__dict__, **options}))
    assert "\n" not in str(caught.value)


# --- the estimate before alignment ------------------------------------------------------------------------------------


def test_every_class_has_held_out_samples() -> None:
    y = torch.tensor([0] * 10 + [1] * 5 + [2])
    kept, held = split_by_class(y, 0.2, 0)
    assert sorted(kept + held) == list(range(16))
    assert torch.bincount(y[held], minlength=3).tolist() == [2, 1, 0]


def test_a_shift_is_found_and_named_and_the_network_stays_as_it_is() -> None:
    source, target = blobs((80, 80, 80), 0.0, 1), blobs((20, 40, 180), 0.2, 2)
    model = network()
    before = [p.clone() for p in model.parameters()]
    found = estimate_label_shift(model, source, target, steps=150, config=FAST)
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
    truth = torch.tensor([20, 40, 180]) / 240
    assert float((found.shares.shares - truth).abs().sum() / 2) < 0.1
    assert float((found.weights * found.shares.source_shares).sum()) == pytest.approx(1, abs=1e-6)
    (line,) = found.warnings(["ant", "bee", "cow"])
    assert "cow 7" in line and "--label-shift correct" in line and "\n" not in line


def test_equal_shares_give_no_warning() -> None:
    source, target = blobs((60, 90, 90), 0.0, 1), blobs((60, 90, 90), 0.2, 2)
    found = estimate_label_shift(network(), source, target, steps=150, config=FAST)
    assert found.warnings(["a", "b", "c"]) == [] and found.absent == ()


def test_a_class_that_the_target_lacks_is_named_and_weights_are_capped() -> None:
    source, target = blobs((100, 100, 10), 0.0, 1), blobs((0, 100, 140), 0.0, 2)
    found = estimate_label_shift(network(), source, target, steps=200, config=FAST, cap=3.0)
    assert found.absent == (0,) and float(found.weights[0]) < 0.1
    uncapped = found.shares.weights
    assert float(uncapped[2]) > 3 and float(found.weights[2] / found.weights[1]) < float(uncapped[2] / uncapped[1])


def test_audit_labels_mend_a_wrong_estimate() -> None:
    """Outputs that always confuse two classes: the audits, drawn uniformly, put the shares right."""
    y = torch.arange(3).repeat(60)
    logits = 4.0 * torch.nn.functional.one_hot(y, 3).float() + 0.1 * torch.randn(180, 3)
    truth = torch.cat([torch.zeros(150), torch.ones(30)]).long()
    swapped = 4.0 * torch.nn.functional.one_hot(torch.where(truth == 0, 2, truth), 3).float()
    plain = shift_from_outputs(logits, y, swapped, y)
    audits = truth[torch.randperm(180, generator=torch.Generator().manual_seed(0))[:60]]
    mended = shift_from_outputs(logits, y, swapped, y, audit_labels=audits)
    assert float(plain.shares.shares[0]) < 0.1 and float(mended.shares.shares[0]) > 0.6


@pytest.mark.parametrize("choice", ["ignore", "warn", "correct"])
def test_the_flag_warns_and_corrects(choice: str, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    from dan.cli.train import train
    from dan.cli.train_options import Train
    from dan.run_dir import read_records

    for name, data in (("source", blobs((80, 80, 80), 0.0, 1)), ("target", blobs((20, 40, 180), 0.2, 2))):
        x, y = data.tensors
        np.savez(tmp_path / f"{name}.npz", x=x.numpy(), y=y.numpy())
    files = {"source": tmp_path / "source.npz", "target": tmp_path / "target.npz"}
    common = {"batch_size": 20, "lr": 0.02, "evaluate_every": 100, "steps": 100, "layers": (8,), "feature_map": False}
    train(Train(task="folders", **files, **common, label_shift=choice, run=tmp_path / "run", device="cpu", quiet=True))
    settings = read_records(tmp_path / "run" / "records.jsonl")[0]
    weights = settings.get("class_weights")
    assert ("class shares differ" in capsys.readouterr().err) == (choice != "ignore")
    assert (weights is not None) == (choice == "correct")
    if weights is not None:
        assert weights[0] < 1 < weights[2]


def test_a_source_too_small_is_one_line() -> None:
    with pytest.raises(UserError, match="too few to estimate label shift"):
        estimate_label_shift(network(), blobs((8, 8, 8), 0.0, 1), blobs((30, 30, 30), 0.0, 2), steps=5, config=FAST)
