"""The door to active learning: python -m active run | select | label | explain | strategies."""

import sys

from active.cli.explain import Explain, explain
from active.cli.label import LabelCommand, label
from active.cli.run import Rounds, defaults, run_active
from active.cli.select import Select, select
from active.cli.strategies import Strategies, list_strategies
from dan.cli.command_line import Command, run

COMMANDS = {
    "run": Command(
        Rounds, run_active, "Rounds of asking and training on a transfer, with a simulated oracle.", defaults
    ),
    "select": Command(Select, select, "Choose images of a folder for people to label, and write the tasks."),
    "label": Command(LabelCommand, label, "Take people's labels back, and train on."),
    "explain": Command(Explain, explain, "Replay a round's choice: every pick with its picture and its figures."),
    "strategies": Command(Strategies, list_strategies, "List the acquisition strategies."),
}


def main() -> int:
    """The exit code of the command line."""
    return run("python -m active", "Which target samples are worth a label?", COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
