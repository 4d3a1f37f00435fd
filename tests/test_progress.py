"""A bar for people who wait: on a terminal's stderr, once the work lasts, and never anywhere else."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch

import dan.progress
from dan.progress import Progress, showing, watched


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal, 120 columns wide; the work at hand counts as long at once.

    A test redirects stderr to it itself: what a fixture sets there, pytest's own capture takes back.
    """
    monkeypatch.setattr(dan.progress, "APPEARS_AFTER", 0.0)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def work(stderr: io.StringIO, *, quiet: bool = False) -> str:
    """What stderr got from 20 steps of work that began at step 10 of 30."""
    with redirect_stderr(stderr), Progress("training", 30, quiet=quiet, start=10) as bar:
        for step in range(20):
            bar.advance(f"loss [{step}]" if bar.wants_note() else "")
    return stderr.getvalue()


def test_a_terminal_sees_how_far_the_work_is(terminal: Terminal) -> None:
    shown = work(terminal)
    assert "training" in shown and "11/30" in shown and "loss [0]" in shown and "left" in shown


def test_a_terminal_does_not_see_a_bar_for_quick_work(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dan.progress, "APPEARS_AFTER", 60.0)
    assert work(terminal) == ""


def test_quiet_is_silent_on_a_terminal(terminal: Terminal) -> None:
    assert work(terminal, quiet=True) == ""


@pytest.mark.usefixtures("terminal")
def test_a_pipe_stays_clean() -> None:
    assert work(io.StringIO()) == ""


def test_the_bar_is_not_drawn_at_every_step(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("dan.progress.time.monotonic", lambda: now[0])
    with redirect_stderr(terminal), Progress("training", 1000) as bar:
        for _ in range(1000):
            now[0] += 0.005
            bar.advance()
    drawn = sum(f" {step}/1000" in terminal.getvalue() for step in range(1001))
    assert 20 <= drawn <= 27  # 5 seconds at one drawing each 0.2 s, and one more at the start


def test_the_last_note_stays_until_the_next(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dan.progress, "REDRAWS_EVERY", 0.0)
    with redirect_stderr(terminal), Progress("training", 3) as bar:
        bar.advance("loss 0.5")
        before = len(terminal.getvalue())
        bar.advance()
        assert "2/3" in terminal.getvalue()[before:] and "loss 0.5" in terminal.getvalue()[before:]


def test_what_is_printed_to_a_file_stays_out_of_the_terminal(terminal: Terminal) -> None:
    file = io.StringIO()
    with redirect_stderr(terminal), redirect_stdout(file), Progress("training", 2) as bar:
        bar.advance()
        print("a record")
    assert file.getvalue() == "a record\n"
    assert "1/2" in terminal.getvalue() and "a record" not in terminal.getvalue()


def test_an_exception_passes_and_leaves_the_terminal_usable(terminal: Terminal) -> None:
    def broken() -> None:
        with Progress("training", 2) as bar:
            bar.advance()
            raise KeyError("bug")

    with redirect_stderr(terminal):
        with pytest.raises(KeyError):
            broken()
        assert sys.stderr is terminal
    hides_cursor, shows_cursor = "\x1b[?25l", "\x1b[?25h"
    assert terminal.getvalue().count(hides_cursor) == terminal.getvalue().count(shows_cursor) == 1


def test_watched_loops_show_where_somebody_wants_them(terminal: Terminal) -> None:
    """The items and their order are those of the loop; of two loops, one inside the other, the outer one shows."""
    with redirect_stderr(terminal):
        assert list(watched(range(3), "alone", 3)) == [0, 1, 2]
        with showing(quiet=True):
            assert list(watched(range(3), "quiet", 3)) == [0, 1, 2]
        assert terminal.getvalue() == ""
        with showing():
            pairs = [(a, b) for a in watched("xy", "outer", 2) for b in watched("pq", "inner", 2)]
            for _ in watched(range(9), "left early", 9):
                break
            assert list(watched(range(2), "after", 2)) == [0, 1]
        written = len(terminal.getvalue())
        list(watched(range(3), "over", 3))
    assert pairs == [("x", "p"), ("x", "q"), ("y", "p"), ("y", "q")]
    shown = terminal.getvalue()
    assert "outer" in shown and "1/2" in shown and "after" in shown and "inner" not in shown
    assert len(shown) == written


def test_a_strategy_on_a_large_pool_shows_how_far_it_is(terminal: Terminal) -> None:
    from active.strategies.coreset import k_center_greedy

    pool = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    with redirect_stderr(terminal), showing():
        picks = k_center_greedy(pool, None, 7)
    assert "k-center" in terminal.getvalue() and "1/6" in terminal.getvalue()
    assert torch.equal(picks, k_center_greedy(pool, None, 7))
