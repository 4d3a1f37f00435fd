"""From general to specific layers, on the 10-class set: accuracy against how many stages of the backbone are frozen.

    fine-tuned:   stages 1..n frozen, the rest of the pre-trained backbone trained, new layers at ten times its rate
    left out:     stages 1..n frozen, and the new layers right on their averaged output: the rest is not there to tune

both as source-only and as DAN. All stages frozen is the backbone without any fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from dan.errors import UserError
from experiments import office_caltech10 as office
from experiments.framework.experiment import Cell, Experiment
from experiments.framework.options import check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.panels import line_panels
from experiments.framework.reporting.tables import Table, mean_of, told
from experiments.framework.trials import Trial, slug
from experiments.method_tables import COLOURS, DAN, SOURCE_ONLY, column_of
from experiments.office_caltech10 import TenClass, trial
from experiments.office_caltech10.trial import EVERYTHING, NOTHING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

STAGES = ("conv1", *(f"fire{i}" for i in range(2, 10)))  # those with weights; "pool", after them, has none
FROZEN = (NOTHING, *STAGES[:-1], EVERYTHING)  # up to fire9 is up to the pool: everything
METHODS = (SOURCE_ONLY, DAN)


@dataclass(frozen=True)
class FrozenLayers(TenClass):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "frozen_layers"
    QUICK: ClassVar[dict[str, Any]] = {**TenClass.QUICK, "steps": 10, "frozen": ("fire8",), "cut": ("fire8",)}

    steps: int = 100
    """training steps of every run: the fewer stages are frozen, the longer one takes, up to seconds"""
    methods: tuple[str, ...] = METHODS
    """these rows only"""
    frozen: tuple[str, ...] = ("fire3", "fire5", "fire6", "fire7", "fire8", EVERYTHING)
    """frozen up to and with this stage, the rest fine-tuned: none, conv1, fire2, ..., fire8, pool (everything)"""
    cut: tuple[str, ...] = STAGES
    """frozen up to and with this stage, the rest left out: conv1, fire2, ..., fire9"""
    trade_off: float | None = None
    """lambda of DAN (default: what the search chose)"""

    def check(self) -> None:
        super().check()
        check_names("methods", self.methods, METHODS)
        check_names("frozen", self.frozen, FROZEN)
        check_names("cut", self.cut, STAGES)
        if not self.methods or not (self.frozen or self.cut):
            raise UserError("nothing is left to train: --methods, and --frozen or --cut, need at least one")


class Cut(NamedTuple):
    """How the backbone is treated: frozen up to `stage`, the rest fine-tuned or left out."""

    stage: str
    left_out: bool

    @property
    def network(self) -> str:
        """What records call it."""
        return f"squeezenet1_1-{'cut-after' if self.left_out else 'frozen-to'}-{self.stage}"

    @property
    def line(self) -> str:
        """What findings call it."""
        return f"{self.depth} of {len(STAGES)} frozen, the rest {'left out' if self.left_out else 'fine-tuned'}"

    @property
    def depth(self) -> int:
        """How many of the stages with weights are frozen."""
        return len(STAGES) if self.stage == STAGES[-1] else FROZEN.index(self.stage)


def cuts_of(config: FrozenLayers) -> list[Cut]:
    """Every way in which the backbone is treated, the quickest ones first."""
    fine_tuned = [Cut(stage, False) for stage in reversed(FROZEN) if stage in config.frozen]
    return [*(Cut(stage, True) for stage in config.cut), *fine_tuned]


def stage_features(folder: Path, *, place: dict[str, Any], sides: list[str]) -> dict[str, Any]:
    """A trial: the output of each stage of the frozen backbone on all images of the domains, averaged over positions.

    Kept in features.pt: domain -> {stage: (N, F)} and its classes, under "y".
    """
    import torch

    from dan.data.batches import iter_batches

    setup, kept = trial.Setup(**place), {}
    for side in sides:
        task = setup.task(f"{side}2{next(other for other in setup.DOMAINS if other != side)}")
        backbone = setup.network(task, seed=0).backbone.eval()
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
    steps: int,
    seed: int,
    **settings: Any,
) -> dict[str, Any]:
    """A trial: bottleneck and logits right on one stage's averaged output, the later stages left out.

    features: the trial of `stage_features`. Outputs are scaled like those of the whole backbone: see `scaled`.
    """
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from dan.models.backbone import Backbone
    from dan.models.dan import DAN
    from dan.training.trainer import fit

    kept = torch.load(folder.parent / features / "features.pt", weights_only=True)
    source, target = (kept[side] for side in transfer.split("2"))
    x_source, x_target = scaled(source[stage], target[stage], spread_of(source[EVERYTHING]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone({"stage": nn.Identity()}, out_features=x_source.shape[1])
        model = DAN(backbone, int(source["y"].max()) + 1, layers=(trial.BOTTLENECK,), dropout=trial.DROPOUT)
    trial.start_new_layers(model, seed)
    of_source, of_target = TensorDataset(x_source, source["y"]), TensorDataset(x_target, target["y"])
    tests, config = {"target": of_target}, trial.load_train_config(how, steps)
    evaluations = fit(model, of_source, of_target, config=config, steps=steps, seed=seed, tests=tests, **settings)
    return {"evaluations": evaluations, **trial.Setup(**place).provenance()}


def trials_of(transfer: str, cut: Cut, method: str, config: FrozenLayers) -> list[Trial]:
    """The trials of one cell, one a seed."""
    name = f"{cut.network}-{slug(method)}"
    if not cut.left_out:
        return office.training(name, trial.adapt, transfer, method, config, place=office.setup_of(config, cut.stage))
    place, sides = office.setup_of(config), office.sides_of(config.transfers)
    whole = Trial("stages", stage_features, {"place": place, "sides": sides})
    made = office.training(name, probe, transfer, method, config, features=whole.name, stage=cut.stage)
    return [replace(one, after=(whole,)) for one in made]


def cells(config: FrozenLayers) -> list[Cell]:
    """One cell a transfer, treatment of the backbone, and method."""
    made = []
    for transfer, cut, method in product(config.transfers, cuts_of(config), config.methods):
        only = {"transfers": transfer, "methods": method, "frozen": (), "cut": ()}
        only |= {"cut" if cut.left_out else "frozen": cut.stage}
        trials = trials_of(transfer, cut, method, config)
        kept = {"network": cut.network, "stage": cut.stage, "left_out": cut.left_out, "frozen_stages": cut.depth}
        made.append(office.cell_of(only, transfer, method, trials, **kept))
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def cuts_in(records: Sequence[Record]) -> list[Cut]:
    """How the backbone was treated in the records: left out, then fine-tuned, each from few frozen stages to all."""
    found = {Cut(record["stage"], record["left_out"]) for record in records}
    return sorted(found, key=lambda cut: (not cut.left_out, cut.depth))


def accuracy_table(records: Sequence[Record]) -> Table:
    """One row for each treatment of the backbone, the methods by transfer as columns."""
    found, rows = office.measured(records, "accuracy/target", 100), []
    columns = list(product(office.transfers_in(records), METHODS))
    for cut in cuts_in(records):
        rest = "left out" if cut.left_out else "nothing" if cut.stage == EVERYTHING else "fine-tuned"
        cells = [told(found.get((cut.network, method, transfer))) for transfer, method in columns]
        rows.append([cut.stage, str(cut.depth), rest, *cells])
    headers = [f"{column_of(transfer)}, {method}" for transfer, method in columns]
    return ["frozen up to", "stages", "the rest", *headers], rows


def findings(records: Sequence[Record]) -> list[str]:
    """For each transfer and method: the best and the worst treatment."""
    found, said = office.measured(records, "accuracy/target", 100), []
    for transfer, method in product(office.transfers_in(records), METHODS):
        means = {cut: mean_of(found.get((cut.network, method, transfer))) for cut in cuts_in(records)}
        order = sorted((mean, cut.line) for cut, mean in means.items() if mean is not None)
        if order:
            (low, worst), (high, best) = order[0], order[-1]
            said.append(f"{column_of(transfer)}, {method}: highest {high:.1f} ({best}), lowest {low:.1f} ({worst}).")
    return said


def figure_of(records: Sequence[Record]) -> Figure:
    """Accuracy against frozen stages, a panel a transfer: the rest fine-tuned (full lines) or left out (dashed)."""
    found = office.measured(records, "accuracy/target", 100)
    lines = {f"{m}, the rest {'left out' if out else 'fine-tuned'}": (m, out) for m in METHODS for out in (False, True)}
    panels: dict[str, dict[str, dict[int, list[float]]]] = {}
    for transfer, (label, (method, left_out)) in product(office.transfers_in(records), lines.items()):
        cuts = [cut for cut in cuts_in(records) if cut.left_out == left_out]
        curve = {cut.depth: list(found.get((cut.network, method, transfer), {}).values()) for cut in cuts}
        panels.setdefault(office.title_of(transfer), {})[label] = curve
    styles = {
        label: {"color": COLOURS[m], "ls": "--" if out else "-", "marker": "s" if out else "o", "markersize": 4.5}
        for label, (m, out) in lines.items()
    }
    ticks = dict(enumerate(["none", *STAGES[:-1], "all"]))
    return line_panels(panels, styles, x="frozen up to", y="accuracy on the target, %", ticks=ticks)


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    caption = "Accuracy on all target images against frozen stages, 10-class: mean and range over seeds."
    tuned = {record["stage"] for record in records if not record["left_out"]}
    missing = [stage for stage in FROZEN if stage not in tuned]
    cut_short = f" Not fine-tuned from: {', '.join(missing)}." if missing else ""
    return Report(
        title="Office-10 + Caltech-10: how many stages to freeze",
        findings=findings(records),
        tables=[("Accuracy on all target images, 10-class", accuracy_table(records))],
        figures=[Drawn("frozen_layers.png", figure_of(records), caption)],
        captions=[
            "Accuracy in percent, mean ± standard deviation over seeds, 10-class. SqueezeNet's stages with weights are "
            "conv1 and fire2 to fire9; frozen ones keep their ImageNet weights. The rest left out: the last frozen "
            "stage's output, averaged over positions, is centred on the source's mean and scaled to the spread of the "
            f"whole backbone's, so that one rate suits all.{cut_short} The rate and the trade-off were chosen with the "
            "whole backbone frozen.",
            *office.shared_captions(records),
        ],
    )


EXPERIMENT = Experiment(
    options=FrozenLayers,
    summary="10-class: accuracy against the number of frozen stages",
    cells=cells,
    report=report,
)
