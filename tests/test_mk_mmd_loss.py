"""Alignment: the term of DAN with its bandwidths and learned weights, in training, in checkpoints, in TensorBoard."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dan import DAN, MultiKernel, fit, median_bandwidth, mmd2, optimal_weights
from dan.errors import UserError
from dan.losses import Alignment, alignment
from dan.mmd import mean_bandwidth
from dan.models.dan import Output
from dan.models.model_file import load_kernels
from dan.run_dir import read_tensors
from dan.training.config import RECIPES, TrainConfig, get_recipe
from dan.training.optimizers import inverse_decay


def outputs(n: int, seed: int, shift: float = 0.0, f: int = 6) -> Output:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, f, generator=generator) + shift
    logits = torch.randn(n, 3, generator=generator) + torch.tensor([shift, 0.0, 0.0])
    return Output(logits, {"hidden1": hidden, "output": logits})


def data(n: int, shift: float, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randn(n, 5, generator=generator) + torch.eye(5)[y] * 3
    x[:, 4] += shift
    return TensorDataset(x, y)


def network(seed: int = 0) -> DAN:
    torch.manual_seed(seed)
    model = DAN("features", 3, layers=(8,))
    model(torch.zeros(1, 5))  # the width of the features is read off the first batch
    return model


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "linear"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_term_is_mmd2_under_the_ladder_at_its_own_median(estimator: str, weighted: bool) -> None:
    source, target = outputs(10, 0), outputs(10, 1, shift=0.7)
    if weighted:
        source = replace(source, weights=torch.linspace(0.5, 2, 10))
    layers = [part.layers for part in (source, target)]
    for layer in (layer for own in layers for layer in own.values()):
        layer.requires_grad_()
    terms = Alignment(("hidden1", "output"), estimator=estimator)(source, target)
    assert list(terms) == ["hidden1", "output"]
    for name, term in terms.items():
        inputs = [own[name] for own in layers]
        x, y = (layer.softmax(1) if name == "output" else layer for layer in inputs)
        kernel = MultiKernel.ladder(median_bandwidth(x, y))
        expected = mmd2(x, y, kernel, estimator=estimator, x_weights=source.weights)
        torch.testing.assert_close(term, expected)
        ours = torch.autograd.grad(term, inputs, retain_graph=True)
        for mine, theirs in zip(ours, torch.autograd.grad(expected, inputs), strict=True):
            torch.testing.assert_close(mine, theirs)
        if not weighted:
            plain = alignment(*layers, ("hidden1", "output"), estimator=estimator)[name]
            assert torch.equal(plain, term)


def test_a_training_is_that_with_the_plain_function() -> None:
    def twin(source: Output, target: Output) -> dict[str, Tensor]:
        pairs = {name: (source.layers[name], target.layers[name]) for name in ("hidden1", "output")}
        pairs["output"] = tuple(layer.softmax(1) for layer in pairs["output"])  # type: ignore[assignment]
        return {name: mmd2(x, y, MultiKernel.ladder(median_bandwidth(x, y))) for name, (x, y) in pairs.items()}

    def weights(**options: Any) -> Tensor:
        model = network()
        options |= {"config": TrainConfig(batch_size=16, feature_map=False), "log_mmd": False}
        fit(model, data(40, 0.0), data(40, 2.0, 1), trade_off=3.0, steps=12, seed=3, **options)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    torch.testing.assert_close(weights(), weights(domain_loss=twin), rtol=1e-4, atol=1e-5)


def test_bandwidth_heuristics_and_their_running_average() -> None:
    x, y = (outputs(10, seed, shift=seed).layers["hidden1"] for seed in (0, 1))
    of_mean = Alignment(("hidden1",), num_kernels=1, bandwidth="mean")
    value = of_mean(Output(x, {"hidden1": x}), Output(y, {"hidden1": y}))["hidden1"]
    torch.testing.assert_close(value, mmd2(x, y, MultiKernel.of(mean_bandwidth(x, y)[None])))
    running = Alignment(("hidden1",), num_kernels=1, bandwidth_decay=0.75)
    first, second = (outputs(8, 2), outputs(8, 3)), (outputs(8, 4, 5.0), outputs(8, 5, -5.0))
    running(*first)
    value = running(*second)["hidden1"]
    gammas = [median_bandwidth(a.layers["hidden1"], b.layers["hidden1"]) for a, b in (first, second)]
    kernel = MultiKernel.of((0.75 * gammas[0] + 0.25 * gammas[1])[None])
    torch.testing.assert_close(value, mmd2(second[0].layers["hidden1"], second[1].layers["hidden1"], kernel))


def test_logits_are_compared_as_probabilities_or_as_they_are() -> None:
    source, target = outputs(10, 0), outputs(10, 1, 1.0)

    def by(compare: str) -> Tensor:
        return Alignment(("output",), output_space=compare)(source, target)["output"]

    assert not torch.isclose(by("logits"), by("probabilities"))
    scaled = Output(target.logits, {"output": target.logits + 7})  # adds nothing to any probability
    torch.testing.assert_close(Alignment(("output",))(source, scaled)["output"], by("probabilities"))
    assert not torch.isclose(Alignment(("output",), output_space="logits")(source, scaled)["output"], by("logits"))


def test_kernel_weights_are_solved_now_and_then_from_all_batches() -> None:
    term = Alignment(("hidden1",), num_kernels=4, kernel_weights="qp", kernel_weights_every=3)
    batches = [(outputs(16, 2 * i), outputs(16, 2 * i + 1, 0.8)) for i in range(3)]
    for i, (source, target) in enumerate(batches):
        if i < 2:
            term(source, target)
            assert term.weights["hidden1"].tolist() == [0.25] * 4
    value = term(*batches[2])["hidden1"]
    beta = term.weights["hidden1"]
    assert float(beta.sum()) == pytest.approx(1)
    assert beta.tolist() != [0.25] * 4
    x, y = (part.layers["hidden1"] for part in batches[2])
    ladder = MultiKernel.ladder(median_bandwidth(x, y), count=4)
    torch.testing.assert_close(value, mmd2(x, y, MultiKernel(ladder.bandwidths, beta)))
    # A single batch of its own, solved at once, is the function.
    alone = Alignment(("hidden1",), num_kernels=4, kernel_weights="qp", kernel_weights_every=1)
    alone(*batches[2])
    torch.testing.assert_close(alone.weights["hidden1"], optimal_weights(x, y, ladder).double(), rtol=1e-6, atol=1e-8)


def test_in_evaluation_mode_nothing_moves() -> None:
    term = Alignment(("hidden1",), kernel_weights="qp", kernel_weights_every=1, bandwidth_decay=0.5)
    term(outputs(8, 0), outputs(8, 1))
    term.eval()
    before = {name: value.clone() for name, value in term.state_dict().items()}
    term(outputs(8, 2), outputs(8, 3, 4.0))
    for name, value in term.state_dict().items():
        assert torch.equal(value, before[name]), name


QP = TrainConfig(
    batch_size=8, kernel_weights="qp", kernel_weights_every=4, bandwidth_decay=0.9, checkpoint_every=10,
    evaluate_every=15, feature_map=False,
)  # fmt: skip


def train(folder: Path, recipe: TrainConfig = QP) -> dict[str, Tensor]:
    model = network()
    fit(model, data(40, 0.0), data(40, 2.0, 1), trade_off=1.0, steps=30, seed=3, config=recipe, run=folder)
    return model.state_dict()


def test_learned_weights_are_kept_and_a_killed_run_ends_with_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")
    multiples, beta = load_kernels(tmp_path / "whole")["hidden1"]
    assert multiples.tolist() == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert float(beta.sum()) == pytest.approx(1)
    assert beta.tolist() != [0.2] * 5
    state = read_tensors(tmp_path / "whole" / "resume.pt", "cpu")["objective"]
    assert int(state["batches"]) == 30

    def dying(step: int, **decay: float) -> float:
        if step == 17:  # after the checkpoint at 10
            raise KeyboardInterrupt
        return inverse_decay(step, **decay)

    with monkeypatch.context() as patch:
        patch.setattr("dan.training.optimizers.inverse_decay", dying)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed")
    resumed = train(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    again = read_tensors(tmp_path / "killed" / "resume.pt", "cpu")["objective"]
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_tensorboard_shows_the_weights_and_the_test(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()["scalars"]
    for layer in ("hidden1", "output"):
        assert {f"mmd2/{layer}", f"mmd2_null_high/{layer}", f"p_value/{layer}", f"a_distance/{layer}"} <= set(tags)
        weights = [tag for tag in tags if tag.startswith(f"beta/{layer}/")]
        assert len(weights) == 5
        last = [events.Scalars(tag)[-1].value for tag in weights]
        assert last == pytest.approx(load_kernels(tmp_path)[layer][1].tolist(), rel=1e-5)
    assert [event.step for event in events.Scalars("mmd2/hidden1")] == [15, 30]


def test_what_is_watched_keeps_the_bandwidth_of_the_first_look(tmp_path: Path) -> None:
    """In a checkpoint after the second look there is still the first one's."""

    def frozen(steps: int) -> list[float]:
        folder = tmp_path / str(steps)
        recipe = TrainConfig(evaluate_every=15, feature_map=False, schedule="constant")
        fit(network(), data(40, 0.0), data(40, 2.0, 1), trade_off=1.0, steps=steps, seed=3, config=recipe, run=folder)
        return [float(value) for value in read_tensors(folder / "resume.pt", "cpu")["watch"].values()]

    first, later = frozen(15), frozen(30)
    assert first
    assert first == later


def test_parts_of_the_network_learn_at_their_own_multiple_of_the_rate() -> None:
    """One step of plain SGD moves a part by rate * factor * gradient; a factor of 0 leaves it where it was."""

    def moved(rates: tuple[str, ...]) -> dict[str, Tensor]:
        model = network()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        recipe = TrainConfig(lr=1e-3, momentum=0.0, weight_decay=0.0, lr_mults=rates, feature_map=False)
        fit(model, data(40, 0.0), data(40, 2.0, 1), trade_off=0.0, steps=1, seed=0, config=recipe)
        return {name: value - before[name] for name, value in model.state_dict().items()}

    plain, own = moved(()), moved(("hidden1=20", "output=0"))
    torch.testing.assert_close(own["hidden.0.0.weight"], 2 * plain["hidden.0.0.weight"], rtol=1e-3, atol=1e-6)
    assert not own["output.weight"].any()
    assert plain["output.weight"].any()


def test_a_callable_of_ones_own_is_an_objective() -> None:
    """It gets both outputs, its terms are weighed by the trade-off, and a module's parameters are trained."""

    class Means(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, source: Output, target: Output) -> dict[str, Tensor]:
            gap = source.features.mean(0) - target.features.mean(0)
            return {"means": gap.square().sum() * self.scale.square()}

    def apart(trade_off: float) -> float:
        model, term = network(), Means()
        recipe = TrainConfig(lr=1e-3, schedule="constant", feature_map=False)
        source, target = data(60, 0.0), data(60, 3.0, 1)
        fit(model, source, target, trade_off=trade_off, steps=60, seed=0, config=recipe, domain_loss=term)
        assert (float(term.scale.detach()) != 1) == (trade_off > 0)
        with torch.no_grad():
            gap = model(source.tensors[0]).features.mean(0) - model(target.tensors[0]).features.mean(0)
        return float(gap.norm())

    assert apart(1.0) < 0.5 * apart(0.0)


def test_source_weights_choose_what_is_learned() -> None:
    """Weight 0 is not to be there: its labels may be anything."""

    def trained(spoilt: bool) -> dict[str, Tensor]:
        source = data(40, 0.0)
        x, y = source.tensors
        weights = (torch.arange(40) % 2).float()
        model = network()
        labels = torch.where(weights == 0, (y + 1) % 3, y) if spoilt else y
        fit(model, TensorDataset(x, labels), data(40, 0.0, 1), trade_off=0.0, steps=20, seed=0, source_weights=weights)
        return model.state_dict()

    one, other = trained(False), trained(True)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_cached_backbone_trains_as_the_plain_one() -> None:
    def trained(cache: bool) -> tuple[dict[str, Tensor], list[dict[str, object]]]:
        torch.manual_seed(0)
        model = DAN("small_cnn", 3, layers=(8,))
        model.freeze(list(model.stages))
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(60, *model.backbone.input_shape, generator=generator)
        source, target = TensorDataset(x[:30], torch.arange(30) % 3), TensorDataset(x[30:], torch.arange(30) % 3)
        recipe = TrainConfig(batch_size=8, evaluate_every=10, feature_map=False)
        records = fit(
            model, source, target, trade_off=1.0, steps=20, seed=0, config=recipe, tests={"t": target}, cache=cache
        )
        return model.state_dict(), records

    (plain, told), (cached, said) = trained(False), trained(True)
    for name in plain:
        torch.testing.assert_close(plain[name], cached[name], rtol=1e-4, atol=1e-5)
    assert [record["accuracy/t"] for record in told] == [record["accuracy/t"] for record in said]
    with pytest.raises(UserError, match="freeze"):
        fit(network(), data(9, 0.0), data(9, 0.0), trade_off=0.0, steps=1, seed=0, cache=True)


def test_named_recipes_are_what_they_say() -> None:
    paper = get_recipe("dan-2015")
    assert paper.recipe.num_kernels == 33
    assert paper.recipe.kernel_weights == "qp"
    assert paper.recipe.estimator == "linear"
    assert paper.recipe.align == ("fc6", "fc7", "output")
    assert paper.network["frozen"] == ("conv1", "conv2", "conv3")
    assert get_recipe("small").recipe == TrainConfig()
    for name in RECIPES:
        assert get_recipe(name).line
    with pytest.raises(UserError, match="dan-2015"):
        get_recipe("dan-2016")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lr_mults": ("conv4",)}, "NAME=NUMBER"),
        ({"lr_mults": ("conv4=-1",)}, "NAME=NUMBER"),
        ({"lr_mults": ("hiden1=2",)}, "hidden1"),
        ({"estimator": "linear", "batch_size": 7}, "even"),
        ({"kernel_weights": "qp", "batch_size": 6, "bandwidth_decay": 1.0}, "bandwidth_decay"),
        ({"kernel_weights": "qp", "batch_size": 5}, "even"),
        ({"method": "dann2"}, "dann"),
        ({"bandwidth": "medain"}, "median"),
        ({"align": ("hidden2",)}, "hidden1"),
    ],
)
def test_impossible_recipes_are_one_line(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        fit(network(), data(40, 0.0), data(40, 1.0), trade_off=1.0, steps=1, seed=0, config=TrainConfig(**wrong))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_nan_features_are_one_line() -> None:
    target = data(40, 0.0)
    target.tensors[0][:, 0] = float("nan")
    with pytest.raises(UserError, match="NaN in the data"):
        fit(network(), data(40, 0.0), target, trade_off=1.0, steps=2, seed=0)
