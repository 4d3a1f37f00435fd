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

from dan.batches import Batches, derived_seed, gather, size
from dan.checkpoint import save_model
from dan.devices import choose_device
from dan.distributed import ALONE, World
from dan.errors import UserError, nearest
from dan.evaluation import evaluate, predict
from dan.mmd.dense import at_least_float32
from dan.model_selection import information, label_free_score, two_sample_error
from dan.monitor import Monitor
from dan.networks.dan import DAN, Output, layer_named
from dan.objectives import METHODS, Objective, build_objective, comparable, inverse_decay, ramp
from dan.progress import Progress
from dan.recipes import Recipe, check_recipe
from dan.run_folder import Record, Run, read_tensors
from dan.trunk_cache import cached, stages_run
from dan.watch import Watch

__all__ = ["Diverged", "Recipe", "fit"]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def fit(
    model: DAN,
    source: Dataset,
    target: Dataset,
    *,
    trade_off: float,
    steps: int,
    seed: int,
    labelled: Dataset | None = None,
    labelled_side: Literal["target", "source"] = "target",
    source_weights: Tensor | None = None,
    tests: Mapping[str, Dataset] | None = None,
    recipe: Recipe | None = None,
    objective: Objective | None = None,
    run: Path | str | None = None,
    earlier: Path | str | None = None,
    of_steps: int | None = None,
    about: Mapping[str, Any] | None = None,
    watched: bool = True,
    cache: Path | str | bool = False,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    world: World = ALONE,
    device: str = "cpu",
    quiet: bool = True,
) -> list[Record]:
    """Train `model` in place for `steps` steps; returns the records of its evaluations.

    source: labelled samples (x, y); with an attribute `after_stages` = k they are outputs of the trunk's first k
    stages, which must be frozen (see `dan.source_free`). target: samples (x, y) whose labels are never read. labelled:
    target samples whose labels were bought, (x, y), learned by cross-entropy beside the source. labelled_side: on which
    side the method's terms see them. "target": they are part of `target` like all others, and the labelled batch itself
    is not aligned. "source": the source side is a sample of source u labelled, each of their samples as likely as any
    other; then `target` is to be what is left without them, which the caller sees to. source_weights: a
    weight >= 0 of each source sample's cross-entropy (N,), as `dan.instance_weights` gives them. trade_off: lambda >=
    0, the weight of the method's terms; 0 is source-only training, which never looks at the target. tests: data sets
    to evaluate on, named.
    objective: what aligns the domains, if it is not a method of `recipe`: any callable from what the network says of
    the source and of the target batch (two `Output`) to a dict of scalar terms; a module's parameters train as well.
    run: folder for checkpoints, records and TensorBoard events; the same call on the same folder goes on where it was
    killed, and returns at once if it was done. earlier: the folder of a finished run that this one continues as if it
    were one training: weights, optimiser, the method's state, dropout and the count of steps go on, and `steps` counts
    from that training's first; data and labels may be others. of_steps: the steps of the whole training that this is a
    part of, which the trade-off's ramp is over; default: `steps`.
    about: JSON-able settings of the caller's, kept in the records. watched: False leaves what `Watch` says out of the
    records, which is most of the time of an evaluation on small sets; nothing else changes.
    cache: compute the outputs of the frozen first stages once, and train on them: True keeps them in memory, a folder
    on the disk. The same numbers up to rounding, many times faster; it is an error where no stage is frozen.
    precision: of the network's products in training; the loss, MMD and all, is of its outputs in float32, and so are
    weights and evaluations. fp16 scales the loss, and leaves out a step whose gradients overflow.
    world: the processes that make this call together, each with its share of every batch; the first one writes.

    A record: {"event": "evaluation", "step", "loss", "accuracy/NAME" in [0, 1], "label_free/information" and, with
    tests["source_test"], "label_free/two_sample" (see `dan.model_selection`), what `dan.watch.Watch` says of a fixed
    held sample, "seconds"}.
    Raises UserError for impossible settings, for an earlier run that cannot be continued so, and for a folder that
    holds another run, `Diverged` when the loss leaves what is finite.
    Source: Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015, section 3.
    """
    recipe = recipe or Recipe()
    tests = tests or {}
    if not 0 <= trade_off < float("inf"):
        raise UserError(f"the trade-off must be 0 or more, not {trade_off}")
    if steps < 1:
        raise UserError(f"training needs at least 1 step, not {steps}")
    if recipe.method not in METHODS:
        raise UserError(
            f'unknown method "{recipe.method}"{nearest(recipe.method, METHODS)}: one of {", ".join(METHODS)}'
        )
    if labelled_side not in ("target", "source"):
        raise UserError(f'unknown labelled_side "{labelled_side}": one of target, source')
    if labelled_side == "source" and (labelled is None or not trade_off):
        raise UserError("labelled samples join the source's side of the alignment only where there are both of them")
    if of_steps is not None and of_steps < steps:
        raise UserError(f"a training of {of_steps} steps has no part that ends at step {steps}")
    check_recipe(recipe, METHODS[recipe.method].fewest if trade_off and objective is None else 1)
    if recipe.batch_size < world.size:
        raise UserError(
            f"a batch of {recipe.batch_size} has no share for each of {world.size} processes: raise batch_size, or "
            "start fewer"
        )
    if source_weights is not None and source_weights.shape != (size(source),):
        raise ValueError(f"source_weights must be ({size(source)},), one a source sample, not {source_weights.shape}")
    settings = {**(about or {}), "trade_off": trade_off, "steps": steps, "seed": seed, **asdict(recipe)}
    settings["labelled"] = 0 if labelled is None else size(labelled)
    # Said only where they are not the defaults, so that runs from before these were options are still the same runs.
    said_of_parts = {"earlier": earlier and Path(earlier).name, "of_steps": of_steps}
    settings |= {name: value for name, value in said_of_parts.items() if value is not None}
    settings |= {} if labelled_side == "target" else {"labelled_side": labelled_side}
    settings |= {"cache_trunk": True} if cache else {}
    settings |= {} if watched else {"watched": False}
    if recipe.optimizer == Recipe().optimizer:
        del settings["optimizer"]
    place = choose_device(device)
    if precision != "fp32":
        _check_precision(precision, place)
        settings["precision"] = precision
    model.to(place)
    align = _aligned(recipe, model)
    entry = _entry(model, source, cache)
    if entry:
        folder_of_cache = None if isinstance(cache, bool) else Path(cache)

        def outputs_of(data: Dataset) -> Dataset:
            if stages_run(data) == entry:
                return data

            def ran() -> Dataset:
                return cached(data, model, entry, folder_of_cache, device=place, quiet=quiet or not world.first)

            return ran() if folder_of_cache is None else world.first_then_all(ran)

        source, target = outputs_of(source), outputs_of(target)
        labelled = None if labelled is None else outputs_of(labelled)
        tests = {name: outputs_of(data) for name, data in tests.items()}
    held_source, held_target = _held(source), _held(target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, 4))
        # A trunk without out_features, or a discriminator, learns its width from the first samples.
        first = predict(model, Subset(source, [0]), start=entry)[0]
        term = objective
        if objective is None and trade_off:
            options = {name: value for name, value in asdict(recipe).items() if name not in ("method", "align")}
            term = build_objective(recipe.method, model, align, **options)
        learned = term if isinstance(term, nn.Module) else nn.Module()
        learned.to(place)
        if term is not None and any(map(is_lazy, learned.parameters())):
            twice = Output(*(_twice(part, place) for part in (first.logits, first.layers)))
            learned.eval()
            term(twice, twice)
    watch = Watch(align, kernels=recipe.kernels, step=recipe.kernel_step)

    groups, factors = _groups(model, learned, recipe)
    parameters = [{"params": group, "name": name} for name, group in groups.items()]
    optimizer = _optimizer(parameters, recipe)
    scaler = torch.amp.GradScaler(place.type, enabled=precision == "fp16")
    # Of several processes the first one alone has a folder, and tells the others what is in it.
    folder = None if run is None else world.alone(lambda: _opened(run, settings))

    def known() -> tuple[dict[str, Any] | None, list[Record], bool]:
        """What there is to go on from, and whether it is this run's own."""
        where = place if world.size == 1 else torch.device("cpu")
        if folder is not None and (state := folder.load(where)) is not None:
            return state, folder.evaluations, True
        return None if earlier is None else _state_of(Path(earlier), optimizer, where, steps), [], False

    state, records, resumed = world.of_first(known)
    start = 0
    if state is not None:
        try:
            model.load_state_dict(state["model"])
            learned.load_state_dict(state["objective"])
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{earlier or run} was trained with another network or method, and cannot be gone on with: {first_line}"
            ) from None
        watch.load_state_dict(state["watch"])
        if scaler.is_enabled() and "scaler" in state:
            scaler.load_state_dict(state["scaler"])
        start = state["step"]
        for group in optimizer.param_groups:  # what the recipe says now, not what it said in an earlier run
            group |= {"weight_decay": recipe.weight_decay} | (
                {"momentum": recipe.momentum} if "momentum" in group else {}
            )
    if start >= steps:
        model.eval()
        return records

    # Streams with seeds of their own, so that buying labels does not change which source samples come when.
    source_batches = Batches(size(source), recipe.batch_size, derived_seed(seed, 0))
    target_batches = Batches(size(target), recipe.batch_size, derived_seed(seed, 1))
    labelled_batches = Batches(size(labelled), recipe.batch_size, derived_seed(seed, 2)) if labelled else None
    united_batches = None
    if labelled is not None and labelled_side == "source":
        united_batches = Batches(size(source) + size(labelled), recipe.batch_size, derived_seed(seed, 8))

    def batch(data: Dataset, batches: Batches, stream: int, step: int) -> tuple[Tensor, Tensor]:
        """This process's share of the batch."""
        views = torch.Generator().manual_seed(derived_seed(seed, 5, stream, step, *world.path))  # of augmented data
        return gather(data, world.share(batches.indices(step)), views)

    shares = world.counts(recipe.batch_size)
    network = world.network(model)

    def look() -> tuple[tuple[dict[str, float], dict[str, float]], Output, Output]:
        """What is to be said of the held samples, and the network's outputs on those of the source and the target."""
        of_source, of_target = (
            predict(model, data, start=entry, world=world)[0] for data in (held_source, held_target)
        )
        for domain, output in (("source", of_source), ("target", of_target)):
            if not bool(output.logits.isfinite().all()):
                raise Diverged(f"the network says NaN of {domain} samples: look for NaN in the data or the weights")
        if not watched:
            return ({}, {}), of_source, of_target
        activations = [
            {name: comparable(name, of.layers[name], recipe.compare) for name in align} for of in (of_source, of_target)
        ]
        beta = getattr(term, "weights", None)
        return watch.look(activations[0], activations[1], beta, draw=folder is not None), of_source, of_target

    began = time.perf_counter()
    model.train()
    learned.train()
    with (
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
        Monitor(None if folder is None else folder.folder, step=start + 1 if start else 0) as monitor,
        Progress("training", steps, quiet=quiet or not world.first, start=start) as progress,
    ):
        torch.manual_seed(derived_seed(seed, 3))  # dropout
        if state is not None:
            torch.set_rng_state(state["generator"].cpu())
        if folder is not None and not resumed:
            monitor.settings(settings)
            if watched:
                monitor.charts(watch.charts())

        for step in range(start, steps):
            decay = inverse_decay(step, gamma=recipe.decay_gamma, power=recipe.decay_power)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * factors[group["name"]] * decay
            if world.size > 1:  # dropout, which one generator in a checkpoint cannot tell for all
                torch.manual_seed(derived_seed(seed, 3, step, world.rank))

            x_source, y_source = batch(source, source_batches, 0, step)
            losses: dict[str, Tensor] = {}
            inputs = [x_source]
            if trade_off:
                inputs.append(batch(target, target_batches, 1, step)[0])
            if labelled is not None and labelled_batches is not None:
                x_labelled, y_labelled = batch(labelled, labelled_batches, 2, step)
                inputs.append(x_labelled)
            # One pass: faster, and the domains share batch norm.
            with torch.autocast(place.type, PRECISIONS[precision], enabled=precision != "fp32"):
                share = network(torch.cat(inputs).to(place), start=entry)
            whole = world.whole(_full(share), recipe.batch_size, layers=term is not None)
            outputs = whole.split([recipe.batch_size] * len(inputs))

            losses["source"] = _source_loss(
                outputs[0], world.rows(y_source.to(place), shares), source_weights, source_batches.indices(step)
            )
            loss = losses["source"]
            if labelled is not None:
                losses["labelled"] = cross_entropy(outputs[-1].logits, world.rows(y_labelled.to(place), shares))
                loss = loss + losses["labelled"]
            # Before the alignment, whose bandwidth NaN features do not have.
            _refuse_divergence(loss + 0 * whole.logits.detach().sum(), step, recipe)
            if term is not None and trade_off:
                _refuse_explosion({name: whole.layers[name] for name in align}, step, recipe)
                of_source = outputs[0]
                if united_batches is not None and labelled_batches is not None:
                    joining = int((united_batches.indices(step) >= size(source)).sum())
                    of_source = _joined(of_source, outputs[-1], labelled_batches.indices(step), joining)
                terms = term(of_source, outputs[1])
                now = trade_off * (ramp(step / (of_steps or steps)) if recipe.schedule == "ramp" else 1.0)
                losses |= {f"term/{name}": value for name, value in terms.items()}
                losses["alignment"] = now * torch.stack(list(terms.values())).sum()
                loss = loss + losses["alignment"]

            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            world.average(learned.parameters())
            losses["total"] = loss.detach()
            _refuse_divergence(loss, step, recipe)
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()

            finished = step + 1
            progress.advance(f"loss {float(loss.detach()):.3f}" if progress.wants_note() else "")
            if finished % 25 == 0 or finished == steps:
                monitor.scalars({f"loss/{name}": float(value.detach()) for name, value in losses.items()}, finished)
                monitor.scalars({f"rate/{group['name']}": group["lr"] for group in optimizer.param_groups}, finished)
                monitor.scalars({f"gradient_norm/{name}": _norm(group) for name, group in groups.items()}, finished)
            if finished % recipe.evaluate_every == 0 or finished == steps:
                record: Record = {"event": "evaluation", "step": finished, "loss": float(losses["total"])}
                record |= {} if world.size == 1 else {"processes": world.size}
                world.same_buffers(model)
                record |= {
                    f"accuracy/{name}": evaluate(model, data, start=entry, world=world).accuracy
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
            if folder is not None and (finished % recipe.checkpoint_every == 0 or finished == steps):
                # What is kept is to go on from: the one before is better than weights that are NaN.
                _refuse_broken_weights(model, step, recipe)
                if finished == steps:
                    if recipe.feature_map:
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


def _opened(run: Path | str, settings: Mapping[str, Any]) -> Run:
    try:
        return Run(run, settings)
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
    """How many stages of the trunk are computed before training: those that the source went through, or the frozen."""
    done = stages_run(source)
    if done > model.cached_stages:
        last = [*model.stages][:done][-1]
        raise UserError(
            f"the source is kept as outputs of the stage {last}: freeze the trunk up to it, and adapt or align no "
            "stage before it"
        )
    if cache and not model.cached_stages:
        raise UserError("there is nothing to cache: freeze the first stages of the network, or train without cache")
    return done or (model.cached_stages if cache else 0)


def _optimizer(parameters: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    rate, decay = recipe.rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    if recipe.optimizer == "adadelta":
        return torch.optim.Adadelta(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, momentum=recipe.momentum, weight_decay=decay)


def _state_of(earlier: Path, optimizer: torch.optim.Optimizer, place: torch.device, steps: int) -> dict[str, Any]:
    """What the finished run left to go on from."""
    path = earlier / "resume.pt"
    if not path.exists():
        raise UserError(f"{path} does not exist: only a run that kept it can be continued; fine-tune or start afresh")
    state = read_tensors(path, place)
    if not (earlier / "model.pt").exists() or state["step"] >= steps:
        raise UserError(
            f"{earlier} stands at step {state['step']}: a training that continues it needs it finished, and steps "
            f"beyond that one, not {steps}"
        )
    before, now = (set(of["param_groups"][0]) for of in (state["optimizer"], optimizer.state_dict()))
    if before != now:
        raise UserError(f"{earlier} was trained with another optimizer: continue it with its own, or fine-tune")
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


def _groups(model: DAN, learned: nn.Module, recipe: Recipe) -> tuple[dict[str, list[nn.Parameter]], dict[str, float]]:
    """(parameters, factor on the rate) by group: "trunk", "new" (with the method's own), and each part with its own."""
    own = recipe.rate_factors
    parts = model.stage_groups()
    known = [*model.stages, *parts]
    for name in own:
        if name not in known:
            raise UserError(f'there is no part "{name}" of the network{nearest(name, known)}: {", ".join(known)}')
    groups: dict[str, list[nn.Parameter]] = {"trunk": [], "new": [], **{name: [] for name in own}}
    for name, part in parts.items():
        groups[name if name in own else "trunk" if name in model.stages else "new"] += part
    groups["new"] += list(learned.parameters())
    factors = {"trunk": 1.0, "new": recipe.new_rate_factor, **own}
    return {name: group for name, group in groups.items() if group}, factors


def _twice(part: Any, place: torch.device) -> Any:
    """The output of one sample, two times, so that it is a batch."""
    if isinstance(part, Tensor):
        return torch.cat([part, part]).to(place)
    return {name: _twice(layer, place) for name, layer in part.items()}


def _refuse_divergence(loss: Tensor, step: int, recipe: Recipe) -> None:
    if not bool(loss.isfinite()):
        value = float(loss.detach())
        if step == 0:
            raise UserError(f"the loss is {value} at step 0, before anything was learned: look for NaN in the data")
        raise Diverged(f"the loss is {value} at step {step}: lower the rate (now {recipe.rate}) and run again")


def _refuse_broken_weights(model: DAN, step: int, recipe: Recipe) -> None:
    """Where the loss was finite, and the step that it led to was not."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.detach().isfinite().all()):
            raise Diverged(f"{name} is NaN after step {step}: lower the rate (now {recipe.rate}) and run again")


def _refuse_explosion(layers: Mapping[str, Tensor], step: int, recipe: Recipe) -> None:
    """Before activations grow so large that their squared distances leave float32, though the loss is finite still."""
    for name, layer in layers.items():
        largest = float(layer.detach().abs().amax())
        if not largest < 1e15:
            raise Diverged(
                f'the activations of layer "{name}" grew to {largest:.0e} at step {step}: '
                f"lower the rate (now {recipe.rate}) and run again"
            )


def _aligned(recipe: Recipe, model: DAN) -> tuple[str, ...]:
    """The layers to align, checked. () means all task-specific ones."""
    for name in recipe.align:
        if layer_named(name) not in model.layer_names:
            raise UserError(
                f'there is no layer "{name}" to align{nearest(name, model.layer_names)}: '
                f"one of {', '.join(model.layer_names)}"
            )
    return tuple(map(layer_named, recipe.align)) or tuple(model.layer_names)


def _held(data: Dataset, count: int = 256) -> Dataset:
    """A fixed sample, evenly spread over the data set, on which MMD is watched: the same one at every step."""
    total = size(data)
    return Subset(data, torch.arange(total)[:: max(1, total // count)][:count].tolist())


def _map(monitor: Monitor, model: DAN, source: Dataset, target: Dataset, step: int, entry: int) -> None:
    """The last hidden layer of the held samples, drawn. Target labels colour the picture and do nothing else."""
    (of_source, y_source), (of_target, y_target) = (
        predict(model, source, start=entry),
        predict(model, target, start=entry),
    )
    monitor.feature_map(of_source.features, y_source, of_target.features, y_target, step)


def _norm(parameters: list[torch.nn.Parameter]) -> float:
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
