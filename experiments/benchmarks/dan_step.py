"""What the MMD terms cost in a training step of DAN: the same step with and without them, one after the other.

    with      CE(source) + lambda (MMD^2(hidden) + MMD^2(probabilities))        without      CE(source)

In both, source and target (32 + 32) go through the network in one pass, and the backward pass goes through all of it:
only the terms differ. Two places: a SqueezeNet 1.1 trunk at 224 pixels, where the ratio counts; and frozen features
that were computed before, (64, 512), where the trunk costs nothing and the absolute time counts. The task-specific
layers are 512 -> 256 -> 31.

    python -m experiments.benchmarks.dan_step
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from dan.cli.command_line import Command, run
from dan.errors import UserError
from experiments.framework.records import Record, read, to_lines, write_text

if TYPE_CHECKING:
    import torch
    from torch import nn

RESULTS = Path(__file__).resolve().parents[1] / "results"
BATCH, CLASSES, HIDDEN, WIDTH = 32, 31, 256, 512
PLACES = {
    "squeezenet1_1": "SqueezeNet 1.1 trunk, 224 px, trained throughout",
    "cached features": "frozen features computed before: the task-specific layers alone",
}


@dataclass(frozen=True, kw_only=True)
class DanStep:
    """What is measured; the defaults are the published table."""

    device: str = "cpu"
    """cpu or cuda"""
    repetitions: int = 21
    """steps of each kind with the trunk; on cached features, ten times as many"""
    pixels: int = 224
    """side of an image"""
    threads: int = 0
    """CPU threads; 0: as many as PyTorch takes"""
    out: Path | None = None
    """folder of the records (default: experiments/results/benchmark_dan_step, benchmark_dan_step_cuda on a GPU)"""
    report: bool = False
    """measure nothing, make table.md again from the records"""


def network(backbone: str) -> nn.Module:
    """A DAN on that trunk, freshly initialised: hidden layer 256, 31 classes (those of Office-31)."""
    from torch import nn
    from torchvision.models import squeezenet1_1

    from dan.models.dan import DAN

    stage: nn.Module = nn.Identity()
    if backbone == "squeezenet1_1":
        stage = nn.Sequential(squeezenet1_1(weights=None).features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    stage.out_features = WIDTH  # type: ignore[assignment]  # DAN reads the width of its trunk off it
    return DAN(stage, CLASSES, layers=(HIDDEN,)).train()


def training_step(
    model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, *, trade_off: float
) -> Callable[[], None]:
    """One step of SGD: the first half of `inputs` is source, with `labels`; the rest is target. As `dan.training.fit`.

    The target's forward pass is made whatever the trade-off; at 0 no MMD is computed.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from dan.losses import alignment

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    half = len(labels)

    def step() -> None:
        output = model(inputs)
        loss = cross_entropy(output.logits[:half], labels)
        if trade_off:
            layers = output.layers
            source = {name: layer[:half] for name, layer in layers.items()}
            target = {name: layer[half:] for name, layer in layers.items()}
            loss = loss + trade_off * torch.stack(list(alignment(source, target, list(layers)).values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def run_dan_step(config: DanStep) -> None:
    """Measure both places, then report."""
    if config.repetitions < 1 or config.pixels < 32 or config.threads < 0:
        raise UserError("--repetitions must be 1 or more, --pixels 32 or more, --threads 0 or more")
    name = "benchmark_dan_step" if config.device == "cpu" else f"benchmark_dan_step_{config.device}"
    out = config.out or RESULTS / name
    if not config.report:
        write_text(out / "records.jsonl", to_lines(measure(config)))
    print(f"report: {report(out)}")


def measure(config: DanStep) -> list[Record]:
    """One record a place and kind of step. `ratio` is the median over repetitions of with / without, side by side."""
    import torch

    from experiments.benchmarks.measure import device_named, in_turn, machine

    device = device_named(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    facts = {**machine(device), "dtype": "float32", "batch": f"{BATCH} + {BATCH}"}
    records = []
    for backbone in PLACES:
        generator = torch.Generator().manual_seed(0)
        shape = (3, config.pixels, config.pixels) if backbone == "squeezenet1_1" else (WIDTH,)
        inputs = torch.randn(2 * BATCH, *shape, generator=generator).to(device)
        labels = torch.randint(CLASSES, (BATCH,), generator=generator).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            models = {trade_off: network(backbone).to(device) for trade_off in (0.0, 1.0)}
        models[1.0].load_state_dict(models[0.0].state_dict())
        steps = {
            name: training_step(models[trade_off], inputs, labels, trade_off=trade_off)
            for name, trade_off in (("without MMD", 0.0), ("with MMD", 1.0))
        }
        for step in steps.values():
            for _ in range(3):  # the optimizer's buffers, and what libraries choose at the first calls
                step()
        count = config.repetitions * (1 if backbone == "squeezenet1_1" else 10)
        taken = in_turn(steps, dict.fromkeys(steps, count), device)
        ratio = median(a / b for a, b in zip(taken["with MMD"], taken["without MMD"], strict=True))
        for name, times in taken.items():
            record: Record = {"backbone": backbone, "method": name, **facts, "repetitions": count}
            record |= {"seconds_median": median(times), "seconds_best": min(times)}
            records.append(record | ({"ratio": ratio} if name == "with MMD" else {}))
        print(f"{backbone}: with MMD {ratio:.3f} of the step without", flush=True)
    return records


def report(folder: Path) -> Path:
    """Make table.md again from the folder's records; its path."""
    write_text(folder / "table.md", markdown(read(folder / "records.jsonl")))
    return folder / "table.md"


def markdown(records: Sequence[Record]) -> str:
    """One row a place."""
    from experiments.benchmarks.mmd_report import seconds

    lines = ["| trunk | without MMD | with MMD | MMD costs | ratio |", "|---|---:|---:|---:|---:|"]
    for backbone, what in PLACES.items():
        by_method = {record["method"]: record for record in records if record["backbone"] == backbone}
        if len(by_method) < 2:
            continue
        without, with_mmd = (by_method[name]["seconds_median"] for name in ("without MMD", "with MMD"))
        costs = seconds(with_mmd - without) if with_mmd > without else "nothing measurable"
        ratio = by_method["with MMD"]["ratio"]
        lines.append(f"| {what} | {seconds(without)} | {seconds(with_mmd)} | {costs} | {ratio:.3f} |")
    first = records[0]
    threads = f", {first['threads']} threads" if first["device"] == "cpu" else ""
    legend = (
        f"One training step, batch {first['batch']}: forward of source and target in both columns, backward, SGD. "
        "Median of steps that took turns; the ratio is the median of neighbouring steps' ratios. MMD on the hidden "
        "layer (256) and on the class probabilities, 5 kernels, bandwidths included. "
        f"{first['device_name']} ({first['device']}"
        f"{threads}), torch {first['torch']}, commit {first['commit']}."
    )
    return "\n".join(lines) + f"\n\n{legend}\n"


COMMAND = Command(DanStep, run_dan_step, "what the MMD terms cost in a training step")

if __name__ == "__main__":
    words = ["dan_step", *sys.argv[1:]]
    sys.exit(run("python -m experiments.benchmarks", "Benchmarks.", {"dan_step": COMMAND}, words))
