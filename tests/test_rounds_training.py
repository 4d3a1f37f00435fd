"""What is trained between rounds, on what, and that one training in parts is that training."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, TensorDataset

from active.learners.dan import folder_of, run_rounds
from active.learners.rounds_config import RoundsConfig
from active.round_files import read_rounds
from dan import DAN, fit
from dan.data.batches import Batches, derived_seed, fetch
from dan.data.tasks import DomainPair, load_pair
from dan.errors import UserError
from dan.models.dan import Output
from dan.models.model_file import load_model
from dan.run_dir import read_records
from dan.training.config import TrainConfig
from dan.training.domain_terms import joined_outputs

SMALL = TrainConfig(batch_size=8, evaluate_every=100, checkpoint_every=3, feature_map=False)


def same(a: Any, b: Any) -> bool:
    first, second = (load_model(each).state_dict() if isinstance(each, Path) else each.state_dict() for each in (a, b))
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def task() -> DomainPair:
    whole = load_pair("rendered2digits")

    def few(data: Any, count: int) -> TensorDataset:
        return TensorDataset(*fetch(data, torch.arange(0, 10 * count, 10)))

    return replace(
        whole,
        source=few(whole.source, 40),
        target=few(whole.target, 44),
        source_test=None,
        target_test=few(whole.target_test, 20),
    )


@pytest.fixture(scope="module")
def start(task: DomainPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "start"
    torch.manual_seed(0)
    fit(
        DAN("lenet", 10, dropout=0.3),
        task.source,
        task.target,
        trade_off=1.0,
        steps=7,
        seed=0,
        config=SMALL,
        run=folder,
    )
    return folder


def asked(task: DomainPair, start: Path, run: Path, **options: Any) -> Iterator[dict[str, Any]]:
    plan: dict[str, Any] = {"budget": 3, "trade_off": 1.0}
    if "query_epochs" not in options:
        plan |= {"num_rounds": 2, "steps_per_round": 4}
    how: dict[str, Any] = {"config": options.pop("config", SMALL), "num_workers": options.pop("workers", 0)}
    return run_rounds(task, "margin", RoundsConfig(**plan | options), start=start, run=run, seed=1, **how)


class Shifted(Dataset[Any]):
    """Samples each brightened by a draw of the global generator: its views must not depend on who loads them."""

    def __init__(self, data: TensorDataset) -> None:
        self.data, self.targets = data, data.tensors[1]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        x, y = self.data[i]
        return x + torch.rand(()), y


def test_workers_change_no_bit_of_rounds(task: DomainPair, start: Path, tmp_path: Path) -> None:
    task = replace(task, source=Shifted(task.source), target=Shifted(task.target))  # type: ignore[arg-type]
    for workers in (0, 2):
        list(asked(task, start, tmp_path / str(workers), workers=workers))
    for number in (1, 2):
        assert same(tmp_path / "0" / f"round_{number:02d}", tmp_path / "2" / f"round_{number:02d}")


# --- one training in parts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adadelta"])
def test_a_training_in_parts_is_the_whole(task: DomainPair, tmp_path: Path, optimizer: str) -> None:
    recipe = replace(SMALL, optimizer=optimizer, lr=0.5 if optimizer == "adadelta" else 0.001, method="dann")

    def model() -> DAN:
        torch.manual_seed(0)
        return DAN("lenet", 10, dropout=0.5)

    common: dict[str, Any] = {"trade_off": 1.0, "seed": 3, "config": recipe}
    whole, parts = model(), model()
    fit(whole, task.source, task.target, steps=12, **common)
    common["total_steps"] = 12
    fit(parts, task.source, task.target, steps=5, run=tmp_path / "1", **common)
    fit(parts, task.source, task.target, steps=6, run=tmp_path / "2", continue_from=tmp_path / "1", **common)
    torch.rand(9)  # whatever came between
    # A network of other weights: those of the earlier run are taken.
    last = model()
    nn.init.zeros_(last.output.weight)
    fit(last, task.source, task.target, steps=12, run=tmp_path / "3", continue_from=tmp_path / "2", **common)
    assert same(whole, last) and not same(parts, last)
    alone = model()  # without total_steps the ramp would be over the part, which is another training
    fit(alone, task.source, task.target, steps=5, **common | {"total_steps": None})
    assert not same(alone, tmp_path / "1")


def test_what_cannot_be_continued_is_one_line(task: DomainPair, start: Path, tmp_path: Path) -> None:
    def go_on(steps: int = 9, continue_from: Path = start, trade_off: float = 1.0, **how: Any) -> None:
        recipe, model = replace(SMALL, **how), load_model(start)
        common: dict[str, Any] = {"steps": steps, "seed": 0, "config": recipe, "continue_from": continue_from}
        fit(model, task.source, task.target, trade_off=trade_off, **common)

    go_on()
    for words, options in (
        ("does not exist", {"continue_from": tmp_path}),
        ("stands at step 7", {"steps": 7}),
        ("another optimizer", {"optimizer": "adam"}),
        ("another network or method", {"method": "dann"}),
    ):
        with pytest.raises(UserError, match=words) as caught:
            go_on(**options)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no part that ends at step 9"):
        fit(load_model(start), task.source, task.target, trade_off=0.0, steps=9, seed=0, config=SMALL, total_steps=8)


@pytest.mark.parametrize("optimizer", ["adam", "adadelta"])
def test_the_first_step_of_each_optimizer_is_its_formula(task: DomainPair, optimizer: str) -> None:
    """Adam: rate * g / (|g| + eps). Adadelta: rate * sqrt(eps) / sqrt((1 - rho) g^2 + eps) * g."""
    recipe = replace(SMALL, optimizer=optimizer, lr=0.01, head_lr_mult=3.0, weight_decay=0.0)
    torch.manual_seed(0)
    model = DAN("lenet", 10)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    x, y = fetch(task.source, Batches(40, 8, derived_seed(0, 0)).indices(0))
    cross_entropy(model.train()(x).logits, y).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    fit(model, task.source, task.target, trade_off=0.0, steps=1, seed=0, config=recipe)
    for name, value in model.named_parameters():
        g, rate = gradients[name].double(), 0.01 * (1 if name.startswith("backbone") else 3)
        step = g / (g.abs() + 1e-8) if optimizer == "adam" else math.sqrt(1e-6) / (0.1 * g**2 + 1e-6).sqrt() * g
        torch.testing.assert_close(before[name].double() - value.double(), rate * step, rtol=1e-3, atol=1e-6)


def test_an_unknown_optimizer() -> None:
    with pytest.raises(UserError, match='did you mean "adam"'):
        fit(nn.Module(), None, None, trade_off=0.0, steps=1, seed=0, config=replace(SMALL, optimizer="adma"))  # type: ignore[arg-type]


# --- between rounds ---------------------------------------------------------------------------------------------------


def by_hand(task: DomainPair, run: Path, number: int, **options: Any) -> DAN:
    """The training of one round, from the round files alone."""
    ids = [entry[0] for entry in read_rounds(run)[number].labelled]
    x, y = fetch(task.target, torch.tensor(ids))
    model = load_model(options.pop("weights"))
    recipe = replace(SMALL, schedule="constant")
    common: dict[str, Any] = {"trade_off": 1.0, "config": recipe, "labelled_target": TensorDataset(x, y)} | options
    fit(model, task.source, task.target, **common)
    return model


def test_scratch_fine_tune_and_continue(task: DomainPair, start: Path, tmp_path: Path) -> None:
    runs = {between: tmp_path / between for between in ("scratch", "fine-tune", "continue")}
    for between, run in runs.items():
        records = list(asked(task, start, run, retrain=between))
        assert [record["labelled"] for record in records] == [0, 3, 6]
        assert all("accuracy/target_test" in record and "accuracy/unqueried" in record for record in records)
    for number in (1, 2):
        seed = {"seed": derived_seed(1, number)}
        run = runs["scratch"]
        assert same(by_hand(task, run, number, weights=start, steps=4, **seed), run / f"round_{number:02d}")
        run = runs["fine-tune"]
        before = folder_of(run, start, number - 1)
        assert same(by_hand(task, run, number, weights=before, steps=4, **seed), run / f"round_{number:02d}")
        run = runs["continue"]
        before = folder_of(run, start, number - 1)
        goes_on = {"steps": 7 + 4 * number, "seed": derived_seed(1, 0), "continue_from": before}
        assert same(by_hand(task, run, number, weights=before, **goes_on), run / f"round_{number:02d}")
    assert folder_of(runs["continue"], start, 0) == start
    assert not same(*(run / "round_02" for run in list(runs.values())[:2]))
    # Fine-tuning is what it is without being named, and the same run.
    assert [r["round"] for r in asked(task, start, runs["fine-tune"])] == [0, 1, 2]


def test_queries_at_epochs_are_one_training(task: DomainPair, start: Path, tmp_path: Path) -> None:
    """44 target samples in batches of 8: an epoch is 6 steps."""
    run = tmp_path / "run"
    records = list(asked(task, start, run, query_epochs=(1, 2), epochs=4, budget="5%"))
    assert [(record["round"], record["labelled"]) for record in records] == [(0, 0), (1, 3), (2, 6)]
    told = [read_records(run / f"round_{number:02d}" / "records.jsonl") for number in range(3)]
    assert [each[0]["steps"] for each in told] == [6, 12, 24] and {each[0]["total_steps"] for each in told} == {24}
    assert folder_of(run, start, 0) == run / "round_00"
    # Its first part, by hand: from the start's weights, no labels, the recipe's own schedule over all 24 steps.
    first = load_model(start)
    common: dict[str, Any] = {"trade_off": 1.0, "seed": derived_seed(1, 0), "config": SMALL}
    fit(first, task.source, task.target, steps=6, total_steps=24, **common)
    assert same(first, run / "round_00")
    # And its last, which goes on from the second with all six labels.
    goes_on = {"steps": 24, "total_steps": 24, "continue_from": run / "round_01", "weights": run / "round_01"}
    assert same(by_hand(task, run, 2, **goes_on, **common), run / "round_02")
    list(resumed := asked(task, start, tmp_path / "again", query_epochs=(1, 2), epochs=4, budget=3))
    assert same(run / "round_02", tmp_path / "again" / "round_02")
    resumed.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retrain": "scracth"}, 'did you mean "scratch"'),
        ({"steps_per_round": 0}, "steps_per_round must be at least 1"),
        ({"budget": 23}, "lower the budget"),
        ({"budget": "60%"}, "lower the budget"),
        ({"epochs": 3}, "name both, or neither"),
        ({"query_epochs": (2, 2), "epochs": 3}, "rising epochs"),
        ({"query_epochs": (0, 2), "epochs": 3}, "rising epochs"),
        ({"query_epochs": (1, 3), "epochs": 3}, "epochs must be more than 3"),
        ({"query_epochs": (1,)}, "epochs must be more than 1"),
        ({"query_epochs": (1,), "epochs": 2, "retrain": "scratch"}, "one training"),
        ({"query_epochs": (1,), "epochs": 2, "num_rounds": 2}, "leave out rounds"),
        ({"config": replace(SMALL, batch_size=41)}, "larger than the source's 40"),
        ({"labelled_domain": "sauce"}, 'did you mean "source"'),
        ({"labelled_domain": "source", "trade_off": 0.0}, "nothing is aligned"),
        ({"labelled_domain": "source", "budget": 19}, "fewer than a batch of 8"),
    ],
)
def test_plans_that_cannot_be(
    task: DomainPair, start: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        list(asked(task, start, tmp_path / "run", **options))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_one_line(task: DomainPair, start: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        list(asked(task, start, tmp_path / "file" / "run"))


def test_a_start_that_kept_no_optimiser_cannot_continue(task: DomainPair, start: Path, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(start, bare, ignore=shutil.ignore_patterns("resume.pt"))
    with pytest.raises(UserError, match="nothing can continue"):
        list(asked(task, bare, tmp_path / "run", retrain="continue"))


# --- on which side of the alignment -----------------------------------------------------------------------------------


class Numbered(nn.Module):
    """A backbone that shows which samples went through: its output is the sample's number (and trains nothing)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def seen_by_the_alignment(side: str) -> tuple[list[list[int]], list[list[int]]]:
    """Per step the numbers of the samples on the source's and on the target's side: source 0-39, target 100-139, of
    which 100-105 are labelled."""
    numbers = torch.arange(40.0)[:, None]
    source, whole = TensorDataset(numbers, torch.arange(40) % 2), 100 + numbers
    labelled = TensorDataset(whole[:6], torch.arange(6) % 2)
    target = whole[6:] if side == "source" else whole
    sides: tuple[list[list[int]], list[list[int]]] = ([], [])

    def spy(of_source: Output, of_target: Output) -> dict[str, Tensor]:
        for seen, of in zip(sides, (of_source, of_target), strict=True):
            seen.append(of.layers["backbone"][:, 0].round().long().tolist())
        return {"none": 0 * of_source.logits.sum()}

    torch.manual_seed(0)
    model = DAN(Numbered(), 2, layers=(), capture=("backbone",))
    common: dict[str, Any] = {"trade_off": 1.0, "steps": 230, "seed": 0, "domain_loss": spy}
    recipe = TrainConfig(batch_size=8, lr=1e-6, evaluate_every=1000)
    unlabelled = TensorDataset(target, torch.full((len(target),), -1))
    fit(model, source, unlabelled, labelled_target=labelled, labelled_domain=side, config=recipe, **common)  # type: ignore[arg-type]
    return sides


def test_the_labelled_are_part_of_the_target_unless_they_join_the_source() -> None:
    of_source, of_target = seen_by_the_alignment("target")
    assert all(max(step) < 40 for step in of_source) and all(min(step) >= 100 for step in of_target)
    assert {sample for step in of_target for sample in step} == set(range(100, 140))

    of_source, of_target = seen_by_the_alignment("source")
    assert all(len(step) == len(set(step)) == 8 for step in of_source)  # no sample twice
    assert {sample for step in of_target for sample in step} == set(range(106, 140))
    counts = torch.tensor([sample for step in of_source for sample in step]).bincount(minlength=140)
    assert counts[40:100].sum() == counts[106:].sum() == 0
    # 230 batches of 8 are 40 epochs of the 46 that the source's side is drawn from: each should come 40 times.
    assert int(counts[100:106].sum()) == pytest.approx(6 * 40, abs=3)
    assert int(counts[:40].sum()) == pytest.approx(40 * 40, abs=3)
    assert float(counts[:40].double().std()) < 6 and int(counts[100:106].min()) > 20


def test_joining_takes_different_samples_and_keeps_the_size() -> None:
    def numbered(first: int, count: int) -> Output:
        values = torch.arange(first, first + count, dtype=torch.float64)[:, None].repeat(1, 2)
        return Output(values, {"hidden1": values, "output": values})

    drawn = torch.tensor([4, 4, 2, 4, 0])
    for count, rows in ((0, []), (1, [0]), (2, [0, 2]), (3, [0, 2, 4]), (5, [0, 2, 4])):
        joined = joined_outputs(numbered(0, 5), numbered(10, 5), drawn, count)
        expected = [*range(5 - len(rows)), *(10 + row for row in rows)]
        assert joined.logits[:, 0].tolist() == joined.layers["hidden1"][:, 1].tolist() == expected


def test_rounds_take_what_joins_the_source_out_of_the_target(
    task: DomainPair, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sample is known by its pixels: what fit is given is what the ids of the round files name."""
    import active.learners.dan as with_dan

    given: list[dict[str, Any]] = []

    def spy(model: DAN, source: Any, target: Any, **options: Any) -> Any:
        given.append({"target": target, **options})
        return fit(model, source, target, **options)

    monkeypatch.setattr(with_dan, "fit", spy)
    number_of = {image.numpy().tobytes(): i for i, image in enumerate(task.target.tensors[0])}  # type: ignore[attr-defined]
    assert len(number_of) == 44

    def ids(data: Any) -> list[int]:
        return [number_of[image.numpy().tobytes()] for image in fetch(data, torch.arange(len(data)))[0]]

    for side in ("target", "source"):
        given.clear()
        run = tmp_path / side
        list(asked(task, start, run, labelled_domain=side))
        for number, options in enumerate(given, start=1):
            known = [entry[0] for entry in read_rounds(run)[number].labelled]
            assert ids(options["labelled_target"]) == known and len(known) == 3 * number
            answers = [entry[1] for entry in read_rounds(run)[number].labelled]
            assert options["labelled_target"].tensors[1].tolist() == task.target.tensors[1][known].tolist() == answers  # type: ignore[attr-defined]
            gone = set(known) if side == "source" else set()
            assert set(ids(options["target"])) == set(range(44)) - gone
            assert options["labelled_domain"] == side
    assert not same(tmp_path / "target" / "round_02", tmp_path / "source" / "round_02")
    settings = read_records(tmp_path / "source" / "records.jsonl")[0]
    assert settings["labelled_domain"] == "source"


def test_labels_that_join_nothing_are_refused(task: DomainPair, start: Path) -> None:
    few = TensorDataset(*fetch(task.target, torch.arange(3)))
    for labelled, trade_off in ((None, 1.0), (few, 0.0)):
        with pytest.raises(UserError, match="only where there are both"):
            fit(
                load_model(start),
                task.source,
                task.target,
                labelled_target=labelled,
                labelled_domain="source",
                trade_off=trade_off,
                steps=1,
                seed=0,
                config=SMALL,
            )
