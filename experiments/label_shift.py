"""Does alignment harm where class shares differ? Ten-class transfers with 30 % of the first, or last, five source
classes; methods with and without class weights w_y = p_T(y) / p_S(y), and with 5 % random target labels.

gain = accuracy - the same seed's accuracy of source-only (of labels-only, where there are labels)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from experiments import office_caltech10 as office
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.options import check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.tables import Table, dots, each, signed, tidy
from experiments.framework.trials import Trial, slug
from experiments.office_caltech10 import OTHER_SIX, PAPER_SIX, TenClass
from experiments.office_caltech10.trial import SET, Setup, load_train_config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHIFTS = {"none": (), "first": range(5), "last": range(5, 10)}  # classes of which the source keeps a part
KEPT, AUDIT, LABELLED = 0.3, 0.02, 0.05  # shares of source samples, audit labels, training labels
ESTIMATES = ("bbse", "mlls", "audit", "true")
# row -> (method of `dan.losses`, None for no alignment; where its class weights come from; trained on labels)
METHODS: dict[str, tuple[str | None, str | None, bool]] = {
    "source-only": (None, None, False),
    "DAN": ("dan", None, False),
    "DAN, BBSE weights": ("dan", "bbse", False),
    "DAN, MLLS weights": ("dan", "mlls", False),
    "DAN, weights with 2 % audits": ("dan", "audit", False),
    "DAN, true weights (oracle)": ("dan", "true", False),
    "JAN": ("jan", None, False),
    "CDAN": ("cdan", None, False),
    "MCC": ("mcc", None, False),
    "DAN+MCC": ("dan+mcc", None, False),
    "DAN+MCC, MLLS weights": ("dan+mcc", "mlls", False),
    "labels-only": (None, None, True),
    "DAN with labels": ("dan", None, True),
    "DAN, MLLS weights, with labels": ("dan", "mlls", True),
    "MCC with labels": ("mcc", None, True),
    "DAN+MCC, MLLS weights, with labels": ("dan+mcc", "mlls", True),
}
BASES = ("source-only", "labels-only")


@dataclass(frozen=True)
class LabelShiftOptions(TenClass):
    """What is trained."""

    NAME: ClassVar[str] = "label_shift"

    transfers: tuple[str, ...] = PAPER_SIX + OTHER_SIX
    """transfers, such as: c2w a2w"""
    shifts: tuple[str, ...] = ("last", "first", "none")
    """five classes of which the source keeps 30 %"""
    methods: tuple[str, ...] = tuple(METHODS)
    """rows of the table"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """one run of everything for each"""
    trade_off: float | None = None
    """lambda of every method (default: what dan_table2's search chose for DAN)"""

    def check(self) -> None:
        super().check()
        check_names("shifts", self.shifts, list(SHIFTS), some=True)
        check_names("methods", self.methods, list(METHODS), some=True)


# --- trials -----------------------------------------------------------------------------------------------------------


def shifted(place: dict[str, Any], transfer: str, shift: str, seed: int) -> tuple[Setup, Any, Any, Any]:
    """(setup, network, source, target), as outputs of the frozen backbone; of the classes of the shift the source keeps
    30 %, drawn by the seed."""
    import torch

    from dan.data.batches import derived_seed

    setup = Setup(**place)
    task = setup.task(transfer)
    model = setup.network(task, seed)
    source, target = setup.outputs(task.source, model), setup.outputs(task.target, model)
    generator, labels = torch.Generator().manual_seed(derived_seed(seed, 20)), source.tensors[1]
    few = torch.isin(labels, torch.tensor(list(SHIFTS[shift]), dtype=torch.long))
    kept = (~few | (torch.rand(len(few), generator=generator) < KEPT)).nonzero()[:, 0]
    return setup, model, source.rows(kept, labels[kept]), target


def estimate(
    _folder: Path, *, place: dict[str, Any], transfer: str, shift: str, how: dict[str, Any], steps: int, seed: int
) -> dict[str, Any]:
    """A trial: class weights by every estimator, and how far its shares are from the true ones (total variation)."""
    import torch

    from dan.data.batches import derived_seed, labels_of
    from dan.evaluation.class_shares import class_shares
    from dan.training.label_shift import CAP, estimate_label_shift

    setup, model, source, target = shifted(place, transfer, shift, seed)
    options = {"config": load_train_config(how, steps), "steps": steps, "cache": setup.backbones, "seed": seed}
    labels, count = labels_of(target), model.settings["num_classes"]
    drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derived_seed(seed, 21)))
    audits = labels[drawn[: max(1, round(AUDIT * len(labels)))]]
    true, of_source = class_shares(labels, count), class_shares(labels_of(source), count)
    weights, errors = {}, {}
    for name in ESTIMATES[:3]:
        more = {"method": "mlls", "audit_labels": audits} if name == "audit" else {"method": name}
        found = estimate_label_shift(model, source, target, **more, **options)
        weights[name] = found.weights.tolist()
        errors[name] = 0.5 * float((found.shares.shares - true).abs().sum())
    capped = torch.where(of_source > 0, true / of_source.clamp_min(1e-12), 0.0).clamp(max=CAP)
    weights["true"] = (capped / (capped * of_source).sum()).tolist()
    return {"weights": weights, "errors": errors, "shift": 0.5 * float((true - of_source).abs().sum())}


def adapt(
    folder: Path,
    *,
    how: dict[str, Any],
    steps: int,
    trade_off: float,
    weighted: str | None,
    labelled: bool,
    estimated: str,
    **data: Any,
) -> dict[str, Any]:
    """A trial: train with the weights that the trial `estimated` found. Labelled target images do not count.

    data: the arguments of `shifted`.
    """
    import torch

    from dan.data.batches import derived_seed
    from dan.evaluation.metrics import predict

    (setup, model, source, target), seed = shifted(**data), data["seed"]
    known = json.loads((folder.parent / estimated / "trial.json").read_text(encoding="utf-8"))["result"]
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(derived_seed(seed, 22)))
    bought, rest = order.split([round(LABELLED * len(order)), len(order) - round(LABELLED * len(order))])
    options: dict[str, Any] = {"trade_off": trade_off, "steps": steps, "seed": seed, "log_mmd": False}
    options |= {"class_weights": torch.tensor(known["weights"][weighted])} if weighted else {}
    options |= {"labelled_target": target.rows(bought, target.tensors[1][bought])} if labelled else {}
    (evaluation,) = setup.fit(model, source, target, config=load_train_config(how, steps), **options)
    output, y = predict(model, target, start=model.cached_stages)
    right = (output.logits.argmax(1) == y).double()
    evaluation |= {"accuracy/target": float(right.mean()), "accuracy/unqueried": float(right[rest].mean())}
    facts = {"shift": known["shift"], "share_error": known["errors"].get(weighted)}
    return {"evaluations": [evaluation | facts], **setup.provenance()}


def cells(config: LabelShiftOptions) -> list[Cell]:
    """One cell a shift, transfer and row; the weights of a seed are estimated once for all rows."""
    made = []
    for only, (shift, transfer, method) in grid(config, "shifts", "transfers", "methods"):
        name, weighted, labelled = METHODS[method]
        given: dict[str, Any] = {"shift": shift, "how": office.how_of("source-only", config)}
        prepared = office.training(f"{shift}-estimate", estimate, transfer, "source-only", config, **given)
        for trial in prepared:
            del trial.arguments["trade_off"]
        how = office.how_of("DAN", config) | {"method": name or "dan"}
        more = {"shift": shift, "how": how, "weighted": weighted, "labelled": labelled, "estimated": ""}
        more |= {"trade_off": config.trade_off if name else 0.0}
        trials = [
            Trial(trial.name, adapt, trial.arguments | {"estimated": before.name}, (before,))
            for trial, before in zip(
                office.training(f"{shift}-{slug(method)}", adapt, transfer, "DAN", config, **more),
                prepared,
                strict=True,
            )
        ]
        about = {"task": f"{SET}{transfer}, {shift}", "labels": round(100 * LABELLED) if labelled else 0}
        made.append(office.cell_of(only, transfer, method, trials, **about, shifted_classes=shift))
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def gains_of(records: Sequence[Record], shift: str, method: str) -> dict[str, float]:
    """transfer -> mean gain over the base, points, on target images that no row has a label of."""
    base = BASES[METHODS[method][2]]
    found: dict[tuple[str, str], dict[int, float]] = {}
    for record in records:
        if record["shifted_classes"] == shift and record["method"] in (method, base):
            found.setdefault((record["method"], record["task"]), {})[record["seed"]] = record["accuracy/unqueried"]
    gains = {}
    for (name, task), values in found.items():
        seeds = values.keys() & found.get((base, task), {}).keys()
        if name == method and seeds:
            gains[task] = 100 * fmean(values[seed] - found[base, task][seed] for seed in seeds)
    return gains


def gains_table(records: Sequence[Record]) -> Table:
    """Per shift: the worst transfer's gain, then the mean."""
    shifts = list(dict.fromkeys(record["shifted_classes"] for record in records))
    rows = []
    for method in METHODS:
        gains = [gains_of(records, shift, method) for shift in shifts]
        if any(gains):
            pairs = [(min(each.values()), fmean(each.values())) if each else (None, None) for each in gains]
            rows.append([method, *(signed(value) for pair in pairs for value in pair)])
    return ["method", *(f"{shift}: {what}" for shift in shifts for what in ("worst", "mean"))], rows


def findings(records: Sequence[Record]) -> list[str]:
    """What alignment loses, and what the weights give back, for every shift."""
    made = []
    for shift in dict.fromkeys(record["shifted_classes"] for record in records):
        for method in ("DAN", "DAN, MLLS weights", "DAN, true weights (oracle)", "MCC", "DAN+MCC, MLLS weights"):
            gains = gains_of(records, shift, method)
            if gains:
                worst = min(gains, key=gains.__getitem__)
                made.append(
                    f"Shift {shift}, {method}: worst {signed(gains[worst])} ({worst.removeprefix(SET).split(',')[0]}), "
                    f"mean of {len(gains)} transfers {signed(fmean(gains.values()))} points over source-only."
                )
    return made


def gains_figure(records: Sequence[Record]) -> Figure:
    """A row a method, a panel a shift: one dot a transfer, a diamond at their mean; red where any transfer loses."""
    from matplotlib.figure import Figure

    shifts = list(dict.fromkeys(record["shifted_classes"] for record in records))
    methods = [m for m in METHODS if m not in BASES and any(gains_of(records, shift, m) for shift in shifts)]
    figure = Figure(figsize=(2.6 + 2.8 * len(shifts), 1.0 + 0.26 * len(methods)), layout="constrained")
    for axes, shift in zip(figure.subplots(1, len(shifts), squeeze=False, sharey=True)[0], shifts, strict=True):
        for row, method in enumerate(methods):
            gains = list(gains_of(records, shift, method).values())
            if gains:
                dots(axes, -row, gains, "#d55e00" if min(gains) < 0 else "#0072b2", (16, 46))
        axes.axvline(0, color="#222222", linewidth=0.8)
        axes.set_title(f"shift: {shift}", fontsize=10)
        axes.set_xlabel("gain, points")
        axes.set_yticks([-row for row in range(len(methods))], methods, fontsize=8)
        tidy(axes, "x")
    return figure


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    caption = "Gain over source-only (labels-only, with labels), one dot a transfer; red: at least one transfer loses."
    return Report(
        title="Label shift on Office-10 + Caltech-10",
        findings=findings(records),
        tables=[("Difference to source-only (to labels-only, with labels), points", gains_table(records))],
        figures=[Drawn("gains.png", gains_figure(records), caption)],
        captions=[
            f"Of five classes the source keeps {KEPT:.0%}. Seeds: {each(records, 'seed')}. Accuracy on target images "
            f"that no row has a label of: {LABELLED:.0%} of the target, drawn at random, is labelled in the rows with "
            "labels.",
            *office.shared_captions(records),
        ],
    )


EXPERIMENT = Experiment(
    options=LabelShiftOptions,
    summary="10-class with unequal class shares: does alignment harm, and do class weights mend it?",
    cells=cells,
    report=report,
)
