"""What happens around the steps of a training: guards, progress, evaluation, diagnostics, TensorBoard.

    for each step:           on_step_end
      at an evaluation:      on_evaluation(record), which may add to the record before it is written
      at a checkpoint:       on_checkpoint, before it is written

A callback of one's own subclasses `Callback` and overrides what it needs: `fit(..., callbacks=[MyCallback()])`. It is
called after the library's own evaluation and before TensorBoard, so that what it adds to a record is drawn as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from dan.errors import UserError
from dan.evaluation.metrics import evaluate, predict
from dan.evaluation.validators import information, label_free_score, two_sample_error
from dan.losses import comparable
from dan.models.dan import Output
from dan.progress import Progress
from dan.run_dir import Record
from dan.training.checkpoints import run_settings
from dan.training.collapse import CollapseWarning, collapse_message, collapsed_part
from dan.training.guards import EVERY, Diverged
from dan.training.optimizers import gradient_norm

if TYPE_CHECKING:
    from dan.training.trainer import Trainer

SCALARS_EVERY = 25  # steps between two points of the curves of losses, rates and gradient norms


class Callback:
    """The moments of a training; each method does nothing unless it is overridden. All processes call them.

    The trainer's attributes may be read: `model`, `optimizer`, `config`, `options`, `data`, `step` (steps done so far).
    """

    def on_train_start(self, trainer: Trainer) -> None:
        """Before the first step of this call."""

    def on_step_end(self, trainer: Trainer, losses: Mapping[str, Tensor]) -> None:
        """After each step. losses: its losses by name ("total" among them), scalars on the device: `float()` of one
        waits for the device, so call it now and then only."""

    def on_evaluation(self, trainer: Trainer, record: Record) -> None:
        """At each evaluation; numbers and texts may be added to the record. A name with a slash is drawn as a curve."""

    def on_checkpoint(self, trainer: Trainer) -> None:
        """Before a checkpoint is written; an exception keeps it from being written."""

    def on_train_end(self, trainer: Trainer) -> None:
        """After the last step, and after an error."""


class NonFiniteGuard(Callback):
    """Reads the trainer's guard now and then, and before what is not finite could be evaluated or kept."""

    def on_step_end(self, trainer: Trainer, losses: Mapping[str, Tensor]) -> None:
        if trainer.step % EVERY == 0:
            trainer.guard.check()

    def on_evaluation(self, trainer: Trainer, record: Record) -> None:
        self.on_checkpoint(trainer)

    def on_checkpoint(self, trainer: Trainer) -> None:
        trainer.guard.check()
        trainer.guard.check_weights(trainer.model, trainer.step - 1)


class ProgressBar(Callback):
    """A bar on a terminal, with the loss."""

    def on_train_start(self, trainer: Trainer) -> None:
        options = trainer.options
        quiet = not (options.verbose and options.context.first)
        self._bar = Progress("training", options.steps, quiet=quiet, start=trainer.step).__enter__()

    def on_step_end(self, trainer: Trainer, losses: Mapping[str, Tensor]) -> None:
        self._bar.advance(f"loss {float(losses['total']):.3f}" if self._bar.wants_note() else "")

    def on_train_end(self, trainer: Trainer) -> None:
        self._bar.__exit__(None, None, None)


class Accuracies(Callback):
    """The accuracy on each data set of `tests`, as "accuracy/NAME" in [0, 1]."""

    def on_evaluation(self, trainer: Trainer, record: Record) -> None:
        context, start = trainer.options.context, trainer.data.start_stage
        if context.size > 1:
            record["processes"] = context.size
        context.same_buffers(trainer.model)
        for name, data in trainer.data.tests.items():
            record[f"accuracy/{name}"] = evaluate(trainer.model, data, start=start, context=context).accuracy


class DomainDiagnostics(Callback):
    """Label-free scores and MMD of a fixed held sample of each domain.

    "label_free/information", with tests["source_test"] "label_free/two_sample" (see `dan.evaluation.validators`), and
    unless `log_mmd` is False what `dan.training.mmd_diagnostics.MMDDiagnostics` gives. Warns of a collapse.
    """

    def __init__(self) -> None:
        self._warned = False

    def on_evaluation(self, trainer: Trainer, record: Record) -> None:
        source, target = self._outputs(trainer)
        self._warn_of_collapse(trainer, source, target)
        record["label_free/information"] = float(information(target.logits.softmax(1)))
        if "source_test" in trainer.data.tests and min(len(source.logits), len(target.logits)) >= 4:
            apart = two_sample_error(source.features, target.features, seed=0)
            record["label_free/two_sample"] = label_free_score(1 - record["accuracy/source_test"], apart)
        if not trainer.options.log_mmd:
            return
        space = trainer.config.output_space
        of_source, of_target = (
            {name: comparable(name, output.layers[name], space) for name in trainer.align}
            for output in (source, target)
        )
        beta = getattr(trainer.domain_loss, "weights", None)
        values, curves = trainer.diagnostics.look(of_source, of_target, beta, draw=trainer.logger.on)
        record |= values
        trainer.logger.scalars(curves, trainer.step)

    def _warn_of_collapse(self, trainer: Trainer, source: Output, target: Output) -> None:
        """Warn once a training, in the first process."""
        part = collapsed_part(source, target)
        if not part or self._warned or not trainer.options.context.first:
            return
        self._warned = True
        trade_off = trainer.options.trade_off if trainer.domain_loss is not None else 0.0
        config = trainer.config
        line = collapse_message(part, trainer.step, trade_off=trade_off, schedule=config.schedule, lr=config.lr)
        warnings.warn(line, CollapseWarning, stacklevel=2)

    @staticmethod
    def _outputs(trainer: Trainer) -> tuple[Output, Output]:
        outputs = []
        for domain, data in (("source", trainer.data.held_source), ("target", trainer.data.held_target)):
            start, context = trainer.data.start_stage, trainer.options.context
            output = predict(trainer.model, data, start=start, context=context)[0]
            if not bool(output.logits.isfinite().all()):
                raise Diverged(f"the outputs for {domain} samples contain NaN: look for NaN in the data or the weights")
            outputs.append(output)
        return outputs[0], outputs[1]


class TensorBoardCurves(Callback):
    """The run's settings, the layout of its charts, and the curves: losses, rates, gradient norms, and the records."""

    def on_train_start(self, trainer: Trainer) -> None:
        if trainer.run is not None and not trainer.resumed:
            trainer.logger.settings(run_settings(trainer.options))
            if trainer.options.log_mmd:
                trainer.logger.charts(trainer.diagnostics.charts())

    def on_step_end(self, trainer: Trainer, losses: Mapping[str, Tensor]) -> None:
        step, log = trainer.step, trainer.logger.scalars
        if not trainer.logger.on or (step % SCALARS_EVERY and step != trainer.options.steps):
            return
        log({f"loss/{name}": float(value) for name, value in losses.items()}, step)
        log({f"rate/{group['name']}": group["lr"] for group in trainer.optimizer.param_groups}, step)
        groups = trainer.groups.parameters
        log({f"gradient_norm/{name}": gradient_norm(group) for name, group in groups.items()}, step)

    def on_evaluation(self, trainer: Trainer, record: Record) -> None:
        trainer.logger.scalars({name: value for name, value in record.items() if "/" in name}, trainer.step)


class FeatureMap(Callback):
    """At the end of a run, the last hidden layer of the held samples, drawn. Target labels only colour the picture."""

    def on_checkpoint(self, trainer: Trainer) -> None:
        if not (trainer.config.feature_map and trainer.logger.on and trainer.step == trainer.options.steps):
            return
        (source, y_source), (target, y_target) = (
            predict(trainer.model, data, start=trainer.data.start_stage)
            for data in (trainer.data.held_source, trainer.data.held_target)
        )
        trainer.logger.feature_map(source.features, y_source, target.features, y_target, trainer.step)


def all_callbacks(own: Sequence[Callback]) -> list[Callback]:
    """The library's callbacks with a user's own among them, in the order of their calls.

    Raises UserError for what is no Callback.
    """
    for callback in own:
        if not isinstance(callback, Callback):
            raise UserError(f"callbacks are instances of dan.training.Callback, not of {type(callback).__name__}")
    before: list[Callback] = [NonFiniteGuard(), ProgressBar(), Accuracies(), DomainDiagnostics()]
    return [*before, *own, TensorBoardCurves(), FeatureMap()]
