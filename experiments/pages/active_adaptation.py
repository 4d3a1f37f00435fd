"""The tables, curves and sentences of active_adaptation, from records alone.

gain = mean over transfers and seeds of (accuracy of the strategy - accuracy of random), both of the same seed
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from experiments.arena_field import STRATEGIES, TASKS
from experiments.framework.measurements import measurements
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import plots
from experiments.framework.reporting.tables import Table, difference, mean_of, signed, told
from experiments.framework.trials import slug
from experiments.jobs.active_adaptation import NO_LABELS, SAYS
from experiments.jobs.arena import TEN_CLASS
from experiments.pages.arena_cells import BASE, OWN

if TYPE_CHECKING:
    pass

# What decides: rounds at label counts have a test split that nobody could ask about; in the one training there is none.
DECIDES = {"5%": ("unqueried", "images never asked for"), "counts": ("target_test", "test split")}
SETS = {"Office-10 + Caltech-10": True, "digits": False}  # name -> whether its tasks are ten-class
DRAWN = 5  # strategies in a figure, besides hybrid and random: eighteen lines cannot be told apart
BySeed = Mapping[int, float]


def ordered(records: Sequence[Record]) -> list[Record]:
    """Records by transfer and strategy in the order of the experiment; strategies of the user's own come last."""
    methods = {name: place for place, name in enumerate((NO_LABELS, *STRATEGIES))}
    tasks = {task: place for place, task in enumerate(TASKS)}
    return sorted(records, key=lambda r: (tasks.get(r["task"], len(tasks)), methods.get(r["method"], len(methods))))


def tasks_of(records: Sequence[Record], protocol: str, ten_class: bool) -> list[str]:
    """The transfers of one set that have records of the protocol, in order."""
    there = {r["task"] for r in records if r["protocol"] == protocol}
    return [task for task in TASKS if task in there and task.startswith(TEN_CLASS) == ten_class]


def values_of(
    records: Sequence[Record], protocol: str, name: str, selection: str = "last"
) -> dict[str, dict[tuple[str, int], dict[int, float]]]:
    """method -> (task, labels) -> {seed: percent}."""
    found: dict[str, dict[tuple[str, int], dict[int, float]]] = {}
    for r in ordered([r for r in records if r["protocol"] == protocol and r["selection"] == selection]):
        if r.get(name) is not None:
            found.setdefault(r["method"], {}).setdefault((r["task"], r["labels"]), {})[r["seed"]] = 100 * r[name]
    return found


def over(cells: Mapping[tuple[str, int], BySeed], tasks: Sequence[str], labels: int | None = None) -> dict[int, float]:
    """The mean over these transfers for each seed that has all of them; labels: at that count, None: at any (one)."""
    own = [next((v for (t, count), v in cells.items() if t == task and labels in (None, count)), {}) for task in tasks]
    seeds = set.intersection(*map(set, own)) if own else set()
    return {seed: statistics.fmean(v[seed] for v in own) for seed in sorted(seeds)}


def one_training(records: Sequence[Record], tasks: Sequence[str]) -> Table:
    """One row a strategy: both accuracies, the oracle's, and each transfer on the whole target."""
    target, unqueried = (values_of(records, "5%", f"accuracy/{split}") for split in ("target", "unqueried"))
    oracle = values_of(records, "5%", "accuracy/target", "oracle")
    base = over(target.get(BASE, {}), tasks)
    lines = []
    for method, cells in target.items():
        mine = over(cells, tasks)
        gain = difference(mine, base)
        line = [
            method,
            told(mine),
            told(over(unqueried.get(method, {}), tasks)),
            told(over(oracle.get(method, {}), tasks)),
        ]
        line.append("–" if method == BASE or not gain else signed(mean_of(gain)))
        lines.append([*line, *(told(over(cells, [task])) for task in tasks), str(len(mine))])
    columns = [task.removeprefix(TEN_CLASS) for task in tasks]
    return ["strategy", "target", "unqueried", "oracle, target", "over random", *columns, "n"], lines


def at_counts(records: Sequence[Record], tasks: Sequence[str], split: str) -> Table:
    """One row a strategy, a column a label count: the mean over the transfers whose pool is large enough for it."""
    cells = values_of(records, "counts", f"accuracy/{split}")
    counts = sorted({count for by in cells.values() for task, count in by if task in tasks})
    large = {c: [t for t in tasks if any((t, c) in by for by in cells.values())] for c in counts}
    lines = [[m, *(told(over(by, large[c], c)) for c in counts)] for m, by in cells.items()]
    return [
        "strategy",
        *(f"{c}" + (f" ({len(large[c])} transfers)" if len(large[c]) < len(tasks) else "") for c in counts),
    ], lines


def at_most(records: Sequence[Record], protocol: str, tasks: Sequence[str]) -> dict[str, float]:
    """method -> mean accuracy over these transfers at the most labels, on what decides; those that have all of them,
    from the best on."""
    cells = values_of(records, protocol, f"accuracy/{DECIDES[protocol][0]}")
    last = {
        m: {(t, c): v for (t, c), v in by.items() if c == max(k for s, k in by if s == t)} for m, by in cells.items()
    }
    means = {m: statistics.fmean(v.values()) for m, by in last.items() if m != NO_LABELS and (v := over(by, tasks))}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def findings(records: Sequence[Record]) -> list[str]:
    """Sentences that the records decide: the best and the worst by each protocol, and where hybrid and random stand."""
    said = []
    for name, ten_class in SETS.items():
        for protocol in SAYS:
            tasks = tasks_of(records, protocol, ten_class)
            means = at_most(records, protocol, tasks)
            if len(means) < 2 or BASE not in means:
                continue
            order = list(means)
            best, worst = order[0], order[-1]
            sentence = f"{name}, {protocol}, {len(tasks)} transfer{'s'[: len(tasks) > 1]}, {DECIDES[protocol][1]}, "
            sentence += f"at the most labels: best {best}, {means[best]:.1f}"
            if worst != BASE:
                sentence += f"; worst {worst}, {means[worst]:.1f}"
            for method in (OWN, BASE):
                if method in means and method != best and (method == BASE or method != worst):
                    sentence += f"; {method} {means[method]:.1f}, place {order.index(method) + 1} of {len(means)}"
            said.append(sentence + ".")
    return said


def drawn(records: Sequence[Record], name: str, tasks: Sequence[str]) -> Drawn | None:
    """The rounds' curves on the test split, a panel a transfer: the best few strategies, hybrid and random."""
    means = at_most(records, "counts", tasks)
    shown = {*list(means)[:DRAWN], OWN, BASE}
    own = [r for r in ordered(records) if r["task"] in tasks and r["protocol"] == "counts" and r["method"] in shown]
    figure = plots.panels(measurements(own), "test", columns=3) if own else None
    if figure is None:
        return None
    text = f"{name}: accuracy on the test split at label counts; the {DRAWN} best at the most labels, {OWN} and {BASE}."
    return Drawn(f"{slug(name)}.png", figure, text)


CAPTIONS = [
    "Accuracy in percent, mean ± standard deviation over n seeds, means over transfers first. target: all images of "
    "the pool; unqueried: those never asked for; oracle: of the epochs after the last query the one with the most "
    "target images right, which nobody could choose without their labels; DAN: the same without a target label.",
    "5%: one training that asks for 1 % of the target at the end of five epochs; the pool is the whole target. counts: "
    "rounds from a DAN with a frozen trunk, as in the arena; the pool leaves out a test split. The published tables of "
    "the 5 % protocol are of Office-31 and Office-Home with a ResNet-50, and CLUE's of SVHN to MNIST: other sets, so "
    "that none of their numbers stands here.",
]


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    tables, figures = [], []
    for name, ten_class in SETS.items():
        if tasks := tasks_of(records, "5%", ten_class):
            tables.append((f"{name}: one training, 1 % five times", one_training(records, tasks)))
        if tasks := tasks_of(records, "counts", ten_class):
            for split, told_as in (("unqueried", "images never asked for"), ("target_test", "test split")):
                tables.append((f"{name}: rounds at label counts, {told_as}", at_counts(records, tasks, split)))
            if figure := drawn(records, name, tasks):
                figures.append(figure)
    return Report(
        title="Active adaptation: the field's two protocols",
        findings=findings(records),
        tables=tables,
        figures=figures,
        captions=CAPTIONS,
    )
