"""Every experiment of the list runs in its quick form, from the command line to the report, and resumes."""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from made_cifar10 import write_made
from test_dan_table1 import tree

from experiments.__main__ import EXPERIMENTS, main
from experiments.framework import trials
from experiments.framework.executors import Place
from experiments.framework.records import read

TREE = tree  # the fixture: a made tree in the layout of Office-31
WEIGHTS = ["--squeezenet-weights", "weights/squeezenet1_1_caffe_as_torchvision.pth"]
MADE = {"coreset_curve", "margin_sweep", "dan_table1"}  # on made images
EMBEDDED = {"demo", "approaches", "arena", "ablations", "active_adaptation", "num_kernels", "uncertainty_maps"}
EMBEDDED |= {"assessment_coverage", "validators"}
TEN_CLASS = {
    "lambda_sensitivity",
    "a_distance",
    "mmd_during_training",
    "semi_supervised",
    "frozen_layers",
    "label_shift",
}
LONG = {"dan_table2", *TEN_CLASS}  # half a minute and more
MORE = {
    **dict.fromkeys(TEN_CLASS, [*WEIGHTS, "--image-size", "64"]),
    "dan_table2": [*WEIGHTS, "--image-size", "64"],
    "dan_table1": ["--networks", "resnet50", "--resnet50-weights", "none", "--image-size", "32", "--steps", "2"],
    "coreset_curve": ["--pool", "200", "--test", "100", "--start", "40", "--budget", "40"],
    "margin_sweep": ["--pool", "200", "--test", "100", "--start", "40", "--budget", "40"],
}


class Here(Executor):
    """This process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **more))
        return future


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def here(_cluster: str | None, _workers: int) -> Iterator[Place]:
        yield Place(Here(), 1, lambda: None)

    monkeypatch.setattr(trials, "place_of", here)


@pytest.fixture
def data(name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the experiment is run on: nothing, made images, or the folder of real data (else the test is skipped)."""
    if name == "dan_table1":
        folder: Path = request.getfixturevalue("tree")
        return folder
    if name in MADE:
        return write_made(tmp_path / "data", monkeypatch)
    real: Path = tmp_path if name in EMBEDDED else request.getfixturevalue("data_folder")
    return real


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    "name",
    [pytest.param(e.name, marks=[pytest.mark.long] if e.name in LONG else []) for e in EXPERIMENTS],
)
def test_the_quick_form_runs_and_resumes(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--data", str(data), "--image-cache", str(tmp_path / "images"), "--quiet", *MORE.get(name, [])]
    words = ["run", name, "--quick", "--out", str(out), "--workers", "1", *flags]
    assert main(words) == 0, capsys.readouterr().err
    records = read(out)
    assert {record["experiment"] for record in records} == {name}
    for command in {record["command"] for record in records}:
        assert shlex.split(command)[:6] == ["python", "-m", "experiments", "run", name, "--quick"]
    with (out / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(math.isfinite(float(row["mean"])) for row in rows)
    assert f"`python -m experiments run {name} --quick" in (out / "table.md").read_text(encoding="utf-8")
    assert (out / "report.html").is_file()

    trained = {path: path.stat().st_mtime_ns for path in out.glob("*/trial.json")}
    table = (out / "table.csv").read_bytes()
    assert trained and main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/trial.json")} == trained
    assert (out / "table.csv").read_bytes() == table
