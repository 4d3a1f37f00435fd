"""What a training is told besides how to train: the task's other data, where it writes, where it computes.

`dan.training.fit` and `dan.training.Trainer` take these by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dan.distributed import SINGLE_PROCESS, DistContext
from dan.errors import UserError, nearest
from dan.losses import DomainLoss
from dan.training.config import TrainConfig, plain_numbers

if TYPE_CHECKING:
    from dan.training.callbacks import Callback

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DOMAINS = ("target", "source")


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainOptions:
    """The options of a training; NumPy scalars become Python numbers. Raises UserError for values that cannot be."""

    trade_off: float = 3.0
    """lambda >= 0, the weight of the method's terms; 0 is source-only training, which never reads the target."""
    steps: int = 1000
    """Training steps."""
    seed: int = 0
    """Decides everything random in the training."""
    config: TrainConfig = field(default_factory=TrainConfig)
    """How to train."""
    run: Path | str | None = None
    """Folder for checkpoints, records and TensorBoard events. The same call on the same folder goes on where it was
    killed, and returns at once if it was done."""
    labelled_target: Dataset | None = None
    """Target samples (x, y) whose labels were bought, learned by cross-entropy besides the source's. They may be fewer
    than a batch: then they repeat."""
    labelled_domain: str = "target"
    """On which side the method's terms see the labelled samples. "target": they are part of `target` like all others,
    and the labelled batch itself is not aligned. "source": the source side is a sample of source u labelled, each of
    their samples as likely as any other; then `target` holds what is left without them, which is up to the caller."""
    source_weights: Tensor | None = None
    """(N,) a weight >= 0 of each source sample's cross-entropy, as `dan.instance_weights` gives them."""
    class_weights: Tensor | None = None
    """(C,) w_c >= 0 of a source sample of class c, in its cross-entropy and in the method's terms: p_T(c) / p_S(c), as
    `dan.training.label_shift` estimates it; None: 1 each."""
    tests: Mapping[str, Dataset] = field(default_factory=dict)
    """Data sets to evaluate on, by name."""
    domain_loss: DomainLoss | None = None
    """What aligns the domains in place of `config.method`: a callable from the outputs of the source batch and of the
    target batch (two `dan.Output`) to a dict of scalar tensors; a module's parameters train as well."""
    continue_from: Path | str | None = None
    """Folder of a finished run that this one continues as if both were one training: weights, optimiser, the method's
    state, dropout and the count of steps go on, and `steps` counts from that training's first. Data may be others."""
    total_steps: int | None = None
    """Steps of the whole training that this is a part of, which the trade-off's ramp spans; default: `steps`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able settings of the caller's, kept in the records."""
    log_mmd: bool = True
    """False leaves the values of `MMDDiagnostics` out of the records: most of an evaluation's time on small sets."""
    cache: Path | str | bool = False
    """Compute the outputs of the frozen first stages once and train on them: True keeps them in memory, a folder on
    the disk. The same numbers up to rounding, many times faster; an error where no stage is frozen."""
    precision: str = "fp32"
    """Of the network's products in training: fp32, bf16 or fp16. Loss, weights and evaluations stay in float32; fp16
    scales the loss and leaves out a step whose gradients overflow."""
    num_workers: int = 0
    """Processes that decode and augment the training batches of image data; the batches are the same for any number."""
    context: DistContext = SINGLE_PROCESS
    """The processes that train together, each with its share of every batch; the first one writes."""
    device: str = "cpu"
    """cpu, cuda, mps or auto."""
    verbose: bool = False
    """Show a progress bar on a terminal."""
    callbacks: Sequence[Callback] = ()
    """What else is called at each step, evaluation and checkpoint: see `dan.training.callbacks.Callback`."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        for name, default in (("config", TrainConfig()), ("tests", {}), ("metadata", {})):
            object.__setattr__(self, name, default if getattr(self, name) is None else getattr(self, name))
        if not 0 <= self.trade_off < float("inf"):
            raise UserError(f"the trade-off must be 0 or more, not {self.trade_off}")
        for name in ("steps", "seed", "num_workers"):
            if not isinstance(getattr(self, name), int):
                raise UserError(f"{name} must be a whole number, not {getattr(self, name)}")
        if self.steps < 1:
            raise UserError(f"training needs at least 1 step, not {self.steps}")
        if self.num_workers < 0:
            raise UserError(f"num_workers must be 0 or more, not {self.num_workers}")
        for name, valid in (("labelled_domain", DOMAINS), ("precision", tuple(PRECISIONS))):
            value = getattr(self, name)
            if value not in valid:
                raise UserError(f'unknown {name} "{value}"{nearest(str(value), valid)}: one of {", ".join(valid)}')
        if self.labelled_domain == "source" and (self.labelled_target is None or not self.trade_off):
            raise UserError(
                "labelled samples join the source's side of the alignment only where there are both of them"
            )
        if self.total_steps is not None and self.total_steps < self.steps:
            raise UserError(f"a training of {self.total_steps} steps has no part that ends at step {self.steps}")

    @property
    def progress_steps(self) -> int:
        """The steps that the trade-off's ramp spans."""
        return self.total_steps or self.steps


def train_options(**given: Any) -> TrainOptions:
    """The options of these names. Raises TypeError for an unknown one, with the nearest name that would be right."""
    known = [entry.name for entry in fields(TrainOptions)]
    for name in given:
        if name not in known:
            raise TypeError(f'there is no option "{name}" of a training{nearest(name, known)}')
    return TrainOptions(**given)
