"""Tables of adaptation methods on transfers: the rows that are trained, ours beside published ones, gains.

gain = mean over seeds of a method's accuracy - the same of source-only's
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from experiments.framework.experiment import Cell, Results
from experiments.framework.measurements import SPLITS, aggregate, by_seed
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.comparisons import Comparison
from experiments.framework.reporting.tables import Table, dots, mean_of, signed, tidy, told
from experiments.framework.trials import Trial
from experiments.tasks import last_and_oracle, paper_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOURCE_ONLY, DAN, FLOOR = "source-only", "DAN", "logistic regression"
COLOURS = {SOURCE_ONLY: "#888888", "DDC": "#0072b2", DAN: "#222222"}
# How a domain is written in a column's name; the others in capitals.
WRITTEN = {"mnistm": "MNIST-M", "rendered": "rendered"}


@dataclass(frozen=True)
class Row:
    """A line of a table: a method of `dan.losses`, the layers that it aligns and what else its config says.

    searched: the row whose chosen values it is trained with.
    """

    method: str
    align: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    searched: str = DAN

    @property
    def how(self) -> dict[str, Any]:
        """As a trial's arguments have it."""
        return {"method": self.method, "align": list(self.align), **self.options}


def further_rows(align: tuple[str, ...]) -> dict[str, Row]:
    """A row for each method of `dan.losses` that no table names by itself, but for mme, which needs target labels."""
    from dan.losses import METHODS

    return {name: Row(name, align, searched=name) for name in METHODS if name not in ("dan", "ddc", "mme")}


def column_of(transfer: str) -> str:
    """How a transfer is written: a2c is A->C."""
    return "->".join(WRITTEN.get(side, side.upper()) for side in transfer.split("2"))


def records_of(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """The evaluations with the trial's settings, and the oracle's choice among them."""
    result, made = results[trial.name], trial.arguments
    result = {"evaluations": [result["evaluation"]], **result} if "evaluation" in result else result
    kept: Record = {name: made[name] for name in ("how", "trade_off", "steps") if name in made}
    kept |= {name: result[name] for name in ("weights",) if name in result}
    return last_and_oracle({**cell.about, "seed": made.get("seed", 0), "selection": "", **kept}, result)


# --- published numbers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """A table of experiments/paper_tables: its `network`, its row for each of ours, its column for our transfers.

    note: more on where its numbers are from, for records.
    """

    table: str
    network: str
    rows: Mapping[str, str]
    columns: Mapping[str, str]
    note: str = ""

    def number(self, method: str, transfer: str) -> float | None:
        """The published accuracy in percent, if there is one."""
        found = paper_table(self.table).values.get(self.rows.get(method, ""), {})
        return found.get(self.columns.get(transfer, ""))

    def record(self, method: str, transfer: str) -> Record:
        """What a record says of it: the number, where it is from and how it was read."""
        number, table = self.number(method, transfer), paper_table(self.table)
        where = "" if number is None else f"{table.source}, row {self.rows[method]}; {table.provenance}{self.note}"
        return {"paper": number, "provenance": where}

    def gain(self, method: str, transfer: str) -> float | None:
        """The published gain over its row without adaptation."""
        ours, base = self.number(method, transfer), self.number(SOURCE_ONLY, transfer)
        return None if ours is None or base is None or method == SOURCE_ONLY else ours - base

    def line(self, method: str, columns: Sequence[tuple[str, str]], mean: str) -> list[str] | None:
        """The published row below one of ours; None where it has no number for these (transfer, split)."""
        row = self.rows.get(method, "")
        errors, cells = paper_table(self.table).errors.get(row, {}), []
        for transfer, split in [*columns, (mean, "target")]:
            number, error = self.number(method, transfer), errors.get(self.columns.get(transfer, ""))
            spread = "" if error is None else f" ± {error:.1f}"
            cells.append("–" if number is None or split != "target" else f"{number:.1f}{spread}")
        if set(cells) == {"–"}:
            return None
        return [f"published {row} ({self.network})", *cells, signed(self.gain(method, mean)), *["–"] * 3]


def office_columns(transfers: Sequence[str]) -> dict[str, str]:
    """Our transfers -> the columns of a table on Office, with its mean."""
    return {"mean": "Avg"} | {transfer: column_of(transfer) for transfer in transfers}


# --- our numbers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One network's part of a table: its title, its records, transfers and published tables; accuracies in percent.

    A task is `prefix` + transfer, or `mean`, that of the records that are means over the transfers.
    """

    title: str
    records: Sequence[Record]
    transfers: Sequence[str]
    prefix: str
    published: Sequence[Published] = ()
    mean: str = "mean"
    splits: Sequence[str] = ("target",)

    @cached_property
    def accuracies(self) -> dict[tuple[str, str, str, str], dict[int, float]]:
        """(method, transfer, split, selection) -> {seed: accuracy}."""
        return {
            (method, task.removeprefix(self.prefix), split, selection): values
            for split, name in SPLITS.items()
            for (method, task, selection), values in by_seed(
                self.records, name, 100, of=("method", "task", "selection")
            ).items()
        }

    @property
    def methods(self) -> list[str]:
        """In the order of the records."""
        return list(dict.fromkeys(method for method, _, _, selection in self.accuracies if selection == "last"))

    def of(self, method: str, transfer: str, split: str = "target", selection: str = "last") -> dict[int, float]:
        """{seed: accuracy}; empty where there is none."""
        return self.accuracies.get((method, transfer, split, selection), {})

    def gain(self, method: str, transfer: str) -> float | None:
        """How far the method's mean on the target lies above source-only's."""
        ours, base = mean_of(self.of(method, transfer)), mean_of(self.of(SOURCE_ONLY, transfer))
        return None if ours is None or base is None or method in (SOURCE_ONLY, FLOOR) else ours - base

    def gains(self, method: str) -> dict[str, float]:
        """transfer -> gain, the worst first."""
        found = {transfer: gain for transfer in self.transfers if (gain := self.gain(method, transfer)) is not None}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def table(self) -> Table:
        """One row a method: each transfer, the mean, its gain over source-only, the worst transfer's gain, the oracle's
        mean; below a row that was published, the numbers of others."""
        columns = [(transfer, split) for transfer in self.transfers for split in self.splits]
        lines = []
        for place, method in enumerate(self.methods):
            cells = [told(self.of(method, *column)) for column in columns]
            if set(cells) == {"–"}:
                continue
            worst = [f"{signed(gain)} ({column_of(transfer)})" for transfer, gain in self.gains(method).items()]
            seeds = sorted({len(self.of(method, transfer)) for transfer in self.transfers} - {0})
            oracle = mean_of(self.of(method, self.mean, selection="oracle"))
            lines.append([method, *cells, told(self.of(method, self.mean)), signed(self.gain(method, self.mean))])
            lines[-1] += [
                worst[0] if worst else "–",
                "–" if oracle is None else f"{oracle:.1f}",
                "/".join(map(str, seeds)),
            ]
            for table in self.published:
                # Two of our rows may answer to one of theirs, which then stands below the last of them.
                later = {table.rows.get(other) for other in self.methods[place + 1 :]}
                theirs = table.line(method, columns, self.mean)
                lines += [theirs] if theirs and table.rows[method] not in later else []
        headers = [column_of(transfer) + ("" if split == "target" else f", {split}") for transfer, split in columns]
        return ["method", *headers, "mean", "gain", "worst gain", "oracle mean", "n"], lines

    def findings(self) -> list[str]:
        """What DAN gains beside the published gain and where least, the best method, a source-only below the floor."""
        means = {method: value for method in self.methods if (value := mean_of(self.of(method, self.mean))) is not None}
        base, gain, said = means.get(SOURCE_ONLY), self.gain(DAN, self.mean), []
        if base is not None and gain is not None:
            theirs = [found for table in self.published if (found := table.gain(DAN, self.mean)) is not None]
            beside = f" (published {signed(theirs[0])})" if theirs else ""
            (worst, least), *rest = self.gains(DAN).items()
            gained = f"DAN gains {signed(gain)} points over source-only's {base:.1f}{beside}"
            said.append(f"{self.title}: {gained}; worst of {1 + len(rest)}: {column_of(worst)}, {signed(least)}.")
        if len(means) > 3:
            best = max(means, key=means.__getitem__)
            said.append(f"{self.title}: highest mean {means[best]:.1f}, {best}.")
        if base is not None and base < (floor := means.get(FLOOR, 0.0)):
            said.append(f"{self.title}: source-only ({base:.1f}) is below logistic regression ({floor:.1f}).")
        return said


def gains_figure(parts: Sequence[Part]) -> Figure:
    """Each method's gain over source-only, a panel a part: a dot a transfer, a diamond at their mean."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(m for part in parts for m in part.methods if m not in (SOURCE_ONLY, FLOOR)))
    figure = Figure(figsize=(1.6 + 2.6 * len(parts), 1.2 + 0.26 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for axes, part in zip(panels, parts, strict=True):
        for place, method in enumerate(methods):
            if gains := list(part.gains(method).values()):
                dots(axes, place, gains, COLOURS.get(method, "#0072b2"), (12, 30))
        axes.axvline(0, color="#888888", linewidth=1, zorder=1)
        axes.set_title(part.title, fontsize=8)
        axes.set_yticks(range(len(methods)), methods, fontsize=8)
        axes.set_xlabel("gain over source-only, points", fontsize=8)
        tidy(axes, "x")
    panels[0].invert_yaxis()
    return figure


GAINS_CAPTION = (
    "Gain over source-only on all of the target: a dot a transfer (mean over seeds), a diamond at their mean."
)
TABLE_CAPTION = (
    "Accuracy in percent on all target images, mean ± standard deviation over n seeds, after the last step. gain: of "
    "the mean over source-only's; worst gain: of the transfer that gains least. oracle mean: what the best of a run's "
    "evaluations by target labels would have given; it is no result. All rows of a seed start from the same weights "
    "and see the same source batches."
)


def report_of(
    title: str,
    parts: Sequence[Part],
    records: Sequence[Record],
    *,
    tables: Sequence[Part] = (),
    findings: Sequence[str] = (),
    more: Sequence[tuple[str, Table]] = (),
    captions: Sequence[str] = (),
    compared: Sequence[Comparison] | None = None,
) -> Report:
    """A report of these parts, whose tables may be split otherwise. records: of table.csv.

    findings, more tables, captions: besides those of the parts.
    """
    parts = [part for part in parts if part.methods]
    published = dict.fromkeys((table.table, table.network) for part in parts for table in part.published)
    theirs = [f"{paper_table(t).source} ({paper_table(t).provenance}), {network}" for t, network in published]
    weights = sorted({record["weights"] for record in records if "weights" in record})
    return Report(
        title=title,
        findings=[*(sentence for part in parts for sentence in part.findings()), *findings],
        tables=[*((part.title, part.table()) for part in tables or parts), *more],
        figures=[Drawn("gains.png", gains_figure(parts), GAINS_CAPTION)] if parts else [],
        captions=[
            TABLE_CAPTION,
            *captions,
            *([f"Published: {'; '.join(theirs)}."] if theirs else []),
            *([f"Weights of the backbones: {'; '.join(weights)}."] if weights else []),
        ],
        rows=aggregate(records),
        compared=compared,
    )
