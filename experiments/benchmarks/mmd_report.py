"""Records of the MMD benchmark to table.md and time.png; nothing is measured here, and no number typed by hand.

Rows are methods, columns sizes n; for each F: the median time, its ratios to the fastest exact peer's, to that of the
fastest other way over all pairs and to the floor's, and the peak memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmarks.methods import METHODS
from experiments.framework.records import Record, read, write_text
from experiments.framework.reporting.plots import COLOURS, MARKERS

Cells = Mapping[tuple[str, int], Record]  # (method, n) -> its record, in one setting

STYLES = {"ours": "-", "exact": "--", "plain": "--", "other kernel": "-.", "linear": ":", "floor": "-"}
OTHERS = ("exact", "plain", "other kernel")
AGREES = 1e-5  # in units of a kernel's value, whose largest is 1


class Setting(NamedTuple):
    """What the cells of one table have in common."""

    features: int
    kernels: int
    device_name: str
    threads: int


def write(folder: Path) -> Path:
    """Make table.md and time.png of a folder from its records.jsonl; the path of the table."""
    records = read(folder / "records.jsonl")
    write_text(folder / "table.md", markdown(records))
    figure = plot(records)
    if figure is not None:
        figure.savefig(folder / "time.png", dpi=110)
    return folder / "table.md"


def by_setting(records: Iterable[Record]) -> dict[Setting, dict[tuple[str, int], Record]]:
    """Setting -> (method, n) -> record: the last one, but a measured one before one that says why there is none."""
    result: dict[Setting, dict[tuple[str, int], Record]] = {}
    for record in records:
        cells = result.setdefault(Setting(*(record[part] for part in Setting._fields)), {})
        key = (record["method"], record["n"])
        if "seconds_median" in record or "seconds_median" not in cells.get(key, {}):
            cells[key] = record
    return dict(sorted(result.items()))


def fastest(cells: Cells, n: int, kinds: Sequence[str] = ("exact",)) -> float | None:
    """Median seconds of the fastest method of these kinds at size n; None if none was run. By default exact peers."""
    records = [record for (_, size), record in cells.items() if size == n and record["kind"] in kinds]
    return min((record["seconds_median"] for record in records if "seconds_median" in record), default=None)


def markdown(records: Sequence[Record]) -> str:
    """The tables of every setting, what the rows are, and on what they were measured."""
    tables = by_setting(records)
    seen = {name for cells in tables.values() for name, _ in cells}
    rows = [name for name in METHODS if name in seen]
    pairs = [name for name in rows if METHODS[name].kind in ("ours", *OTHERS)]
    bounded = {*pairs, "floor"}
    parts = ["# MK-MMD, forward and backward in both arguments\n", _machines(records)]
    for setting, cells in tables.items():
        parts += [
            f"## F = {setting.features}, K = {setting.kernels}{_where(setting, tables)}\n",
            _table("Time, median", cells, _time, rows),
            _table("Time / the fastest exact peer's", cells, _ratio(fastest), pairs),
            _table(
                "Time / the fastest other way's over all pairs (exact, plain or of another kernel)",
                cells,
                _ratio(partial(fastest, kinds=OTHERS)),
                pairs,
            ),
            _table("Time / the bare products' (floor)", cells, _ratio(partial(fastest, kinds=("floor",))), pairs),
            _table("Share of the device's matrix rate", cells, _share, [name for name in rows if name in bounded]),
            _table("Peak memory beyond the inputs", cells, _memory, [name for name in rows if name != "floor"]),
        ]
    parts.append(_rows_explained(tables, rows))
    return "\n".join(parts)


def _where(setting: Setting, settings: Iterable[Setting]) -> str:
    """The machine, where the records know several."""
    several = len({(other.device_name, other.threads) for other in settings}) > 1
    return f", {setting.device_name}, {setting.threads} threads" if several else ""


def _machines(records: Sequence[Record]) -> str:
    """One line for every machine and state of the code that the records come from."""
    lines = []
    for record in records:
        if "seconds_median" in record:
            threads = f", {record['threads']} threads" if record["device"] == "cpu" else ""
            lines.append(
                f"- {record['device_name']} ({record['device']}{threads}), torch {record['torch']}, {record['dtype']}, "
                f"commit {record['commit']}"
            )
    legend = (
        "n = m samples of each side, F features, K kernels. All methods take turns in one process on the same inputs; "
        "the bandwidths are given, and no time contains the heuristic. A peer is *exact* if it is a library that "
        "computes the same function as ours. The matrix rate is that of one large product; a share counts the "
        "multiply-adds of the floor alone. Measured on:\n"
    )
    return legend + "\n" + "\n".join(dict.fromkeys(lines)) + "\n"


def _table(title: str, cells: Cells, show: Callable[[Cells, str, int], str], rows: Sequence[str]) -> str:
    sizes = sorted({n for _, n in cells})
    lines = [f"{title}:\n", "| method | " + " | ".join(f"n = {n}" for n in sizes) + " |"]
    lines.append("|---|" + "---:|" * len(sizes))
    lines += [f"| {name} | " + " | ".join(show(cells, name, n) for n in sizes) + " |" for name in rows]
    return "\n".join(lines) + "\n"


def _time(cells: Cells, name: str, n: int) -> str:
    record = cells.get((name, n), {})
    if "seconds_median" in record:
        return seconds(record["seconds_median"])
    reason = str(record.get("reason", "–"))
    return reason if reason.startswith("not run") else reason.partition(" (")[0]  # the rest is told below the tables


def _memory(cells: Cells, name: str, n: int) -> str:
    record = cells.get((name, n), {})
    return size(record["peak_bytes"]) if "seconds_median" in record else "–"


def _share(cells: Cells, name: str, n: int) -> str:
    share = cells.get((name, n), {}).get("rate_fraction")
    return "–" if share is None else f"{100 * share:.0f} %"


def _ratio(reference: Callable[[Cells, int], float | None]) -> Callable[[Cells, str, int], str]:
    def show(cells: Cells, name: str, n: int) -> str:
        record, against = cells.get((name, n), {}), reference(cells, n)
        if against is None or "seconds_median" not in record:
            return "–"
        return f"{record['seconds_median'] / against:.2f}"

    return show


def _rows_explained(tables: Mapping[Setting, Cells], rows: Iterable[str]) -> str:
    """What each row calls, how well it agrees with us, and why it is empty where it is."""
    lines = ["## The rows\n"]
    for name in rows:
        records = [r for cells in tables.values() for (method, _), r in cells.items() if method == name]
        line = f"- **{name}** ({METHODS[name].kind}): {METHODS[name].what}."
        off = [record["off_by"] for record in records if "off_by" in record]
        if off:
            verdict = "agrees with" if max(off) < AGREES else "DIFFERS FROM"
            line += f" It {verdict} our {METHODS[name].equals} estimate in float64 (off by {max(off):.1g} at most)."
        chosen = [(r["features"], r["n"], r["backend"]) for r in records if "backend" in r]
        for backend in dict.fromkeys(backend for _, _, backend in sorted(chosen)):
            where = [f"{n} (F = {f})" for f, n, other in sorted(chosen) if other == backend]
            line += f" Took {backend} at n = {', '.join(where)}."
        reasons = [str(r["reason"]) for r in records if "reason" in r and not str(r["reason"]).startswith("not run")]
        line += "".join(f" {reason[0].upper()}{reason[1:]}." for reason in dict.fromkeys(reasons))
        lines.append(line)
    return "\n".join(lines) + "\n"


def seconds(value: float) -> str:
    """Three digits and the unit that suits them."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if value < limit:
            return f"{_three(value * factor)} {unit}"
    return f"{_three(value)} s"


def size(count: float) -> str:
    """Bytes with three digits and the unit that suits them."""
    for limit, factor, unit in ((1e6, 1e-3, "kB"), (1e9, 1e-6, "MB")):
        if count < limit:
            return f"{_three(count * factor)} {unit}"
    return f"{_three(count * 1e-9)} GB"


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def plot(records: Sequence[Record]) -> Figure | None:
    """Time (above) and peak memory (below) against n, a column a setting; None if nothing was measured.

    Grey guides grow as n^2 and as n, through the highest point at the largest size.
    """
    tables = by_setting(record for record in records if "seconds_median" in record)
    if not tables:
        return None
    figure = Figure(figsize=(2 + 4.2 * len(tables), 8), layout="constrained")
    grid = figure.subplots(2, len(tables), squeeze=False, sharex=True, sharey="row")
    for column, (setting, cells) in enumerate(tables.items()):
        _lines(grid[0][column], cells, "seconds_median", 1.0, names=list(METHODS))
        _lines(grid[1][column], cells, "peak_bytes", 1e-6, names=[name for name in METHODS if name != "floor"])
        title = f"F = {setting.features}, K = {setting.kernels}{_where(setting, tables)}"
        grid[0][column].set_title(title, fontsize=10)
        grid[1][column].set_xlabel("samples of each side, n = m")
    grid[0][0].set_ylabel("forward + backward, seconds")
    grid[1][0].set_ylabel("peak memory beyond the inputs, MB")
    for axes in grid.flat:
        _guides(axes)
    handles: dict[str, Artist] = {}
    for axes in grid.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    ordered = [name for name in METHODS if name in handles]
    figure.legend([handles[name] for name in ordered], ordered, loc="outside right center", fontsize=8, frameon=False)
    return figure


def _lines(axes: Axes, cells: Cells, field: str, factor: float, *, names: Sequence[str]) -> None:
    """One line a method, ours thick."""
    for place, name in enumerate(METHODS):
        points = [(n, r[field] * factor) for (method, n), r in sorted(cells.items()) if method == name]
        # Less than a page of memory is none, and a logarithm has no place for it.
        points = [(n, value) for n, value in points if value > 0]
        if not points or name not in names:
            continue
        kind = METHODS[name].kind
        axes.plot(
            *zip(*points, strict=True),
            label=name,
            color="#222222" if kind == "floor" else COLOURS[place % len(COLOURS)],
            linestyle=STYLES[kind],
            linewidth=2.2 if kind == "ours" else 1.1,
            marker=MARKERS[place % len(MARKERS)],
            markersize=4,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _guides(axes: Axes) -> None:
    drawn = [point for line in axes.get_lines() for point in np.asarray(line.get_xydata(), dtype=float).tolist()]
    if not drawn:
        return
    last, height = max(drawn)
    first, bottom = min(drawn)[0], axes.get_ylim()[0]
    for power, style, note in ((2, ":", "n²"), (1, "--", "n")):
        begin = max(first, last * (bottom / height) ** (1 / power))  # no further down than the picture
        axes.plot([begin, last], [height * (begin / last) ** power, height], color="#999999", linestyle=style, lw=0.9)
        middle = (begin * last) ** 0.5
        axes.annotate(note, (middle, height * (middle / last) ** power), color="#777777", fontsize=9)
