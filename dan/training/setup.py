"""What a training is made of before its first step: the data as the network reads it, and what aligns the domains."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import Dataset, Subset

from dan.data.batches import derived_seed, num_samples
from dan.devices import choose_device
from dan.errors import UserError, nearest
from dan.evaluation.metrics import predict
from dan.feature_cache import cached, stages_run
from dan.losses import DomainLoss, build_loss, check_method, fewest_samples
from dan.losses.composed import parse_multiples
from dan.models.dan import DAN, Output, layer_named
from dan.training.config import TrainConfig, check_train_config
from dan.training.options import TrainOptions
from dan.training.streams import NUMBERS, BatchStreams, Stream, check_batch_size, seeded_draws

HELD = 256  # samples of each domain, at most, on which MMD and the label-free scores are computed


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data sets as the network is entered with them: after `start_stage` stages of its backbone.

    held_source, held_target: a fixed sample of each domain, evenly spread: what diagnostics look at.
    """

    source: Dataset
    target: Dataset
    labelled: Dataset | None
    tests: Mapping[str, Dataset]
    start_stage: int
    held_source: Dataset
    held_target: Dataset


def check_options(options: TrainOptions) -> None:
    """What depends on the method and on the number of processes. Raises UserError."""
    config, context = options.config, options.context
    parse_multiples(config.method_multiples, check_method(config.method))
    if options.domain_loss is not None and not callable(options.domain_loss):
        kind = type(options.domain_loss).__name__
        raise UserError(f"domain_loss is a callable of the outputs for source and target, not a {kind}")
    of_method = options.trade_off and options.domain_loss is None
    check_train_config(config, fewest_samples(config.method) if of_method else 1)
    if config.batch_size < context.size:
        raise UserError(
            f"a batch of {config.batch_size} has no share for each of {context.size} processes: raise batch_size, or "
            "start fewer"
        )


def training_device(options: TrainOptions) -> torch.device:
    """Where to compute. Raises UserError for a device without that precision."""
    device = choose_device(options.device)
    if options.precision != "fp32" and device.type not in ("cpu", "cuda"):
        raise UserError(f"--precision {options.precision} is for the devices cpu and cuda, not for {device.type}")
    return device


def aligned_layers(config: TrainConfig, model: DAN) -> tuple[str, ...]:
    """The layers to align; () in the config means all task-specific ones. Raises UserError for an unknown one."""
    for name in config.align:
        if layer_named(name) not in model.layer_names:
            raise UserError(
                f'there is no layer "{name}" to align{nearest(name, model.layer_names)}: '
                f"one of {', '.join(model.layer_names)}"
            )
    return tuple(map(layer_named, config.align)) or tuple(model.layer_names)


def prepare_data(
    model: DAN, source: Dataset, target: Dataset, options: TrainOptions, device: torch.device
) -> TrainingData:
    """The data sets, after the frozen stages where they are cached. Raises UserError for data that do not fit."""
    start, context, cache = _start_stage(model, source, options.cache), options.context, options.cache
    if options.trade_off:  # where nothing is aligned, samples may repeat
        check_batch_size(options.config.batch_size, source=source, target=target)
    _check_class_weights(model, options.class_weights)
    weights, total = options.source_weights, num_samples(source)
    if weights is not None and weights.shape != (total,):
        raise ValueError(f"source_weights must be ({total},), one a source sample, not {tuple(weights.shape)}")
    folder = None if isinstance(cache, bool) else Path(cache)
    quiet = not (options.verbose and context.first)

    def prepared(data: Dataset) -> Dataset:
        if not start or stages_run(data) == start:
            return data

        def run() -> Dataset:
            with seeded_draws(derived_seed(options.seed, 9)):
                return cached(data, model, start, folder, device=device, quiet=quiet)

        return run() if folder is None else context.first_then_all(run)

    source, target = prepared(source), prepared(target)
    labelled = None if options.labelled_target is None else prepared(options.labelled_target)
    tests = {name: prepared(data) for name, data in options.tests.items()}
    return TrainingData(
        source=source, target=target, labelled=labelled, tests=tests, start_stage=start,
        held_source=_held(source), held_target=_held(target),
    )  # fmt: skip


def _check_class_weights(model: DAN, weights: Tensor | None) -> None:
    classes = model.settings["num_classes"]
    if weights is None:
        return
    if weights.shape != (classes,) or not bool(((weights >= 0) & weights.isfinite()).all()):
        raise UserError(f"class_weights must be {classes} numbers of 0 or more, one for each class")


def build_streams(data: TrainingData, options: TrainOptions) -> BatchStreams:
    """The streams that this training reads. Their seeds differ, so that labels change no order of source samples."""
    sets = {"source": data.source}
    if options.trade_off:
        sets["target"] = data.target
    if data.labelled is not None:
        sets["labelled"] = data.labelled
    common: dict[str, Any] = {"seed": options.seed, "context": options.context}
    streams = {
        name: Stream(part, options.config.batch_size, number=NUMBERS[name], **common) for name, part in sets.items()
    }
    united = None
    if data.labelled is not None and options.labelled_domain == "source":
        united = num_samples(data.source) + num_samples(data.labelled)
    return BatchStreams(streams, united=united, num_workers=options.num_workers)


def build_domain_loss(
    model: DAN, align: tuple[str, ...], data: TrainingData, options: TrainOptions, device: torch.device
) -> tuple[DomainLoss | None, nn.Module]:
    """What aligns the domains (None: nothing), and the module of what it learns, with all its widths known."""
    seed = derived_seed(options.seed, 4)
    with seeded_draws(seed), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # A backbone without out_features, or a discriminator, learns its width from the first samples.
        first = predict(model, Subset(data.source, [0]), start=data.start_stage)[0]
        loss = options.domain_loss
        if loss is None and options.trade_off:
            known = {name: value for name, value in asdict(options.config).items() if name not in ("method", "align")}
            loss = build_loss(options.config.method, model, align, **known)
        learned = loss if isinstance(loss, nn.Module) else nn.Module()
        learned.to(device)
        if loss is not None and any(map(is_lazy, learned.parameters())):
            twice = Output(*(_twice(part, device) for part in (first.logits, first.layers)))
            learned.eval()
            loss(twice, twice)
    return loss, learned


def _start_stage(model: DAN, source: Dataset, cache: Path | str | bool) -> int:
    """How many stages of the backbone are computed before training: those that the source has been through, or the
    frozen ones."""
    done = stages_run(source)
    if done > model.cached_stages:
        last = [*model.stages][:done][-1]
        raise UserError(
            f"the source is kept as outputs of the stage {last}: freeze the backbone up to it, and adapt or align no "
            "stage before it"
        )
    if cache and not model.cached_stages:
        raise UserError("there is nothing to cache: freeze the first stages of the network, or train without cache")
    return done or (model.cached_stages if cache else 0)


def _held(data: Dataset) -> Dataset:
    """A fixed sample, evenly spread over the data set: the same one at every step."""
    total = num_samples(data)
    return Subset(data, torch.arange(total)[:: max(1, total // HELD)][:HELD].tolist())


def _twice(part: Any, device: torch.device) -> Any:
    """The output of one sample, two times, so that it is a batch."""
    if isinstance(part, Tensor):
        return torch.cat([part, part]).to(device)
    return {name: _twice(layer, device) for name, layer in part.items()}
