"""What python -m dan train does before it fits: check the flags, load the task, build the network, weigh the source."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from dan.cli.train_options import AdaptationOptions, NetworkOptions, Train, flag_of
from dan.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What a training starts from.

    task: a `dan.data.domain_pair.DomainPair`. build: a fresh network, the same at each call. metadata: settings for the
    first record. kept: for `--source-free`, what the earlier run kept of its source (`dan.source_free.KeptSource`).
    """

    task: Any
    build: Callable[[], Any]
    metadata: dict[str, Any]
    kept: Any = None


def check_options(config: Train) -> None:
    """Raise UserError for flags that cannot have these values, or not together, before anything is loaded."""
    for name in ("target_labels", "coreset_size", "tune", "tune_steps"):
        if getattr(config, name) < 0:
            raise UserError(f"{flag_of(name)} must be 0 or more, not {getattr(config, name)}")
    for name, value, valid, expected in (
        ("layers", " ".join(map(str, config.layers)), all(w > 0 for w in config.layers), "widths of 1 or more"),
        ("dropout", config.dropout, 0 <= config.dropout < 1, "from 0 to below 1"),
        ("momentum", config.momentum, 0 <= config.momentum < 1, "from 0 to below 1"),
        ("weight_decay", config.weight_decay, 0 <= config.weight_decay < float("inf"), "0 or more"),
    ):
        if not valid:
            raise UserError(f"{flag_of(name)} must be {expected}, not {value}")
    for name, requirement, met in (
        ("coreset_stage", "--coreset-size", config.coreset_size),
        ("select_fraction", "--source-weights select", config.source_weights == "select"),
        ("kmm_bound", "--source-weights kmm", config.source_weights == "kmm"),
        ("tune_rule", "--tune", config.tune),
        ("tune_steps", "--tune", config.tune),
    ):
        if getattr(config, name) != getattr(AdaptationOptions, name) and not met:
            raise UserError(f"{flag_of(name)} requires {requirement}")
    for name in ("source_weights", "coreset_size"):
        if config.source_free and getattr(config, name):
            raise UserError(f"{flag_of(name)} needs the source samples, which --source-free trains without")


def setup_from_task(config: Train) -> TrainingSetup:
    """Source and target of the task, and the network that the flags describe."""
    from dan.run_metadata import run_metadata

    task = config.load(config.quiet)
    check_batch_size(config, source=task.source, target=task.target)

    def build() -> Any:
        return config.build(task, config.seed, config.align)

    model = build()
    network = {entry.name: getattr(config, entry.name) for entry in fields(NetworkOptions)}
    metadata = {**run_metadata(task), **network, "backbone": model.settings["backbone"]}
    return TrainingSetup(task=task, build=first_then(model, build), metadata=metadata)


def check_batch_size(config: Train, **domains: Any) -> None:
    """Raise UserError for a batch that is larger than its domain.

    It would hold some samples twice, which makes the unbiased MMD^2 biased. Labelled target samples, which are few and
    not aligned, may come more than once.
    """
    from dan.training import streams

    aligned = {name: data for name, data in domains.items() if name == "source" or config.trade_off}
    streams.check_batch_size(config.batch_size, **aligned)


def first_then(model: Any, build: Callable[[], Any]) -> Callable[[], Any]:
    """`build`, but the first call returns `model`, which is ready: large ones take seconds to read."""
    ready = [model]
    return lambda: ready.pop() if ready else build()


def split_target(task: Any, config: Train) -> tuple[Any, Any]:
    """For --target-labels: (the labelled target samples, the rest of the target or None if there is none)."""
    from torch.utils.data import Subset

    from dan.data.batches import labels_of, num_samples
    from dan.data.semi_supervised import drawn_by_seed, rest_of

    if not task.target_labelled:
        raise UserError(f"--target-labels draws labelled target samples, and the target of {task.name} has no labels")
    rows = drawn_by_seed(labels_of(task.target), config.target_labels, config.seed, classes=task.classes)
    rest = rest_of(rows, num_samples(task.target)).tolist()
    return Subset(task.target, rows.tolist()), Subset(task.target, rest) if rest else None


def weigh_source(setup: TrainingSetup, config: Train) -> Any:
    """For --source-weights: the weights (N,) of the source samples, on the CPU."""
    from dan.cli.source_weights import source_weights
    from dan.devices import choose_device
    from dan.instance_weights import effective_size

    assert config.source_weights is not None
    weights = source_weights(
        config.source_weights,
        setup.build(),
        setup.task.source,
        setup.task.target,
        share=config.select_fraction,
        bound=config.kmm_bound,
        kernels=config.num_kernels,
        bandwidth_ratio=config.bandwidth_ratio,
        device=choose_device(config.device),
        quiet=config.quiet,
    )
    if not config.quiet:
        size = effective_size(weights)
        print(f"source weights: {len(weights)} samples, effective sample size {size:.0f}")
    return weights.cpu()
