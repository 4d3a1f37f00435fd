"""python -m dan train TASK: build the task and the network, fit, and say how it went.

Here are all the ways in which a training may be asked for; each is one argument of `fit`, or one step before it.
"""

import itertools
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dan.errors import UserError
from dan.training.config import TrainConfig, get_recipe

if TYPE_CHECKING:
    from dan.distributed import DistContext
    from dan.run_dir import Record

Device = Literal["auto", "cpu", "cuda", "mps"]
LITTLE = 0.2  # of the largest possible information: what a network that has learned is well above
LOOKED_AT = 2000  # target samples at most, evenly spread, that the first look at a kept source is with


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which domains, and how their samples are read."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")] = "rendered2digits"
    """Transfer, as <set>_<source>2<target>; `folders` for your own, with --source and --target."""
    source: Path | None = None
    """Of `folders`: a tree DIR/<class>/<image>, a CSV manifest (path,label[,group]), or a file of features."""
    target: Path | None = None
    """Of `folders`: the same; a flat folder of images is a target without labels."""
    classes: tuple[str, ...] = ()
    """Train on these classes only; `shared`: on those that both domains hold."""
    image_size: int | None = None
    """Pixels a side; default: what suits the task, 224 for photographs."""
    augment: bool = False
    """Random training views: crops and mirror images."""
    source_holdout: float = 0.0
    """Share of the source that is held out, to judge models by; for sets without a test split."""
    target_test: Path | None = None
    """Of `folders`: labelled target samples for an accuracy that no query and no training has seen."""
    target_holdout: float = 0.0
    """Share of the target that is held out for such an accuracy: never queried, trained on or aligned with."""
    download: bool = False
    """Let torchvision fetch what is missing, where it can."""
    data: Path | None = None
    """Folder of data sets, for tasks that read any (also: ACTIVE_DAN_DATA)."""
    image_cache: Path | None = None
    """Folder that decoded images are kept in; default: in the user's cache folder."""

    def options(self) -> dict[str, Any]:
        """What was chosen about the task, as `dan.data.tasks.load_pair` takes it: None where nothing was."""
        domains = ("source", "target", "target_test", "classes", "source_holdout", "target_holdout")
        return {name: getattr(self, name) or None for name in (*domains, "image_size", "augment", "download")}

    def load(self, quiet: bool) -> Any:
        """The transfer, as `dan.data.tasks.load_pair` gives it."""
        from dan.data.paths import cache_folder, data_folder
        from dan.data.tasks import load_pair

        cache = cache_folder(self.image_cache)
        return load_pair(self.task, data_folder(self.data), **self.options(), cache=cache, quiet=quiet)


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network, and what of it is trained."""

    backbone: str | None = None
    """Backbone of the network; default: the one that the task suggests. `timm:NAME` for one of timm's."""
    weights: str | None = None
    """Weights of the backbone: a name that its publisher uses (DEFAULT: the best), a state-dict file, a run, or
    none."""
    layers: tuple[int, ...] = (64,)
    """Widths of the hidden task-specific layers."""
    dropout: float = 0.0
    """Dropout after each hidden task-specific layer."""
    freeze: tuple[str, ...] = ()
    """Stages of the backbone that are not trained."""
    freeze_up_to: str | None = None
    """Freeze the backbone up to and with this stage; `all` freezes all of it."""
    adapters: Literal["residual", "lora"] | None = None
    """Train few weights in a frozen backbone."""

    def build(self, task: Any, seed: int, align: Sequence[str]) -> Any:
        """The network, as `dan.models.factory.build_network` makes it."""
        from dan.models.factory import build_network

        return build_network(
            task,
            seed=seed,
            backbone=self.backbone,
            pretrained=self.weights,
            layers=self.layers,
            dropout=self.dropout,
            align=align,
            frozen=self.freeze,
            freeze_up_to=self.freeze_up_to,
            adapters=self.adapters,
        )


@dataclass(frozen=True, kw_only=True)
class Ways:
    """What else is done with the source, with the target, and before the training."""

    source_weights: Literal["kmm", "select"] | None = None
    """Weigh source samples by their likeness to the target: kernel mean matching, or a subset of them."""
    select_fraction: float = 0.5
    """Of `--source-weights select`: the share of the source that is kept."""
    kmm_bound: float = 3.0
    """Of `--source-weights kmm`: no sample counts for more than so many; a training with large weights is unsteady."""
    target_labels: int = 0
    """Semi-supervised: so many target samples of each class, drawn by the seed, are labelled."""
    coreset_size: int = 0
    """Keep so many source samples, as outputs of the backbone, and sums over all of them, in RUN/source.pt."""
    coreset_stage: str | None = None
    """Of `--coreset-size`: the backbone's stage whose outputs are kept; default: the last."""
    source_free: Path | None = None
    """Go on with this run's network, and with what it kept of its source in place of the source."""
    tune: int = 0
    """First search --trade-off and --lr in so many trials, without target labels; then train with the best."""
    tune_rule: Literal["two_sample", "information"] = "two_sample"
    """Of `--tune`: the label-free rule that judges a trial; two_sample needs held-out source samples."""
    tune_steps: int = 0
    """Of `--tune`: training steps of a trial; default: those of --steps."""


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig, Network, Data, Ways):
    """Train a network on a transfer: labelled source, unlabelled target."""

    recipe: str = "small"
    """Whose defaults to take: small, pretrained (the default with published --weights), dan-2015, dan-caffe or
    dan-resnet. Other flags change what it says."""
    trade_off: float = 3.0
    """lambda, the weight of the method's terms; 0 trains on the source only."""
    steps: int = 1000
    """Training steps."""
    seed: int = 0
    """Decides everything random in this run."""
    run: Path | None = None
    """Folder of the run; the same command on the same folder goes on. Default: runs/<task>/<method>-seed<seed>."""
    cache_backbone: bool = False
    """Compute the frozen first stages once, keep their outputs on the disk, and train on them: many times faster."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the network's products in training; the loss, MMD and all, and evaluations stay in float32."""
    device: Device = "auto"
    """Where to compute."""
    quiet: bool = False
    """No progress bar, no summary."""


def preset(argv: Sequence[str]) -> Train:
    """The defaults that the named recipe gives, which all other flags may change."""
    words = [part for word in argv for part in word.split("=", 1)]
    said = {flag: word for flag, word in itertools.pairwise(words) if flag in ("--recipe", "--weights")}
    weights = said.get("--weights", "none")
    # A run is of this project: what suits its network was chosen when it was trained.
    own = weights == "none" or Path(weights).is_dir()
    name = said.get("--recipe", "small" if own else "pretrained")
    named = get_recipe(name)
    network = dict(named.network)
    renamed = {"pretrained": "weights", "frozen": "freeze"}
    return Train(
        recipe=name,
        trade_off=named.trade_off,
        steps=named.steps,
        **asdict(named.recipe),
        **{renamed.get(name, name): value for name, value in network.items()},
    )


def train(config: Train) -> None:
    """Build the task and the network, and fit; with others, if torchrun started more than this process."""
    from dan.devices import choose_device
    from dan.distributed import joined

    choose_device(config.device)
    _check(config)
    with joined(os.environ, config.device) as world:
        _train(config if world.first else replace(config, quiet=True), world)


def _train(config: Train, world: "DistContext") -> None:
    from dan.data.paths import cache_folder
    from dan.training.trainer import fit

    if config.tune and world.size > 1:
        raise UserError("--tune is of one process: search without torchrun first, then train with what was found")
    # The first alone decodes and downloads what the others then find.
    plan = world.first_then_all(lambda: _source_free(config) if config.source_free else _plain(config))
    task = plan.task
    method = config.method.replace("_", "-") if config.trade_off else "source_only"
    folder = config.run or Path("runs") / task.name / f"{method}-seed{config.seed}"
    options: dict[str, Any] = {
        "cache": cache_folder(config.image_cache).with_name("backbones") if config.cache_backbone else False,
        "device": config.device,
        "precision": config.precision,
        "verbose": not config.quiet,
    }
    about, tests = dict(plan.about), dict(task.splits)
    if config.target_labels:
        options["labelled_target"], tests["unqueried"] = _labelled(task, config)
        about["target_labels"] = config.target_labels
    if config.source_weights:
        options["source_weights"] = world.of_first(lambda: _weights(plan, config).cpu())
        about["source_weights"] = config.source_weights
        option = "select_fraction" if config.source_weights == "select" else "kmm_bound"
        about[option] = getattr(config, option)
    if config.tune:
        config = _tuned(plan, config, folder, about, options)
    model = plan.build()
    records = fit(
        model,
        task.source,
        task.target,
        trade_off=config.trade_off,
        steps=config.steps,
        seed=config.seed,
        tests={name: data for name, data in tests.items() if data is not None},
        config=train_config_from(config),
        run=folder,
        metadata=about,
        context=world,
        **options,
    )
    if not world.first:
        return
    if plan.kept is not None:
        plan.kept.under(model).save(folder / "source.pt")
    elif config.coreset_size:
        _keep(model, task.source, config, folder)
    if not config.quiet:
        _say(records[-1], folder)
        if line := learned_little(records[-1], len(task.classes), config.lr):
            print(f"warning: {line}", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The task, a fresh network at each call, settings for the records, and a kept source if there is one."""

    task: Any
    build: Callable[[], Any]
    about: dict[str, Any]
    kept: Any = None


def _check(config: Train) -> None:
    """Raises UserError for flags that cannot be, or not together, before anything is loaded."""
    for name in ("target_labels", "coreset_size", "tune", "tune_steps"):
        if getattr(config, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} must be 0 or more, not {getattr(config, name)}")
    for name, value, fits, wanted in (
        ("layers", " ".join(map(str, config.layers)), all(width > 0 for width in config.layers), "widths of 1 or more"),
        ("dropout", config.dropout, 0 <= config.dropout < 1, "from 0 to below 1"),
        ("momentum", config.momentum, 0 <= config.momentum < 1, "from 0 to below 1"),
        ("weight_decay", config.weight_decay, 0 <= config.weight_decay < float("inf"), "0 or more"),
    ):
        if not fits:
            raise UserError(f"--{name.replace('_', '-')} must be {wanted}, not {value}")
    for name, of, used in (
        ("coreset_stage", "--coreset-size", config.coreset_size),
        ("select_fraction", "--source-weights select", config.source_weights == "select"),
        ("kmm_bound", "--source-weights kmm", config.source_weights == "kmm"),
        ("tune_rule", "--tune", config.tune),
        ("tune_steps", "--tune", config.tune),
    ):
        if getattr(config, name) != getattr(Ways, name) and not used:
            raise UserError(f"--{name.replace('_', '-')} is of {of}: give both, or neither")
    if config.source_free:
        for name in ("source_weights", "coreset_size"):
            if getattr(config, name):
                raise UserError(
                    f"--{name.replace('_', '-')} needs the source, and --source-free has only what was kept of it"
                )


def train_config_from(config: TrainConfig) -> TrainConfig:
    """The recipe alone, of flags that have more."""
    return TrainConfig(**{entry.name: getattr(config, entry.name) for entry in fields(TrainConfig)})


def _plain(config: Train) -> Plan:
    """Source and target as the task has them, and the network that the flags ask for."""
    from dan.run_metadata import run_metadata

    task = config.load(config.quiet)
    _refuse_large_batches(config, source=task.source, target=task.target)

    def build() -> Any:
        return config.build(task, config.seed, config.align)

    model = build()
    chosen = {entry.name: getattr(config, entry.name) for entry in fields(Network)}
    about = {**run_metadata(task), **chosen}
    return Plan(task=task, build=_first(model, build), about={**about, "backbone": model.settings["backbone"]})


def _refuse_large_batches(config: Train, **domains: Any) -> None:
    """A batch larger than its domain holds some samples twice: a pair of equal ones is no draw from the domain, and the
    unbiased MMD^2 is biased. Bought labels, which are few and not aligned, may come more than once."""
    from dan.data.batches import num_samples

    for name, data in domains.items():
        if config.batch_size > num_samples(data) and (name == "source" or config.trade_off):
            raise UserError(
                f"batch_size {config.batch_size} is larger than the {name}'s {num_samples(data)} samples: lower "
                "--batch-size"
            )


def _first(model: Any, build: Callable[[], Any]) -> Callable[[], Any]:
    """`build`, but the first call gives this model: large ones take seconds to read."""
    ready = [model]
    return lambda: ready.pop() if ready else build()


def _source_free(config: Train) -> Plan:
    """The target alone, with what a run kept of its source, and that run's network."""
    from torch.utils.data import Subset

    from dan.cli.source_free import adapted_network, target_alone
    from dan.data.batches import num_samples
    from dan.data.paths import cache_folder, data_folder
    from dan.devices import choose_device
    from dan.evaluation.metrics import predict
    from dan.run_metadata import load_run_config, run_metadata
    from dan.source_free import read_kept

    run = config.source_free
    assert run is not None
    settings, kept = load_run_config(run), read_kept(run)
    default = preset(["--recipe", config.recipe])
    flags = [entry.name for entry in fields(Network)]

    def build() -> Any:
        given, unsaid = ({name: getattr(of, name) for name in flags} for of in (config, default))
        return adapted_network(run, kept, given, unsaid, device=choose_device(config.device))

    model = build()
    task = target_alone(
        config.task,
        config.options(),
        kept,
        settings,
        run,
        data=data_folder(config.data),
        cache=cache_folder(config.image_cache),
        quiet=config.quiet,
    )
    _refuse_large_batches(config, target=task.target)
    if not config.quiet:
        total = num_samples(task.target)
        some = Subset(task.target, range(0, total, -(-total // LOOKED_AT)))
        if len(some) > 1:
            apart, error = kept.mmd2(predict(model, some)[0].features)
            print(f"unbiased MMD^2 between the kept source and the target: {apart:.4f} +- {error:.4f}")
    network = {name: model.settings[name] for name in ("backbone", "layers", "dropout", "adapters")}
    about = {
        "task": task.name,
        "options": dict(task.options),
        **run_metadata(task),
        # The kept source has the backbone's shape, and a core-set's counts.
        "shape": list(settings["shape"]),
        "class_counts": kept.counts.tolist(),
        **network,
        "weights": None,
        "freeze": model.settings["frozen"],
        "freeze_up_to": None,
        "source_free": {"run": run.name, "samples": len(kept.y), "after_stages": kept.after_stages},
    }
    return Plan(task=task, build=_first(model, build), about=about, kept=kept)


def _labelled(task: Any, config: Train) -> tuple[Any, Any]:
    """(the few labelled target samples, the rest of the target or None if there is none)."""
    from torch.utils.data import Subset

    from dan.data.batches import num_samples
    from dan.data.semi_supervised import drawn_by_seed, rest_of
    from dan.run_metadata import labels_of

    if not task.target_labelled:
        raise UserError(f"--target-labels draws labelled target samples, and the target of {task.name} has no labels")
    rows = drawn_by_seed(labels_of(task.target), config.target_labels, config.seed, classes=task.classes)
    rest = rest_of(rows, num_samples(task.target)).tolist()
    return Subset(task.target, rows.tolist()), Subset(task.target, rest) if rest else None


def _weights(plan: Plan, config: Train) -> Any:
    from dan.cli.source_weights import source_weights
    from dan.devices import choose_device
    from dan.instance_weights import effective_size

    assert config.source_weights is not None
    weights = source_weights(
        config.source_weights,
        plan.build(),
        plan.task.source,
        plan.task.target,
        share=config.select_fraction,
        bound=config.kmm_bound,
        kernels=config.num_kernels,
        bandwidth_ratio=config.bandwidth_ratio,
        device=choose_device(config.device),
        quiet=config.quiet,
    )
    if not config.quiet:
        print(f"source weights: {len(weights)} samples count as {effective_size(weights):.0f} equally weighted ones")
    return weights


def _tuned(plan: Plan, config: Train, folder: Path, about: dict[str, Any], options: dict[str, Any]) -> Train:
    """The same with the best trade-off and rate, and without the search."""
    from dan.hparam_search import tune

    found = tune(
        plan.build,
        plan.task.source,
        plan.task.target,
        source_test=plan.task.source_test,
        trials=config.tune,
        steps=config.tune_steps or config.steps,
        seed=config.seed,
        rule=config.tune_rule,
        trade_off=config.trade_off,
        config=train_config_from(config),
        run=folder / "tuning",
        about=about,
        told=None if config.quiet else _say_trial,
        **options,
    )
    best = replace(
        config, trade_off=found.trade_off, lr=found.lr, tune=0, tune_rule=Ways.tune_rule, tune_steps=Ways.tune_steps
    )
    if not config.quiet:
        print(f"best of {len(found.trials)}: --trade-off {best.trade_off} --lr {best.lr}")
        print(command_of(best))
    return best


def _keep(model: Any, source: Any, config: Train, folder: Path) -> None:
    from dan.data.batches import num_samples
    from dan.source_free import keep_source

    kept = keep_source(model, source, config.coreset_size, stage=config.coreset_stage)
    kept.save(folder / "source.pt")
    if not config.quiet:
        apart, _ = kept.mmd2(kept.features(model)[0], estimator="biased")
        kept_in = folder / "source.pt"
        print(
            f"kept {len(kept.y)} of {num_samples(source)} source samples in {kept_in}: MMD^2 to all of them {apart:.4f}"
        )


def command_of(config: Train) -> str:
    """The command line that means this config, with the flags that differ from their defaults."""
    default = preset(["--recipe", config.recipe])
    words = ["python", "-m", "dan", "train", config.task]
    for entry in fields(Train):
        value = getattr(config, entry.name)
        if entry.name == "task" or (value == getattr(default, entry.name) and entry.name != "recipe"):
            continue
        if entry.name == "recipe" and value == Train.recipe:
            continue
        flag = f"--{entry.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, *map(str, value)] if isinstance(value, tuple) else [flag, str(value)]
    return shlex.join(words)


def _say_trial(record: "Record") -> None:
    value = "diverged" if record["value"] is None else f"{record['value']:.4f}"
    print(
        f"trial {record['trial']:3d}  trade-off {record['trade_off']:<8g} rate {record['lr']:<8g} {value}", flush=True
    )


def learned_little(last: "Record", classes: int, rate: float) -> str:
    """A warning, if the target's predictions tell next to nothing: their mutual information with the sample is below
    LITTLE log C, as after a training that died or diverged. "" otherwise. No label is looked at."""
    information = last.get("label_free/information")
    if information is None or information >= LITTLE * math.log(classes):
        return ""
    return (
        f"the network hardly tells the target's samples apart (information {max(information, 0):.2f} of "
        f"{math.log(classes):.2f}): if it should, train again with a lower --lr than {rate:g}, or for more --steps"
    )


def _say(last: "Record", folder: Path) -> None:
    for name, value in last.items():
        if name.startswith("accuracy/"):
            print(f"{name.removeprefix('accuracy/'):<12} {100 * value:6.2f} % accuracy")
        elif name.startswith("mmd2/"):
            print(f"{name.removeprefix('mmd2/'):<12} {value:8.4f} unbiased MMD^2")
    print(f"run: {folder}  (tensorboard --logdir {folder})")
