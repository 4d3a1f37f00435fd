"""fit(): the one training loop. Source-only, DAN, and DAN with bought target labels differ in their arguments only.

    each step:  L = CE(source batch) + CE(labelled target batch, if any) + lambda(step) * sum over layers of MK-MMD^2
    SGD with momentum; every rate decays as (1 + gamma * step)^-power; the task-specific layers learn faster.

A batch depends on (seed, step) alone, and dropout's generator is in the checkpoint: a run that is killed and started
again ends with the same bits on the CPU.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, Subset

from dan.batches import Batches, derived_seed, gather, size
from dan.checkpoint import save_model
from dan.devices import choose_device
from dan.errors import UserError, nearest
from dan.evaluation import evaluate, predict
from dan.mmd import MultiKernel, median_bandwidth, mmd2_per_kernel
from dan.model_selection import information
from dan.monitor import Monitor
from dan.networks.dan import DAN
from dan.objectives import alignment, comparable, inverse_decay, ramp
from dan.progress import Progress
from dan.run_folder import Record, Run


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train, apart from what is trained on what. The defaults suit a small network from scratch."""

    batch_size: int = 32
    """Samples a step of each domain."""
    rate: float = 0.01
    """Learning rate of the trunk."""
    new_rate_factor: float = 10.0
    """The task-specific layers learn this many times faster than the trunk."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 5e-4
    """L2 penalty on all weights."""
    decay_gamma: float = 1e-3
    """Rates fall as (1 + gamma * step)^-power."""
    decay_power: float = 0.75
    """The power in that decay."""
    schedule: Literal["ramp", "constant"] = "ramp"
    """The trade-off grows from 0 over the training (ramp), or stays as it is (constant)."""
    align: tuple[str, ...] = ()
    """Layers to align, such as: hidden1 output. None named: all task-specific layers."""
    kernels: int = 5
    """Gaussian kernels in the ladder; the paper has 33."""
    kernel_step: float = 2.0
    """Factor between neighbouring bandwidths; the paper has 2^(1/2)."""
    estimator: Literal["unbiased", "biased", "linear"] = "unbiased"
    """How a batch estimates MMD^2; the paper trains with the linear-time one."""
    evaluate_every: int = 250
    """Steps between evaluations (one record each)."""
    checkpoint_every: int = 100
    """Steps between checkpoints: at most these are done again after a kill."""
    feature_map: bool = True
    """At the end of a run, draw the features of both domains for TensorBoard."""


def fit(
    model: DAN,
    source: Dataset,
    target: Dataset,
    *,
    trade_off: float,
    steps: int,
    seed: int,
    labelled: Dataset | None = None,
    tests: Mapping[str, Dataset] | None = None,
    recipe: Recipe | None = None,
    run: Path | str | None = None,
    about: Mapping[str, Any] | None = None,
    device: str = "cpu",
    quiet: bool = True,
) -> list[Record]:
    """Train `model` in place for `steps` steps; returns the records of its evaluations.

    source: labelled samples (x, y). target: samples (x, y) whose labels are never read. labelled: target samples whose
    labels were bought, (x, y), learned by cross-entropy beside the source. trade_off: lambda >= 0, the weight of the
    MK-MMD terms; 0 is source-only training, which never looks at the target. tests: data sets to evaluate on, by name.
    run: folder for checkpoints, records and TensorBoard events; the same call on the same folder goes on where it was
    killed, and returns at once if it was done. about: JSON-able settings of the caller's, kept in the records.

    A record: {"event": "evaluation", "step", "loss", "accuracy/NAME" in [0, 1], "label_free/information" (see
    `dan.model_selection.information`) and "mmd2/LAYER" (unbiased) on a fixed held sample, "seconds"}.
    Raises UserError for impossible settings, for a folder that holds another run, and when the loss is not finite.
    Source: Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015, section 3.
    """
    recipe = recipe or Recipe()
    tests = tests or {}
    _check(recipe, trade_off, steps)
    settings = {**(about or {}), "trade_off": trade_off, "steps": steps, "seed": seed, **asdict(recipe)}
    settings["labelled"] = 0 if labelled is None else size(labelled)
    place = choose_device(device)
    model.to(place)
    held_source, held_target = _held(source), _held(target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, 4))
        predict(model, Subset(source, [0]))  # a trunk without out_features learns its width from the first sample
    align = _aligned(recipe, model)

    groups = model.groups()
    factors = {"trunk": 1.0, "new": recipe.new_rate_factor}
    parameters = [{"params": list(group), "name": name} for name, group in groups.items() if group]
    optimizer = torch.optim.SGD(parameters, lr=recipe.rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    folder = None if run is None else Run(run, settings)
    records: list[Record] = []
    start, state = 0, None
    if folder is not None:
        state = folder.load(place)
        if state is not None:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            start, records = state["step"], folder.evaluations
    if start >= steps:
        model.eval()
        return records

    # Three streams with seeds of their own, so that buying labels does not change which source samples come when.
    source_batches = Batches(size(source), recipe.batch_size, derived_seed(seed, 0))
    target_batches = Batches(size(target), recipe.batch_size, derived_seed(seed, 1))
    labelled_batches = Batches(size(labelled), recipe.batch_size, derived_seed(seed, 2)) if labelled else None

    began = time.perf_counter()
    model.train()
    with (
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
        Monitor(None if folder is None else folder.folder, step=start + 1 if start else 0) as monitor,
        Progress("training", steps, quiet=quiet, start=start) as progress,
    ):
        torch.manual_seed(derived_seed(seed, 3))  # dropout
        if state is not None:
            torch.set_rng_state(state["generator"].cpu())
        elif folder is not None:
            monitor.settings(settings)

        for step in range(start, steps):
            decay = inverse_decay(step, gamma=recipe.decay_gamma, power=recipe.decay_power)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * factors[group["name"]] * decay

            x_source, y_source = gather(source, source_batches.indices(step))
            losses: dict[str, Tensor] = {}
            inputs, sizes = [x_source], [len(x_source)]
            if trade_off:
                inputs.append(gather(target, target_batches.indices(step))[0])
                sizes.append(len(inputs[-1]))
            if labelled is not None and labelled_batches is not None:
                x_labelled, y_labelled = gather(labelled, labelled_batches.indices(step))
                inputs.append(x_labelled)
                sizes.append(len(x_labelled))
            output = model(torch.cat(inputs).to(place))  # one pass for all: faster, and the domains share batch norm

            logits = output.logits.split(sizes)
            losses["source"] = cross_entropy(logits[0], y_source.to(place))
            loss = losses["source"]
            if labelled is not None:
                losses["labelled"] = cross_entropy(logits[-1], y_labelled.to(place))
                loss = loss + losses["labelled"]
            _refuse_divergence(loss, step, recipe)  # before the alignment, whose bandwidth NaN features do not have
            if trade_off:
                layers = {name: output.layers[name].split(sizes) for name in align}
                mmd = alignment(
                    {name: parts[0] for name, parts in layers.items()},
                    {name: parts[1] for name, parts in layers.items()},
                    align,
                    kernels=recipe.kernels,
                    step=recipe.kernel_step,
                    estimator=recipe.estimator,
                )
                now = trade_off * (ramp(step / steps) if recipe.schedule == "ramp" else 1.0)
                losses["alignment"] = now * torch.stack(list(mmd.values())).sum()
                loss = loss + losses["alignment"]

            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            losses["total"] = loss.detach()
            _refuse_divergence(loss, step, recipe)
            optimizer.step()

            finished = step + 1
            progress.advance(f"loss {float(loss.detach()):.3f}" if progress.wants_note() else "")
            if finished % 25 == 0 or finished == steps:
                monitor.scalars({f"loss/{name}": float(value.detach()) for name, value in losses.items()}, finished)
                monitor.scalars({f"rate/{group['name']}": group["lr"] for group in optimizer.param_groups}, finished)
                monitor.scalars({f"gradient_norm/{name}": _norm(group) for name, group in groups.items()}, finished)
            if finished % recipe.evaluate_every == 0 or finished == steps:
                record: Record = {"event": "evaluation", "step": finished, "loss": float(losses["total"])}
                record |= {f"accuracy/{name}": evaluate(model, data).accuracy for name, data in tests.items()}
                record["label_free/information"] = float(information(predict(model, held_target)[0].logits.softmax(1)))
                mmd2, per_kernel = _held_mmd2(model, held_source, held_target, align, recipe)
                record |= {**mmd2, "seconds": time.perf_counter() - began}
                monitor.scalars({k: v for k, v in record.items() if "/" in k} | per_kernel, finished)
                records.append(record)
                if folder is not None:
                    folder.append(record)
            if folder is not None and (finished % recipe.checkpoint_every == 0 or finished == steps):
                if finished == steps:
                    if recipe.feature_map:
                        _map(monitor, model, held_source, held_target, finished)
                    save_model(folder.folder / "model.pt", model)
                    folder.append({"event": "done", "step": finished})
                folder.save(
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "generator": torch.get_rng_state(),
                        "step": finished,
                    }
                )
    model.eval()
    return records


def _check(recipe: Recipe, trade_off: float, steps: int) -> None:
    if not 0 <= trade_off < float("inf"):
        raise UserError(f"the trade-off must be 0 or more, not {trade_off}")
    if steps < 1:
        raise UserError(f"training needs at least 1 step, not {steps}")
    for name in ("batch_size", "kernels", "evaluate_every", "checkpoint_every"):
        if getattr(recipe, name) < 1:
            raise UserError(f"{name} must be at least 1, not {getattr(recipe, name)}")
    if recipe.rate <= 0 or recipe.kernel_step <= 0:
        raise UserError(f"rate and kernel_step must be positive, not {recipe.rate} and {recipe.kernel_step}")
    fewest = {"biased": 1, "unbiased": 2, "linear": 2}
    if recipe.estimator not in fewest:
        raise UserError(f'unknown estimator "{recipe.estimator}"{nearest(recipe.estimator, fewest)}')
    if trade_off and recipe.batch_size < fewest[recipe.estimator]:
        raise UserError(f"the {recipe.estimator} estimate needs batch_size >= {fewest[recipe.estimator]}")


def _refuse_divergence(loss: Tensor, step: int, recipe: Recipe) -> None:
    if not bool(loss.isfinite()):
        value = float(loss.detach())
        raise UserError(f"the loss is {value} at step {step}: lower the rate (now {recipe.rate}) and run again")


def _aligned(recipe: Recipe, model: DAN) -> tuple[str, ...]:
    """The layers to align, checked. () means all task-specific ones."""
    for name in recipe.align:
        if name not in model.layer_names:
            raise UserError(
                f'there is no layer "{name}" to align{nearest(name, model.layer_names)}: '
                f"one of {', '.join(model.layer_names)}"
            )
    return recipe.align or tuple(model.layer_names)


def _held(data: Dataset, count: int = 256) -> Dataset:
    """A fixed sample, evenly spread over the data set, on which MMD is watched: the same one at every step."""
    total = size(data)
    return Subset(data, torch.arange(total)[:: max(1, total // count)][:count].tolist())


def _held_mmd2(
    model: DAN, source: Dataset, target: Dataset, align: tuple[str, ...], recipe: Recipe
) -> tuple[Record, Record]:
    """Unbiased MMD^2 on the held samples: per layer, and per layer and kernel (gamma relative to the median)."""
    if min(size(source), size(target)) < 2:
        return {}, {}
    of_source, of_target = predict(model, source)[0].layers, predict(model, target)[0].layers
    total: Record = {}
    per_kernel: Record = {}
    for name in align:
        x, y = comparable(name, of_source[name]), comparable(name, of_target[name])
        gamma = median_bandwidth(x, y)
        kernel = MultiKernel.ladder(gamma, count=recipe.kernels, step=recipe.kernel_step)
        values = mmd2_per_kernel(x, y, kernel)
        total[f"mmd2/{name}"] = float(values @ kernel.weights.to(values))
        for u, (width, value) in enumerate(zip((kernel.bandwidths / gamma).tolist(), values.tolist(), strict=True)):
            per_kernel[f"mmd2_per_kernel/{name}/{u}_{width:.3g}_median"] = value
    return total, per_kernel


def _map(monitor: Monitor, model: DAN, source: Dataset, target: Dataset, step: int) -> None:
    """The last hidden layer of the held samples, drawn. Target labels colour the picture and do nothing else."""
    (of_source, y_source), (of_target, y_target) = predict(model, source), predict(model, target)
    monitor.feature_map(of_source.features, y_source, of_target.features, y_target, step)


def _norm(parameters: list[torch.nn.Parameter]) -> float:
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
