"""What is wrong with a command line, in one line, with the flag or the value that was probably meant.

tyro reports a wrong command line in boxes of several lines. They are parsed here, and the message is written anew.
"""

import contextlib
import difflib
import io
import os
import re
from collections.abc import Collection, Iterator
from typing import Any

import tyro

from dan.errors import nearest

LIKENESS = 0.8  # of two names (difflib's ratio) from which one is suggested for the other
# Names that other programs use, and what they are called here: the first flag that the command has is suggested.
ALIASES: dict[str, tuple[str, ...]] = {
    "arch": ("--backbone",),
    "architecture": ("--backbone",),
    "model": ("--backbone",),
    "net": ("--backbone",),
    "network": ("--backbone",),
    "checkpoint": ("--weights",),
    "pretrained": ("--weights",),
    "log-dir": ("--run", "--out"),
    "logdir": ("--run", "--out"),
    "out": ("--run",),
    "out-dir": ("--out", "--run"),
    "output": ("--out", "--run"),
    "output-dir": ("--out", "--run"),
    "resume": ("--run",),
    "save-dir": ("--out", "--run"),
    "cuda": ("--device",),
    "gpu": ("--device",),
    "gpus": ("--device",),
    "dataloader-workers": ("--num-workers",),
    "num-workers": ("--num-workers",),
    "workers": ("--num-workers",),
    "data-dir": ("--data",),
    "data-root": ("--data",),
    "dataset": ("--data",),
    "root": ("--data",),
    "learning-rate": ("--lr",),
    "rate": ("--lr",),
    "bs": ("--batch-size",),
    "wd": ("--weight-decay",),
    "lambda": ("--trade-off",),
    "lambda-mmd": ("--trade-off",),
    "epoch": ("--epochs", "--steps"),
    "epochs": ("--epochs", "--steps"),
    "iterations": ("--steps",),
    "iters": ("--steps",),
    "max-steps": ("--steps",),
    "num-epochs": ("--epochs", "--steps"),
    "num-steps": ("--steps",),
    "loss": ("--method",),
    "amp": ("--precision",),
    "bf16": ("--precision",),
    "fp16": ("--precision",),
    "optim": ("--optimizer",),
    "img-size": ("--image-size",),
    "input-size": ("--image-size",),
    "resolution": ("--image-size",),
    "silent": ("--quiet",),
    "random-seed": ("--seed",),
    "num-rounds": ("--rounds",),
    "n-rounds": ("--rounds",),
    "query-size": ("--budget",),
}
VALUE_ALIASES = {"gpu": "cuda"}


def usage_error(config: Any, prog: str, argv: list[str]) -> str:
    """One line on what is wrong with `argv`, which tyro refuses for the dataclass `config`."""
    flags = flags_of(config)
    for word in argv:
        flag = word.split("=")[0].replace("_", "-")
        if re.match(r"--?[A-Za-z]", word) and flag not in flags:
            return f"unknown flag {word.split('=')[0]}{suggest_flag(flag, flags, prog)}"
    # The rows of tyro's box up to its first rule; below that follows help text.
    box = _tyro_output(config, prog, argv)
    rows = re.findall(r"^│ (.*?)\s*│$", re.split(r"^│ ─+ │$", box, flags=re.MULTILINE)[0], flags=re.MULTILINE)
    text = " ".join(" ".join(rows).split())
    if choice := re.search(r"invalid choice '(.*)' for argument '(.*?)'. Expected one of \((.*?),?\)\.?$", text):
        value, name, listed = choice.groups()
        choices = [word.strip("' ") for word in listed.split(",")]
        return f'{name}: "{value}" is not one of {", ".join(choices)}{_suggest_choice(value, choices)}'
    if value := re.search(r"Error parsing (.*?): (?:invalid literal for int.*|could not convert.*): '(.*)'$", text):
        return f'{value[1]}: "{value[2]}" is not a {"whole number" if "for int" in text else "number"}'
    if values := re.search(r"Error parsing (.*?): Could not find valid parse for arguments: \[(.*)\]$", text):
        return f"{values[1]}: cannot read {values[2]} (see {prog} --help)"
    if text.startswith("Missing from"):
        # Each missing argument is indented by four spaces, and its description by more.
        names = [row.strip() for row in rows if re.match(r" {4}\S", row)]
        return f"missing {' and '.join(names)} (see {prog} --help)"
    if value := re.match(r"Missing value for argument '(.*?)'", text):
        return f"{value[1]} needs a value"
    if extra := re.match(r"Unrecognized options: (.*)", text):
        return f"unexpected argument {extra[1]} (see {prog} --help)"
    text = text.removeprefix(f"Error parsing {getattr(config, '__name__', '')}: ").removeprefix("Error parsing ")
    if value := re.match(r"(\w+) must be ", text):  # a dataclass refused the value of a field
        flag = f"--{value[1].replace('_', '-')}"
        return text.replace(value[1], flag, 1) if flag in flags else text
    return text or f"wrong arguments (see {prog} --help)"


def suggest_flag(flag: str, flags: Collection[str], prog: str) -> str:
    """A hint for an unknown flag: the flags that were probably meant, else where the flags are listed.

    In this order: another program's name for one of them, the beginning of at most three of them, and a name (or
    another program's name) that differs in a few letters.
    """
    word = flag.strip("-")
    names = {known.strip("-"): known for known in flags if known.startswith("--") and known != "--help"}
    aliases = {alias: known for alias, meant in ALIASES.items() for known in meant[::-1] if known in flags}
    if word in aliases:
        return f" (did you mean {aliases[word]}?)"
    begins = [known for name, known in names.items() if len(word) > 2 and name.startswith(word)]
    if 1 <= len(begins) <= 3:
        return f" (did you mean {' or '.join(begins)}?)"
    known = aliases | names
    if word not in ALIASES and (close := difflib.get_close_matches(word, known, n=1, cutoff=LIKENESS)):
        return f" (did you mean {known[close[0]]}?)"
    return f" (see {prog} --help)" if names else " (this command has no flags)"


def flags_of(config: Any) -> list[str]:
    """Every flag of the dataclass, as tyro's `--help` lists them."""
    # At 80 columns tyro puts its boxes one below the other; in a wider terminal, in two columns.
    rows = [line for line in _tyro_output(config, "", ["--help"], columns=80).splitlines() if line.startswith("│ -")]
    return [flag for row in rows for flag in re.findall(r"(?:(?<=^│ )|(?<=, ))--?[A-Za-z][\w.-]*", row)]


def _suggest_choice(value: str, choices: list[str]) -> str:
    meant = VALUE_ALIASES.get(value.lower())
    return f' (did you mean "{meant}"?)' if meant in choices else nearest(value, choices)


def _tyro_output(config: Any, prog: str, argv: list[str], *, columns: int = 10_000) -> str:
    """All that tyro prints for `argv`, without colours, in a terminal of this many columns (default: no wrapping)."""
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
