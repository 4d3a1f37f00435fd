"""The door to active learning: python -m active run | strategies."""

import sys

from active.doors.run import Rounds, defaults, run_active
from active.doors.strategies import Strategies, list_strategies
from dan.cli import Command, run

COMMANDS = {
    "run": Command(
        Rounds, run_active, "Rounds of asking and training on a transfer, with a simulated oracle.", defaults
    ),
    "strategies": Command(Strategies, list_strategies, "List the acquisition strategies."),
}


def main() -> int:
    """The exit code of the command line."""
    return run("python -m active", "Which target samples are worth a label?", COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
