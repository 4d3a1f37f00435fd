"""The command lines as a person types them: train, evaluate, rounds, the list of strategies, and mistakes."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from dan.cli.train import low_information_warning, preset
from dan.cli.train_options import recipe_summary
from dan.run_dir import read_records
from dan.training.config import RECIPES

TINY = ["--steps", "12", "--device", "cpu", "--quiet"]


def call(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_train_evaluate_and_rounds(tmp_path: Path) -> None:
    trained = call("dan", "train", "rendered2digits", "--run", "mine", *TINY, cwd=tmp_path)
    assert (trained.returncode, trained.stdout, trained.stderr) == (0, "", "")
    measured = call("dan", "evaluate", "mine", cwd=tmp_path)
    last = read_records(tmp_path / "mine" / "records.jsonl")[-2]
    for split, count in (("source_test", 500), ("target", 1197), ("target_test", 600)):
        line = re.search(rf"^{split} +([\d.]+) % accuracy .* {count} samples$", measured.stdout, re.MULTILINE)
        assert line and float(line[1]) == pytest.approx(100 * last[f"accuracy/{split}"], abs=0.006)

    rounds = ["active", "run", "rendered2digits", "--strategy", "margin", "--budget", "2", "--rounds", "1"]
    rounds += ["--steps-per-round", "3", "--start", "mine", "--run", "rounds", "--device", "cpu"]
    asked = call(*rounds, cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert re.findall(r"^round (\d) +(\d+) labels", asked.stdout, re.MULTILINE) == [("0", "0"), ("1", "2")]
    again = call(*rounds, cwd=tmp_path)
    assert again.stdout == asked.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["dan", "train", "rendered2digit"], r'unknown task "rendered2digit".*rendered2digits'),
        (["dan", "train", "--lamda", "1"], r"unknown flag --lamda.*--trade-off"),
        (["dan", "trian"], r'unknown command "trian".*train'),
        (["dan", "train", "--steps", "many"], r"--steps.*many"),
        (["dan", "train", "--backbone", "lennet"], r'unknown backbone.*"lenet"'),
        (["dan", "train", "--device", "gpu"], r"--device.*gpu"),
        (["dan", "evaluate", "nowhere"], "does not exist"),
        (["active", "run", "--strategy", "margn"], r'"margin"'),
        (["active", "run", "--strategy", "no_module:function"], "no_module"),
        (["experiments", "run", "demmo"], r'"?demo"?'),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["python -m", *words[1:]])
    code = import_module(f"{words[0]}.__main__").main()
    said = capsys.readouterr()
    assert code == 2 and said.out == ""
    assert len(said.err.splitlines()) == 1 and re.search(line, said.err), said.err
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_a_real_process(tmp_path: Path) -> None:
    said = call("dan", "train", "--lamda", "1", cwd=tmp_path)
    assert said.returncode == 2 and said.stdout == ""
    assert len(said.stderr.splitlines()) == 1 and "--trade-off" in said.stderr


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m active run --help | head -n 1"
    said = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert said.stdout.startswith("usage: python -m active run") and said.stderr == ""


@pytest.mark.parametrize("package", ["dan", "active", "experiments"])
def test_help_lists_the_commands(tmp_path: Path, package: str) -> None:
    said = call(package, "--help", cwd=tmp_path)
    assert said.returncode == 0 and said.stderr == ""
    assert f"usage: python -m {package} COMMAND" in said.stdout


def test_every_strategy_is_listed(tmp_path: Path) -> None:
    from active import STRATEGIES

    said = call("active", "strategies", cwd=tmp_path)
    assert said.returncode == 0
    assert all(name in said.stdout for name in STRATEGIES)


def test_a_runs_own_weights_keep_the_defaults_it_was_trained_with(tmp_path: Path) -> None:
    assert preset(["--weights", str(tmp_path)]).recipe == "small"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "small"),
        (["--weights", "none"], "small"),
        (["--weights", "DEFAULT"], "pretrained"),
        (["--weights=backbone.pth"], "pretrained"),
        (["--weights", "backbone.pth", "--recipe", "small"], "small"),
        (["--recipe=dan-resnet", "--weights", "backbone.pth"], "dan-resnet"),
    ],
)
def test_published_weights_have_defaults_of_their_own(words: list[str], name: str) -> None:
    """Where --recipe says nothing: the rate of a small network from scratch kills new layers on such features."""
    given, named = preset(words), RECIPES[name]
    assert (given.recipe, given.lr, given.trade_off, given.steps) == (
        name,
        named.recipe.lr,
        named.trade_off,
        named.steps,
    )
    assert RECIPES["pretrained"].recipe.lr < RECIPES["small"].recipe.lr


def test_a_network_that_learned_nothing_is_told_of() -> None:
    """Whatever its accuracy: by what its predictions say of the target, of at most log C."""
    little = 0.2 * math.log(10)
    assert low_information_warning({"label_free/information": little + 1e-6}, 10, 0.01) == ""
    assert low_information_warning({}, 10, 0.01) == ""
    told = low_information_warning({"label_free/information": -1e-9, "accuracy/target": 0.9}, 10, 0.01)
    assert "information 0.00 of 2.30" in told and "lower --lr than 0.01" in told and "\n" not in told


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "recipe small: lr 0.01, trade-off 3, 1000 steps"),
        (["--weights", "DEFAULT"], "recipe pretrained: lr 0.0003, trade-off 1, 500 steps"),
        (["--recipe", "dan-resnet"], "recipe dan-resnet: lr 0.0003, trade-off 1, 10000 steps"),
    ],
)
def test_the_recipe_in_a_line(words: list[str], line: str) -> None:
    assert recipe_summary(preset(words)) == line


def test_what_overrides_the_recipe_is_in_its_line() -> None:
    config = replace(preset([]), lr=0.1, steps=7, feature_map=False, align=("hidden1", "output"))
    overridden = "--lr 0.1 --align hidden1 output --no-feature-map --steps 7"
    assert recipe_summary(config) == f"recipe small with {overridden}: lr 0.1, trade-off 3, 7 steps"


def test_the_run_prints_its_recipe_and_a_command_that_a_shell_reads_back(tmp_path: Path) -> None:
    done = call("dan", "train", "--steps", "2", "--device", "cpu", "--run", "my run", "--no-feature-map", cwd=tmp_path)
    first, *_, last = done.stdout.splitlines()
    assert first == "recipe small with --no-feature-map --steps 2: lr 0.01, trade-off 3, 2 steps"
    assert last == "run: my run  (tensorboard --logdir 'my run')"
