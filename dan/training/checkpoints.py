"""What a run is, and how it goes on: its settings, the state that a checkpoint holds, and where a training resumes.

A checkpoint holds all that the next step depends on: weights, optimiser, what the loss learned or remembers, the
diagnostics' frozen bandwidths, dropout's generator and the step. Batches depend on (seed, step) alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dan.data.batches import num_samples
from dan.errors import UserError
from dan.run_data import settings_of_same_data, write_data_record
from dan.run_dir import Record, Run, read_tensors
from dan.training.config import TrainConfig
from dan.training.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """The objects whose state a checkpoint holds."""

    model: nn.Module
    loss_module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    diagnostics: nn.Module

    def state_dict(self, step: int) -> dict[str, Any]:
        """Their state after `step` steps, and dropout's generator."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "objective": self.loss_module.state_dict(),
            "watch": self.diagnostics.state_dict(),
            "generator": torch.get_rng_state(),
            "step": step,
        }
        return state | ({"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {})

    def load_state_dict(self, state: Mapping[str, Any], where: Path | str) -> None:
        """Put it back. Raises UserError for the state of another network, method or optimiser."""
        try:
            self.model.load_state_dict(state["model"])
            self.loss_module.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{where} was trained with another network or method, and cannot be continued: {first_line}"
            ) from None
        self.diagnostics.load_state_dict(state["watch"])
        if self.scaler.is_enabled() and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Where a training begins: the state to put back (None: afresh), the records so far, and whether they are this
    run's own."""

    state: dict[str, Any] | None = None
    records: list[Record] = field(default_factory=list)
    same_run: bool = False


def run_settings(options: TrainOptions) -> dict[str, Any]:
    """What identifies a run, as its first record keeps it: two runs with other settings never share a folder.

    Options that came later are written only where they differ from their defaults: runs from before stay the same runs.
    """
    config = options.config
    settings: dict[str, Any] = {
        **options.metadata, "trade_off": options.trade_off, "steps": options.steps, "seed": options.seed,
        **asdict(config), "labelled": 0 if options.labelled_target is None else num_samples(options.labelled_target),
    }  # fmt: skip
    before = options.continue_from and Path(options.continue_from).name
    later = {
        "continue_from": (before, None),
        "total_steps": (options.total_steps, None),
        "class_weights": (None if options.class_weights is None else options.class_weights.tolist(), None),
        "labelled_domain": (options.labelled_domain, "target"),
        "cache_backbone": (bool(options.cache), False),
        "log_mmd": (options.log_mmd, True),
        "precision": (options.precision, "fp32"),
    }
    settings |= {name: value for name, (value, default) in later.items() if value != default}
    if config.optimizer == TrainConfig().optimizer:
        del settings["optimizer"]
    if not config.method_multiples:
        del settings["method_multiples"]
    return settings


def open_run(options: TrainOptions, describe: Callable[[], Mapping[str, Any]]) -> Run | None:
    """The run's folder; None where there is none, and in all processes but the first.

    describe: gives the description of the data (`dan.run_data.describe_data`). Data that have only moved since the run
    was begun are the same run's.
    """
    if options.run is None:
        return None
    folder, settings = options.run, run_settings(options)

    def opened() -> Run:
        description = describe()
        try:
            run = Run(folder, settings_of_same_data(Path(folder), settings, description))
            write_data_record(Path(folder), description)
            return run
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror or error}): name another --run") from None

    return options.context.alone(opened)


def restore(options: TrainOptions, run: Run | None, parts: TrainState, device: torch.device) -> Resumed:
    """Put back the last checkpoint of this run, or else what `continue_from` left; the same in all processes."""
    where = device if options.context.size == 1 else torch.device("cpu")

    def found() -> Resumed:
        if run is not None and (state := run.load(where)) is not None:
            return Resumed(state=state, records=run.evaluations, same_run=True)
        if options.continue_from is None:
            return Resumed()
        return Resumed(state=_finished_state(Path(options.continue_from), parts.optimizer, where, options.steps))

    resumed = options.context.of_first(found)
    if resumed.state is not None:
        parts.load_state_dict(resumed.state, options.continue_from or options.run or "")
        for group in parts.optimizer.param_groups:  # what the config says now, not what it said in the earlier run
            group["weight_decay"] = options.config.weight_decay
            if "momentum" in group:
                group["momentum"] = options.config.momentum
    return resumed


def _finished_state(folder: Path, optimizer: torch.optim.Optimizer, device: torch.device, steps: int) -> dict[str, Any]:
    """What the finished run left to go on from."""
    path = folder / "resume.pt"
    if not path.exists():
        raise UserError(f"{path} does not exist: only a run that kept it can be continued; fine-tune or start afresh")
    state = read_tensors(path, device)
    if not (folder / "model.pt").exists() or state["step"] >= steps:
        raise UserError(
            f"{folder} stands at step {state['step']}: a training that continues it needs it finished, and steps "
            f"beyond that one, not {steps}"
        )
    before, now = (set(of["param_groups"][0]) for of in (state["optimizer"], optimizer.state_dict()))
    if before != now:
        raise UserError(f"{folder} was trained with another optimizer: continue it with its own, or fine-tune")
    return state
