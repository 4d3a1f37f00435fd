"""The arena: its plan, its draw, its rounds against `run_rounds`, its sums and ranks by definition, its page."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from torch.utils.data import TensorDataset

from active.learners.dan import run_rounds
from active.learners.rounds_config import RoundsConfig
from active.strategies import STRATEGIES as KNOWN
from dan.cli.command_line import run
from dan.data.batches import derived_seed
from dan.data.tasks import load_pair
from dan.data.views import Views
from dan.evaluation.metrics import evaluate, view_probabilities
from dan.models.model_file import load_model
from dan.training.trainer import fit
from experiments import arena
from experiments.arena import BUDGET, EVERY, EXPERIMENT, Arena, data, tasks
from experiments.arena.areas import by_target, cells_of, mean_ranks, over, sets_of, tasks_in
from experiments.arena.data import VIEW_SEED, VIEWS, Place, Viewed, evenly, load_train_config, sides_of, started
from experiments.arena.report import findings, table_of
from experiments.arena.significance import confirmed, leads, table_of_leads
from experiments.arena.tasks import CONFIRMATION, GROUPS, HALVES, STRATEGIES, TARGETS, half_of, target_of
from experiments.arena.trial import ask, every_label, start
from experiments.framework import options as running
from experiments.framework.experiment import parts_of
from experiments.framework.measurements import alc, labels_to
from experiments.framework.records import read, to_lines, write_text
from experiments.framework.trials import _work, with_prerequisites
from experiments.queried_images import queried_images

TASK = "rendered2digits"
HOW = {"method": "dan", "align": ["fc1", "hidden1", "output"], "lr": 0.01}
TEN = "office_caltech10_"


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_groups_and_halves_cover_every_transfer_once() -> None:
    every = [task for group in GROUPS.values() for task in group]
    assert len(every) == len(set(every)) == 15 and [len(group) for group in GROUPS.values()] == [6, 6, 3]
    assert tuple(every) == tasks.TASKS and set(CONFIRMATION) == set(every) - set(GROUPS["development"])
    targets = [target for half in HALVES.values() for target in half]
    assert len(targets) == len(set(targets)) and set(targets) == set(TARGETS) == {target_of(t) for t in every}
    for half in HALVES:  # no setting is chosen on a target that it is reported on
        chosen = {target_of(task) for task in tasks.chosen_on(half)}
        assert chosen and not chosen & {target_of(task) for task in every if half_of(task) == half}
    assert set(STRATEGIES) <= set(KNOWN) and len(STRATEGIES) == 19


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    """Where nothing has to be."""
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"")
    return {"data": tmp_path, "squeezenet_weights": str(weights), "image_cache": tmp_path / "images"}


def test_the_trials_of_a_seed_share_their_start_and_nothing_is_done_twice(folders: dict[str, Any]) -> None:
    config = Arena(**folders, seeds=(0, 1))
    parts = [with_prerequisites(part) for part in parts_of(arena.cells(config), config.seeds)]
    assert [len(part) for part in parts] == [4 + 4 + 15 * (2 + len(STRATEGIES))] * 2
    named: dict[str, dict[str, Any]] = {}
    for trial in [trial for part in parts for trial in part]:
        assert named.setdefault(trial.name, trial.made_by()) == trial.made_by()
    for seed, task in product((0, 1), arena.tasks_of(config)):
        begin = named[f"{task}-start-seed{seed}"]["arguments"]
        for strategy in STRATEGIES:
            asked = named[f"{task}-{strategy}-seed{seed}"]["arguments"]
            assert asked["start"] == f"{task}-start-seed{seed}" and asked["strategy"] == strategy
            assert all(asked[name] == begin[name] for name in ("place", "task", "how", "trade_off", "seed"))
        every = named[f"{task}-all-seed{seed}"]["arguments"]
        assert every["steps"] == 5 * config.steps_per_round
    aligned = {task: named[f"{task}-start-seed0"]["arguments"] for task in arena.tasks_of(config)}
    assert aligned[TASK]["trade_off"] == 1 and aligned[f"{TEN}a2c"]["trade_off"] > 0
    apart = arena.start_of(TASK, 0, replace(config, trade_off=0.0)).arguments
    assert apart == {**aligned[TASK], "trade_off": 0.0}
    # A trial does not depend on what else is run.
    alone = replace(config, tasks=(f"{TEN}d2w",), strategies=("aift",), seeds=(1,))
    fewer = with_prerequisites([trial for cell in arena.cells(alone) for trial in cell.trials])
    assert {t.name for t in fewer} == {"trunk-d", "trunk-w", "views-w"} | {
        f"{TEN}d2w-{what}-seed1" for what in ("start", "all", "aift")
    }
    assert all(named[trial.name] == trial.made_by() for trial in fewer)


def test_the_parts_and_the_command_of_a_cell(folders: dict[str, Any]) -> None:
    assert [len(arena.tasks_of(Arena(parts=part))) for part in ("development", "confirmation", "all")] == [6, 9, 15]
    config = Arena(steps_per_round=30, seeds=(3,), strategies=("margin", "my.module:mine"))
    words = shlex.split(running.command_of(config, tasks=TASK, strategies="my.module:mine"))
    assert tyro.cli(Arena, args=words[5:]) == replace(config, tasks=(TASK,), strategies=("my.module:mine",))
    quick = running.reduced(Arena(quick=True))
    assert (quick.tasks, quick.seeds, quick.samples) == ((TASK,), (0,), 300)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "rendered2digit"], 'did you mean "rendered2digits"'),
        (["--tasks", TASK, "--parts", "development"], "name one of them"),
        (["--tasks", TASK, "--strategies", "cleu"], 'did you mean "clue"'),
        (["--tasks", TASK, "--strategies", "clue", "clue"], "different names"),
        (["--tasks", TASK, "--strategies", "dropout_disagreement"], "a network without dropout"),
        (["--strategies", "outliers"], "holds out no source"),
        (["--seeds", "100"], "hyper-parameters are chosen on"),
        (["--tasks", TASK, "--budget", "1%", "x"], "share of the pool"),
        (["--tasks", TASK, "--budget", "60%", "50%"], "lower the budget"),
        (["--tasks", TASK, "--steps-per-round", "0"], "--steps-per-round"),
        (["--tasks", TASK, "--trade-off", "-1"], "--trade-off"),
        (["--tasks", TASK, "--samples", "10"], "--samples must be 100 or more"),
        (["--tasks", f"{TEN}d2w", "--squeezenet-weights", "none.pth"], "no weights file"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    words = ["arena", *flags, "--out", str(tmp_path / "run"), "--data", str(tmp_path), "--quiet"]
    assert run("experiments", "", {"arena": EXPERIMENT.command}, words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


# --- the sums, by definition ------------------------------------------------------------------------------------------


def test_labels_to_a_goal_is_where_the_line_crosses_it() -> None:
    labels, curve = [0, 10, 30, 70], [0.5, 0.6, 0.8, 0.7]
    assert labels_to(labels, curve, 0.7) == pytest.approx(20)  # half-way from 10 to 30
    assert labels_to(labels, curve, 0.5) == 0 and labels_to(labels, curve, 0.4) == 0
    assert labels_to(labels, curve, 0.8) == pytest.approx(30) and labels_to(labels, curve, 0.81) is None
    for goal in (0.52, 0.63, 0.79):  # against a fine grid of the piecewise-linear curve
        grid = torch.linspace(0, 70, 70_001, dtype=torch.float64)
        at = torch.zeros_like(grid)
        for (x0, y0), (x1, y1) in zip(zip(labels, curve), zip(labels[1:], curve[1:])):  # noqa: B905
            inside = (grid >= x0) & (grid <= x1)
            at[inside] = y0 + (grid[inside] - x0) * (y1 - y0) / (x1 - x0)
        assert labels_to(labels, curve, goal) == pytest.approx(float(grid[(at >= goal).nonzero()[0, 0]]), abs=2e-3)


def fabricated(values: Mapping[str, Mapping[str, float]], seeds: tuple[int, ...] = (0, 1)) -> list[dict[str, Any]]:
    """method -> task -> a constant accuracy (its ALC), a hundredth higher on seed 1; the curve is flat."""
    records = []
    for method, by_task in values.items():
        for task, value in by_task.items():
            for seed in seeds:
                shared: dict[str, Any] = {"experiment": "arena", "task": task, "network": "lenet", "method": method}
                shared |= {"seed": seed, "paper": None, "provenance": "", "command": "one", "command_of_all": "all"}
                accuracy = value + 0.01 * seed
                for number, labels in enumerate((0, 10, 20)):
                    about = {"labels": labels, "selection": "last", "round": number}
                    names = ("accuracy/target", "accuracy/unqueried", "accuracy/target_test")
                    records.append({**shared, **about, **dict.fromkeys(names, accuracy)})
                summary: dict[str, Any] = {**shared, "labels": 20, "selection": "", "summary": True, "goal": 0.7}
                summary |= dict.fromkeys(("alc/target_test", "alc/unqueried", "alc/target"), accuracy)
                summary |= {"labels_to_95": 10.0 if accuracy >= 0.7 else None, "seconds_a_query": 0.25}
                summary |= {"sizes": {"source": 50, "target": 100, "target_test": 40}, "budget": "10 10"}
                summary |= {"how": {"lr": 0.01}, "trade_off": 1.0, "steps_per_round": 60, "cpu_seconds": 4.0}
                records.append(summary | {"cpu_seconds_of_start": 9.0})
    return records


def test_ranks_are_over_targets_and_ties_share() -> None:
    """Caltech's three sources count as one target: margin is ahead by the mean there, though behind in two of three."""
    tasks = [f"{TEN}{name}" for name in ("a2c", "w2c", "d2c", "c2a")]
    values = {
        "random": dict(zip(tasks, (0.60, 0.60, 0.60, 0.5), strict=True)),
        "margin": dict(zip(tasks, (0.59, 0.59, 0.70, 0.5), strict=True)),
        "badge": dict(zip(tasks, (0.10, 0.10, 0.10, 0.9), strict=True)),
    }
    cells = cells_of(fabricated(values), "alc/target_test")
    assert mean_ranks(cells, tasks) == {"random": (2 + 2.5) / 2, "margin": (1 + 2.5) / 2, "badge": (3 + 1) / 2}
    assert by_target(cells, tasks)["margin"]["c"] == {
        0: pytest.approx(100 * (0.59 + 0.59 + 0.70) / 3),
        1: pytest.approx(100 * (0.60 + 0.60 + 0.71) / 3),
    }
    headers, lines = table_of(fabricated(values))
    assert dict(zip(headers, lines[0], strict=True))["over random"] == "+2.00"  # (-1 - 1 + 10 + 0) / 4


def test_what_is_missing_is_told_and_not_averaged_away() -> None:
    tasks = [f"{TEN}a2c", f"{TEN}c2a"]
    values = {"random": dict.fromkeys(tasks, 0.5), "margin": {tasks[0]: 0.6}}
    records = fabricated(values)
    cells = cells_of(records, "alc/target_test")
    assert over(cells["margin"], tasks) == {} and set(mean_ranks(cells, tasks)) == {"random"}
    headers, lines = table_of(records)
    rows = {line[0]: dict(zip(headers, line, strict=True)) for line in lines}
    assert rows["margin"]["development"] == rows["margin"]["rank"] == "–" and rows["margin"]["runs"] == "2"
    assert rows["random"]["development"] == "50.50 ± 0.71"  # 50 and 51
    assert rows["random"]["% of labels to 95 %"] == "≥ 20.0 (0 of 4)"
    assert "margin" in findings(records)[-1]
    assert list(sets_of(tasks)) == ["development", "targets: web", "mean"]


@pytest.mark.parametrize("ahead", [True, False])
def test_the_verdict_is_that_of_the_transfers_nothing_was_chosen_on(ahead: bool) -> None:
    """On development hybrid is the other way round; of 24 units all of one sign the smallest p is 2^-23."""
    chosen_on = GROUPS["development"]
    rivals = dict.fromkeys([*chosen_on, *CONFIRMATION], 0.6)
    own = dict.fromkeys(chosen_on, 0.5 if ahead else 0.7) | dict.fromkeys(CONFIRMATION, 0.7 if ahead else 0.5)
    records = fabricated(
        {"hybrid": own, "random": rivals, "margin": rivals, "aada": {**rivals, TASK: 0.61}}, seeds=(0, 1, 2, 3)
    )
    assert sets_of(tasks_in(records))["confirmation"] == list(CONFIRMATION) and len(CONFIRMATION) == 9
    by_domain, by_seed = ({test.a: test for test in comparison.tests} for comparison in confirmed(records))
    assert set(by_domain) == set(by_seed) == {"margin", "random"}  # aada is no rival
    assert by_domain["margin"].mean == by_seed["random"].mean == pytest.approx(-10 if ahead else 10)
    assert (by_domain["margin"].n, by_domain["margin"].p_holm) == (6, pytest.approx(2 * 2**-5))
    assert (by_seed["random"].n, by_seed["random"].p_holm) == (24, pytest.approx(2 * 2**-23))
    said = " ".join(findings(records))
    sign = "+" if ahead else "−"
    assert f"margin {sign}10.00 (6 targets;" in said and f"margin {sign}10.00* (24 targets" in said
    assert ("−10.00 (margin)" in said) is not ahead
    headers, lines = table_of(records)
    ranks = {line[0]: line[headers.index("rank, confirmation")] for line in lines}
    assert ranks["hybrid"] == ("1.0" if ahead else "4.0")


def test_ranks_of_equal_areas_are_shared() -> None:
    same = dict.fromkeys(CONFIRMATION, 0.6)
    cells = cells_of(fabricated({"random": same, "uherding": same, "hybrid": same}), "alc/target_test")
    assert set(mean_ranks(cells, CONFIRMATION).values()) == {2.0}


def test_leads_are_of_targets_and_rounds() -> None:
    """On scanned digits hybrid is behind in area, and everywhere after the second query."""
    tasks = [f"{TEN}a2d", f"{TEN}w2c", TASK]
    others = [task for task in tasks if task in CONFIRMATION]
    own = dict.fromkeys(tasks, 0.62) | {TASK: 0.55}
    records = fabricated({"hybrid": own, "margin": dict.fromkeys(tasks, 0.6), "aada": dict.fromkeys(tasks, 0.9)})
    for record in records:
        if record["method"] == "hybrid" and record.get("round") == 2:
            record["accuracy/target_test"] -= 0.1
    (lead,) = leads(records).values()  # aada is no rival
    assert lead["scanned digits"] == {0: pytest.approx(-5), 1: pytest.approx(-5)}
    mean = (2.0 * (len(others) - 1) - 5.0) / len(others)
    assert lead["at 10 %"] == {seed: pytest.approx(mean) for seed in (0, 1)}
    assert lead["at 20 %"] == {seed: pytest.approx(mean - 10) for seed in (0, 1)}
    headers, lines = table_of_leads(records)
    assert headers == ["hybrid over", *lead] and [line[0] for line in lines] == ["margin"]
    assert table_of_leads([record for record in records if record["method"] != "hybrid"])[1] == []


def test_the_report_is_made_of_records_alone(tmp_path: Path) -> None:
    tasks = [*GROUPS["development"], TASK]
    values = {m: {t: 0.5 + 0.02 * i + 0.001 * j for j, t in enumerate(tasks)} for i, m in enumerate(STRATEGIES)}
    write_text(tmp_path / "records.jsonl", to_lines(fabricated(values)))
    assert EXPERIMENT.write_report(tmp_path) == tmp_path / "report.html"
    first = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()[0]
    assert "7 transfers" in first and "hybrid 86.80 (1 of 19)" in first and "random 50.80 (19 of 19)" in first
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        rows = {(r["method"], r["task"], r["split"], r["metric"]): r for r in csv.DictReader(file)}
    assert float(rows["margin", "development", "test", "alc"]["mean"]) == pytest.approx(56.75)
    assert rows["margin", TASK, "test", "alc"]["mean"] == "57.1000"  # of the curve itself, by `records.alc`
    assert rows["hybrid", TASK, "test", "labels_to_95"]["mean"] == "10.0000"
    assert (tmp_path / "figures" / "development.png").is_file() and (tmp_path / "figures" / "digits.png").is_file()
    assert not (tmp_path / "figures" / "other_sources.png").exists()


# --- the trials -------------------------------------------------------------------------------------------------------


def test_the_ten_class_split_is_the_targets_and_the_seeds(data_folder: Path, tmp_path: Path) -> None:
    if not (data_folder / "office_caltech10").is_dir():
        pytest.skip("needs office_caltech10 in the data folder")
    place = Place(data=str(data_folder), images=str(tmp_path / "images"), image_size=16)
    first, other, later = (sides_of(place, TEN + name, seed) for name, seed in (("w2d", 0), ("a2d", 0), ("w2d", 1)))
    test = torch.tensor(first.transfer.target_test.indices)  # type: ignore[union-attr]
    assert torch.equal(first.pool, other.pool) and not torch.equal(first.pool, later.pool)
    assert len(test) == 48 == -(-157 * 3 // 10)  # 30 %, rounded up
    assert torch.equal(torch.cat([first.pool, test]).sort().values, torch.arange(157))
    assert torch.equal(first.transfer.target[3][0], first.whole[int(first.pool[3])][0])


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A start of a few steps on a few digits, and the arguments that its trials share."""
    folder = tmp_path_factory.mktemp("arena")
    place = {"data": str(folder), "images": str(folder / "images"), "samples": 120}
    shared = {"place": place, "task": TASK, "how": HOW, "trade_off": 1.0, "seed": 3}
    (folder / "start").mkdir()
    made = start(folder / "start", **shared, steps=6)
    assert made["sizes"] == {"source": 120, "target": 120, "target_test": 120}
    return folder, shared


@pytest.mark.parametrize("strategy", ["mmd_reduction", "random"])
def test_the_rounds_are_those_of_run_rounds(begun: tuple[Path, dict[str, Any]], tmp_path: Path, strategy: str) -> None:
    """What is asked, every accuracy, and so every weight, kernel and generator: as `python -m active run` has them."""
    folder, shared = begun
    mine = ask(folder / "x", **shared, start="start", strategy=strategy, budget=["3%", "3%", "6%"], steps_per_round=4)
    sides = sides_of(Place(**shared["place"]), TASK, 3)
    theirs = run_rounds(
        sides.transfer,
        strategy,
        RoundsConfig(budget=("3%", "3%", "6%"), steps_per_round=4, trade_off=1.0),
        start=folder / "start",
        seed=3,
        run=tmp_path / "run",
        config=load_train_config(TASK, HOW, 4),
        cache=True,
    )
    names = ("round", "labelled", "queried", "accuracy/target", "accuracy/unqueried", "accuracy/target_test")
    told = [{name: record[name] for name in names} for record in theirs]
    assert [{name: record[name] for name in names} for record in mine["evaluations"]] == told
    assert [record["labelled"] for record in told] == [0, 4, 8, 15]  # 3.6, 7.2 and 14.4, rounded up
    assert all("seconds/query" in record for record in mine["evaluations"][:-1])


def test_strategies_do_not_touch_the_start(begun: tuple[Path, dict[str, Any]]) -> None:
    folder, shared = begun
    common = {**shared, "start": "start", "strategy": "margin", "budget": ["5"], "steps_per_round": 3}
    first, again = (ask(folder / "x", **common)["evaluations"] for _ in range(2))
    kept = [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in first]
    assert kept == [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in again]


def test_all_labels_are_one_training_of_the_start_with_the_whole_pool(begun: tuple[Path, dict[str, Any]]) -> None:
    folder, shared = begun
    every = every_label(folder / "x", **shared, start="start", steps=3)
    pair, model = started(Place(**shared["place"]), TASK, folder / "start", 3)[2], load_model(folder / "start")
    config = replace(load_train_config(TASK, HOW, 3), schedule="constant")
    options: dict[str, Any] = {"steps": 3, "seed": derived_seed(3, 1), "trade_off": 1.0, "config": config}
    fit(model, pair.source, pair.target, labelled_target=pair.target, log_mmd=False, **options)
    start_at = model.cached_stages
    assert every == {f"accuracy/{k}": evaluate(model, v, start=start_at).accuracy for k, v in pair.splits.items()}
    assert set(every) == {"accuracy/target", "accuracy/target_test"}


def test_a_backbone_frozen_in_part_is_trained_above_that(data_folder: Path, tmp_path: Path) -> None:
    weights = data_folder / "weights" / "squeezenet1_1_caffe_as_torchvision.pth"
    if not (data_folder / "office_caltech10").is_dir() or not weights.is_file():
        pytest.skip("needs office_caltech10 and weights/squeezenet1_1_caffe_as_torchvision.pth in the data folder")
    config = Arena(data=data_folder, squeezenet_weights=str(weights), image_cache=tmp_path / "images", image_size=32)
    task = f"{TEN}w2d"
    assert arena.network_of(task, config) == "squeezenet1_1"
    config = replace(config, frozen="fire8", steps=2)
    assert (
        arena.network_of(task, config) == "squeezenet1_1-frozen-to-fire8" and arena.network_of(TASK, config) == "lenet"
    )
    begin = arena.start_of(task, 0, config)
    start(tmp_path / begin.name, **begin.arguments)
    before = data.network(
        Place(**begin.arguments["place"]), task, sides_of(Place(**begin.arguments["place"]), task, 0).transfer, 0
    )
    after = load_model(tmp_path / begin.name)
    assert list(after.stages)[after.cached_stages - 1] == "fire8"
    for name, stage in before.stages.items():
        same = [torch.equal(x, y) for x, y in zip(stage.parameters(), after.stages[name].parameters(), strict=True)]
        assert not any(same) if name == "fire9" else all(same), name
    asked = arena.trial_of(task, "margin", 0, replace(config, budget=("4",), steps_per_round=2))
    made = ask(tmp_path / asked.name, **asked.arguments)
    assert [record["labelled"] for record in made["evaluations"]] == [0, 4]


def test_views_kept_through_the_backbone_are_the_views(begun: tuple[Path, dict[str, Any]]) -> None:
    folder, shared = begun
    where = Place(**shared["place"])
    model, sides, _ = started(where, TASK, folder / "start", 3)
    mine = data.view_probabilities(model, data.views_of(where, TASK, folder / "start", 3))
    views = Views(VIEWS, mirror=False, generator=torch.Generator().manual_seed(VIEW_SEED))
    theirs = view_probabilities(load_model(folder / "start"), sides.transfer.target, views)
    assert mine.shape == theirs.shape == (120, VIEWS, 10)
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_views_as_a_data_set() -> None:
    x = torch.rand(3, 1, 12, 12)
    viewed = Viewed(TensorDataset(x, torch.tensor([5, 6, 7])), mirror=True)
    assert len(viewed) == 3 * VIEWS
    got, y = viewed.batch(torch.tensor([0, 2 * VIEWS + 3, VIEWS]))
    assert torch.equal(got[0], x[0]) and torch.equal(got[2], x[1]) and y.tolist() == [5, 7, 6]
    assert torch.equal(got[1], list(viewed.views(x))[3][2])
    assert viewed.fingerprint != Viewed(viewed.data, mirror=False).fingerprint


def test_a_tiny_run_is_done_once_and_its_records_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    flags = ["--quick", "--strategies", "random", "aift", "--steps", "2", "--steps-per-round", "1", "--samples", "100"]
    flags += ["--data", str(tmp_path), "--image-cache", str(tmp_path / "images"), "--out", str(out), "--quiet"]
    quick = running.reduced(tyro.cli(Arena, args=flags))
    for trial in with_prerequisites(
        [trial for cell in arena.cells(quick) for trial in cell.trials]
    ):  # as a worker would
        finished, result = _work(trial, out)
        assert finished, result
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/trial.json")}
    assert len(before) == 4
    assert run("experiments", "", {"arena": EXPERIMENT.command}, ["arena", *flags]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    records = read(out / "records.jsonl")
    for strategy in ("random", "aift"):
        own = [record for record in records if record["method"] == strategy]
        *curve, summary = own
        labels = [record["labels"] for record in curve]
        assert labels == [0, 1, 2, 5, 10, 20]
        assert [len(record.get("queried", [])) for record in curve] == [1, 1, 3, 5, 10, 0]
        pool = evenly(load_pair(TASK).target, 100)
        pictures = queried_images(curve[3])
        assert [picture.name for picture in pictures] == [str(int(pool[i][1])) for i in curve[3]["queried"]]
        for name in ("target_test", "unqueried"):
            values = [record[f"accuracy/{name}"] for record in curve]
            area = sum((labels[i + 1] - labels[i]) * (values[i] + values[i + 1]) / 2 for i in range(5)) / 20
            assert summary[f"alc/{name}"] == pytest.approx(area) == alc(labels, values)
        every = next(record for record in records if record["method"] == EVERY)
        assert every["labels"] == 100 and summary["goal"] == pytest.approx(0.95 * every["accuracy/target_test"])
        assert summary["budget"] == " ".join(BUDGET) and summary["seconds_a_query"] >= 0
    assert "Area under accuracy(labels)" in capsys.readouterr().out
