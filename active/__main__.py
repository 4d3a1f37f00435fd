"""The commands of active learning: python -m active run | select | label | explain | strategies."""

import sys

from dan.cli.interrupts import exit_on_interrupt

with exit_on_interrupt():
    from active.cli.explain import Explain, explain
    from active.cli.label import LabelCommand, label
    from active.cli.run import Rounds, defaults, run_active
    from active.cli.select import Select, select
    from active.cli.strategies import Strategies, list_strategies
    from dan.cli.command_line import Command, run

COMMANDS = {
    "run": Command(
        Rounds, run_active, "Run rounds of queries and training on a task, with a simulated oracle.", defaults
    ),
    "select": Command(Select, select, "Choose samples of a folder to label next, and write annotation tasks."),
    "label": Command(LabelCommand, label, "Import labels, and finetune the network."),
    "explain": Command(Explain, explain, "Replay the queries of a round: every pick with its image and its scores."),
    "strategies": Command(Strategies, list_strategies, "List the acquisition strategies."),
}


def main() -> int:
    """The exit code of the command line."""
    return run("python -m active", "Active learning: choose the target samples to label.", COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
