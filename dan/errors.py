"""What a user did that cannot work, said in one line that tells what to do."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input. The command line prints its one line and exits with code 2."""


def nearest(word: str, words: Iterable[str]) -> str:
    """` (did you mean "x"?)` with the valid word closest to `word`, or an empty string when none is close."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f' (did you mean "{close[0]}"?)' if close else ""
