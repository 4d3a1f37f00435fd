"""From general to specific layers, on the 10-class set: accuracy against how many stages of the trunk are frozen.

    fine-tuned:   stages 1..n frozen, the rest of the pre-trained trunk trained at the rate, new layers at ten times it
    left out:     stages 1..n frozen, and the new layers right on their averaged output: the rest is not there to tune

both as source-only and as DAN. All stages frozen is the trunk without any fine-tuning.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from dan.errors import UserError
from experiments.dan_table2 import DAN, SOURCE_ONLY, column_of
from experiments.framework.experiment import Cell, Experiment
from experiments.framework.options import check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.tables import Table, legend_above, mean_of, tidy, told
from experiments.framework.trials import Trial, slug
from experiments.jobs.dan_table2 import BOTTLENECK, DOMAINS, DROPOUT, Place, load_train_config, start_new_layers
from experiments.office_caltech10 import (
    EVERYTHING,
    NOTHING,
    TenClass,
    about,
    adapt,
    measured,
    place_of,
    provenance_of,
    shared_captions,
    sides_of,
    title_of,
    training,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

STAGES = ("conv1", *(f"fire{i}" for i in range(2, 10)))  # those with weights; "pool", after them, has none
FROZEN = (NOTHING, *STAGES[:-1], EVERYTHING)  # up to fire9 is up to the pool: everything
METHODS = {SOURCE_ONLY: "#888888", DAN: "#222222"}


@dataclass(frozen=True)
class FrozenLayers(TenClass):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "frozen_layers"
    QUICK: ClassVar[dict[str, Any]] = {
        **TenClass.QUICK,
        "steps": 10,
        "frozen": ("fire8", EVERYTHING),
        "cut": ("fire4", "fire8"),
        "image_size": 64,
    }

    steps: int = 100
    """training steps of every run: the fewer stages are frozen, the longer one takes, up to seconds"""
    methods: tuple[str, ...] = tuple(METHODS)
    """these rows only"""
    frozen: tuple[str, ...] = ("fire3", "fire5", "fire6", "fire7", "fire8", EVERYTHING)
    """frozen up to and with this stage, the rest fine-tuned: none, conv1, fire2, ..., fire8, pool (everything)"""
    cut: tuple[str, ...] = STAGES
    """frozen up to and with this stage, the rest left out: conv1, fire2, ..., fire9"""
    trade_off: float | None = None
    """lambda of DAN (default: what the search chose)"""

    def check(self) -> None:
        super().check()
        check_names("methods", self.methods, list(METHODS))
        check_names("frozen", self.frozen, FROZEN)
        check_names("cut", self.cut, STAGES)
        if not self.methods or not (self.frozen or self.cut):
            raise UserError("nothing is left to train: --methods, and --frozen or --cut, need at least one")


class Cut(NamedTuple):
    """How the trunk is treated: frozen up to `stage`, the rest fine-tuned or left out."""

    stage: str
    left_out: bool

    @property
    def network(self) -> str:
        """What records call it."""
        return f"squeezenet1_1-{'cut-after' if self.left_out else 'frozen-to'}-{self.stage}"

    @property
    def depth(self) -> int:
        """How many of the stages with weights are frozen."""
        known = {NOTHING: 0, EVERYTHING: len(STAGES)}
        return known[self.stage] if self.stage in known else STAGES.index(self.stage) + 1


def cuts_of(config: FrozenLayers) -> list[Cut]:
    """Every way in which the trunk is treated, the quickest ones first."""
    fine_tuned = sorted((Cut(stage, False) for stage in config.frozen), key=lambda cut: -cut.depth)
    return [*(Cut(stage, True) for stage in config.cut), *fine_tuned]


def stage_features(folder: Path, *, place: dict[str, Any], sides: list[str]) -> dict[str, Any]:
    """A trial: the output of each stage of the frozen trunk on all images of the domains, averaged over positions.

    Kept in features.pt: domain -> {stage: (N, F)} and its classes, under "y".
    """
    import torch

    from dan.data.batches import iter_batches

    where, kept = Place(**place), {}
    for side in sides:
        task = where.task(f"{side}2{next(other for other in DOMAINS if other != side)}")
        backbone = where.network(task, seed=0).backbone.eval()
        found: dict[str, list[Tensor]] = {}
        for x, y in iter_batches(task.source, 64):
            with torch.no_grad():
                for name, stage in backbone.stages.items():
                    x = stage(x)
                    found.setdefault(name, []).append(backbone.pooled(x))
            found.setdefault("y", []).append(y)
        kept[side] = {name: torch.cat(parts) for name, parts in found.items()}
    torch.save(kept, folder / "features.pt")
    return {"samples": {side: len(parts["y"]) for side, parts in kept.items()}}


def scaled(source: Tensor, target: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """(x - m) size / r for both, m (F,) the source's mean and r its root mean squared distance from it, so that one
    rate suits all stages, whose outputs differ tenfold in size. source (N, F), target (M, F)."""
    centre = source.mean(0)
    factor = size / spread_of(source)
    return (source - centre) * factor, (target - centre) * factor


def spread_of(x: Tensor) -> float:
    """The root mean squared distance of (N, F) from their mean."""
    return float((x - x.mean(0)).pow(2).sum(1).mean().sqrt())


def probe(
    folder: Path,
    *,
    place: dict[str, Any],
    features: str,
    stage: str,
    transfer: str,
    how: dict[str, Any],
    trade_off: float,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """A trial: bottleneck and logits right on one stage's averaged output, the later stages left out.

    features: the trial of `stage_features`. Outputs are scaled like those of the whole trunk: see `scaled`.
    """
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from dan.models.backbone import Backbone
    from dan.models.dan import DAN
    from dan.training.trainer import fit

    kept = torch.load(folder.parent / features / "features.pt", weights_only=True)
    source, target = (kept[side] for side in transfer.split("2"))
    size = spread_of(source[EVERYTHING])
    x_source, x_target = scaled(source[stage], target[stage], size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone({"stage": nn.Identity()}, out_features=x_source.shape[1])
        model = DAN(backbone, int(source["y"].max()) + 1, layers=(BOTTLENECK,), dropout=DROPOUT)
    start_new_layers(model, seed)
    evaluations = fit(
        model,
        TensorDataset(x_source, source["y"]),
        TensorDataset(x_target, target["y"]),
        trade_off=trade_off,
        steps=steps,
        seed=seed,
        tests={"target": TensorDataset(x_target, target["y"])},
        config=load_train_config(how, steps),
    )
    return {"evaluations": evaluations, **provenance_of(Place(**place))}


def trial_of(transfer: str, cut: Cut, method: str, seed: int, config: FrozenLayers) -> Trial:
    """The trial of one cell and seed."""
    name = f"{cut.network}-{slug(method)}"
    if not cut.left_out:
        return training(name, adapt, transfer, method, config, seed, place=place_of(config, cut.stage))
    whole = Trial("stages", stage_features, {"place": place_of(config), "sides": sides_of(config)})
    made = training(name, probe, transfer, method, config, seed, features=whole.name, stage=cut.stage)
    return replace(made, after=(whole,))


def cells(config: FrozenLayers) -> list[Cell]:
    """One cell a transfer, treatment of the backbone, and method."""
    made = []
    for transfer, cut, method in product(config.transfers, cuts_of(config), config.methods):
        stages = {"frozen": (), "cut": cut.stage} if cut.left_out else {"frozen": cut.stage, "cut": ()}
        trials = [trial_of(transfer, cut, method, seed, config) for seed in config.seeds]
        told = {"network": cut.network, "stage": cut.stage, "left_out": cut.left_out, "frozen_stages": cut.depth}
        told |= {"trade_off": trials[0].arguments["trade_off"]}
        made.append(
            Cell(
                about=about(transfer, method) | told,
                only={"transfers": transfer, "methods": method, **stages},
                trials=trials,
            )
        )
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def cuts_in(records: Sequence[Record]) -> list[Cut]:
    """How the trunk was treated in the records: left out, then fine-tuned, each from few frozen stages to all."""
    found = {Cut(record["stage"], record["left_out"]) for record in records}
    return sorted(found, key=lambda cut: (not cut.left_out, cut.depth))


def accuracy_table(records: Sequence[Record]) -> Table:
    """One row for each treatment of the trunk, the methods by transfer as columns.

    Seconds are of the wall clock, and so hold what a run waited while it was stopped: their median says what it takes.
    """
    found = measured(records, "accuracy/target", 100)
    seconds = measured(records, "seconds")
    transfers = list(dict.fromkeys(transfer for _, _, transfer in found))
    methods = [method for method in METHODS if method in {m for _, m, _ in found}]
    rows = []
    for cut in cuts_in(records):
        rest = "left out" if cut.left_out else "nothing" if cut.stage == EVERYTHING else "fine-tuned"
        keys = [(cut.network, method, transfer) for transfer in transfers for method in methods]
        times = [value for key in keys for value in seconds.get(key, {}).values()]
        rows.append([cut.stage, str(cut.depth), rest, *(told(found.get(key)) for key in keys)])
        rows[-1].append(f"{statistics.median(times):.0f}" if times else "–")
    headers = [f"{column_of(transfer)}, {method}" for transfer in transfers for method in methods]
    return ["frozen up to", "stages", "the rest", *headers, "seconds a run (median)"], rows


def findings(records: Sequence[Record]) -> list[str]:
    """For each transfer and method: how many frozen stages did best, with fine-tuning and with the rest left out."""
    found = measured(records, "accuracy/target", 100)
    said = []
    for transfer in dict.fromkeys(transfer for _, _, transfer in found):
        for method in METHODS:
            parts = []
            for left_out, title in ((False, "fine-tuned"), (True, "left out")):
                means = {
                    cut: mean
                    for cut in cuts_in(records)
                    if cut.left_out == left_out and (mean := mean_of(found.get((cut.network, method, transfer))))
                }
                if means:
                    best = max(means, key=means.__getitem__)
                    parts.append(f"{means[best]:.1f} with {best.depth} of {len(STAGES)} frozen and the rest {title}")
            frozen = mean_of(found.get((Cut(EVERYTHING, False).network, method, transfer)))
            if parts:
                all_frozen = "" if frozen is None else f"; {frozen:.1f} with all of it frozen"
                said.append(f"{title_of(transfer)}, {method}: at best {', and '.join(parts)}{all_frozen}.")
    return said


def figure_of(records: Sequence[Record]) -> Figure:
    """Accuracy against frozen stages, a panel a transfer: the rest fine-tuned (full lines) or left out (dashed)."""
    from matplotlib.figure import Figure

    found = measured(records, "accuracy/target", 100)
    transfers = list(dict.fromkeys(transfer for _, _, transfer in found))
    figure = Figure(figsize=(1.4 + 4.4 * len(transfers), 4.0), layout="constrained")
    panels = figure.subplots(1, len(transfers), squeeze=False, sharey=True)[0]
    for axes, transfer in zip(panels, transfers, strict=True):
        for method, colour in METHODS.items():
            for left_out, style, marker in ((False, "-", "o"), (True, "--", "s")):
                cuts = [cut for cut in cuts_in(records) if cut.left_out == left_out]
                values = {cut.depth: found.get((cut.network, method, transfer), {}) for cut in cuts}
                values = {depth: by_seed for depth, by_seed in values.items() if by_seed}
                if values:
                    means = [statistics.fmean(by_seed.values()) for by_seed in values.values()]
                    label = f"{method}, the rest {'left out' if left_out else 'fine-tuned'}"
                    axes.plot(
                        list(values), means, color=colour, linestyle=style, marker=marker, markersize=4.5, label=label
                    )
                for depth, by_seed in values.items():
                    spots = [depth] * len(by_seed)
                    axes.scatter(spots, list(by_seed.values()), s=12, color=colour, alpha=0.4, linewidths=0)
        axes.set_xticks(range(len(STAGES) + 1), ["none", *STAGES[:-1], "all"], rotation=45, fontsize=8)
        axes.set_title(title_of(transfer), fontsize=10)
        axes.set_xlabel("frozen up to")
        tidy(axes)
    panels[0].set_ylabel("accuracy on the target, %")
    legend_above(figure, panels[0], 2)
    return figure


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    caption = (
        "Accuracy on all target images against frozen stages, 10-class: mean and one dot a seed. Full: the rest of the "
        "trunk fine-tuned; dashed: left out, the new layers right on the last frozen stage's averaged output."
    )
    tuned = {record["stage"] for record in records if not record["left_out"]}
    missing = [stage for stage in FROZEN if stage not in tuned]
    steps = " or ".join(str(value) for value in sorted({record["steps"] for record in records}))
    cut_short = f"Cut to what two CPU cores carry: {steps} steps a run (dan_table2 has 300)"
    if missing:
        cut_short += f"; not fine-tuned from: {', '.join(missing)}"
    return Report(
        title="Office-10 + Caltech-10: how many stages to freeze",
        findings=findings(records),
        tables=[("Accuracy on all target images, 10-class", accuracy_table(records))],
        figures=[Drawn("frozen_layers.png", figure_of(records), caption)],
        captions=[
            "Accuracy in percent, mean ± standard deviation over seeds, of the model after the last step, 10-class. "
            "SqueezeNet's stages with weights are conv1 and fire2 to fire9; frozen up to pool is all of it, and "
            "frozen ones keep their ImageNet weights. The rest left out: its outputs, averaged over positions, are "
            "centred on the source's mean and scaled to the spread of the whole trunk's, so that one rate suits all.",
            f"{cut_short}. The rate and the trade-off were chosen with the whole trunk frozen, and none was chosen "
            "again for deeper fine-tuning; later layers with random weights, as in the transfer study that asked this "
            "first (Yosinski et al., NIPS 2014), are not part of it.",
            *shared_captions(records),
        ],
    )


EXPERIMENT = Experiment(
    options=FrozenLayers,
    summary="10-class: accuracy against the number of frozen stages",
    cells=cells,
    report=report_of,
)
