"""The commands of domain adaptation: python -m dan train | evaluate | predict | export | compare."""

import sys

from dan.cli.interrupts import exit_on_interrupt

with exit_on_interrupt():
    from dan.cli.command_line import Command, run
    from dan.cli.compare import Compare, run_compare
    from dan.cli.evaluate import Evaluate, evaluate_run
    from dan.cli.export import Export, export_run
    from dan.cli.predict import Predict, predict_folder
    from dan.cli.train import Train, preset, train

COMMANDS = {
    "train": Command(
        Train,
        train,
        "Train a network on a labelled source and an unlabelled target: source-only, DAN, or another method.",
        preset,
        processes=True,
    ),
    "evaluate": Command(Evaluate, evaluate_run, "Evaluate a finished run on every split of its task."),
    "predict": Command(Predict, predict_folder, "Predict the classes of unlabelled images or features."),
    "export": Command(Export, export_run, "Write a finished run's network as one file for other programs."),
    "compare": Command(Compare, run_compare, "Compare two sets of images or features: MMD, two-sample test, figure."),
}


def main() -> int:
    """The exit code of the command line."""
    return run("python -m dan", "Deep adaptation networks: domain adaptation with multi-kernel MMD.", COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
