"""What a user did that cannot work, said in one line that tells what to do."""

import difflib
import sys
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input. The command line prints its one line and exits with code 2.

    What it cites (names, cells of a table) may hold anything: `str` of it is one line, whatever that is.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """The text with line ends, a terminal's commands and other letters that are not shown written as \\n, \\x1b, ..."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def print_warnings(lines: Iterable[str]) -> None:
    """Each line on stderr, after `warning:`."""
    for line in lines:
        print(f"warning: {printable(line)}", file=sys.stderr)


def nearest(word: str, words: Iterable[str]) -> str:
    """` (did you mean "x"?)` with the valid word closest to `word`, or an empty string when none is close."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f' (did you mean "{close[0]}"?)' if close else ""
