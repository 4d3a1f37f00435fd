"""The doors' common shape: help on stdout, one line on stderr for every mistake, exit codes, and bugs that show."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro

from dan.cli.command_line import Command, run
from dan.errors import UserError


@dataclass(frozen=True)
class Train:
    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """name of the transfer"""
    trade_off: float = 1.0
    """weight lambda of the MMD terms"""
    steps: int = 100
    """how many batches"""
    batch_size: int = 32
    """samples of a step"""
    quiet: bool = False
    layers: tuple[int, ...] = (64,)
    estimator: Literal["unbiased", "biased", "linear"] = "unbiased"


@dataclass(frozen=True)
class Nothing:
    pass


class Door:
    """A door that remembers what its functions were called with."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.outcome: int | None | BaseException = None

    def function(self, config: Any) -> int | None:
        self.seen.append(config)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def __call__(self, *argv: str) -> int:
        commands = {
            "train": Command(Train, self.function, "Train a network.\n\nOn two domains."),
            "evaluate": Command(Nothing, self.function, "Measure it."),
        }
        return run("python -m door", "What the door is for.", commands, argv)


@pytest.fixture
def door() -> Door:
    return Door()


def test_the_config_is_filled_from_the_command_line(door: Door) -> None:
    assert door("train", "a2w", "--trade-off", "-0.5", "--estimator", "linear", "--quiet", "--layers", "8", "4") == 0
    assert door.seen == [Train("a2w", trade_off=-0.5, estimator="linear", quiet=True, layers=(8, 4))]


def test_both_spellings_of_a_flag_are_the_same(door: Door) -> None:
    assert door("train", "a2w", "--trade-off", "2") == door("train", "a2w", "--trade_off=2") == 0
    assert door.seen[0] == door.seen[1] == Train("a2w", trade_off=2.0)


def test_what_the_function_returns_is_the_exit_code(door: Door) -> None:
    door.outcome = 3
    assert door("evaluate") == 3


def test_help_lists_the_commands_and_calls_nothing(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    assert door("--help") == 0
    out, err = capsys.readouterr()
    assert "What the door is for." in out
    assert [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  ")] == [
        ["train", "Train a network."],
        ["evaluate", "Measure it."],
    ]
    assert err == "" and door.seen == []


def test_no_command_is_a_mistake_answered_by_the_help(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    assert door() == 2
    out, err = capsys.readouterr()
    assert out == "" and "Measure it." in err


def test_help_of_a_command_tells_its_flags(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    assert door("train", "--help") == 0
    out, err = capsys.readouterr()
    for word in ("usage: python -m door train", "On two domains.", "TASK", "--trade-off", "weight lambda", "1.0"):
        assert word in out
    assert err == "" and door.seen == []


MISTAKES = {
    # by likeness of the name, by its beginning, and by a word of its help
    "train a2w --trade_of 1": "unknown flag --trade_of (did you mean --trade-off?)",
    "train a2w --est linear": "unknown flag --est (did you mean --estimator?)",
    "train a2w --step 3": "unknown flag --step (did you mean --steps?)",
    "train a2w --lamda=1": "unknown flag --lamda (did you mean --trade-off?)",
    "train --no-quite a2w": "unknown flag --no-quite (did you mean --no-quiet?)",
    "train a2w --zzz": (
        "unknown flag --zzz (flags: --trade-off, --steps, --batch-size, --quiet, --no-quiet, --layers, --estimator)"
    ),
    "evaluate --zzz": "unknown flag --zzz (this command has no flags)",
    "train a2w --steps abc": '--steps: "abc" is not a whole number',
    "train a2w --trade-off abc": '--trade-off: "abc" is not a number',
    "train a2w --layers 1 x": "--layers: cannot read '1', 'x' (see python -m door train --help)",
    "train a2w --steps": "--steps needs a value",
    "train --steps 3": "missing TASK (see python -m door train --help)",
    "train a2w w2a": "unexpected argument w2a (see python -m door train --help)",
    "train a2w --estimator unbiasd": (
        '--estimator: "unbiasd" is not one of unbiased, biased, linear (did you mean "unbiased"?)'
    ),
    "train a2w --estimator zz": '--estimator: "zz" is not one of unbiased, biased, linear',
}


@pytest.mark.parametrize("columns", ["30", "300"])
@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_one_line(
    door: Door, line: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    command, *_ = line.split()
    assert door(*line.split()) == 2
    out, err = capsys.readouterr()
    assert err == f"python -m door {command}: {MISTAKES[line]}\n"
    assert out == "" and door.seen == []
    assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize(
    ("word", "hint"),
    [("trian", '(did you mean "train"?)'), ("zzz", "(commands: train, evaluate)"), ("--steps", "(commands:")],
)
def test_an_unknown_command_is_told_in_one_line(
    door: Door, word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert door(word, "a2w") == 2
    err = capsys.readouterr().err
    assert err.startswith(f'python -m door: unknown command "{word}" {hint}') and err.count("\n") == 1


def test_a_user_error_is_told_in_one_line(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.outcome = UserError("no such folder: make it first")
    assert door("evaluate") == 2
    assert capsys.readouterr().err == "python -m door evaluate: no such folder: make it first\n"


def test_torchrun_is_refused_where_all_processes_would_do_the_same(
    door: Door, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert door("evaluate") == 2
    assert capsys.readouterr().err == (
        "python -m door evaluate: this is of one process: start it without torchrun "
        "(python -m dan train takes several)\n"
    )
    assert door.seen == []
    shared = {"train": Command(Nothing, door.function, "Train.", processes=True)}
    assert run("python -m door", "", shared, ["train"]) == 0
    assert door.seen == [Nothing()]


def test_ctrl_c_says_how_to_go_on(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.outcome = KeyboardInterrupt()
    assert door("evaluate") == 130
    assert capsys.readouterr().err == "interrupted: run the same command again to go on\n"


@pytest.mark.parametrize("bug", [ValueError("bad shape"), KeyError("x")])
def test_a_bug_shows(door: Door, bug: Exception) -> None:
    door.outcome = bug
    with pytest.raises(type(bug)):
        door("evaluate")


def test_a_door_as_a_process(tmp_path: Path) -> None:
    """Exit codes and streams as a shell sees them, in a locale without box-drawing characters."""
    (tmp_path / "door.py").write_text(
        "import sys\n"
        "from dataclasses import dataclass\n"
        "from dan.cli.command_line import Command, run\n"
        "@dataclass\n"
        "class Config:\n"
        "    steps: int = 1  # how many\n"
        "def show(config):\n"
        "    print(config.steps)\n"
        "sys.exit(run('python -m door', 'A door.', {'show': Command(Config, show, 'Show it.')}))\n"
    )

    def door(*argv: str) -> tuple[int, str, str]:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "LC_ALL": "C", "PYTHONUTF8": "0"}
        command = [sys.executable, "-m", "door", *argv]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    assert door("show", "--steps", "7") == (0, "7\n", "")
    assert door("show", "--stesp", "7") == (
        2,
        "",
        "python -m door show: unknown flag --stesp (did you mean --steps?)\n",
    )
    code, out, err = door("show", "--help")
    assert code == 0 and "--steps" in out and "how many" in out and err == ""
