"""What the parts of the project's own strategy are worth, on the arena's development transfers.

    variants    coverage under DAN's kernel, one thing changed at a time; the sum of three, its pairs; other fusions
    references  each part alone (k_center, mmd_reduction, entropy), random, and those to beat
    choice      for the transfers of one half of the targets the variant that is best on those of the other half

The protocol, trials and measures are those of the arena.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from dan.cli.command_line import Command
from experiments.arena import Arena, cell_records, check, parts_of
from experiments.arena_ablations import PREFIX, VARIANTS
from experiments.framework.options import reduced
from experiments.framework.records import read
from experiments.framework.report import write_report
from experiments.framework.runner import run_experiment

NAME = "ablations"
REFERENCES = ("random", "k_center", "mmd_reduction", "entropy", "margin", "badge", "clue", "uherding")
STRATEGIES = (*(PREFIX + name for name in VARIANTS), *REFERENCES)


@dataclass(frozen=True)
class Ablations(Arena):
    """What is run; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = NAME
    QUICK: ClassVar[dict[str, Any]] = {
        **Arena.QUICK,
        "strategies": ("random", PREFIX + "margin", PREFIX + "ones"),
    }

    out: Path = Path(f"runs/{NAME}")
    """folder of the trials, records and report"""
    parts: Literal["development", "confirmation", "all"] = "development"
    """these groups of transfers only: development (the paper's six of the ten-class set), confirmation (the others)"""
    strategies: tuple[str, ...] = STRATEGIES
    """these ways to ask only"""


def run_ablations(config: Ablations) -> int:
    """Run what is missing, seed by seed, and make the report after each; exit code 1 if a trial failed."""
    config = reduced(config)
    check(config)
    return run_experiment(config, parts_of(config), lambda results: cell_records(config, results), report)


def report(folder: Path) -> Path:
    """Make the tables and the page again from the folder's records; the path of the page."""
    from experiments.pages.ablations import report_of

    records = read(folder)
    return write_report(folder, records, report_of(records))


COMMAND = Command(Ablations, run_ablations, "what the parts of the project's own strategy are worth")
