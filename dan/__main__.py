"""The door to training: python -m dan train | evaluate | predict | export | compare."""

import sys

from dan.cli.command_line import Command, run
from dan.cli.compare import Compare, run_compare
from dan.cli.evaluate import Evaluate, evaluate_run
from dan.cli.export import Export, export_run
from dan.cli.predict import Predict, predict_folder
from dan.cli.train import Train, preset, train

COMMANDS = {
    "train": Command(
        Train, train, "Train a network on a transfer: source-only, DAN, or another method.", preset, processes=True
    ),
    "evaluate": Command(Evaluate, evaluate_run, "Measure a finished run on every split of its task."),
    "predict": Command(Predict, predict_folder, "Name the classes of images (or features) that nobody has labelled."),
    "export": Command(Export, export_run, "Write a finished run's network as one file for other programs."),
    "compare": Command(Compare, run_compare, "How far apart are two sets of images or features? MMD, test, picture."),
}


def main() -> int:
    """The exit code of the command line."""
    return run("python -m dan", "Features that do not know their domain: deep adaptation with MK-MMD.", COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
