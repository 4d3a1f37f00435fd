"""The DAN paper's Figure 3a on the 10-class set: can a linear classifier tell the domains apart by these features?

    A-distance = 2 (1 - 2 err)     err: the held-out error of a classifier of domains; 2: without error, 0: by chance

of the backbone's own features, of source-only's bottleneck and of DAN's, on C->W and A->W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments import office_caltech10 as office
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.measurements import aggregate
from experiments.framework.options import check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.panels import grouped_bars
from experiments.framework.reporting.tables import mean_of, told
from experiments.method_tables import COLOURS, DAN, SOURCE_ONLY
from experiments.office_caltech10 import NETWORK, TenClass
from experiments.office_caltech10.trial import Setup, load_train_config

RAW = "raw trunk"  # as published records have it
FEATURES = {RAW: "#0072b2", SOURCE_ONLY: COLOURS[SOURCE_ONLY], DAN: COLOURS[DAN]}


@dataclass(frozen=True)
class ADistance(TenClass):
    """What is trained and measured; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "a_distance"

    features: tuple[str, ...] = tuple(FEATURES)
    """these features only"""
    trade_off: float | None = None
    """lambda of DAN (default: what the search chose)"""

    def check(self) -> None:
        super().check()
        check_names("features", self.features, list(FEATURES), some=True)


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
    `adapt`'s, dropout off; with trade_off None nothing is trained, and it is that of the frozen backbone's outputs."""
    from dan.evaluation.metrics import predict
    from dan.mmd import a_distance

    setup = Setup(**place)
    task = setup.task(transfer)
    model = setup.network(task, seed)
    sides = [setup.outputs(data, model) for data in (task.source, task.target)]
    evaluation: dict[str, Any] = {}
    if trade_off is None:
        source, target = (data.tensors[0] for data in sides)
    else:
        common = {"trade_off": trade_off, "steps": steps, "seed": seed, "config": load_train_config(how, steps)}
        evaluation = setup.fit(model, task.source, task.target, tests=task.splits, **common)[-1]
        source, target = (predict(model, data, start=model.cached_stages)[0].layers["hidden1"] for data in sides)
    evaluation["a_distance"] = a_distance(source, target, seed=seed)
    return {"evaluations": [evaluation], **setup.provenance()}


def cells(config: ADistance) -> list[Cell]:
    """A seed also decides the classifier's halves: so raw features have a spread, too."""
    made = []
    for only, (transfer, features) in grid(config, "transfers", "features"):
        trade_off = {RAW: None, SOURCE_ONLY: 0.0, DAN: config.trade_off}[features]
        name = features.replace(" ", "_").lower()
        trials = office.training(name, distances, transfer, DAN, config, trade_off=trade_off)
        made.append(office.cell_of(only, transfer, features, trials))
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    distance, accuracy = office.measured(records, "a_distance"), office.measured(records, "accuracy/target", 100)
    transfers = office.transfers_in(records)
    shown = [features for features in FEATURES if any(features == method for _, method, _ in distance)]
    findings, rows, bars = [], [], {}
    for transfer in transfers:
        of_features = {f: distance[key] for f in shown if (key := (NETWORK, f, transfer)) in distance}
        bars[office.title_of(transfer)] = {features: list(values.values()) for features, values in of_features.items()}
        listed = ", ".join(f"{features} {mean_of(values):.2f}" for features, values in of_features.items())
        findings.append(f"{office.title_of(transfer)}, A-distance: {listed}.")
    for features in shown:
        keys = [(NETWORK, features, transfer) for transfer in transfers]
        cells = [cell for key in keys for cell in (told(distance.get(key), 2), told(accuracy.get(key)))]
        rows.append([features, *cells])
    headers = [f"{office.title_of(t)}: {what}" for t in transfers for what in ("A-distance", "accuracy, %")]
    styles = {features: {"color": colour, "alpha": 0.6} for features, colour in FEATURES.items()}
    caption = "Proxy A-distance, 10-class: mean and one dot a seed. 2: told apart without error; 0: by chance."
    return Report(
        title="Office-10 + Caltech-10: how far apart are the domains in the features?",
        findings=findings,
        tables=[("Proxy A-distance, 10-class", (["features", *headers], rows))],
        figures=[Drawn("a_distance.png", grouped_bars(bars, styles, y="proxy A-distance"), caption)],
        captions=[
            "A-distance 2 (1 - 2 err), mean ± standard deviation over seeds; err: the held-out error of logistic "
            "regression (C = 1, standardised features, both domains weighing the same) over two halves of all images "
            "of both domains. raw trunk: the frozen backbone's 512 outputs; source-only, DAN: the bottleneck, dropout "
            "off. The layout of Figure 3a of Long et al., ICML 2015: there AlexNet, fine-tuned, 31 classes on A->W.",
            *office.shared_captions(records),
        ],
        rows=[*aggregate(records), *office.metric_rows(records, "a_distance", "a_distance")],
    )


EXPERIMENT = Experiment(
    options=ADistance,
    summary="Figure 3a, 10-class: A-distance of raw, source-only and DAN features",
    cells=cells,
    report=report,
)
