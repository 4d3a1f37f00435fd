"""The door to training: python -m dan train | evaluate."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dan.cli import Command, run
from dan.training import Recipe


@dataclass(frozen=True, kw_only=True)
class Train(Recipe):
    """Train a network on a transfer: labelled source, unlabelled target."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")] = "rendered2digits"
    """Transfer, as <set>_<source>2<target>."""
    trade_off: float = 3.0
    """lambda, the weight of the MK-MMD terms; 0 trains on the source only."""
    steps: int = 1000
    """Training steps."""
    seed: int = 0
    """Decides everything random in this run."""
    backbone: str | None = None
    """Trunk of the network; default: the one that the task suggests."""
    layers: tuple[int, ...] = (64,)
    """Widths of the hidden task-specific layers."""
    dropout: float = 0.0
    """Dropout after each hidden task-specific layer."""
    run: Path | None = None
    """Folder of the run; the same command on the same folder goes on. Default: runs/<task>/<method>-seed<seed>."""
    data: Path | None = None
    """Folder of data sets, for tasks that read any (also: ACTIVE_DAN_DATA)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    quiet: bool = False
    """No progress bar, no summary."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Accuracy of a finished run's network on every split of its task."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    data: Path | None = None
    """Folder of data sets, for tasks that read any (also: ACTIVE_DAN_DATA)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""


def train(config: Train) -> None:
    """Build the task and the network, and fit."""
    import torch

    from dan.devices import choose_device
    from dan.domains.tasks import load_task
    from dan.networks.dan import DAN
    from dan.training import fit

    choose_device(config.device)
    task = load_task(config.task, config.data)
    method = "dan" if config.trade_off else "source_only"
    folder = config.run or Path("runs") / task.name / f"{method}-seed{config.seed}"
    torch.manual_seed(config.seed)
    backbone = config.backbone or task.backbone
    model = DAN(backbone, len(task.classes), layers=config.layers, dropout=config.dropout)
    records = fit(
        model,
        task.source,
        task.target,
        trade_off=config.trade_off,
        steps=config.steps,
        seed=config.seed,
        tests={"source_test": task.source_test, "target": task.target, "target_test": task.target_test},
        recipe=Recipe(**{name: getattr(config, name) for name in Recipe.__dataclass_fields__}),
        run=folder,
        about={"task": task.name, "backbone": backbone, "layers": config.layers, "dropout": config.dropout},
        device=config.device,
        quiet=config.quiet,
    )
    if not config.quiet:
        for name, value in records[-1].items():
            if name.startswith("accuracy/"):
                print(f"{name.removeprefix('accuracy/'):<12} {100 * value:6.2f} % accuracy")
            elif name.startswith("mmd2/"):
                print(f"{name.removeprefix('mmd2/'):<12} {value:8.4f} unbiased MMD^2")
        print(f"run: {folder}  (tensorboard --logdir {folder})")


def evaluate_run(config: Evaluate) -> None:
    """Print one line a split."""
    from dan.checkpoint import load_model
    from dan.devices import choose_device
    from dan.domains.tasks import load_task
    from dan.errors import UserError
    from dan.evaluation import evaluate
    from dan.run_folder import read_records

    model = load_model(config.run, choose_device(config.device))
    records = read_records(config.run / "records.jsonl")
    if not records or "task" not in records[0]:
        raise UserError(
            f"{config.run}/records.jsonl does not say which task it is a run of: name a folder that train made"
        )
    task = load_task(records[0]["task"], config.data)
    splits = {"source_test": task.source_test, "target": task.target, "target_test": task.target_test}
    for name, data in splits.items():
        result = evaluate(model, data)
        print(f"{name:<12} {100 * result.accuracy:6.2f} % accuracy  {result.loss:.4f} nats  {result.count} samples")


COMMANDS = {
    "train": Command(Train, train, "Train a network on a transfer: source-only, or a Deep Adaptation Network."),
    "evaluate": Command(Evaluate, evaluate_run, "Measure a finished run on every split of its task."),
}


def main() -> int:
    """The exit code of the command line."""
    return run("python -m dan", "Features that do not know their domain: deep adaptation with MK-MMD.", COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
