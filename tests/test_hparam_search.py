"""A search that never reads a target label, that a kill doesn't change, and that says what can be typed."""

import math
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from dan import DAN, hparam_search
from dan.__main__ import Train, main, preset
from dan.cli.command_line import Command, parse_flags
from dan.cli.train_options import command_of
from dan.errors import UserError
from dan.hparam_search import SearchConfig, _proposed, tune
from dan.run_dir import read_records
from dan.training.config import TrainConfig

needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason='Optuna is not there: pip install -e ".[tune]"')
SMALL = TrainConfig(batch_size=8, lr=0.02, head_lr_mult=1, checkpoint_every=4)


def blobs(count: int, shift: float, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    x = 0.5 * torch.randn(count, 3, generator=generator)
    x[:, 0] += 2.0 * y - 1
    x[:, 1] += shift
    return TensorDataset(x, y)


SOURCE, HELD, TARGET = blobs(32, 0.0, 0), blobs(16, 0.0, 1), blobs(24, 1.0, 2)


def network() -> DAN:
    torch.manual_seed(0)
    return DAN(nn.Sequential(nn.Linear(3, 8), nn.ReLU()), 2, layers=(4,))


def search(**options: Any) -> hparam_search.SearchResult:
    target = options.pop("target", TARGET)
    options = {"trials": 3, "steps": 8, "seed": 0, "source_test": HELD, "config": SMALL} | options
    fields = SearchConfig.__dataclass_fields__
    search = SearchConfig(**{name: options.pop(name) for name in list(options) if name in fields})
    return tune(network, SOURCE, target, search, **options)


def plain(records: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


@needs_optuna
def test_target_labels_change_nothing() -> None:
    x, y = TARGET.tensors
    found = [search(target=TensorDataset(x, labels)) for labels in (y, y.flip(0), torch.full_like(y, -1))]
    assert plain(found[0].trials) == plain(found[1].trials) == plain(found[2].trials)
    assert not any("accuracy/target" in record for record in found[0].trials)


@needs_optuna
@pytest.mark.parametrize(("rule", "best"), [("two_sample", min), ("information", max)])
def test_the_best_by_the_rule_of_what_was_tried(rule: str, best: Any) -> None:
    found = search(rule=rule, trials=4)
    assert [record["trial"] for record in found.trials] == [0, 1, 2, 3]
    assert (found.trials[0]["trade_off"], found.trials[0]["lr"]) == (1.0, 0.02)  # what was asked for comes first
    assert found.value == best(record["value"] for record in found.trials)
    assert all(record["value"] == record[f"label_free/{rule}"] for record in found.trials)
    chosen = next(record for record in found.trials if record["value"] == found.value)
    assert (found.trade_off, found.lr) == (chosen["trade_off"], chosen["lr"])
    assert found.study.best_value == found.value
    for record in found.trials:
        assert 0.1 <= record["trade_off"] <= 10 and 0.002 <= record["lr"] <= 0.2
        assert all(float(f"{record[name]:.3g}") == record[name] for name in ("trade_off", "lr"))


@needs_optuna
def test_source_only_searches_the_rate_alone() -> None:
    found = search(trade_off=0.0, rule="information")
    assert {record["trade_off"] for record in found.trials} == {0.0}
    assert len({record["lr"] for record in found.trials}) == 3


class Killed(Exception):
    """Stands for a kill at that moment."""


@needs_optuna
@pytest.mark.parametrize("kill_at", [1, 3, 7, 12])
def test_a_killed_search_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int
) -> None:
    undisturbed = search(run=tmp_path / "a")
    writes = 0

    def fsync(_: int) -> None:
        nonlocal writes
        writes += 1
        if writes == kill_at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(Killed):
            search(run=tmp_path / "b")
    seen: list[Any] = []
    resumed = search(run=tmp_path / "b", on_trial=seen.append)
    assert plain(resumed.trials) == plain(undisturbed.trials)
    assert plain(read_records(tmp_path / "a" / "records.jsonl")) == plain(
        read_records(tmp_path / "b" / "records.jsonl")
    )
    assert len(seen) <= 3
    # Done: nothing is trained again, and more trials go on from these.
    assert search(run=tmp_path / "b", on_trial=seen.append).trials == resumed.trials
    assert search(run=tmp_path / "b", trials=4).trials[:3] == resumed.trials
    assert search(run=tmp_path / "b", trials=2).trials == resumed.trials[:2]
    with pytest.raises(UserError, match="holds another run"):
        search(run=tmp_path / "b", rule="information")


@needs_optuna
def test_in_memory_it_is_the_same_and_the_seed_decides(tmp_path: Path) -> None:
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    first = search()
    assert plain(first.trials) == plain(search(run=tmp_path).trials)
    points = [[(record["trade_off"], record["lr"]) for record in search(seed=seed).trials] for seed in (0, 1)]
    assert points[0][0] == points[1][0] and points[0][1:] != points[1][1:]
    assert torch.equal(state[0], torch.get_rng_state()) and state[1] == np.random.get_state()[1].tolist()  # type: ignore[union-attr]


@needs_optuna
def test_a_trial_that_diverges_is_the_worst_and_no_end() -> None:
    found = search(trials=6, span=1e4, config=TrainConfig(**{**SMALL.__dict__, "lr": 1.0, "lr_gamma": 0.0}), steps=30)
    lost = [record for record in found.trials if record["value"] is None]
    assert 0 < len(lost) < 6 and all("lower the rate" in record["diverged"] for record in lost)
    assert found.lr < min(record["lr"] for record in lost)
    with pytest.raises(UserError, match="every trial diverged; the first: the "):
        search(trials=2, span=1.1, config=TrainConfig(**{**SMALL.__dict__, "lr": 1e12}))


@needs_optuna
def test_proposals_close_in() -> None:
    """On a bowl with its bottom at trade-off 5 and rate 0.003, the last proposals are nearer than the random ones."""
    bounds = {"trade_off": (0.1, 10.0), "lr": (0.001, 0.1)}

    def away(point: dict[str, float]) -> float:
        return math.hypot(math.log(point["trade_off"] / 5), math.log(point["lr"] / 0.003))

    early, late = [], []
    for seed in range(3):
        records: list[dict[str, Any]] = []
        for number in range(30):
            point = _proposed(records, bounds, "two_sample", 1000 * seed + number)
            records.append({**point, "value": away(point) ** 2})
        early += [away(record) for record in records[:6]]
        late += [away(record) for record in records[-6:]]
    assert sum(late) < 0.6 * sum(early)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trials": 0}, "at least 1 trial"),
        ({"rule": "oracle"}, "reads its labels: a search is judged by one of two_sample, information"),
        ({"rule": "informaton"}, 'did you mean "information"'),
        ({"source_test": None}, "pass --source-holdout"),
        ({"span": 1.0}, "above 1"),
    ],
)
def test_mistakes(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        search(**options)
    assert "\n" not in str(caught.value)


def test_without_optuna_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hparam_search, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "active-dan\[tune\]"'):
        search()


@needs_optuna
def test_too_few_samples_to_judge_by() -> None:
    with pytest.raises(UserError, match="needs 4 samples"):
        search(target=blobs(3, 1.0, 2), steps=2, config=TrainConfig(batch_size=2))


def test_a_printed_command_means_the_same() -> None:
    for words in (
        ["rendered2digits"],
        ["digits_mnist2usps", "--trade-off", "0.123", "--layers", "8", "4", "--cache-backbone", "--no-feature-map"],
        ["folders", "--source", "a b.npz", "--target", "it's.npz", "--run", "my run", "--layers"],
        ["office31_a2w", "--recipe", "dan-2015", "--lr", "3e-05", "--freeze", "--lr-mults", "conv4=0.1", "fc6=1"],
        ["rendered2digits", "--recipe", "dan-2015", "--freeze-up-to", "all", "--method", "coral", "--tune", "5"],
    ):
        config = parsed(words)
        assert parsed(shlex.split(command_of(config))[4:]) == config


def parsed(words: list[str]) -> Train:
    return parse_flags(Command(Train, lambda config: 0, "Train.", preset), "dan train", words)


def write(path: Path, shift: float, flip: bool = False) -> str:
    x, y = blobs(40, shift, 3).tensors
    np.savez(path, x=x.numpy(), y=(1 - y if flip else y).numpy())
    return str(path)


@needs_optuna
def test_the_command_searches_says_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def door(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["dan", *words])
        assert main() == 0
        return capsys.readouterr().out

    source = write(tmp_path / "source.npz", 0.0)
    # Two targets that differ in their labels alone.
    searches = []
    for name, flip in (("plain", False), ("flipped", True)):
        target = write(tmp_path / f"{name}.npz", 1.0, flip)
        words = ["train", "folders", "--source", source, "--target", target, "--source-holdout", "0.3", "--layers", "4"]
        words += ["--steps", "6", "--batch-size", "8", "--no-feature-map", "--device", "cpu", "--run", name]
        out = door(*words, "--tune", "2", "--tune-steps", "4")
        searches.append(plain(read_records(tmp_path / name / "tuning" / "records.jsonl"))[1:])
    assert searches[0] == searches[1] and len(searches[0]) == 2

    best = min(searches[1], key=lambda record: record["value"])
    command = next(line for line in out.splitlines() if line.startswith("python -m dan"))
    assert f"best of 2: --trade-off {best['trade_off']} --lr {best['lr']}\n" in out
    header = read_records(tmp_path / "flipped" / "records.jsonl")[0]
    assert (header["trade_off"], header["lr"], header["steps"]) == (best["trade_off"], best["lr"], 6)
    assert not [name for name in header if "tune" in name]
    before = (tmp_path / "flipped" / "resume.pt").stat().st_mtime_ns
    door(*shlex.split(command)[3:])  # the same run: it is done
    assert (tmp_path / "flipped" / "resume.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tune", "2"], "pass --source-holdout"),
        (["--tune-steps", "2"], "--tune-steps requires --tune"),
        (["--tune-rule", "information"], "--tune-rule requires --tune"),
        (["--tune", "2", "--tune-rule", "oracle"], "is not one of two_sample, information"),
        (["--tune", "-2"], "--tune must be 0 or more"),
    ],
)
def test_mistakes_at_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    source, target = write(tmp_path / "source.npz", 0.0), write(tmp_path / "target.npz", 1.0)
    command = [
        "dan",
        "train",
        "folders",
        "--source",
        source,
        "--target",
        target,
        "--run",
        str(tmp_path / "run"),
        *flags,
    ]
    monkeypatch.setattr(sys, "argv", [*command, "--quiet"])
    assert main() == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1, err
    assert not (tmp_path / "run").exists()
