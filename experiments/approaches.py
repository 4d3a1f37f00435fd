"""The approaches of transfer as options of one command, compared on the embedded digits.

    python -m dan train rendered2digits OPTIONS        one run an approach and seed, all of as many steps

Every number is from that command itself: a trial is its command line. Runs that start from another network start from
the source-only run of their seed, and what is kept of the source was kept by that run.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from experiments.framework.experiment import Cell, Experiment, Results
from experiments.framework.measurements import measurements
from experiments.framework.options import Options, check_names, check_runs
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import plots
from experiments.framework.reporting.summary import LEGEND, summary
from experiments.framework.reporting.tables import Table, by_method, difference, each, mean_of, points
from experiments.framework.trials import Trial, slug

if TYPE_CHECKING:
    pass

TASK = "rendered2digits"
SOURCE = "SOURCE"  # in options: the folder of the seed's source-only run
KEPT = "KEPT"  # the same run, with what it kept of its source
WHOLE = 3000  # all source samples of the task
COUNTS = (200, 100, 50)
STAGES = ("fc1", "conv2")  # LeNet's last, and the one before

SOURCE_ONLY, DAN = "source-only", "DAN"
FULL, PARTIAL, FROZEN, ADAPTERS = "full fine-tuning", "partial, conv2", "frozen trunk", "residual adapters"
LABELS = (1, 3, 5)
WEIGHTS = ("kmm", "select")


@dataclass(frozen=True)
class Approach:
    """Options of the command. keep: options with which the source-only run first keeps its source."""

    options: str
    keep: str = ""

    @property
    def starts(self) -> bool:
        """Whether it needs the source-only run."""
        return bool(self.keep) or SOURCE in self.options


def kept_row(stage: str, count: int) -> str:
    """The name of a source-free row."""
    return f"source-free {stage}, " + ("whole source" if count == WHOLE else f"S = {count}")


def labels_row(count: int) -> str:
    """The name of a semi-supervised row."""
    return f"{count} label{'s' if count > 1 else ''} a class"


def _approaches() -> dict[str, Approach]:
    after = f"--weights {SOURCE}"
    rows = {
        SOURCE_ONLY: Approach("--trade-off 0"),
        DAN: Approach(""),
        FULL: Approach(after),
        PARTIAL: Approach(f"{after} --freeze-up-to conv2"),
        FROZEN: Approach(f"{after} --freeze-up-to all"),
        ADAPTERS: Approach(f"{after} --adapters residual"),
    }
    for stage in STAGES:
        for count in (WHOLE, *COUNTS):
            keep = f"--coreset-size {count} --coreset-stage {stage}"
            rows[kept_row(stage, count)] = Approach(f"--source-free {KEPT}", keep)
    rows |= {labels_row(count): Approach(f"--target-labels {count}") for count in LABELS}
    return rows | {f"{kind} weights": Approach(f"{after} --source-weights {kind}") for kind in WEIGHTS}


APPROACHES = _approaches()


@dataclass(frozen=True)
class Approaches(Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "approaches"
    QUICK: ClassVar[dict[str, Any]] = {"seeds": (0,), "steps": 20}

    methods: tuple[str, ...] = ()
    """these rows only, such as: DAN "frozen trunk" (default: all)"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    steps: int = 1000
    """training steps of every run"""

    def check(self) -> None:
        check_names("methods", self.methods, list(APPROACHES))
        check_runs(self.seeds, self.steps)


# --- trials -----------------------------------------------------------------------------------------------------------


def trial_of(row: str, seed: int, steps: int) -> Trial:
    """The trial of one row and seed."""
    made = APPROACHES[row]
    start = trial_of(SOURCE_ONLY, seed, steps) if made.starts else None
    arguments: dict[str, Any] = {
        "options": made.options.split(),
        "keep": made.keep.split(),
        "steps": steps,
        "seed": seed,
    }
    arguments["start"] = start.name if start else None
    return Trial(f"{slug(row)}-seed{seed}", train, arguments, (start,) if start else ())


def cells(config: Approaches) -> list[Cell]:
    """One cell a row; a row that starts from the source-only run brings it."""
    return [
        Cell(
            about={"task": TASK, "method": row, "keep": made.keep, "options": made.options},
            only={"methods": row},
            trials=[trial_of(row, seed, config.steps) for seed in config.seeds],
        )
        for row, made in APPROACHES.items()
        if row in (config.methods or APPROACHES)
    ]


def train(
    folder: Path, *, options: list[str], keep: list[str], start: str | None, steps: int, seed: int
) -> dict[str, Any]:
    """A trial: the command with these options, its run in `folder`; evaluated once, after the last step.

    start: the trial in the same folder that SOURCE, or KEPT, stands for.
    """
    from dan.run_dir import read_records
    from experiments.tasks import machine

    source, kept = folder.parent / (start or ""), folder / "kept"
    common = ["--steps", str(steps), "--seed", str(seed), "--evaluate-every", str(steps)]
    if keep:
        # A copy of the finished run, which the same command does not train again, but lets keep its source.
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(source, kept, ignore=shutil.ignore_patterns("trial.json", "events.*"))
        _train([*APPROACHES[SOURCE_ONLY].options.split(), *keep, *common, "--run", str(kept)])
    places = {SOURCE: str(source), KEPT: str(kept)}
    _train([*(places.get(word, word) for word in options), *common, "--run", str(folder)])
    settings, *records = read_records(folder / "records.jsonl")
    evaluation = next(record for record in reversed(records) if record["event"] == "evaluation")
    made = {name: settings[name] for name in ("backbone", "labelled", "trade_off", "lr")}
    return {**made, "evaluation": evaluation, "measured_on": machine()}


def _train(words: list[str]) -> None:
    """python -m dan train rendered2digits WORDS, in this process."""
    import tyro

    from dan.cli.train import Train, preset
    from dan.cli.train import train as trained

    words = [TASK, *words, "--device", "cpu", "--no-feature-map", "--quiet"]
    trained(tyro.cli(Train, args=words, default=preset(words)))


def records_of(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """One record a run: the model after its last step."""
    result = results[trial.name]
    network = result["backbone"].partition(":")[0]  # what follows is the images' channels
    record = {**cell.about, "network": network, "labels": result["labelled"], "seed": trial.arguments["seed"]}
    record |= {"selection": "last", "trade_off": result["trade_off"], "lr": result["lr"]}
    record |= {"steps": trial.arguments["steps"], **result["measured_on"]}
    return [record | {name: value for name, value in result["evaluation"].items() if name not in ("event", "step")}]


# --- the report -------------------------------------------------------------------------------------------------------

# (what is compared, the base, rows that are compared with it)
COMPARED = (
    ("From scratch", SOURCE_ONLY, (DAN,)),
    ("On from the source-only run", FULL, (PARTIAL, FROZEN, ADAPTERS)),
    *((f"Kept after {s}", kept_row(s, WHOLE), tuple(kept_row(s, count) for count in COUNTS)) for s in STAGES),
    ("A few target labels", DAN, tuple(labels_row(count) for count in LABELS)),
    ("Weights of source samples", FULL, tuple(f"{kind} weights" for kind in WEIGHTS)),
)


def ordered(records: Sequence[Record]) -> list[Record]:
    """The records, rows in the order of the experiment."""
    return sorted(records, key=lambda record: list(APPROACHES).index(record["method"]))


def accuracy_table(records: Sequence[Record]) -> Table:
    """One row an approach, with the options that it is."""
    headers, rows = summary(ordered(records))
    for row in rows:
        made = APPROACHES[row[0]]
        row.append(f"{made.keep}, then {made.options}" if made.keep else made.options or "none")
    return [*headers, "options of python -m dan train rendered2digits"], rows


def findings(records: Sequence[Record]) -> list[str]:
    """What each approach gains over its base on target_test, seed by seed."""
    found = by_method(records, "accuracy/target_test")
    said = []
    for what, base, rows in COMPARED:
        gains = {row: difference(found.get(row, {}), found.get(base, {})) for row in rows}
        listed = ", ".join(f"{row} {points(gain)}" for row, gain in gains.items() if gain)
        if listed:
            said.append(f"{what}: {base} {mean_of(found[base]):.1f} %; {listed} points.")
    return said


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made."""
    steps, trade_offs, rate = (each(records, name, "g") for name in ("steps", "trade_off", "lr"))
    return [
        f"{LEGEND} All runs have {steps} steps, and nothing is selected.",
        f"LeNet, a hidden layer of 64 and the logits; trade-offs {trade_offs} (0: source-only) and rate {rate} are the "
        "command's defaults, tuned for no row. SOURCE is the source-only run of the same seed, KEPT that run with what "
        "it kept of its source. Rows with --weights take its backbone and train new layers; source-free rows take the "
        f"whole network, frozen up to the kept stage; the whole source is kept with S = {WHOLE}.",
    ]


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    return Report(
        title="Ways to transfer, on rendered fonts to handwritten digits",
        findings=findings(records),
        tables=[(f"{TASK}, LeNet", accuracy_table(records))],
        figures=[Drawn("approaches.png", plots.bars(measurements(ordered(records)), "test"), "Target test split.")],
        captions=captions(records),
    )


EXPERIMENT = Experiment(
    options=Approaches,
    summary="rendered -> scanned digits: each approach to transfer, one command",
    cells=cells,
    report=report,
    records=records_of,
)
