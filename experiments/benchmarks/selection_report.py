"""Records of the selection benchmark to table.md; nothing is measured here, and no number typed by hand.

A table for each task and machine: a row a method and size, with the median time, its ratio to ours, the peak memory
beyond the inputs, and of k-center the radius.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.benchmarks.mmd_report import seconds, size
from experiments.benchmarks.selection import TASKS, key_of
from experiments.records import Record, read, write_text

LETTERS = {"n": "N", "labelled": "L", "classes": "C", "features": "F", "budget": "b"}


def write(folder: Path) -> Path:
    """Make table.md of a folder from its records.jsonl; its path."""
    write_text(folder / "table.md", markdown(read(folder / "records.jsonl")))
    return folder / "table.md"


def markdown(records: Sequence[Record]) -> str:
    """The tables, what their rows are, and on what they were measured."""
    kept: dict[object, Record] = {}
    for record in records:  # the last one counts, but a measured one before one that says why there is none
        key = key_of(record)
        if "seconds_median" in record or "seconds_median" not in kept.get(key, {}):
            kept[key] = record
    parts = ["# What asking costs\n", _machines(kept.values())]
    for name, task in TASKS.items():
        of_task = [record for record in kept.values() if record["task"] == name]
        for machine in dict.fromkeys((record["device_name"], record["threads"]) for record in of_task):
            here = [r for r in of_task if (r["device_name"], r["threads"]) == machine]
            parts.append(f"## {name}: {machine[0]}, {machine[1]} thread{'s' * (machine[1] != 1)}\n")
            parts.append(f"{task.what[0].upper()}{task.what[1:]}.\n")
            parts.append(_table(name, here))
            lines = [f"- **{method}**: {how.what}." for method, how in task.methods.items()]
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _table(name: str, records: Sequence[Record]) -> str:
    task = TASKS[name]
    ours = {_size(record): record for record in records if record["method"] == "ours"}
    lines = ["| size | method | time | time / ours | peak memory | radius |", "|---|---|---:|---:|---:|---:|"]
    order = list(task.methods)
    for record in sorted(records, key=lambda r: (_size(r), order.index(r["method"]))):
        scale = task.methods[record["method"]].scale
        cells = [", ".join(f"{LETTERS[k]} = {v:,}" for k, v in zip(LETTERS, _size(record), strict=True) if v)]
        cells.append(record["method"])
        if "seconds_median" in record:
            took, peak = scale * record["seconds_median"], scale * record["peak_bytes"]
            beside = ours.get(_size(record), {}).get("seconds_median")
            about = f" (of N = {record['n']:,}, times {scale})" if scale > 1 else ""
            cells += [seconds(took) + about, f"{took / beside:.2f}" if beside else "–", size(peak)]
            cells.append(f"{record['radius']:.4f}" if "radius" in record else "–")
        else:
            cells += [str(record["reason"]), "–", "–", "–"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _size(record: Record) -> tuple[int, ...]:
    """N, L, C, F, b of the row: of all samples, where a method was run on a share of them."""
    scale = TASKS[record["task"]].methods[record["method"]].scale
    return (scale * record["n"], *(record[part] for part in ("labelled", "classes", "features", "budget")))


def _machines(records: Iterable[Record]) -> str:
    lines = [
        f"- {r['device_name']} ({r['device']}, {r['threads']} threads), torch {r['torch']}, commit {r['commit']}"
        for r in records
        if "seconds_median" in r
    ]
    legend = (
        "N samples, L labelled ones (source samples of mmd_reduction), C classes, F features, b asked for. Features "
        "are of 100 clusters behind a ReLU, float32. Each measurement is a process of its own: median time of its "
        "calls, and the first one's peak memory beyond what was in use before it, inputs among that. Made by "
        "`python -m experiments.benchmarks.selection`. Measured on:\n"
    )
    return legend + "\n" + "\n".join(dict.fromkeys(lines)) + "\n"
