"""A command line of subcommands: each one's flags are the fields of a dataclass, and each mistake is one line.

tyro turns the dataclass into flags and help; `dan.cli.flag_errors` writes the message for a wrong command line.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

import dan
from dan.cli.flag_errors import usage_error
from dan.cli.interrupts import INTERRUPTED, MESSAGE
from dan.cli.streams import prepare_streams
from dan.errors import UserError, nearest

MISUSE = 2  # exit code of a mistake in the input, as in argparse
PIPE_CLOSED = 141  # what a shell reports for a process that a closed pipe ended: 128 + SIGPIPE
# The disk is full, broken or not writable: no bug of the program, and nothing that it could repair.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Command:
    """One subcommand: `function(config)` with `config` (a dataclass) filled from the command line.

    `help`: its first line is in the list of commands, all of it opens `COMMAND --help`. `preset`: from the arguments to
    the config whose values are the defaults. `processes`: whether it shares its work among the processes that torchrun
    starts; else it is refused there, as all would do the same.
    """

    config: Any
    function: Callable[[Any], int | None]
    help: str
    preset: Callable[[Sequence[str]], Any] | None = None
    processes: bool = False


def run(prog: str, description: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that `argv` (default: sys.argv[1:]) names; the exit code.

    0, or what the function returns; 2 after a mistake in the input (a wrong command line, or UserError from the
    function) and for a disk that is full or not writable, reported in one line on stderr; 130 after Ctrl-C; 141 when
    the reader of the output is gone. Any other exception is a bug and passes through.
    """
    prepare_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_overview(prog, description, commands), file=sys.stdout if words else sys.stderr)
        return 0 if words else MISUSE
    name = words[0]
    if name == "--version":
        print(f"active-dan {dan.__version__}")
        return 0
    if name not in commands:
        hint = nearest(name, commands) or f" (commands: {', '.join(commands)})"
        print(f'{prog}: unknown command "{name}"{hint}', file=sys.stderr)
        return MISUSE
    try:
        return _run_command(commands[name], f"{prog} {name}", words[1:])
    except UserError as error:
        print(f"{prog} {name}: {error}", file=sys.stderr)
        return MISUSE
    except BrokenPipeError:  # the reader has seen enough, as `| head` does
        # Else Python complains when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"{prog} {name}: {_disk_message(error)}", file=sys.stderr)
        return MISUSE
    except KeyboardInterrupt:
        print(MESSAGE, file=sys.stderr)
        return INTERRUPTED


def parse_flags(command: Command, prog: str, argv: list[str]) -> Any:
    """The filled config, or None after `--help`, which is printed. Raises UserError for a wrong command line."""
    given = {"default": command.preset(argv)} if command.preset else {}
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(command.config, prog=prog, description=command.help, args=argv, **given)
    except SystemExit as stop:
        if not stop.code:
            return None
    raise UserError(usage_error(command.config, prog, argv))


def _run_command(command: Command, prog: str, argv: list[str]) -> int:
    config = parse_flags(command, prog, argv)
    if config is None:
        return 0
    if not command.processes and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("runs in one process: start it without torchrun (python -m dan train takes several processes)")
    return command.function(config) or 0


def _disk_message(error: OSError) -> str:
    path = "the disk" if error.filename is None else str(error.filename)
    return f"{path} cannot be used ({error.strerror or error}): solve that, and run the same command again"


def _overview(prog: str, description: str, commands: Mapping[str, Command]) -> str:
    width = max(map(len, commands))
    rows = [f"  {name:<{width}}  {command.help.strip().splitlines()[0]}" for name, command in commands.items()]
    usage = [f"usage: {prog} COMMAND [OPTIONS]", "", description.strip(), "", "commands:"]
    end = [f"{prog} COMMAND --help lists the options of a command; {prog} --version prints the version."]
    return "\n".join([*usage, *rows, "", *end])
