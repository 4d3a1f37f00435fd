"""The DAN paper's Figure 3a on the 10-class set: can a linear classifier tell the domains apart by these features?

    A-distance = 2 (1 - 2 err)     err: the held-out error of a classifier of domains; 2: without error, 0: by chance

of the trunk's own features, of source-only's bottleneck and of DAN's, on C->W and A->W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from experiments.dan_table2 import DAN, SOURCE_ONLY
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.measurements import aggregate
from experiments.framework.options import check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.tables import Table, mean_of, tidy, told
from experiments.jobs.dan_table2 import Place, load_train_config
from experiments.office_caltech10 import (
    NETWORK,
    TenClass,
    about,
    measured,
    metric_rows,
    provenance_of,
    shared_captions,
    title_of,
    training,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RAW = "raw trunk"
FEATURES = (RAW, SOURCE_ONLY, DAN)
PAINT = {RAW: "#0072b2", SOURCE_ONLY: "#888888", DAN: "#222222"}


@dataclass(frozen=True)
class ADistance(TenClass):
    """What is trained and measured; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "a_distance"

    features: tuple[str, ...] = FEATURES
    """these features only"""
    trade_off: float | None = None
    """lambda of DAN (default: what the search chose)"""

    def check(self) -> None:
        super().check()
        check_names("features", self.features, FEATURES, some=True)


def distances(
    _folder: Path,
    *,
    place: dict[str, Any],
    transfer: str,
    how: dict[str, Any],
    trade_off: float | None,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """A trial: the proxy A-distance of all source from all target images, on the bottleneck of a network trained like
    `adapt`'s, dropout off; with trade_off None nothing is trained, and it is that of the frozen trunk's outputs."""
    from dan.evaluation.metrics import predict
    from dan.mmd import a_distance
    from dan.training.trainer import fit

    where = Place(**place)
    task = where.task(transfer)
    model = where.network(task, seed)
    sides = [where.outputs(data, model) for data in (task.source, task.target)]
    evaluation: dict[str, Any] = {}
    if trade_off is None:
        source, target = (data.tensors[0] for data in sides)
    else:
        common = {"trade_off": trade_off, "steps": steps, "seed": seed, "config": load_train_config(how, steps)}
        evaluation = fit(model, task.source, task.target, tests=task.splits, cache=where.backbones, **common)[-1]
        source, target = (predict(model, data, start=model.cached_stages)[0].layers["hidden1"] for data in sides)
    evaluation["a_distance"] = a_distance(source, target, seed=seed)
    return {"evaluations": [evaluation], **provenance_of(where)}


def cells(config: ADistance) -> list[Cell]:
    """A seed also decides the classifier's halves: so raw features have a spread, too."""
    made = []
    for only, (transfer, features) in grid(config, "transfers", "features"):
        more = {"trade_off": {RAW: None, SOURCE_ONLY: 0.0, DAN: config.trade_off}[features]}
        name = features.replace(" ", "_").lower()
        trials = [training(name, distances, transfer, DAN, config, seed, **more) for seed in config.seeds]
        made.append(Cell(about=about(transfer, features, **more), only=only, trials=trials))
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def distance_table(records: Sequence[Record]) -> Table:
    """One row for each kind of features: its A-distance and, of what was trained, the accuracy, by transfer."""
    distance, accuracy = measured(records, "a_distance"), measured(records, "accuracy/target", 100)
    transfers = list(dict.fromkeys(transfer for _, _, transfer in distance))
    rows = []
    for features in dict.fromkeys(method for _, method, _ in distance):
        keys = [(NETWORK, features, transfer) for transfer in transfers]
        cells = [(told(distance.get(key), 2), told(accuracy.get(key))) for key in keys]
        rows.append([features, *(cell for pair in cells for cell in pair)])
    headers = [f"{title_of(t)}: {what}" for t in transfers for what in ("A-distance", "accuracy, %")]
    return ["features", *headers], rows


def findings(records: Sequence[Record]) -> list[str]:
    """For each transfer: the features from those that tell the domains apart best to worst."""
    distance = measured(records, "a_distance")
    said = []
    for transfer in dict.fromkeys(transfer for _, _, transfer in distance):
        means = {f: mean for f in FEATURES if (mean := mean_of(distance.get((NETWORK, f, transfer)))) is not None}
        order = sorted(means, key=means.__getitem__, reverse=True)
        listed = ", ".join(f"{features} {means[features]:.2f}" for features in order)
        line = f"{title_of(transfer)}: from the features that tell the domains apart best to worst: {listed}."
        if SOURCE_ONLY in means and DAN in means:
            below = means[DAN] < means[SOURCE_ONLY]
            line += f" DAN's lie {'below' if below else 'NOT below'} source-only's."
        said.append(line)
    return said


def figure_of(records: Sequence[Record]) -> Figure:
    """A group of bars a transfer, one for each kind of features, one dot a seed."""
    from matplotlib.figure import Figure

    distance = measured(records, "a_distance")
    transfers = list(dict.fromkeys(transfer for _, _, transfer in distance))
    shown = [features for features in FEATURES if features in {method for _, method, _ in distance}]
    figure = Figure(figsize=(2.4 + 2.0 * len(transfers), 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(shown)
    for i, features in enumerate(shown):
        for group, transfer in enumerate(transfers):
            seeds = list(distance.get((NETWORK, features, transfer), {}).values())
            if seeds:
                place = group + (i - (len(shown) - 1) / 2) * width
                label = features if group == 0 else None
                colour = PAINT[features]
                axes.bar(place, sum(seeds) / len(seeds), 0.92 * width, color=colour, alpha=0.6, label=label)
                spots = [place + 0.12 * width * (k - (len(seeds) - 1) / 2) for k in range(len(seeds))]
                axes.scatter(spots, seeds, s=16, color=colour, edgecolors="white", linewidths=0.6, zorder=3)
    axes.set_xticks(range(len(transfers)), [title_of(transfer) for transfer in transfers])
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 2.05)
    axes.set_ylabel("proxy A-distance")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(shown), frameon=False)
    tidy(axes, "y")
    return figure


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    caption = (
        "Proxy A-distance, 10-class: mean and one dot a seed. 2: a linear classifier tells the domains apart without "
        "error; 0: by chance."
    )
    return Report(
        title="Office-10 + Caltech-10: how far apart are the domains in the features?",
        findings=findings(records),
        tables=[("Proxy A-distance, 10-class", distance_table(records))],
        figures=[Drawn("a_distance.png", figure_of(records), caption)],
        captions=[
            "A-distance 2 (1 - 2 err), mean ± standard deviation over seeds. err: the error of logistic regression "
            "(C = 1, standardised features, both domains weighing the same) on images that it was not trained on: all "
            "images of both domains, in two halves of which each is held out once; the network has seen them all. "
            "raw trunk: the frozen trunk's 512 outputs; source-only, DAN: the bottleneck, dropout off, of the model "
            "after the last step.",
            "The layout of Figure 3a of Long et al., ICML 2015: there AlexNet, fine-tuned, C->W with 10 classes and "
            "A->W with 31; here 10-class in both, and the trunk frozen.",
            *shared_captions(records),
        ],
        rows=[*aggregate(records), *metric_rows(records, "a_distance", "a_distance")],
    )


EXPERIMENT = Experiment(
    options=ADistance,
    summary="Figure 3a, 10-class: A-distance of raw, source-only and DAN features",
    cells=cells,
    report=report_of,
)
