"""Ctrl-C ends a command in one line on stderr with exit code 130, also while its modules are still being imported."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # as in a shell: 128 + SIGINT
MESSAGE = "interrupted: run the same command again to continue"


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Turn KeyboardInterrupt into one line on stderr and SystemExit(130)."""
    try:
        yield
    except KeyboardInterrupt:
        print(MESSAGE, file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
