"""What the small experiments on Office-10 + Caltech-10 share: their settings, what a trial does, and how it is told.

All are SqueezeNet 1.1 with dan_table2's bottleneck and logits, at the rate and the trade-off that dan_table2's search
chose on the frozen trunk without a target label; what counts is the model after the last step.

Shapes: N samples; F features.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from dan.errors import UserError
from experiments.dan_table2 import DAN, OTHER_SIX, PAPER_SIX, SOURCE_ONLY, DanTable2, column_of
from experiments.dan_table2 import place_of as place_in_table2
from experiments.dan_table2 import rows as rows_in_table2
from experiments.jobs.dan_table2 import BOTTLENECK, DOMAINS, DROPOUT, SET, Place, load_train_config, start_new_layers
from experiments.label_free_search import check_reported, choose
from experiments.records import Key, Record, Row, read
from experiments.reporting.tables import each
from experiments.running import check_names, check_runs, command_of, run_experiment
from experiments.transfers import HOME, machine, weights_label
from experiments.trials import Trial

if TYPE_CHECKING:
    from torch import Tensor

NETWORK = "squeezenet1_1-frozen"  # as dan_table2 calls it: its search decides
TRIALS = "experiments.ten_class"
TRANSFERS = ("c2w", "a2w")  # those of the paper's figure 3
# Without a search: the rate of the authors' release for new layers, 0.01, a tenth of it for a trunk, and the paper's
# middle trade-off.
RATE, TRADE_OFF = 1e-3, 1.0
PUBLISHED_SEARCH = HOME / "results" / "dan_table2" / "records.jsonl"
NOTHING, EVERYTHING = "none", "pool"  # what is frozen: no stage; all of the trunk


# --- settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TenClass:
    """The settings that all of them have. NAME: of the experiment. QUICK: what --quick stands for."""

    NAME: ClassVar[str] = ""
    QUICK: ClassVar[dict[str, Any]] = {"transfers": ("d2w",), "seeds": (0,), "steps": 20}

    out: Path = Path("runs/ten_class")
    """folder of the trials, records and report"""
    data: Path | None = None
    """folder of data sets (also: ACTIVE_DAN_DATA)"""
    squeezenet_weights: str = "DEFAULT"
    """ImageNet weights of SqueezeNet 1.1: a name, or a state-dict file, looked for in the folder of data sets too"""
    transfers: tuple[str, ...] = TRANSFERS
    """transfers, such as: c2w a2w"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    steps: int = 300
    """training steps of every run"""
    lr: float | None = None
    """learning rate of the trunk, a tenth of the new layers' (default: what the search chose)"""
    image_size: int = 224
    """pixels a side"""
    search: Path | None = None
    """records.jsonl of a run of dan_table2, whose search chose rate and trade-off (default: the published one)"""
    quick: bool = False
    """see whether it works: one transfer of few images, seed 0, a few steps, into runs/NAME_quick"""
    workers: int = 2
    """trials at a time, one thread each"""
    cluster: str | None = None
    """run the trials on a cluster's workers: dask://HOST:PORT"""
    image_cache: Path | None = None
    """folder for decoded images; outputs of frozen trunks go beside it (default: in the user's cache folder)"""
    quiet: bool = False
    """no progress bar"""


Config = TypeVar("Config", bound=TenClass)


def resolved(config: Config) -> tuple[Config, str]:
    """(config with the rate, and the trade-off if it has one, filled in; who chose them).

    What the command line says stays. The rest is the choice of dan_table2's search on the frozen trunk, from the file
    that `search` names or the published one; where there is none, RATE and TRADE_OFF. Raises UserError for a file
    without that search.
    """
    missing = [name for name in ("lr", "trade_off") if getattr(config, name, 0.0) is None]
    if not missing:
        return config, "given on the command line"
    path = config.search or (PUBLISHED_SEARCH if PUBLISHED_SEARCH.is_file() else None)
    if path is None:
        told = "defaults, for there was no search to take them from"
        found: dict[str, Any] = {"lr": RATE, "trade_off": TRADE_OFF}
    else:
        chosen = choose(read(path)).get(NETWORK, {}).get(DAN)
        if chosen is None:
            raise UserError(f"{path} has no search for DAN on {NETWORK}: name the records of a whole run of dan_table2")
        found, told = chosen, "chosen by dan_table2's search, one set for its twelve transfers, no target label read"
    values: dict[str, Any] = {name: found[name] for name in missing}
    return replace(config, **values), told


def check(config: TenClass, *, known_transfers: Sequence[str] = PAPER_SIX + OTHER_SIX) -> None:
    """The mistakes that would otherwise show only after some training."""
    check_names("transfers", config.transfers, known_transfers, some=True)
    check_runs(config.seeds, config.steps)
    check_reported(config.seeds)
    place_of(config)  # the data's folder and the weights' file are there


def place_of(config: TenClass, frozen: str = EVERYTHING) -> dict[str, Any]:
    """The network, frozen up to and with that stage, and where its data lie: `experiments.jobs.dan_table2.Place`."""
    said = {"data": config.data, "image_cache": config.image_cache, "image_size": config.image_size}
    table2 = DanTable2(squeezenet_weights=config.squeezenet_weights, **said)  # type: ignore[arg-type]
    return place_in_table2(NETWORK, table2) | {"frozen": frozen}


def how_of(row: str, config: TenClass) -> dict[str, Any]:
    """The recipe of a row of dan_table2 at the config's rate, evaluated once, after the last step."""
    return rows_in_table2()[row].how | {"lr": config.lr, "evaluate_every": config.steps}


def preparing(config: TenClass, frozen: str = EVERYTHING) -> Trial:
    """The trial that runs the frozen stages on every domain, so that no two workers do it at the same time."""
    sides = sorted({side for transfer in config.transfers for side in transfer.split("2")})
    arguments = {"place": place_of(config, frozen), "sides": sides, "held_out": 0.0}
    return Trial(f"trunk-{frozen}", "experiments.jobs.dan_table2:prepare", arguments)


def training(name: str, function: str, transfer: str, row: str, config: TenClass, seed: int, **more: Any) -> Trial:
    """A trial that trains a row of dan_table2 (source-only: trade-off 0); `more` overrides its arguments."""
    trade_off = 0.0 if row == SOURCE_ONLY else getattr(config, "trade_off", None)
    arguments: dict[str, Any] = {"place": place_of(config), "transfer": transfer, "how": how_of(row, config)}
    arguments |= {"trade_off": trade_off, "steps": config.steps, "seed": seed, **more}
    frozen = arguments["place"]["frozen"]
    after = () if frozen == NOTHING else (preparing(config, frozen).name,)
    return Trial(f"{name}-{transfer}-seed{seed}", f"{TRIALS}:{function}", arguments, after)


# --- trials -----------------------------------------------------------------------------------------------------------


def network(where: Place, task: Any, seed: int) -> Any:
    """`Place.network`, which freezes at least one stage; frozen up to NOTHING, none."""
    if where.frozen != NOTHING:
        return where.network(task, seed)
    model = replace(where, frozen=EVERYTHING).network(task, seed)
    model.freeze()
    return model


def adapt(
    folder: Path, *, place: dict[str, Any], transfer: str, how: dict[str, Any], trade_off: float, steps: int, seed: int
) -> dict[str, Any]:
    """A trial: train on the whole source, with whatever is frozen computed once."""
    from dan.training.trainer import fit

    where = Place(**place)
    task = where.task(transfer)
    model = network(where, task, seed)
    evaluations = fit(
        model,
        task.source,
        task.target,
        trade_off=trade_off,
        steps=steps,
        seed=seed,
        tests=task.splits,
        config=load_train_config(how, steps),
        # Seconds on a frozen trunk: made again rather than kept halfway.
        run=None if where.frozen == EVERYTHING else folder,
        metadata={"task": task.name, "frozen": where.frozen, "weights": weights_label(where.weights)},
        cache=where.backbones if model.cached_stages else False,
    )
    return {"evaluations": evaluations, **told_of(where)}


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
    return {"evaluations": [evaluation], **told_of(where)}


def watched(
    folder: Path, *, place: dict[str, Any], transfer: str, how: dict[str, Any], trade_off: float, steps: int, seed: int
) -> dict[str, Any]:
    """A trial: train, and look at MMD^2 of the aligned layers every how["evaluate_every"] steps.

    `fit` records MMD^2 under the bandwidth of the first look; what it draws for TensorBoard besides, under that of each
    look, is read back from there and put beside it.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from dan.training.trainer import fit

    where = Place(**place)
    task = where.task(transfer)
    model = where.network(task, seed)
    evaluations = fit(
        model,
        task.source,
        task.target,
        trade_off=trade_off,
        steps=steps,
        seed=seed,
        tests=task.splits,
        config=load_train_config(how, steps),
        run=folder,
        metadata={"task": task.name, "weights": weights_label(where.weights)},
        cache=where.backbones,
    )
    by_step = {evaluation["step"]: dict(evaluation) for evaluation in evaluations}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    for name in events.Tags()["scalars"]:
        if name.startswith(("mmd2_current", "p_value_current", "gamma_ratio")):
            for event in events.Scalars(name):
                by_step[event.step][name] = event.value
    return {"evaluations": list(by_step.values()), **told_of(where)}


def drawn(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """`per_class` positions of each class, in rising order: labels (N,) -> (classes * per_class,).

    A function of its arguments alone. Raises UserError where a class has fewer samples.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        if len(rows) < per_class:
            raise UserError(f"{per_class} samples of each class were asked for: class {label} has {len(rows)}")
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:per_class]])
    return torch.cat(chosen).sort().values


def few_labels(
    _folder: Path,
    *,
    place: dict[str, Any],
    transfer: str,
    how: dict[str, Any],
    trade_off: float,
    steps: int,
    seed: int,
    source_per_class: int,
    labels_per_class: int,
    labelled: bool,
) -> dict[str, Any]:
    """A trial: train on a part of the source and, if `labelled`, on the labels of a few target images a class.

    Both are drawn by the seed. Scored on all target images and on those that are not drawn ("unqueried"), which are the
    same for all trials of a seed, whether they use the labels or not.
    """
    import torch
    from torch.utils.data import Subset

    from dan.data.batches import derived_seed
    from dan.evaluation.metrics import predict
    from dan.training.trainer import fit

    where = Place(**place)
    task = where.task(transfer)
    model = where.network(task, seed)
    of_source = drawn(task.source.targets, source_per_class, derived_seed(seed, 10))
    of_target = drawn(task.target.targets, labels_per_class, derived_seed(seed, 11))
    (evaluation,) = fit(
        model,
        Subset(task.source, of_source.tolist()),
        task.target,
        labelled_target=Subset(task.target, of_target.tolist()) if labelled else None,
        trade_off=trade_off,
        steps=steps,
        seed=seed,
        config=load_train_config(how, steps),
        cache=where.backbones,
    )
    output, y = predict(model, where.outputs(task.target, model), start=model.cached_stages)
    right = (output.logits.argmax(1) == y).double()
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[of_target] = False
    evaluation |= {"accuracy/target": float(right.mean()), "accuracy/unqueried": float(right[rest].mean())}
    evaluation |= {"source_samples": len(of_source), "unqueried_samples": int(rest.sum())}
    return {"evaluations": [evaluation], **told_of(where)}


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
    return {"evaluations": evaluations, **told_of(Place(**place))}


def told_of(where: Place) -> dict[str, Any]:
    """What a record says of the network's weights and of the machine."""
    return {"weights": weights_label(where.weights), "measured_on": machine()}


# --- records ----------------------------------------------------------------------------------------------------------


def record_of(config: TenClass, transfer: str, method: str, chosen_by: str, **only: Any) -> Record:
    """What every record of a cell says, whatever it measured. only: the flags that, with the transfer, are the cell."""
    record: Record = {"experiment": config.NAME, "task": SET + transfer, "network": NETWORK, "method": method}
    record |= {"labels": 0, "selection": "", "paper": None, "provenance": ""}
    record |= {"command": command_of(config, transfers=transfer, **only), "command_of_all": command_of(config)}
    record |= {"image_size": config.image_size, "lr": config.lr, "steps": config.steps}
    return record | {"chosen_by": chosen_by}


def evaluation_records(about: Record, trial: Trial, results: Mapping[str, Any]) -> list[Record]:
    """The evaluations of a trial, if it is done; the last one's selection is `last`."""
    if trial.name not in results:
        return []
    result = results[trial.name]
    shared = {**about, "seed": trial.arguments["seed"], "trade_off": trial.arguments["trade_off"]}
    shared |= {"weights": result["weights"], **result["measured_on"]}
    made = [{**shared, **{k: v for k, v in each.items() if k != "event"}} for each in result["evaluations"]]
    made[-1]["selection"] = "last"
    return made


def run_cells(
    config: TenClass,
    cells: Sequence[tuple[Record, Sequence[Trial]]],
    report: Callable[[Path], Path],
    parts: Sequence[Sequence[Trial]] | None = None,
) -> int:
    """Run the trials of all cells and make the report; exit code 1 if a trial failed.

    cells: what every record of a cell says, and its trials. parts: how they are run; None: all at once, on the trunk
    that is frozen as a whole.
    """

    def records_of(results: Mapping[str, Any]) -> list[Record]:
        return [r for about, trials in cells for trial in trials for r in evaluation_records(about, trial, results)]

    if parts is None:
        parts = [[preparing(config), *(trial for _, trials in cells for trial in trials)]]
    return run_experiment(config, parts, records_of, report)


def measured(records: Iterable[Record], name: str, scale: float = 1.0) -> dict[tuple[str, str, str], dict[int, float]]:
    """(network, method, transfer) -> {seed: scale * value} of the selected records that hold `name`."""
    table: dict[tuple[str, str, str], dict[int, float]] = {}
    for record in records:
        if record.get("selection") and record.get(name) is not None:
            key = (record["network"], record["method"], record["task"].removeprefix(SET))
            table.setdefault(key, {})[record["seed"]] = scale * record[name]
    return table


def metric_rows(records: Sequence[Record], name: str, metric: str) -> list[Row]:
    """Rows of table.csv for a value that is no accuracy: its mean and spread over seeds, as it is."""
    rows: list[Row] = []
    first: dict[tuple[str, str, str], Record] = {}
    for record in records:
        if record.get("selection"):
            first.setdefault((record["network"], record["method"], record["task"].removeprefix(SET)), record)
    for key, by_seed in measured(records, name).items():
        origin = first[key]
        where = Key(**{p: origin[p] for p in Key._fields if p in origin}, split="target", metric=metric)
        values = list(by_seed.values())
        spread = statistics.stdev(values) if len(values) > 1 else None
        kept = {"paper": None, "provenance": "", "command": origin["command"]}
        rows.append(Row(**where._asdict(), mean=statistics.fmean(values), spread=spread, n=len(values), **kept))
    return rows


# --- the page ---------------------------------------------------------------------------------------------------------


def shared_captions(records: Sequence[Record]) -> list[str]:
    """What is true of all these experiments: the network, and who chose its hyper-parameters."""
    size, steps, rate, trade_offs = (each(records, n, "g") for n in ("image_size", "steps", "lr", "trade_off"))
    weights = "; ".join(sorted({record["weights"] for record in records if "weights" in record}))
    who = "; ".join(dict.fromkeys(record["chosen_by"] for record in records))
    return [
        f"SqueezeNet 1.1 ({weights}) at {size} pixels, a bottleneck of {BOTTLENECK} (dropout {DROPOUT}) and the "
        f"logits, {steps} steps. All runs of a seed start from the same weights and see the same source batches. Rate "
        f"{rate}, for new layers ten times that; trade-offs: {trade_offs} (0 is source-only). The rate, and a "
        f"trade-off that is not varied: {who}.",
    ]


def title_of(transfer: str) -> str:
    """How figures and tables call a transfer: C->W, 10-class."""
    return f"{column_of(transfer)}, 10-class"
