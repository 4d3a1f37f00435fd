"""Trainer: the one training loop. Source-only, DAN, the other methods, and all of them with bought target labels differ
in their options only.

    each step:  L = CE(source batch) + CE(labelled target batch, if any) + lambda(step) * sum of the method's terms
    SGD with momentum, or Adam; every rate decays as (1 + gamma * step)^-power; the task-specific layers learn faster.

A batch depends on (seed, step) alone, and dropout's generator is in the checkpoint: a run that is killed and started
again ends with the same bits on the CPU. Several processes share each batch: what the loss sees is the whole of it, in
all of them (see `dan.distributed`), so that the loop is the same for one and for many.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dan.data.batches import derived_seed
from dan.data.inputs import Input, prepare_inputs
from dan.mmd.dense import at_least_float32
from dan.models.dan import DAN, Output
from dan.models.model_file import save_model
from dan.run_data import describe_data
from dan.run_dir import Record
from dan.training import callbacks, setup
from dan.training.checkpoints import TrainState, open_run, restore
from dan.training.config import TrainConfig
from dan.training.domain_terms import checked_terms, joined_outputs
from dan.training.guards import Diverged, FiniteGuard
from dan.training.mmd_diagnostics import MMDDiagnostics
from dan.training.optimizers import build_optimizer, learned_share, parameter_groups, ramp, set_learning_rates
from dan.training.options import PRECISIONS, train_options
from dan.training.streams import StepBatch, seeded_draws
from dan.training.tensorboard import TensorBoardLogger

__all__ = ["Diverged", "TrainConfig", "Trainer", "fit"]


def fit(
    model: DAN,
    source: Input,
    target: Input,
    *,
    trade_off: float = 3.0,
    steps: int = 1000,
    seed: int = 0,
    config: TrainConfig | None = None,
    run: Path | str | None = None,
    labelled_target: Input | None = None,
    tests: Mapping[str, Input] | None = None,
    device: str = "cpu",
    verbose: bool = False,
    **options: Any,
) -> list[Record]:
    """Train `model` in place for `steps` steps; the records of its evaluations.

    source: labelled samples: (X, y) arrays, or a map-style data set of (x, y). target: X, or a data set of x or (x, y)
    whose labels are never read. The other arguments, and the rarer `options` (source_weights, domain_loss, cache,
    continue_from, precision, num_workers, callbacks, ...), are the fields of `dan.training.options.TrainOptions`.

    A record: {"event": "evaluation", "step", "loss", "accuracy/NAME" for each of `tests`, "label_free/...", the MMD of
    each aligned layer on a fixed held sample, "seconds"}.
    Raises UserError for impossible settings, data that do not fit, an earlier run that cannot be continued so, and a
    folder that holds another run; `Diverged` when the loss is not finite any more.
    Source: Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015, section 3.
    """
    options |= {"trade_off": trade_off, "steps": steps, "seed": seed, "config": config, "run": run}
    options |= {"labelled_target": labelled_target, "tests": tests, "device": device, "verbose": verbose}
    return Trainer(model, source, target, **options).train()


class Trainer:
    """One training: `Trainer(model, source, target, trade_off=1.0, steps=500).train()`; see `fit` for the arguments.

    When it is made, the data are prepared and the run's last checkpoint, if there is one, is restored. Attributes that
    callbacks read: model, config, options, data, align, domain_loss, optimizer, groups, diagnostics, guard, logger,
    run, records, resumed, and `step`, the number of steps done.
    """

    def __init__(self, model: DAN, source: Input, target: Input, **options: Any) -> None:
        with seeded_draws(0):  # a look at the data leaves the global generators as they were
            source, target, labelled, tests = prepare_inputs(
                model, source, target, options.get("labelled_target"), options.get("tests")
            )
        options |= {"labelled_target": labelled, "tests": tests}
        self.model, self.options = model, train_options(**options)
        self.config, self.context = self.options.config, self.options.context
        setup.check_options(self.options)
        self.device = setup.training_device(self.options)
        model.to(self.device)
        self.align = setup.aligned_layers(self.config, model)
        self.data = setup.prepare_data(model, source, target, self.options, self.device)
        self.domain_loss, self.loss_module = setup.build_domain_loss(
            model, self.align, self.data, self.options, self.device
        )
        self.streams = setup.build_streams(self.data, self.options)
        self.groups = parameter_groups(model, self.loss_module, self.config)
        self.optimizer = build_optimizer(self.groups, self.config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.options.precision == "fp16")
        self.diagnostics = MMDDiagnostics(
            self.align, num_kernels=self.config.num_kernels, step=self.config.bandwidth_ratio
        )
        self.guard = FiniteGuard(self.config.lr)
        self.logger = TensorBoardLogger(None)
        self.callbacks = callbacks.all_callbacks(self.options.callbacks)
        self.state = TrainState(
            model=model, loss_module=self.loss_module, optimizer=self.optimizer, scaler=self.scaler,
            diagnostics=self.diagnostics,
        )  # fmt: skip
        with seeded_draws(0):
            self.run = open_run(self.options, lambda: describe_data(source, target, model.settings["num_classes"]))
        found = restore(self.options, self.run, self.state, self.device)
        self.records, self.resumed = found.records, found.same_run
        self.step = 0 if found.state is None else int(found.state["step"])
        self.network = self.context.network(model)
        self._generator = None if found.state is None else found.state["generator"]

    def train(self) -> list[Record]:
        """Train from step `self.step` to the last; the records of all evaluations, earlier ones of the run included."""
        if self.step < self.options.steps:
            with self._session():
                for step in range(self.step, self.options.steps):
                    set_learning_rates(self.optimizer, self.groups.factors, self.config, step)
                    losses = self.train_step(step)
                    self.step = step + 1
                    self._notify("on_step_end", losses)
                    if self._is_due(self.config.evaluate_every):
                        self.evaluate(losses)
                    if self._is_due(self.config.checkpoint_every):
                        self.save_checkpoint()
        self.model.eval()
        return self.records

    def train_step(self, step: int) -> dict[str, Tensor]:
        """One step of the optimiser on the batch of that step; its losses by name, scalars on the device."""
        if self.context.size > 1:  # dropout, which one generator in a checkpoint cannot hold for all processes
            torch.manual_seed(derived_seed(self.options.seed, 3, step, self.context.rank))
        losses = self.compute_loss(self.streams.batch(step), step)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses["total"]).backward()
        self.context.average(self.loss_module.parameters())
        self.guard.watch_loss(losses["total"], step)
        self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {name: value.detach() for name, value in losses.items()}

    def compute_loss(self, batch: StepBatch, step: int) -> dict[str, Tensor]:
        """The losses of a batch by name: source, labelled, the method's terms, alignment (weighed), and their total."""
        whole, outputs = self._forward(batch)
        if self.options.class_weights is not None:
            weights = self.options.class_weights.to(whole.logits)[self._labels("source", batch)]
            outputs["source"] = replace(outputs["source"], weights=weights)
        losses = {"source": self._source_loss(outputs["source"], batch)}
        total = losses["source"]
        if "labelled" in outputs:
            losses["labelled"] = cross_entropy(outputs["labelled"].logits, self._labels("labelled", batch))
            total = total + losses["labelled"]
        if self.domain_loss is not None and self.options.trade_off:
            self.guard.watch_layers({name: whole.layers[name] for name in self.align}, step)
            terms = self._domain_terms(batch, outputs, step)
            losses |= {f"term/{name}": value for name, value in terms.items()}
            losses["alignment"] = self.trade_off_at(step) * reduce(torch.add, terms.values())
            if self.config.schedule == "guarded":
                losses["alignment"] = losses["alignment"] * learned_share(losses["source"], whole.logits.shape[1])
            total = total + losses["alignment"]
        return losses | {"total": total}

    def trade_off_at(self, step: int) -> float:
        """lambda at that step: ramped up over the training, or constant; without the factor of `guarded`."""
        factor = ramp(step / self.options.progress_steps) if self.config.schedule != "constant" else 1.0
        return self.options.trade_off * factor

    def evaluate(self, losses: Mapping[str, Tensor]) -> Record:
        """Make the record of an evaluation, with what the callbacks add to it. losses: of the step before it."""
        record: Record = {"event": "evaluation", "step": self.step, "loss": float(losses["total"])}
        with seeded_draws(derived_seed(self.options.seed, 9)):  # the same views of the same samples at every step
            self._notify("on_evaluation", record)
        record["seconds"] = time.perf_counter() - self._began
        self.records.append(record)
        if self.run is not None:
            self.run.append(record)
        return record

    def save_checkpoint(self) -> None:
        """Write what a resumed training goes on from, and after the last step the model; without a folder, nothing."""
        if self.run is None:
            return
        with seeded_draws(derived_seed(self.options.seed, 9)):
            self._notify("on_checkpoint")
        if self.step == self.options.steps:
            save_model(self.run.folder / "model.pt", self.model, getattr(self.domain_loss, "ladders", None))
            self.run.append({"event": "done", "step": self.step})
        self.run.save(self.state.state_dict(self.step))

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.options.steps

    def _notify(self, moment: str, *what: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, moment)(self, *what)

    @contextmanager
    def _session(self) -> Iterator[None]:
        """The modes, generators, network, loader and TensorBoard writer of the steps; all of them end with it."""
        first, steps = self.step, self.options.steps
        self._began = time.perf_counter()
        self.model.train()
        self.loss_module.train()
        cuda = self.device.type == "cuda"
        folder = None if self.run is None else self.run.folder
        with (
            torch.random.fork_rng(devices=[self.device] if cuda else []),
            TensorBoardLogger(folder, step=first + 1 if first else 0) as self.logger,
            self.streams.loading(range(first, steps), pin_memory=cuda),
        ):
            torch.manual_seed(derived_seed(self.options.seed, 3))  # dropout
            if self._generator is not None:
                torch.set_rng_state(self._generator.cpu())
            self._notify("on_train_start")
            try:
                yield
            finally:
                self._notify("on_train_end")

    def _forward(self, batch: StepBatch) -> tuple[Output, dict[str, Output]]:
        """The network's outputs for all domains' batches together, and for each; one pass: they share batch norm."""
        inputs = torch.cat([self._to_device(x) for x, _ in batch.samples.values()])
        dtype, enabled = PRECISIONS[self.options.precision], self.options.precision != "fp32"
        with torch.autocast(self.device.type, dtype, enabled=enabled):
            share = self.network(inputs, start=self.data.start_stage)
        size = self.config.batch_size
        whole = self.context.whole(_in_float32(share), size, layers=self.domain_loss is not None)
        return whole, dict(zip(batch.samples, whole.split([size] * len(batch.samples)), strict=True))

    def _labels(self, name: str, batch: StepBatch) -> Tensor:
        """The whole batch's labels of a stream."""
        share = self._to_device(batch.samples[name][1])
        return self.context.rows(share, self.context.counts(self.config.batch_size))

    def _source_loss(self, output: Output, batch: StepBatch) -> Tensor:
        """Mean cross-entropy of the source batch; with weights (of the samples, of the classes), mean_i w_i CE_i."""
        y, weights = self._labels("source", batch), self.options.source_weights
        if weights is None and output.weights is None:
            return cross_entropy(output.logits, y)
        own = torch.ones_like(output.logits[:, 0]) if output.weights is None else output.weights
        if weights is not None:
            own = own * weights[batch.rows["source"]].to(own)
        return (own * cross_entropy(output.logits, y, reduction="none")).mean()

    def _domain_terms(self, batch: StepBatch, outputs: Mapping[str, Output], step: int) -> Mapping[str, Tensor]:
        """The method's terms. An error in it that comes of values that are not finite is told as that."""
        source = outputs["source"]
        if batch.joining is not None:
            source = joined_outputs(source, outputs["labelled"], batch.rows["labelled"], batch.joining)
        assert self.domain_loss is not None
        try:
            return checked_terms(self.domain_loss(source, outputs["target"]))
        except Exception:
            for output in outputs.values():
                self.guard.watch_loss(output.logits.sum(), step)
            self.guard.check()
            raise

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def _in_float32(output: Output) -> Output:
    """The same in float32 where the network gave half of it, which can't hold a loss; anything else as it is."""
    layers = {name: at_least_float32(layer) for name, layer in output.layers.items()}
    return Output(layers.get("output", at_least_float32(output.logits)), layers)
