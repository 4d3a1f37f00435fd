"""What the pages of experiments share: a cell, a table in Markdown, a light grid, dots and a legend, the machine, and
the page of a small experiment, from records alone.

    cell = mean ± sqrt(sum_i (v_i - mean)^2 / (n - 1)) over seeds
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from experiments.framework.measurements import by_seed
from experiments.framework.records import Record
from experiments.framework.reporting.markdown import Table as Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Said where a report has them.
TESTS = "Paired tests between the methods, corrected for their number, and mean ranks: tests.md, tests.csv."

# What a record's `selection` says of the model that was measured.
RULES = {
    "last": "after the last step, nothing is selected",
    "source": "chosen by held-out source samples",
    "label_free": "chosen without a target label",
    "oracle": "chosen by target labels, which is no result",
}


# --- cells ------------------------------------------------------------------------------------------------------------


def told(by_seed: Mapping[int, float] | None, digits: int = 1) -> str:
    """Mean ± standard deviation over seeds; the mean alone for one seed; a dash for none."""
    values = list((by_seed or {}).values())
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def by_method(records: Iterable[Record], name: str, scale: float = 100.0) -> dict[str, dict[int, float]]:
    """method -> {seed: scale * record[name]}, of the selected records that have it; the last of a seed counts."""
    return {method: values for (method,), values in by_seed(records, name, scale, of=("method",)).items()}


def mean_of(by_seed: Mapping[int, float] | None) -> float | None:
    """The mean over seeds; None for none."""
    return statistics.fmean(by_seed.values()) if by_seed else None


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    """{seed: ours minus theirs}, of the seeds that both have."""
    return {seed: value - theirs[seed] for seed, value in ours.items() if seed in theirs}


def signed(value: float | None, digits: int = 1) -> str:
    """A difference, with its sign; a dash for none."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def points(differences: Mapping[int, float] | None, digits: int = 1) -> str:
    """The mean difference with its sign, ± its standard deviation over seeds; a dash for none."""
    values = list((differences or {}).values())
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return signed(mean_of(differences), digits) + spread


def each(records: Iterable[Record], name: str, form: str = ",") -> str:
    """All values that records have under `name`, from small to large."""
    return ", ".join(f"{v:{form}}" for v in sorted({r[name] for r in records if r.get(name) is not None}))


def origins(records: Iterable[Record]) -> str:
    """By which rule the models that count were chosen, and where published numbers beside ours are from."""
    records = [record for record in records if record.get("selection")]
    rules = dict.fromkeys(str(record["selection"]) for record in records)
    told = "; ".join(f"{rule}: {RULES[rule]}" if rule in RULES else rule for rule in rules)
    papers: dict[tuple[str, str], list[str]] = {}  # (source, how it was read) -> its rows
    for said in dict.fromkeys(str(r["provenance"]) for r in records if r.get("paper") is not None):
        source, _, rest = said.partition(", row ")
        row, _, read = rest.partition("; ")
        papers.setdefault((source, read), []).extend([row] if row else [])
    listed = [
        source + (f", row{'s' * (len(rows) > 1)} {', '.join(rows)}" if rows else "") + (f"; {read}" if read else "")
        for (source, read), rows in papers.items()
        if source
    ]
    published = f" Published numbers: {'; '.join(listed)}." if listed else ""
    return f"Selection of the model: {told}.{published}"


def machines(records: Iterable[Record]) -> list[tuple[str, str]]:
    """What the records were measured with, as (term, text)."""
    records = list(records)
    where = {f"PyTorch {r['torch']}, Python {r['python']}, {r['processor']}" for r in records if "processor" in r}
    commits = {r["commit"] for r in records if r.get("commit")}
    return [("Measured on", "; ".join(sorted(where)) + "; one thread a trial"), ("Commit", ", ".join(sorted(commits)))]


def tidy(axes: Axes, grid: str = "both") -> None:
    """A light grid behind the data, no box around it."""
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_above(figure: Figure, axes: Axes, columns: int) -> None:
    """What the lines of these axes are, above all panels."""
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=columns, fontsize=8, frameon=False)


def dots(axes: Axes, place: float, values: Sequence[float], colour: str, sizes: tuple[float, float]) -> None:
    """A dot a seed at this height, and a diamond at their mean; sizes: of both."""
    small, large = sizes
    axes.scatter(values, [place] * len(values), s=small, color=colour, alpha=0.5, linewidths=0, zorder=2)
    axes.scatter([statistics.fmean(values)], [place], s=large, color=colour, marker="D", zorder=3)
