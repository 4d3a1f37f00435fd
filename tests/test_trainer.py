"""The parts of a training: options, batches from any number of workers, guards without a wait, callbacks."""

import inspect
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset, TensorDataset

from dan import DAN, Trainer, fit
from dan.data.tensor_datasets import Images
from dan.errors import UserError
from dan.losses import METHODS
from dan.models.dan import Output
from dan.run_dir import Record, read_records, read_tensors
from dan.training import Callback, Diverged, TrainConfig, TrainOptions, streams
from dan.training.config import RECIPES

SMALL = TrainConfig(batch_size=8, lr=0.01, head_lr_mult=1, evaluate_every=10, checkpoint_every=10, feature_map=False)
METHODS_WITHOUT_KERNELS = [name for name in METHODS if name not in ("dan", "ddc", "jan")]


def blobs(count: int, shift: float = 0.0) -> TensorDataset:
    generator = torch.Generator().manual_seed(round(10 * shift))
    y = torch.arange(count) % 2
    x = 0.5 * torch.randn(count, 3, generator=generator) + shift
    x[:, 0] += 2.0 * y - 1
    return TensorDataset(x, y)


def network(dropout: float = 0.0) -> DAN:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
    backbone.out_features = 8  # type: ignore[assignment]
    return DAN(backbone, 2, layers=(6,), dropout=dropout)


def trainer(model: DAN | None = None, **options: Any) -> Trainer:
    options = {"trade_off": 1.0, "steps": 12, "config": SMALL} | options
    source, target = options.pop("source", blobs(40)), options.pop("target", blobs(32, 1.0))
    return Trainer(network() if model is None else model, source, target, **options)


def train(**options: Any) -> tuple[dict[str, Tensor], list[Record]]:
    """The weights and the records, without the clock."""
    model = network(dropout=0.3)
    records = trainer(model, **options).train()
    return model.state_dict(), [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


# --- configuration and options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"batch_size": 2.5}, "batch_size must be at least 1, not 2.5"),
        ({"lr": math.nan}, "lr must be positive, not nan"),
        ({"momentum": 1.0}, "momentum must be from 0 to below 1, not 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more, not -1.0"),
        ({"lr_power": math.inf}, "lr_power must be 0 or more, not inf"),
        ({"bandwidth_decay": 1.0}, "bandwidth_decay must be from 0 to below 1"),
        ({"optimizer": "adamw"}, 'unknown optimizer "adamw"'),
        ({"estimator": "linear", "batch_size": 7}, "batch_size must be even, not 7"),
        ({"kernel_weights": "qp", "batch_size": 2}, "an even batch_size of 4 or more, not 2"),
        ({"lr_mults": ("conv4",)}, "NAME=NUMBER"),
    ],
)
def test_a_config_that_cannot_be_is_refused_where_it_is_made(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        TrainConfig(**wrong)
    assert "\n" not in str(caught.value)


def test_numpy_scalars_are_the_numbers_that_they_are() -> None:
    config = TrainConfig(
        lr=np.float32(0.25), batch_size=np.int64(8), num_kernels=np.int16(3), feature_map=np.bool_(False)
    )
    assert config == TrainConfig(lr=0.25, batch_size=8, num_kernels=3, feature_map=False)
    assert {type(value) for value in vars(config).values()} <= {int, float, bool, str, tuple}
    plain, given = (
        train(trade_off=kind_f(1.5), steps=kind_i(6), seed=kind_i(3), config=SMALL)
        for kind_f, kind_i in ((float, int), (np.float32, np.int64))
    )
    assert same(plain[0], given[0]) and plain[1] == given[1]


def test_numpy_scalars_do_not_reach_the_records(tmp_path: Path) -> None:
    train(seed=np.int64(2), trade_off=np.float32(0.5), run=tmp_path / "a")
    train(seed=2, trade_off=0.5, run=tmp_path / "b")
    settings = [(tmp_path / name / "records.jsonl").read_text().splitlines()[0] for name in "ab"]
    assert settings[0] == settings[1] and json.loads(settings[0])["seed"] == 2


def test_a_name_alone_is_a_list_of_one() -> None:
    assert TrainConfig(align="output").align == TrainConfig(align=["output"]).align == ("output",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trade_off": -1.0}, "trade-off must be 0 or more"),
        ({"steps": 2.5}, "steps must be a whole number, not 2.5"),
        ({"num_workers": -1}, "num_workers must be 0 or more, not -1"),
        ({"precision": "bf15"}, 'did you mean "bf16"'),
        ({"labelled_domain": "taget"}, 'did you mean "target"'),
        ({"total_steps": 3}, "has no part that ends at step 12"),
        ({"callbacks": [print]}, "callbacks are instances of dan.training.Callback, not of builtin"),
        ({"domain_loss": 3.0}, "domain_loss is a callable"),
        ({"config": TrainConfig(batch_size=1)}, "the method dan needs batch_size >= 2"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        trainer(**options)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(TypeError, match='no option "source_weight" of a training.*did you mean "source_weights"'):
        fit(network(), blobs(40), blobs(40), source_weight=torch.ones(40))


def test_the_defaults_are_those_of_the_recipe_small() -> None:
    default = {name: entry.default for name, entry in inspect.signature(fit).parameters.items()}
    assert default["trade_off"] == TrainOptions().trade_off == RECIPES["small"].trade_off
    assert default["steps"] == TrainOptions().steps == RECIPES["small"].steps
    assert default["seed"] == TrainOptions().seed == 0


def test_fit_is_the_trainer() -> None:
    model = network(dropout=0.3)
    records = fit(model, blobs(40), blobs(32, 1.0), trade_off=1.0, steps=12, config=SMALL)
    weights, expected = train()
    assert same(model.state_dict(), weights)
    assert [{k: v for k, v in record.items() if k != "seconds"} for record in records] == expected


# --- samples fewer than a batch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["source", "target"])
def test_a_domain_smaller_than_the_batch_is_refused(domain: str) -> None:
    with pytest.raises(UserError, match=f"batch_size 8 is larger than the {domain}'s 7 samples: lower --batch-size"):
        trainer(**{domain: blobs(7)})
    trainer(**{domain: blobs(8)}, steps=1).train()


def test_where_nothing_is_aligned_and_for_labels_that_were_bought_samples_repeat() -> None:
    trainer(source=blobs(3), target=blobs(1), trade_off=0.0, steps=2).train()
    trainer(labelled_target=blobs(1), steps=2).train()


# --- a loss of one's own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([torch.zeros(())], "not list"),
        (torch.zeros(()), "not Tensor"),
        (None, "not NoneType"),
        ({}, "not an empty dict"),
        ({"mine": 0.5}, '"mine" is a float'),
        ({"mine": torch.zeros(3)}, r'"mine" is a tensor of shape \(3,\)'),
    ],
)
def test_what_a_loss_returns(returned: Any, words: str) -> None:
    with pytest.raises(UserError, match="a domain loss returns a dict of scalar tensors by name.*" + words) as caught:
        trainer(domain_loss=lambda source, target: returned).train()
    assert "\n" not in str(caught.value)


# --- guards -----------------------------------------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts the moments at which the host would wait for a device: a number is read out of a tensor."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["source only", *METHODS_WITHOUT_KERNELS])
def test_a_step_waits_for_no_number(method: str) -> None:
    source_only = method == "source only"
    config = TrainConfig(batch_size=8, method="dan" if source_only else method)
    own = trainer(config=config, trade_off=0.0 if source_only else 1.0, labelled_target=blobs(3, 1.0))
    own.train_step(0)
    with Waits() as waits:
        own.train_step(1)
    assert waits.count == 0
    with Waits() as waits:
        assert bool(own.model.output.weight.isfinite().all())
    assert waits.count == 1  # the mode sees what it is for


def failing_at(step: int, value: float) -> Any:
    """A loss that is zero, and `value` at that step."""
    calls = iter(range(10**6))

    def loss(source: Output, target: Output) -> dict[str, Tensor]:
        return {"mine": 0 * source.logits.sum() + (value if next(calls) == step else 0.0)}

    return loss


@pytest.mark.parametrize(("step", "kept"), [(3, None), (9, None), (10, 10), (17, 10), (29, 20)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_step_is_named_and_never_reaches_a_checkpoint(
    tmp_path: Path, step: int, kept: int | None, value: float
) -> None:
    """Read long after the step: the message is of the step, and the checkpoint before it is whole."""
    config = TrainConfig(batch_size=8, lr=0.01, schedule="constant", evaluate_every=1000, checkpoint_every=10)
    own = trainer(domain_loss=failing_at(step, value), steps=30, config=config, run=tmp_path)
    with pytest.raises(Diverged, match=rf"the loss is {value} at step {step}: lower the rate \(now 0.01\)"):
        own.train()
    assert (tmp_path / "resume.pt").exists() == (kept is not None)
    if kept is not None:
        state = read_tensors(tmp_path / "resume.pt", "cpu")
        assert state["step"] == kept and all(bool(value.isfinite().all()) for value in state["model"].values())


def test_nan_at_the_first_step_is_of_the_data() -> None:
    with pytest.raises(UserError, match="the loss is nan at step 0, before anything was learned: look for NaN") as told:
        trainer(domain_loss=failing_at(0, math.nan)).train()
    assert not isinstance(told.value, Diverged)


def test_an_evaluation_does_not_see_what_is_not_finite() -> None:
    seen: list[int] = []

    class Spy(Callback):
        def on_evaluation(self, trainer: Trainer, record: Record) -> None:
            seen.append(record["step"])

    with pytest.raises(Diverged, match="at step 15"):
        trainer(domain_loss=failing_at(15, math.nan), steps=40, callbacks=[Spy()]).train()
    assert seen == [10]


def test_weights_that_a_finite_loss_has_broken() -> None:
    def steep(source: Output, target: Output) -> dict[str, Tensor]:
        return {"steep": (0 * source.logits.sum()).sqrt()}  # its value is 0, its gradient 0 * inf

    with pytest.raises(Diverged, match="is NaN after step 0: lower the rate"):
        trainer(domain_loss=steep, steps=1).train()


def test_activations_that_explode_are_named() -> None:
    class Grows(nn.Module):
        steps = 0

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            return x * (1e16 if self.steps > 5 else 1)

    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(3, 8), Grows())
    backbone.out_features = 8  # type: ignore[assignment]
    config = TrainConfig(batch_size=8, align=("hidden1",), lr=1e-9, evaluate_every=1000)
    with pytest.raises(Diverged, match=r'the activations of layer "hidden1" grew to \de\+1\d at step 4'):
        trainer(DAN(backbone, 2, layers=(6,)), config=config, steps=12).train()  # one call before: the widths


def test_an_error_of_the_loss_that_comes_of_nan_is_told_as_that() -> None:
    def picky(source: Output, target: Output) -> dict[str, Tensor]:
        if not bool(source.logits.isfinite().all()):
            raise RuntimeError("what a matrix decomposition says of NaN")
        return {"none": 0 * source.logits.sum()}

    config = TrainConfig(batch_size=8, lr=1e30, head_lr_mult=1, evaluate_every=1000)
    with pytest.raises(Diverged, match="at step 1: lower the rate"):
        trainer(domain_loss=picky, config=config).train()

    def broken(source: Output, target: Output) -> dict[str, Tensor]:
        raise RuntimeError("a mistake of one's own")

    with pytest.raises(RuntimeError, match="a mistake of one's own"):
        trainer(domain_loss=broken).train()


# --- batches ----------------------------------------------------------------------------------------------------------


class Noisy(Dataset):
    """A data set of one's own, whose transform draws from all three global generators."""

    def __init__(self, count: int, shift: float = 0.0) -> None:
        self.x, self.y = blobs(count, shift).tensors

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn(3) + 0.1 * float(np.random.normal()) + 0.1 * random.random()
        return self.x[index] + noise, self.y[index]


def images(count: int, shift: int) -> Images:
    rng = np.random.default_rng(shift)
    targets = np.arange(count) % 2
    pixels = (rng.integers(0, 100, (count, 8, 8, 3)) + 100 * targets[:, None, None, None] + shift).astype(np.uint8)
    return Images(pixels, targets, ("a", "b"), normalisation="half", digest=str(shift), augment=True)


def small_cnn() -> DAN:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
    backbone.out_features = 4 * 36  # type: ignore[assignment]
    return DAN(backbone, 2, layers=(6,), dropout=0.3)


@pytest.mark.parametrize("kind", ["items", "images"])
def test_workers_change_no_bit(kind: str, tmp_path: Path) -> None:
    """A data set that draws from the global generators, and augmented images, whole and after a kill."""
    source, target = (Noisy(40), Noisy(32, 1.0)) if kind == "items" else (images(40, 0), images(32, 50))
    build = network if kind == "items" else small_cnn

    class Killed(Exception):
        pass

    class Deadly(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            if trainer.step == 14:
                raise Killed

    def weights(workers: int, run: Path, **options: Any) -> dict[str, Tensor]:
        model = build()
        options |= {"trade_off": 1.0, "steps": 20, "config": SMALL, "run": run, "num_workers": workers}
        fit(model, source, target, labelled_target=blobs(5, 1.0) if kind == "items" else None, **options)
        return model.state_dict()

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[union-attr]
    one, two = weights(0, tmp_path / "0"), weights(2, tmp_path / "2")
    assert same(one, two)
    with pytest.raises(Killed):
        weights(2, tmp_path / "killed", callbacks=[Deadly()])
    assert read_tensors(tmp_path / "killed" / "resume.pt", "cpu")["step"] == 10
    assert same(one, weights(0, tmp_path / "killed"))
    assert before[0] == random.getstate() and before[1] == np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    logs = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in read_records(tmp_path / n / "records.jsonl")]
        for n in ("0", "2", "killed")
    ]
    assert logs[0] == logs[1] == logs[2]


def test_views_are_drawn_anew_at_each_step_and_by_the_seed() -> None:
    def x(seed: int, step: int) -> Tensor:
        return trainer(source=Noisy(8), target=Noisy(8), seed=seed).streams.batch(step).samples["source"][0]

    assert torch.equal(x(0, 0), x(0, 0))
    for other in (x(0, 1), x(1, 0)):  # all eight samples are in each batch
        assert not torch.equal(x(0, 0).sort(0).values, other.sort(0).values)


def test_batches_may_be_read_in_any_order() -> None:
    own = trainer(source=Noisy(40), labelled_target=blobs(5, 1.0), labelled_domain="source").streams
    there = [own.batch(step) for step in range(6)]
    with own.loading(range(2, 6)):
        for step in (2, 0, 3, 5, 4):
            again = own.batch(step)
            assert again.joining == there[step].joining
            for name, (x, y) in there[step].samples.items():
                assert torch.equal(again.samples[name][0], x) and torch.equal(again.samples[name][1], y)
                assert torch.equal(again.rows[name], there[step].rows[name])


def test_tensors_in_memory_need_no_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: Any, **options: Any) -> None:
        raise AssertionError("no loader is needed")

    monkeypatch.setattr(streams, "DataLoader", refused)
    train(num_workers=2, steps=2)
    with pytest.raises(AssertionError):
        train(source=Noisy(40), steps=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_the_data_is_one_line_from_a_worker_too(workers: int) -> None:
    class Wrong(Noisy):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            if len(self.x) == 32 and index == 20:
                raise UserError("image 20 cannot be read")
            return super().__getitem__(index)

    with pytest.raises(UserError) as caught:
        trainer(target=Wrong(32, 1.0), num_workers=workers).train()
    assert str(caught.value) == "image 20 cannot be read"


def test_a_worker_that_is_killed_is_one_line() -> None:
    parent = os.getpid()

    class Deadly(Noisy):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            if os.getpid() != parent and index == 20:
                os._exit(9)
            return super().__getitem__(index)

    with pytest.raises(UserError, match="a process that loads data has ended.*lower --num-workers") as caught:
        trainer(target=Deadly(32, 1.0), num_workers=1).train()
    assert "\n" not in str(caught.value)


# --- callbacks --------------------------------------------------------------------------------------------------------


def test_a_callback_is_called_at_each_moment_and_adds_to_the_records(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    calls: list[str] = []

    class Mine(Callback):
        def on_train_start(self, trainer: Trainer) -> None:
            calls.append(f"start {trainer.step}")

        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            assert math.isfinite(float(losses["total"]))
            calls.append("step")

        def on_evaluation(self, trainer: Trainer, record: Record) -> None:
            record["mine/norm"] = float(trainer.model.output.weight.detach().norm())
            calls.append(f"evaluation {record['step']}")

        def on_checkpoint(self, trainer: Trainer) -> None:
            calls.append(f"checkpoint {trainer.step}")

        def on_train_end(self, trainer: Trainer) -> None:
            calls.append("end")

    plain, _ = train(run=tmp_path / "plain")
    weights, records = train(run=tmp_path / "mine", callbacks=[Mine()])
    steps = ["step"] * 10, ["step"] * 2
    expected = ["start 0", *steps[0], "evaluation 10", "checkpoint 10", *steps[1], "evaluation 12", "checkpoint 12"]
    assert calls == [*expected, "end"]
    assert same(plain, weights)
    written = read_records(tmp_path / "mine" / "records.jsonl")
    assert [r["mine/norm"] for r in written if r["event"] == "evaluation"] == [r["mine/norm"] for r in records]
    curve = EventAccumulator(str(tmp_path / "mine")).Reload().Scalars("mine/norm")
    assert [event.step for event in curve] == [10, 12]


def test_a_callback_ends_after_an_error_too() -> None:
    ended: list[int] = []

    class Mine(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            if trainer.step == 3:
                raise KeyboardInterrupt

        def on_train_end(self, trainer: Trainer) -> None:
            ended.append(trainer.step)

    with pytest.raises(KeyboardInterrupt):
        trainer(callbacks=[Mine()]).train()
    assert ended == [3]
