"""The command lines as a person types them: train, evaluate, rounds, the list of strategies, and mistakes."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from dan.run_folder import read_records

TINY = ["--steps", "12", "--device", "cpu", "--quiet"]


def door(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_train_evaluate_and_rounds(tmp_path: Path) -> None:
    trained = door("dan", "train", "rendered2digits", "--run", "mine", *TINY, cwd=tmp_path)
    assert (trained.returncode, trained.stdout, trained.stderr) == (0, "", "")
    measured = door("dan", "evaluate", "mine", cwd=tmp_path)
    last = read_records(tmp_path / "mine" / "records.jsonl")[-2]
    for split, count in (("source_test", 500), ("target", 1197), ("target_test", 600)):
        line = re.search(rf"^{split} +([\d.]+) % accuracy .* {count} samples$", measured.stdout, re.MULTILINE)
        assert line and float(line[1]) == pytest.approx(100 * last[f"accuracy/{split}"], abs=0.006)

    rounds = ["active", "run", "rendered2digits", "--strategy", "margin", "--budget", "2", "--rounds", "1"]
    rounds += ["--round-steps", "3", "--start", "mine", "--run", "rounds", "--device", "cpu"]
    asked = door(*rounds, cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert re.findall(r"^round (\d) +(\d+) labels", asked.stdout, re.MULTILINE) == [("0", "0"), ("1", "2")]
    again = door(*rounds, cwd=tmp_path)
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
    said = door("dan", "train", "--lamda", "1", cwd=tmp_path)
    assert said.returncode == 2 and said.stdout == ""
    assert len(said.stderr.splitlines()) == 1 and "--trade-off" in said.stderr


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m active run --help | head -n 1"
    said = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert said.stdout.startswith("usage: python -m active run") and said.stderr == ""


@pytest.mark.parametrize("package", ["dan", "active", "experiments"])
def test_help_lists_the_commands(tmp_path: Path, package: str) -> None:
    said = door(package, "--help", cwd=tmp_path)
    assert said.returncode == 0 and said.stderr == ""
    assert f"usage: python -m {package} COMMAND" in said.stdout


def test_every_strategy_is_listed(tmp_path: Path) -> None:
    from active import STRATEGIES

    said = door("active", "strategies", cwd=tmp_path)
    assert said.returncode == 0
    assert all(name in said.stdout for name in STRATEGIES)
