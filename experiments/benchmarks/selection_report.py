"""Records of the selection benchmark to table.md; nothing is measured here, and no number typed by hand.

A table for each task and machine: a row a method and size, with the median time, its ratio to ours, the peak memory
beyond the inputs, and of k-center the radius.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.benchmarks.mmd_report import seconds, size
from experiments.benchmarks.selection_tasks import TASKS, key_of
from experiments.framework.publish import HOME, renewed
from experiments.framework.records import Record, read, write_text

LETTERS = {"n": "N", "labelled": "L", "classes": "C", "features": "F", "budget": "b"}


NAME = "benchmark_selection"


def write(folder: Path) -> Path:
    """Make table.md of a folder from its records.jsonl; its path. Of the published folder, the pages are renewed."""
    text = markdown(read(folder / "records.jsonl"))
    write_text(folder / "table.md", text)
    if folder.resolve() == (HOME / "results" / NAME).resolve():
        for page, new in renewed(NAME, text).items():
            write_text(page, new)
    return folder / "table.md"


def markdown(records: Sequence[Record]) -> str:
    """The tables, what their rows are, and on what they were measured."""
    kept: dict[object, Record] = {}
    for record in records:  # the last one counts, but a measured one before one that says why there is none
        key = key_of(record)
        if "seconds_median" in record or "seconds_median" not in kept.get(key, {}):
            kept[key] = record
    parts = [*_findings(kept.values()), _machines(kept.values())]
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


def _findings(records: Iterable[Record]) -> list[str]:
    """A sentence for every size at which there is something to compare with: the fastest of the others."""
    lines = []
    found = [record for record in records if "seconds_median" in record]
    for ours in (record for record in found if record["method"] == "ours"):
        line = f"- **{ours['task']}**, {_in_words(ours)}: {seconds(_took(ours))} and {size(_peak(ours))}"
        beside = [r for r in found if r["method"] != "ours" and _place(r) == _place(ours)]
        told = [f"{_took(r) / _took(ours):.2g} times that: {r['method']}" for r in sorted(beside, key=_took)]
        lines.append(f"{line}{'; ' if told else ''}{', '.join(told)}.\n")
    return ["".join(lines)] if lines else []


def _table(name: str, records: Sequence[Record]) -> str:
    task = TASKS[name]
    ours = {_size(record): record for record in records if record["method"] == "ours"}
    lines = ["| size | method | time | time / ours | peak memory | radius |", "|---|---|---:|---:|---:|---:|"]
    order = list(task.methods)
    for record in sorted(records, key=lambda r: (_size(r), order.index(r["method"]))):
        scale = task.methods[record["method"]].scale
        cells = [_in_words(record), record["method"]]
        if "seconds_median" in record:
            took, peak = _took(record), _peak(record)
            beside = ours.get(_size(record), {}).get("seconds_median")
            about = f" (of N = {record['n']:,}, times {scale})" if scale > 1 else ""
            cells += [seconds(took) + about, f"{took / beside:.2f}" if beside else "–", size(peak)]
            cells.append(f"{record['radius']:.4f}" if "radius" in record else "–")
        else:
            cells += [str(record["reason"]), "–", "–", "–"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _in_words(record: Record) -> str:
    return ", ".join(f"{LETTERS[k]} = {v:,}" for k, v in zip(LETTERS, _size(record), strict=True) if v)


def _took(record: Record) -> float:
    """Seconds, for all samples."""
    return TASKS[record["task"]].methods[record["method"]].scale * float(record["seconds_median"])


def _peak(record: Record) -> float:
    """Bytes, for all samples."""
    return TASKS[record["task"]].methods[record["method"]].scale * float(record["peak_bytes"])


def _place(record: Record) -> tuple[object, ...]:
    """What can be compared: one task, one size, one machine."""
    return record["task"], _size(record), record["device_name"], record["threads"]


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
