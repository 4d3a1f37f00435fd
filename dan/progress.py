"""A progress bar on stderr for work that lasts, and nothing at all for quick work, pipes and log files.

Whoever has a `quiet` of its own makes a Progress. Functions that have none, since they are mathematics, run their long
loops through `watched`: it shows nothing, unless somebody above them said `with showing():`.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Item = TypeVar("Item")
_SHOWN = ContextVar("_SHOWN", default=False)  # whether loops of `watched` show
APPEARS_AFTER = 2.0  # seconds of work before the bar is shown: a flash of a bar tells nobody anything
REDRAWS_EVERY = 0.2  # seconds: a step of training takes milliseconds, and drawing must not be what it waits for


class Progress:
    """`with Progress("training", steps) as bar: ... bar.advance()`: a bar with elapsed and remaining time.

    `start` is how much was done before (a resumed run): the bar begins there, and the remaining time is estimated from
    this run's own speed. Silent when `quiet`, or when stderr is not a terminal: then `advance` is one comparison, and a
    `note` that costs something to make (a loss on an accelerator) should be made only when `bar.wants_note()`.
    The bar is drawn by the caller's thread, in `advance`, and is wiped when the work ends.
    """

    def __init__(self, description: str, total: int, *, quiet: bool = False, start: int = 0) -> None:
        self._description = description
        self._total = total
        self._done = start
        self._silent = quiet or sys.stderr is None or not sys.stderr.isatty()
        self._note = ""
        self._next_draw = 0.0
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "Progress":
        if not self._silent:
            self._make_bar()
            self._next_draw = time.monotonic() + APPEARS_AFTER
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def wants_note(self) -> bool:
        """Whether the next `advance` will draw, and so show its note."""
        return not self._silent and time.monotonic() >= self._next_draw

    def advance(self, note: str = "", *, steps: int = 1) -> None:
        """So many steps more are done; `note` (the current loss, say) is shown beside the bar."""
        if self._silent:
            return
        self._done += steps
        now = time.monotonic()
        if now >= self._next_draw and self._bar is not None and self._task is not None:
            self._next_draw = now + REDRAWS_EVERY
            self._note = note or self._note  # no note this time: the last one stays
            self._bar.update(self._task, completed=self._done, note=self._note)
            if self._bar.live.is_started:
                self._bar.refresh()
            else:
                self._bar.start()

    def _make_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        # A standard output that goes to a file stays there: rich would send it to the bar's terminal.
        self._bar = RichProgress(
            *columns,
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bar.add_task(self._description, total=self._total, completed=self._done, note="")


@contextmanager
def showing(*, quiet: bool = False) -> Iterator[None]:
    """Within it, the loops of `watched` show their bars (unless `quiet`)."""
    token = _SHOWN.set(not quiet)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def watched(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """The items, one after the other; within `showing`, with a bar of how many of `total` are done.

    Of loops inside each other the outermost shows.
    """
    shown = _SHOWN.get()
    _SHOWN.set(False)
    try:
        with Progress(description, total, quiet=not shown) as bar:
            for item in items:
                yield item
                bar.advance()
    finally:
        _SHOWN.set(shown)
