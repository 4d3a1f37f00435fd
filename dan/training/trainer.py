"""fit(): the one training loop. Source-only, DAN, the other methods, and all of them with bought target labels differ
in their arguments only.

    each step:  L = CE(source batch) + CE(labelled target batch, if any) + lambda(step) * sum of the method's terms
    SGD with momentum, or Adam; every rate decays as (1 + gamma * step)^-power; the task-specific layers learn faster.

A batch depends on (seed, step) alone, and dropout's generator is in the checkpoint: a run that is killed and started
again ends with the same bits on the CPU. Several processes share each batch: what the loss sees is the whole of it, in
all of them (see `dan.distributed`), so that the loop is the same for one and for many.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parameter import is_lazy
from torch.utils.data import Dataset, Subset

from dan.data.batches import Batches, derived_seed, fetch, num_samples
from dan.devices import choose_device
from dan.distributed import SINGLE_PROCESS, DistContext
from dan.errors import UserError, nearest
from dan.evaluation.metrics import evaluate, predict
from dan.evaluation.validators import information, label_free_score, two_sample_error
from dan.feature_cache import cached, stages_run
from dan.losses import METHODS, DomainLoss, build_loss, comparable, inverse_decay, ramp
from dan.mmd.dense import at_least_float32
from dan.models.dan import DAN, Output, layer_named
from dan.models.model_file import save_model
from dan.progress import Progress
from dan.run_data import describe_data, settings_of_same_data, write_data_record
from dan.run_dir import Record, Run, read_tensors
from dan.training.config import TrainConfig, check_train_config
from dan.training.mmd_diagnostics import MMDDiagnostics
from dan.training.tensorboard import TensorBoardLogger

__all__ = ["Diverged", "TrainConfig", "fit"]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def fit(
    model: DAN,
    source: Dataset,
    target: Dataset,
    *,
    trade_off: float,
    steps: int,
    seed: int,
    labelled_target: Dataset | None = None,
    labelled_domain: Literal["target", "source"] = "target",
    source_weights: Tensor | None = None,
    tests: Mapping[str, Dataset] | None = None,
    config: TrainConfig | None = None,
    domain_loss: DomainLoss | None = None,
    run: Path | str | None = None,
    continue_from: Path | str | None = None,
    total_steps: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    log_mmd: bool = True,
    cache: Path | str | bool = False,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    context: DistContext = SINGLE_PROCESS,
    device: str = "cpu",
    verbose: bool = False,
) -> list[Record]:
    """Train `model` in place for `steps` steps; returns the records of its evaluations.

    source: labelled samples (x, y); with an attribute `after_stages` = k they are outputs of the backbone's first k
    stages, which must be frozen (see `dan.source_free`). target: samples (x, y) whose labels are never read. labelled_target:
    target samples whose labels were bought, (x, y), learned by cross-entropy beside the source. labelled_domain: on
    which
    side the method's terms see them. "target": they are part of `target` like all others, and the labelled batch itself
    is not aligned. "source": the source side is a sample of source u labelled, each of their samples as likely as any
    other; then `target` is to be what is left without them, which the caller sees to. source_weights: a
    weight >= 0 of each source sample's cross-entropy (N,), as `dan.instance_weights` gives them. trade_off: lambda >=
    0, the weight of the method's terms; 0 is source-only training, which never looks at the target. tests: data sets
    to evaluate on, named.
    domain_loss: what aligns the domains, if it is not a method of `config`: any callable from what the network says of
    the source and of the target batch (two `Output`) to a dict of scalar terms; a module's parameters train as well.
    run: folder for checkpoints, records and TensorBoard events; the same call on the same folder goes on where it was
    killed, and returns at once if it was done. continue_from: the folder of a finished run that this one continues as if it
    were one training: weights, optimiser, the method's state, dropout and the count of steps go on, and `steps` counts
    from that training's first; data and labels may be others. total_steps: the steps of the whole training that this
    is a part of, which the trade-off's ramp is over; default: `steps`.
    metadata: JSON-able settings of the caller's, kept in the records. log_mmd: False leaves what `MMDDiagnostics` says out of the
    records, which is most of the time of an evaluation on small sets; nothing else changes.
    cache: compute the outputs of the frozen first stages once, and train on them: True keeps them in memory, a folder
    on the disk. The same numbers up to rounding, many times faster; it is an error where no stage is frozen.
    precision: of the network's products in training; the loss, MMD and all, is of its outputs in float32, and so are
    weights and evaluations. fp16 scales the loss, and leaves out a step whose gradients overflow.
    context: the processes that make this call together, each with its share of every batch; the first one writes.

    A record: {"event": "evaluation", "step", "loss", "accuracy/NAME" in [0, 1], "label_free/information" and, with
    tests["source_test"], "label_free/two_sample" (see `dan.evaluation.validators`), what
    `dan.training.mmd_diagnostics.Watch` says of a fixed held sample, "seconds"}.
    Raises UserError for impossible settings, for an earlier run that cannot be continued so, and for a folder that
    holds another run, `Diverged` when the loss leaves what is finite.
    Source: Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015, section 3.
    """
    config = config or TrainConfig()
    tests = tests or {}
    if not 0 <= trade_off < float("inf"):
        raise UserError(f"the trade-off must be 0 or more, not {trade_off}")
    if steps < 1:
        raise UserError(f"training needs at least 1 step, not {steps}")
    if config.method not in METHODS:
        raise UserError(
            f'unknown method "{config.method}"{nearest(config.method, METHODS)}: one of {", ".join(METHODS)}'
        )
    if labelled_domain not in ("target", "source"):
        raise UserError(f'unknown labelled_domain "{labelled_domain}": one of target, source')
    if labelled_domain == "source" and (labelled_target is None or not trade_off):
        raise UserError("labelled samples join the source's side of the alignment only where there are both of them")
    if total_steps is not None and total_steps < steps:
        raise UserError(f"a training of {total_steps} steps has no part that ends at step {steps}")
    check_train_config(config, METHODS[config.method].fewest if trade_off and domain_loss is None else 1)
    if config.batch_size < context.size:
        raise UserError(
            f"a batch of {config.batch_size} has no share for each of {context.size} processes: raise batch_size, or "
            "start fewer"
        )
    if source_weights is not None and source_weights.shape != (num_samples(source),):
        raise ValueError(
            f"source_weights must be ({num_samples(source)},), one a source sample, not {source_weights.shape}"
        )
    settings = {**(metadata or {}), "trade_off": trade_off, "steps": steps, "seed": seed, **asdict(config)}
    settings["labelled"] = 0 if labelled_target is None else num_samples(labelled_target)
    # Said only where they are not the defaults, so that runs from before these were options are still the same runs.
    said_of_parts = {"continue_from": continue_from and Path(continue_from).name, "total_steps": total_steps}
    settings |= {name: value for name, value in said_of_parts.items() if value is not None}
    settings |= {} if labelled_domain == "target" else {"labelled_domain": labelled_domain}
    settings |= {"cache_backbone": True} if cache else {}
    settings |= {} if log_mmd else {"log_mmd": False}
    if config.optimizer == TrainConfig().optimizer:
        del settings["optimizer"]
    given_data = source, target  # before any stage is computed once and for all
    place = choose_device(device)
    if precision != "fp32":
        _check_precision(precision, place)
        settings["precision"] = precision
    model.to(place)
    align = _aligned(config, model)
    entry = _entry(model, source, cache)
    if entry:
        folder_of_cache = None if isinstance(cache, bool) else Path(cache)

        def outputs_of(data: Dataset) -> Dataset:
            if stages_run(data) == entry:
                return data

            def ran() -> Dataset:
                return cached(data, model, entry, folder_of_cache, device=place, quiet=not (verbose and context.first))

            return ran() if folder_of_cache is None else context.first_then_all(ran)

        source, target = outputs_of(source), outputs_of(target)
        labelled_target = None if labelled_target is None else outputs_of(labelled_target)
        tests = {name: outputs_of(data) for name, data in tests.items()}
    held_source, held_target = _held(source), _held(target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, 4))
        # A backbone without out_features, or a discriminator, learns its width from the first samples.
        first = predict(model, Subset(source, [0]), start=entry)[0]
        term = domain_loss
        if domain_loss is None and trade_off:
            options = {name: value for name, value in asdict(config).items() if name not in ("method", "align")}
            term = build_loss(config.method, model, align, **options)
        learned = term if isinstance(term, nn.Module) else nn.Module()
        learned.to(place)
        if term is not None and any(map(is_lazy, learned.parameters())):
            twice = Output(*(_twice(part, place) for part in (first.logits, first.layers)))
            learned.eval()
            term(twice, twice)
    watch = MMDDiagnostics(align, num_kernels=config.num_kernels, step=config.bandwidth_ratio)

    groups, factors = _groups(model, learned, config)
    parameters = [{"params": group, "name": name} for name, group in groups.items()]
    optimizer = _optimizer(parameters, config)
    scaler = torch.amp.GradScaler(place.type, enabled=precision == "fp16")
    # Of several processes the first one alone has a folder, and tells the others what is in it.
    folder = None if run is None else context.alone(lambda: _opened(run, settings, model, *given_data))

    def known() -> tuple[dict[str, Any] | None, list[Record], bool]:
        """What there is to go on from, and whether it is this run's own."""
        where = place if context.size == 1 else torch.device("cpu")
        if folder is not None and (state := folder.load(where)) is not None:
            return state, folder.evaluations, True
        return None if continue_from is None else _state_of(Path(continue_from), optimizer, where, steps), [], False

    state, records, resumed = context.of_first(known)
    start = 0
    if state is not None:
        try:
            model.load_state_dict(state["model"])
            learned.load_state_dict(state["objective"])
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{continue_from or run} was trained with another network or method, and cannot be gone on with: {first_line}"
            ) from None
        watch.load_state_dict(state["watch"])
        if scaler.is_enabled() and "scaler" in state:
            scaler.load_state_dict(state["scaler"])
        start = state["step"]
        for group in optimizer.param_groups:  # what the config says now, not what it said in the earlier run
            group |= {"weight_decay": config.weight_decay} | (
                {"momentum": config.momentum} if "momentum" in group else {}
            )
    if start >= steps:
        model.eval()
        return records

    # Streams with seeds of their own, so that buying labels does not change which source samples come when.
    source_batches = Batches(num_samples(source), config.batch_size, derived_seed(seed, 0))
    target_batches = Batches(num_samples(target), config.batch_size, derived_seed(seed, 1))
    labelled_batches = (
        Batches(num_samples(labelled_target), config.batch_size, derived_seed(seed, 2)) if labelled_target else None
    )
    united_batches = None
    if labelled_target is not None and labelled_domain == "source":
        united_batches = Batches(
            num_samples(source) + num_samples(labelled_target), config.batch_size, derived_seed(seed, 8)
        )

    def batch(data: Dataset, batches: Batches, stream: int, step: int) -> tuple[Tensor, Tensor]:
        """This process's share of the batch."""
        views = torch.Generator().manual_seed(derived_seed(seed, 5, stream, step, *context.path))  # of augmented data
        return fetch(data, context.share(batches.indices(step)), views)

    shares = context.counts(config.batch_size)
    network = context.network(model)

    def look() -> tuple[tuple[dict[str, float], dict[str, float]], Output, Output]:
        """What is to be said of the held samples, and the network's outputs on those of the source and the target."""
        of_source, of_target = (
            predict(model, data, start=entry, context=context)[0] for data in (held_source, held_target)
        )
        for domain, output in (("source", of_source), ("target", of_target)):
            if not bool(output.logits.isfinite().all()):
                raise Diverged(f"the network says NaN of {domain} samples: look for NaN in the data or the weights")
        if not log_mmd:
            return ({}, {}), of_source, of_target
        activations = [
            {name: comparable(name, of.layers[name], config.output_space) for name in align}
            for of in (of_source, of_target)
        ]
        beta = getattr(term, "weights", None)
        return watch.look(activations[0], activations[1], beta, draw=folder is not None), of_source, of_target

    began = time.perf_counter()
    model.train()
    learned.train()
    with (
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
        TensorBoardLogger(None if folder is None else folder.folder, step=start + 1 if start else 0) as monitor,
        Progress("training", steps, quiet=not (verbose and context.first), start=start) as progress,
    ):
        torch.manual_seed(derived_seed(seed, 3))  # dropout
        if state is not None:
            torch.set_rng_state(state["generator"].cpu())
        if folder is not None and not resumed:
            monitor.settings(settings)
            if log_mmd:
                monitor.charts(watch.charts())

        for step in range(start, steps):
            decay = inverse_decay(step, gamma=config.lr_gamma, power=config.lr_power)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * factors[group["name"]] * decay
            if context.size > 1:  # dropout, which one generator in a checkpoint cannot tell for all
                torch.manual_seed(derived_seed(seed, 3, step, context.rank))

            x_source, y_source = batch(source, source_batches, 0, step)
            losses: dict[str, Tensor] = {}
            inputs = [x_source]
            if trade_off:
                inputs.append(batch(target, target_batches, 1, step)[0])
            if labelled_target is not None and labelled_batches is not None:
                x_labelled, y_labelled = batch(labelled_target, labelled_batches, 2, step)
                inputs.append(x_labelled)
            # One pass: faster, and the domains share batch norm.
            with torch.autocast(place.type, PRECISIONS[precision], enabled=precision != "fp32"):
                share = network(torch.cat(inputs).to(place), start=entry)
            whole = context.whole(_full(share), config.batch_size, layers=term is not None)
            outputs = whole.split([config.batch_size] * len(inputs))

            losses["source"] = _source_loss(
                outputs[0], context.rows(y_source.to(place), shares), source_weights, source_batches.indices(step)
            )
            loss = losses["source"]
            if labelled_target is not None:
                losses["labelled"] = cross_entropy(outputs[-1].logits, context.rows(y_labelled.to(place), shares))
                loss = loss + losses["labelled"]
            # Before the alignment, whose bandwidth NaN features do not have.
            _refuse_divergence(loss + 0 * whole.logits.detach().sum(), step, config)
            if term is not None and trade_off:
                _refuse_explosion({name: whole.layers[name] for name in align}, step, config)
                of_source = outputs[0]
                if united_batches is not None and labelled_batches is not None:
                    joining = int((united_batches.indices(step) >= num_samples(source)).sum())
                    of_source = _joined(of_source, outputs[-1], labelled_batches.indices(step), joining)
                terms = term(of_source, outputs[1])
                now = trade_off * (ramp(step / (total_steps or steps)) if config.schedule == "ramp" else 1.0)
                losses |= {f"term/{name}": value for name, value in terms.items()}
                losses["alignment"] = now * torch.stack(list(terms.values())).sum()
                loss = loss + losses["alignment"]

            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            context.average(learned.parameters())
            losses["total"] = loss.detach()
            _refuse_divergence(loss, step, config)
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()

            finished = step + 1
            progress.advance(f"loss {float(loss.detach()):.3f}" if progress.wants_note() else "")
            if finished % 25 == 0 or finished == steps:
                monitor.scalars({f"loss/{name}": float(value.detach()) for name, value in losses.items()}, finished)
                monitor.scalars({f"rate/{group['name']}": group["lr"] for group in optimizer.param_groups}, finished)
                monitor.scalars({f"gradient_norm/{name}": _norm(group) for name, group in groups.items()}, finished)
            if finished % config.evaluate_every == 0 or finished == steps:
                record: Record = {"event": "evaluation", "step": finished, "loss": float(losses["total"])}
                record |= {} if context.size == 1 else {"processes": context.size}
                context.same_buffers(model)
                record |= {
                    f"accuracy/{name}": evaluate(model, data, start=entry, context=context).accuracy
                    for name, data in tests.items()
                }
                said, of_source, of_target = look()
                record["label_free/information"] = float(information(of_target.logits.softmax(1)))
                if "source_test" in tests and min(len(of_source.logits), len(of_target.logits)) >= 4:
                    apart = two_sample_error(of_source.features, of_target.features, seed=0)
                    record["label_free/two_sample"] = label_free_score(1 - record["accuracy/source_test"], apart)
                told, curves = said
                record |= {**told, "seconds": time.perf_counter() - began}
                monitor.scalars({k: v for k, v in record.items() if "/" in k} | curves, finished)
                records.append(record)
                if folder is not None:
                    folder.append(record)
            if folder is not None and (finished % config.checkpoint_every == 0 or finished == steps):
                # What is kept is to go on from: the one before is better than weights that are NaN.
                _refuse_broken_weights(model, step, config)
                if finished == steps:
                    if config.feature_map:
                        _map(monitor, model, held_source, held_target, finished, entry)
                    save_model(folder.folder / "model.pt", model, getattr(term, "ladders", None))
                    folder.append({"event": "done", "step": finished})
                now_known = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "objective": learned.state_dict(),
                    "watch": watch.state_dict(),
                    "generator": torch.get_rng_state(),
                    "step": finished,
                }
                folder.save(now_known | ({"scaler": scaler.state_dict()} if scaler.is_enabled() else {}))
    model.eval()
    return records


class Diverged(UserError):
    """The loss, or an activation, has left what is finite: a lower rate may help. Another setting may well work."""


def _opened(run: Path | str, settings: Mapping[str, Any], model: DAN, source: Dataset, target: Dataset) -> Run:
    """The run's folder; data that have only moved since it was begun are the same run's."""
    description = describe_data(source, target, model.settings["num_classes"])
    try:
        opened = Run(run, settings_of_same_data(Path(run), settings, description))
        write_data_record(Path(run), description)
        return opened
    except OSError as error:
        raise UserError(f"{run} cannot be written ({error.strerror or error}): name another --run") from None


def _check_precision(precision: str, place: torch.device) -> None:
    if precision not in PRECISIONS:
        raise UserError(
            f'unknown precision "{precision}"{nearest(precision, PRECISIONS)}: one of {", ".join(PRECISIONS)}'
        )
    if place.type not in ("cpu", "cuda"):
        raise UserError(f"--precision {precision} is for the devices cpu and cuda, not for {place.type}")


def _full(output: Output) -> Output:
    """The same in float32 where the network gave half of it, which can't hold a loss; anything else as it is."""
    layers = {name: at_least_float32(layer) for name, layer in output.layers.items()}
    return Output(layers.get("output", at_least_float32(output.logits)), layers)


def _entry(model: DAN, source: Dataset, cache: Path | str | bool) -> int:
    """How many stages of the backbone are computed before training: those that the source went through, or the
    frozen."""
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


def _optimizer(parameters: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    rate, decay = config.lr, config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    if config.optimizer == "adadelta":
        return torch.optim.Adadelta(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, momentum=config.momentum, weight_decay=decay)


def _state_of(continue_from: Path, optimizer: torch.optim.Optimizer, place: torch.device, steps: int) -> dict[str, Any]:
    """What the finished run left to go on from."""
    path = continue_from / "resume.pt"
    if not path.exists():
        raise UserError(f"{path} does not exist: only a run that kept it can be continued; fine-tune or start afresh")
    state = read_tensors(path, place)
    if not (continue_from / "model.pt").exists() or state["step"] >= steps:
        raise UserError(
            f"{continue_from} stands at step {state['step']}: a training that continues it needs it finished, and steps "
            f"beyond that one, not {steps}"
        )
    before, now = (set(of["param_groups"][0]) for of in (state["optimizer"], optimizer.state_dict()))
    if before != now:
        raise UserError(f"{continue_from} was trained with another optimizer: continue it with its own, or fine-tune")
    return state


def _joined(source: Output, labelled: Output, drawn: Tensor, count: int) -> Output:
    """`count` labelled samples of the batch in place of as many of the source's, which has as many rows as before.

    drawn: which labelled sample each row of the labelled batch is: the same one never comes twice (a pair of equal ones
    is no draw from a domain), so where the batch has fewer than `count` different ones it is as many as there are.
    """
    first = [row for row, sample in enumerate(drawn.tolist()) if sample not in drawn[:row].tolist()][:count]
    kept = len(source.logits) - len(first)
    layers = {name: torch.cat([layer[:kept], labelled.layers[name][first]]) for name, layer in source.layers.items()}
    return Output(torch.cat([source.logits[:kept], labelled.logits[first]]), layers)


def _source_loss(output: Output, y: Tensor, weights: Tensor | None, rows: Tensor) -> Tensor:
    """Mean cross-entropy of the source batch; with weights (of the whole source), mean_i w_i CE_i."""
    if weights is None:
        return cross_entropy(output.logits, y)
    return (weights[rows].to(output.logits) * cross_entropy(output.logits, y, reduction="none")).mean()


def _groups(
    model: DAN, learned: nn.Module, config: TrainConfig
) -> tuple[dict[str, list[nn.Parameter]], dict[str, float]]:
    """(parameters, factor on the rate) by group: "backbone", "new" (with the method's own), and each part with its
    own."""
    own = config.lr_mult_values
    parts = model.stage_groups()
    known = [*model.stages, *parts]
    for name in own:
        if name not in known:
            raise UserError(f'there is no part "{name}" of the network{nearest(name, known)}: {", ".join(known)}')
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "new": [], **{name: [] for name in own}}
    for name, part in parts.items():
        groups[name if name in own else "backbone" if name in model.stages else "new"] += part
    groups["new"] += list(learned.parameters())
    factors = {"backbone": 1.0, "new": config.head_lr_mult, **own}
    return {name: group for name, group in groups.items() if group}, factors


def _twice(part: Any, place: torch.device) -> Any:
    """The output of one sample, two times, so that it is a batch."""
    if isinstance(part, Tensor):
        return torch.cat([part, part]).to(place)
    return {name: _twice(layer, place) for name, layer in part.items()}


def _refuse_divergence(loss: Tensor, step: int, config: TrainConfig) -> None:
    if not bool(loss.isfinite()):
        value = float(loss.detach())
        if step == 0:
            raise UserError(f"the loss is {value} at step 0, before anything was learned: look for NaN in the data")
        raise Diverged(f"the loss is {value} at step {step}: lower the rate (now {config.lr}) and run again")


def _refuse_broken_weights(model: DAN, step: int, config: TrainConfig) -> None:
    """Where the loss was finite, and the step that it led to was not."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.detach().isfinite().all()):
            raise Diverged(f"{name} is NaN after step {step}: lower the rate (now {config.lr}) and run again")


def _refuse_explosion(layers: Mapping[str, Tensor], step: int, config: TrainConfig) -> None:
    """Before activations grow so large that their squared distances leave float32, though the loss is finite still."""
    for name, layer in layers.items():
        largest = float(layer.detach().abs().amax())
        if not largest < 1e15 and step == 0:
            raise UserError(
                f'the activations of layer "{name}" are {largest:.0e} at step 0, before anything was trained: look for '
                "fill values (such as 1e20) in the data of both domains, or bring the features to a scale around 1"
            )
        if not largest < 1e15:
            raise Diverged(
                f'the activations of layer "{name}" grew to {largest:.0e} at step {step}: '
                f"lower the rate (now {config.lr}) and run again"
            )


def _aligned(config: TrainConfig, model: DAN) -> tuple[str, ...]:
    """The layers to align, checked. () means all task-specific ones."""
    for name in config.align:
        if layer_named(name) not in model.layer_names:
            raise UserError(
                f'there is no layer "{name}" to align{nearest(name, model.layer_names)}: '
                f"one of {', '.join(model.layer_names)}"
            )
    return tuple(map(layer_named, config.align)) or tuple(model.layer_names)


def _held(data: Dataset, count: int = 256) -> Dataset:
    """A fixed sample, evenly spread over the data set, on which MMD is logged: the same one at every step."""
    total = num_samples(data)
    return Subset(data, torch.arange(total)[:: max(1, total // count)][:count].tolist())


def _map(monitor: TensorBoardLogger, model: DAN, source: Dataset, target: Dataset, step: int, entry: int) -> None:
    """The last hidden layer of the held samples, drawn. Target labels colour the picture and do nothing else."""
    (of_source, y_source), (of_target, y_target) = (
        predict(model, source, start=entry),
        predict(model, target, start=entry),
    )
    monitor.feature_map(of_source.features, y_source, of_target.features, y_target, step)


def _norm(parameters: list[torch.nn.Parameter]) -> float:
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
