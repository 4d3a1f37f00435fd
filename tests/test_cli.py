"""What all command lines share: help on stdout, one line on stderr for every mistake, exit codes, visible bugs."""

import io
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro

import dan
from dan.cli.command_line import Command, run
from dan.cli.flag_errors import ALIASES, flags_of, suggest_flag
from dan.cli.train_options import Train as TrainFlags
from dan.data.paths import cache_folder, data_folder
from dan.errors import UserError
from dan.progress import Progress

ROOT = Path(__file__).resolve().parents[1]


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
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class Nothing:
    pass


class CommandLine:
    """A command line that remembers the configs that its functions were called with."""

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
        return run("python -m cli", "What it is for.", commands, argv)


@pytest.fixture
def cli() -> CommandLine:
    return CommandLine()


def test_the_config_is_filled_from_the_command_line(cli: CommandLine) -> None:
    assert cli("train", "a2w", "--trade-off", "-0.5", "--estimator", "linear", "--quiet", "--layers", "8", "4") == 0
    assert cli.seen == [Train("a2w", trade_off=-0.5, estimator="linear", quiet=True, layers=(8, 4))]


def test_both_spellings_of_a_flag_are_the_same(cli: CommandLine) -> None:
    assert cli("train", "a2w", "--trade-off", "2") == cli("train", "a2w", "--trade_off=2") == 0
    assert cli.seen[0] == cli.seen[1] == Train("a2w", trade_off=2.0)


def test_what_the_function_returns_is_the_exit_code(cli: CommandLine) -> None:
    cli.outcome = 3
    assert cli("evaluate") == 3


def test_help_lists_the_commands_and_calls_nothing(cli: CommandLine, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--help") == 0
    out, err = capsys.readouterr()
    assert "What it is for." in out
    assert [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  ")] == [
        ["train", "Train a network."],
        ["evaluate", "Measure it."],
    ]
    assert err == "" and cli.seen == []


def test_no_command_is_a_mistake_answered_by_the_help(cli: CommandLine, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli() == 2
    out, err = capsys.readouterr()
    assert out == "" and "Measure it." in err


def test_help_of_a_command_tells_its_flags(cli: CommandLine, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("train", "--help") == 0
    out, err = capsys.readouterr()
    for word in ("usage: python -m cli train", "On two domains.", "TASK", "--trade-off", "weight lambda", "1.0"):
        assert word in out
    assert err == "" and cli.seen == []


MISTAKES = {
    # by similarity of the name, by its beginning, and by the name in other programs
    "train a2w --trade_of 1": "unknown flag --trade_of (did you mean --trade-off?)",
    "train a2w --est linear": "unknown flag --est (did you mean --estimator?)",
    "train a2w --step 3": "unknown flag --step (did you mean --steps?)",
    "train a2w --lamda=1": "unknown flag --lamda (did you mean --trade-off?)",
    "train --no-quite a2w": "unknown flag --no-quite (did you mean --no-quiet?)",
    "train a2w --zzz": "unknown flag --zzz (see python -m cli train --help)",
    "train a2w --gpu 0": "unknown flag --gpu (did you mean --device?)",
    "train a2w --device gpu": '--device: "gpu" is not one of auto, cpu, cuda (did you mean "cuda"?)',
    "train a2w --epochs 3": "unknown flag --epochs (did you mean --steps?)",
    # Another program's name, for which this command has no flag.
    "train a2w --num-workers 3": "unknown flag --num-workers (see python -m cli train --help)",
    "train a2w --l 3": "unknown flag --l (see python -m cli train --help)",
    "train a2w --no 3": "unknown flag --no (see python -m cli train --help)",
    "evaluate --zzz": "unknown flag --zzz (this command has no flags)",
    "train a2w --steps abc": '--steps: "abc" is not a whole number',
    "train a2w --trade-off abc": '--trade-off: "abc" is not a number',
    "train a2w --layers 1 x": "--layers: cannot read '1', 'x' (see python -m cli train --help)",
    "train a2w --steps": "--steps needs a value",
    "train --steps 3": "missing TASK (see python -m cli train --help)",
    "train a2w w2a": "unexpected argument w2a (see python -m cli train --help)",
    "train a2w --estimator unbiasd": (
        '--estimator: "unbiasd" is not one of unbiased, biased, linear (did you mean "unbiased"?)'
    ),
    "train a2w --estimator zz": '--estimator: "zz" is not one of unbiased, biased, linear',
}


@pytest.mark.parametrize("columns", ["30", "300"])
@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_one_line(
    cli: CommandLine, line: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    command, *_ = line.split()
    assert cli(*line.split()) == 2
    out, err = capsys.readouterr()
    assert err == f"python -m cli {command}: {MISTAKES[line]}\n"
    assert out == "" and cli.seen == []
    assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize(
    ("word", "hint"),
    [("trian", '(did you mean "train"?)'), ("zzz", "(commands: train, evaluate)"), ("--steps", "(commands:")],
)
def test_an_unknown_command_is_told_in_one_line(
    cli: CommandLine, word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(word, "a2w") == 2
    err = capsys.readouterr().err
    assert err.startswith(f'python -m cli: unknown command "{word}" {hint}') and err.count("\n") == 1


def test_a_user_error_is_told_in_one_line(cli: CommandLine, capsys: pytest.CaptureFixture[str]) -> None:
    cli.outcome = UserError("no such folder: make it first")
    assert cli("evaluate") == 2
    assert capsys.readouterr().err == "python -m cli evaluate: no such folder: make it first\n"


def test_torchrun_is_refused_where_all_processes_would_do_the_same(
    cli: CommandLine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli("evaluate") == 2
    assert capsys.readouterr().err == (
        "python -m cli evaluate: runs in one process: start it without torchrun "
        "(python -m dan train takes several processes)\n"
    )
    assert cli.seen == []
    shared = {"train": Command(Nothing, cli.function, "Train.", processes=True)}
    assert run("python -m cli", "", shared, ["train"]) == 0
    assert cli.seen == [Nothing()]


def test_ctrl_c_says_how_to_continue(cli: CommandLine, capsys: pytest.CaptureFixture[str]) -> None:
    cli.outcome = KeyboardInterrupt()
    assert cli("evaluate") == 130
    assert capsys.readouterr().err == "interrupted: run the same command again to continue\n"


@pytest.mark.parametrize("bug", [ValueError("bad shape"), KeyError("x")])
def test_a_bug_shows(cli: CommandLine, bug: Exception) -> None:
    cli.outcome = bug
    with pytest.raises(type(bug)):
        cli("evaluate")


def test_a_command_line_as_a_process(tmp_path: Path) -> None:
    """Exit codes and streams as a shell sees them, in a locale without box-drawing characters."""
    (tmp_path / "cli.py").write_text(
        "import sys\n"
        "from dataclasses import dataclass\n"
        "from dan.cli.command_line import Command, run\n"
        "@dataclass\n"
        "class Config:\n"
        "    steps: int = 1  # how many\n"
        "def show(config):\n"
        "    print(config.steps)\n"
        "sys.exit(run('python -m cli', 'A command line.', {'show': Command(Config, show, 'Show it.')}))\n"
    )

    def cli(*argv: str) -> tuple[int, str, str]:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "LC_ALL": "C", "PYTHONUTF8": "0"}
        command = [sys.executable, "-m", "cli", *argv]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    assert cli("show", "--steps", "7") == (0, "7\n", "")
    assert cli("show", "--stesp", "7") == (
        2,
        "",
        "python -m cli show: unknown flag --stesp (did you mean --steps?)\n",
    )
    code, out, err = cli("show", "--help")
    assert code == 0 and "--steps" in out and "how many" in out and err == ""


def test_the_version(cli: CommandLine, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--version") == 0
    assert capsys.readouterr().out == f"active-dan {dan.__version__}\n" and cli.seen == []


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--learning-rate", "--lr"),
        ("--rate", "--lr"),
        ("--model", "--backbone"),
        ("--arch", "--backbone"),
        ("--pretrained", "--weights"),
        ("--output", "--run"),
        ("--out", "--run"),
        ("--output-dir", "--run"),
        ("--resume", "--run"),
        ("--gpu", "--device"),
        ("--cuda", "--device"),
        ("--epochs", "--steps"),
        ("--lambda", "--trade-off"),
        ("--lamda", "--trade-off"),
        ("--batch", "--batch-size"),
        ("--wd", "--weight-decay"),
        ("--img-size", "--image-size"),
        ("--dataset", "--data"),
        ("--sed", "--seed"),
        ("--targt", "--target"),
    ],
)
def test_names_of_other_programs_and_misspelt_flags_are_understood(typed: str, meant: str) -> None:
    assert suggest_flag(typed, flags_of(TrainFlags), "p") == f" (did you mean {meant}?)"


@pytest.mark.parametrize("typed", ["--zebra", "--qqqq", "--fold", "--x"])
def test_no_flag_is_suggested_without_a_good_likeness(typed: str) -> None:
    assert suggest_flag(typed, flags_of(TrainFlags), "p") == " (see p --help)"


def test_every_alias_stands_for_a_flag_that_some_command_has() -> None:
    from active.__main__ import COMMANDS as ACTIVE
    from dan.__main__ import COMMANDS as DAN

    flags = {flag for command in [*DAN.values(), *ACTIVE.values()] for flag in flags_of(command.config)}
    unknown = {flag for meant in ALIASES.values() for flag in meant} - flags
    assert unknown <= {"--num-workers"}  # of the training's data loader
    assert not {f"--{alias}" for alias in ALIASES} & set(flags_of(DAN["train"].config)) - {"--num-workers"}


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_missing_stream_is_no_error(
    cli: CommandLine, closed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a console (pythonw) sys.stdout and sys.stderr are None."""
    monkeypatch.setattr(sys, closed, None)
    assert cli("train", "--zzz") == 2
    assert cli("--help") == 0
    assert cli("train", "--help") == 0
    with getattr(sys, closed) as replacement:
        assert not replacement.isatty()


def test_a_progress_bar_without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Progress("training", 2) as bar:
        bar.advance()
        assert not bar.wants_note()


@pytest.mark.parametrize("errors", ["strict", "backslashreplace"])
def test_letters_that_an_encoding_lacks_are_replaced(
    cli: CommandLine, errors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252", errors=errors))
    cli.function = lambda config: print("кот, chat, 猫: é")  # type: ignore[method-assign,func-returns-value,assignment]
    assert cli("evaluate") == 0
    sys.stdout.flush()
    shown = raw.getvalue().decode("cp1252")
    assert "chat" in shown and "é" in shown
    assert errors != "strict" or shown.split() == ["???,", "chat,", "?:", "é"]


INTERRUPT = """
import runpy, signal, sys
class InterruptOnImport:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, InterruptOnImport())
sys.argv = ["python -m", *{words!r}]
runpy.run_module({package!r}, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("package", "words", "module"),
    [
        ("dan", ["train", "--help"], "tyro"),
        ("dan", ["train", "rendered2digits", "--steps", "1"], "torch"),
        ("active", ["strategies"], "active.cli.run"),
    ],
)
def test_ctrl_c_during_imports_is_one_line(package: str, words: list[str], module: str, tmp_path: Path) -> None:
    code = INTERRUPT.format(module=module, words=words, package=package)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted: run the same command again to continue\n"


HEAVY = ("torch", "sklearn", "matplotlib", "scipy", "numpy", "PIL")
HELP = """
import sys
sys.argv = ["python -m", *{words!r}]
from {package}.__main__ import main
assert main() == 0
print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("package", "command"),
    [("dan", command) for command in ("", "train", "evaluate", "predict", "export", "compare")]
    + [("active", command) for command in ("", "run", "select", "label", "explain", "strategies")],
)
def test_help_imports_nothing_heavy(package: str, command: str, tmp_path: Path) -> None:
    code = HELP.format(words=[*filter(None, [command]), "--help"], package=package, heavy=HEAVY)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout.startswith("usage:")
    assert done.stderr == "[]\n"


def cpu_seconds(*words: str) -> float:
    """User and system time of a Python process, the least of three."""
    resource = pytest.importorskip("resource", reason="processor time of a child process is measured on POSIX only")

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *words], env=environment, capture_output=True, check=True, timeout=300)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(3))


def test_help_costs_no_more_than_a_few_imports_of_tyro() -> None:
    """0.2 s and less on an idle machine; against the import of tyro alone, which a busy machine slows down as much."""
    tyro_alone = cpu_seconds("-c", "import tyro")
    assert cpu_seconds("-m", "dan", "--help") < 2 * tyro_alone
    assert cpu_seconds("-m", "dan", "train", "--help") < 3.5 * tyro_alone
    assert cpu_seconds("-m", "active", "run", "--help") < 3.5 * tyro_alone


def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME whose id the system does not know, as in some containers."""
    pwd = pytest.importorskip("pwd", reason="only POSIX systems have users without a home folder")

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "ACTIVE_DAN_DATA"):
        monkeypatch.delenv(name, raising=False)


def test_a_user_without_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_home(monkeypatch)
    with pytest.raises(RuntimeError):
        Path.home()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = tmp_path / f"active-dan-{os.getuid()}"
    assert (data_folder(), cache_folder()) == (own / "data", own / "images")
    assert (data_folder(tmp_path), cache_folder(tmp_path / "new")) == (tmp_path, tmp_path / "new")
    for folder in (data_folder, cache_folder):
        with pytest.raises(UserError, match="no home folder: name the folder without ~"):
            folder("~/data")


def test_labels_of_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from active.cli.label import current_user

    no_home(monkeypatch)
    assert current_user() == "unknown"
