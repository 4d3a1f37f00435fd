"""A door: subcommands whose flags are the fields of a dataclass, and whose complaints are one line each.

tyro turns the dataclass into flags and help. What it says about a wrong command line (boxes, several lines) is read
back from its public output and said again in one line, with the nearest name that would have been right.
"""

import contextlib
import difflib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from dan.errors import UserError, nearest

MISUSE = 2  # exit code of a mistake in the input, as in argparse
PIPE_CLOSED = 141  # what a shell reports for a process that the closed pipe ended: 128 + SIGPIPE
# What a disk says that is full, broken, or shut: nothing here can mend it, and it is no bug.
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
INTERRUPTED = 130  # exit code of Ctrl-C, as in a shell: 128 + SIGINT


@dataclass(frozen=True)
class Command:
    """One subcommand: `function(config)` with `config` (a dataclass) filled from the command line.

    `help`: its first line stands in the door's list of commands, all of it opens `COMMAND --help`. `processes`: whether
    it shares its work among the processes that torchrun starts; else it is refused there, as all would do the same.
    """

    config: Any
    function: Callable[[Any], int | None]
    help: str
    preset: Callable[[Sequence[str]], Any] | None = None  # argv -> the config whose values are the defaults
    processes: bool = False


def run(prog: str, description: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that `argv` (default: sys.argv[1:]) names; the exit code.

    0, or what the function returns; 2 after a mistake in the input (a wrong command line, or UserError from the
    function) and for a disk that is full or may not be written, told in one line on stderr; 130 after Ctrl-C; 141 when
    the output's reader is gone. Any other exception is a bug and passes through.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_overview(prog, description, commands), file=sys.stdout if words else sys.stderr)
        return 0 if words else MISUSE
    name = words[0]
    if name not in commands:
        hint = nearest(name, commands) or f" (commands: {', '.join(commands)})"
        print(f'{prog}: unknown command "{name}"{hint}', file=sys.stderr)
        return MISUSE
    command = commands[name]
    prog = f"{prog} {name}"
    try:
        default = command.preset(words[1:]) if command.preset else None
        config = _parse(command, prog, words[1:], default)
        if config is not None and not command.processes and os.environ.get("WORLD_SIZE", "1") != "1":
            raise UserError("this is of one process: start it without torchrun (python -m dan train takes several)")
        return 0 if config is None else command.function(config) or 0
    except UserError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return MISUSE
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader has seen enough, as `| head` does
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # or Python complains when it flushes at the end
            return PIPE_CLOSED
        if error.errno not in OF_THE_DISK:
            raise
        print(f"{prog}: {_told(error)}: make room, or mend that, and run the same command again", file=sys.stderr)
        return MISUSE
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return INTERRUPTED


def _told(error: OSError) -> str:
    place = "the disk" if error.filename is None else str(error.filename)
    return f"{place} cannot be used ({error.strerror or error})"


def _overview(prog: str, description: str, commands: Mapping[str, Command]) -> str:
    width = max(map(len, commands))
    rows = [f"  {name:<{width}}  {command.help.strip().splitlines()[0]}" for name, command in commands.items()]
    usage = [f"usage: {prog} COMMAND [OPTIONS]", "", description.strip(), "", "commands:"]
    return "\n".join([*usage, *rows, "", f"{prog} COMMAND --help lists the options of a command."])


def _parse(command: Command, prog: str, argv: list[str], default: Any = None) -> Any:
    """The filled config, or None when help was asked for and printed. Raises UserError for a wrong command line."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            given = {} if default is None else {"default": default}
            return tyro.cli(command.config, prog=prog, description=command.help, args=argv, **given)
    except SystemExit as stop:
        if not stop.code:
            return None
    raise UserError(_complaint(command.config, prog, argv))


def _complaint(config: Any, prog: str, argv: list[str]) -> str:
    """What is wrong with `argv`, in one line."""
    flags = _flags(config)
    for word in argv:
        flag = word.split("=")[0].replace("_", "-")
        if re.match(r"--?[A-Za-z]", word) and flag not in flags:
            return f"unknown flag {word.split('=')[0]}{_nearest_flag(flag, flags)}"
    # The rows of tyro's box up to its first rule: what follows is help that `--help` tells better.
    box = _tyro_says(config, prog, argv)
    rows = re.findall(r"^│ (.*?)\s*│$", re.split(r"^│ ─+ │$", box, flags=re.MULTILINE)[0], flags=re.MULTILINE)
    text = " ".join(" ".join(rows).split())
    if choice := re.search(r"invalid choice '(.*)' for argument '(.*?)'. Expected one of \((.*?),?\)\.?$", text):
        value, name, listed = choice.groups()
        choices = [word.strip("' ") for word in listed.split(",")]
        return f'{name}: "{value}" is not one of {", ".join(choices)}{nearest(value, choices)}'
    if value := re.search(r"Error parsing (.*?): (?:invalid literal for int.*|could not convert.*): '(.*)'$", text):
        return f'{value[1]}: "{value[2]}" is not a {"whole number" if "for int" in text else "number"}'
    if values := re.search(r"Error parsing (.*?): Could not find valid parse for arguments: \[(.*)\]$", text):
        return f"{values[1]}: cannot read {values[2]} (see {prog} --help)"
    if text.startswith("Missing from"):
        # Indented: each missing argument, and deeper what it is.
        names = [row.strip() for row in rows if re.match(r" {4}\S", row)]
        return f"missing {' and '.join(names)} (see {prog} --help)"
    if value := re.match(r"Missing value for argument '(.*?)'", text):
        return f"{value[1]} needs a value"
    if extra := re.match(r"Unrecognized options: (.*)", text):
        return f"unexpected argument {extra[1]} (see {prog} --help)"
    own = f"Error parsing {getattr(config, '__name__', '')}: "  # of a dataclass that refuses its values
    return text.removeprefix(own).removeprefix("Error parsing ") or f"wrong arguments (see {prog} --help)"


def _flags(config: Any) -> dict[str, str]:
    """Every flag of the config with its help text, as tyro's `--help` lists them."""
    flags: dict[str, str] = {}
    row: list[str] = []
    # At 80 columns tyro sets its boxes one below the other; in a wider terminal, side by side.
    for line in _tyro_says(config, "", ["--help"], columns=80).splitlines():
        if line.startswith("│ -"):
            row = re.findall(r"(?:(?<=^│ )|(?<=, ))--?[A-Za-z][\w.-]*", line)
        for flag in row:
            flags[flag] = f"{flags.get(flag, '')} {line.strip('│ ')}"
    return flags


def _nearest_flag(flag: str, flags: Mapping[str, str]) -> str:
    """The valid flag closest to `flag`: by its name, or by a word of its help (--lambda finds the trade-off lambda)."""

    def likeness(known: str) -> float:
        word = flag.strip("-")
        by_name = difflib.SequenceMatcher(None, word, known.strip("-")).ratio()
        by_start = 0.8 if known.strip("-").startswith(word) else 0.0
        # Words of the flag's own help only, and only when nearly equal: help is prose.
        words = re.findall(r"[a-z]{4,}", flags[known].replace(known, "").lower())
        by_help = max((difflib.SequenceMatcher(None, word, other).ratio() for other in words), default=0.0)
        return max(by_name, by_start, 0.7 * by_help if by_help >= 0.8 else 0.0)

    best = max(flags, key=likeness, default="")
    if best and likeness(best) >= 0.5:
        return f" (did you mean {best}?)"
    valid = [known for known in flags if known.startswith("--") and known != "--help"]
    return f" (flags: {', '.join(valid)})" if valid else " (this command has no flags)"


def _tyro_says(config: Any, prog: str, argv: list[str], *, columns: int = 10_000) -> str:
    """All that tyro prints for `argv`, without colours, in a terminal so many columns wide (wide: nothing wraps)."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="utf-8")  # tyro draws its boxes in ASCII for any other encoding
    with _terminal_width(columns), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        with contextlib.suppress(SystemExit):
            tyro.cli(config, prog=prog, args=argv)
        out.flush()
    return re.sub(r"\x1b\[[0-9;]*m", "", raw.getvalue().decode())


@contextlib.contextmanager
def _terminal_width(columns: int) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(columns)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
