"""What a whole training step costs: `Trainer`'s own beside bare loops, on cached features; and images by workers.

cached features  512 -> F -> 10, batches of B + B from 1,000 samples in memory, SGD; all steps take turns.
    bare source-only     the shortest loop: index a batch, forward, cross-entropy, backward, step
    source-only, DAN     a step of `dan.training.trainer.Trainer` at trade-off 0 and 1, bandwidths and guards included
    bare + PEER          the shortest loop with the peer's loss on the hidden layer and the class probabilities, under
                         a fixed ladder of K bandwidths, which spares it the median of each batch
images           decoded, 224 pixels, augmented, on a network that costs next to nothing: with 0, 1, 2 workers

    python -m experiments.benchmarks.training_step
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from dan.cli.command_line import Command, run
from dan.errors import UserError
from experiments.framework.records import Record, read, to_lines, write_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dan.models.dan import DAN
    from dan.training.trainer import Trainer

RESULTS = Path(__file__).resolve().parents[1] / "results"
WIDTH, CLASSES, SAMPLES = 512, 10, 1000
PEERS = ("pytorch-adapt", "skada", "plain cdist")
SOURCE_ONLY, DAN_STEP, BARE = "source-only", "DAN", "bare source-only"


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """What is measured; the defaults are the published table."""

    device: str = "cpu"
    """cpu or cuda"""
    features: tuple[int, ...] = (64, 256)
    """widths of the hidden layer"""
    batches: tuple[int, ...] = (32, 64, 128)
    """samples of each domain in a batch"""
    kernels: tuple[int, ...] = (5, 33)
    """Gaussian kernels"""
    threads: tuple[int, ...] = (1, 2)
    """CPU threads"""
    repetitions: int = 200
    """steps of each kind"""
    images: int = 24
    """steps of each training on images; 0: none"""
    out: Path | None = None
    """folder of the records (default: experiments/results/benchmark_training_step, with _cuda on a GPU)"""
    report: bool = False
    """measure nothing, make table.md again from the records"""


def run_training_step(config: TrainingStep) -> None:
    """Measure what is named, then write the table."""
    if config.repetitions < 1 or config.images < 0:
        raise UserError("--repetitions must be 1 or more, --images 0 or more")
    name = "benchmark_training_step" + ("" if config.device == "cpu" else f"_{config.device}")
    out = config.out or RESULTS / name
    if not config.report:
        write_text(out / "records.jsonl", to_lines([*cached_steps(config), *image_steps(config)]))
    write_text(out / "table.md", markdown(read(out / "records.jsonl")))
    print(f"report: {out / 'table.md'}")


# --- cached features --------------------------------------------------------------------------------------------------


def cached_steps(config: TrainingStep) -> Iterator[Record]:
    """One record for each setting and method; its ratio is the median of method / source-only, side by side."""
    import torch

    from experiments.benchmarks.measure import device_named, in_turn, machine

    device = device_named(config.device)
    before = torch.get_num_threads()
    for threads, f, b, k in itertools.product(config.threads, config.features, config.batches, config.kernels):
        torch.set_num_threads(threads)
        steps = cached(f, b, k, device)
        for step in steps.values():
            for _ in range(5):  # the optimiser's buffers, and what libraries choose at the first calls
                step()
        taken = in_turn(steps, dict.fromkeys(steps, config.repetitions), device)
        setting = {"part": "cached", **machine(device), "hidden": f, "batch": b, "kernels": k}
        print(f"{threads} threads, F {f}, batch {b}, K {k}", flush=True)
        for name, times in taken.items():
            ratio = median(one / other for one, other in zip(times, taken[SOURCE_ONLY], strict=True))
            yield {
                **setting,
                "method": name,
                "seconds_median": median(times),
                "seconds_best": min(times),
                "ratio": ratio,
            }
    torch.set_num_threads(before)


def cached(hidden: int, batch: int, kernels: int, device: torch.device) -> dict[str, Callable[[], None]]:
    """The steps by name; every call is the next one of a training. Peers that are not installed are left out."""
    import torch

    from experiments.benchmarks.measure import kernel_for
    from experiments.benchmarks.methods import METHODS, Unavailable

    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randn(SAMPLES, WIDTH, generator=generator).to(device) + shift for shift in (0, 0.25))
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator).to(device)
    found = {BARE: bare(network(hidden), (source, labels, target), batch, None)}
    for name, trade_off in ((SOURCE_ONLY, 0.0), (DAN_STEP, 1.0)):
        found[name] = trainer_steps(hidden, (source, labels, target), batch, kernels, trade_off)
    x, y = (network(hidden).to(device)(part[:256]).layers for part in (source, target))
    ladders = [kernel_for(x["hidden1"], y["hidden1"], kernels)]
    ladders.append(kernel_for(x["output"].softmax(1), y["output"].softmax(1), kernels))
    for name in PEERS:
        build = METHODS[name].build
        assert build is not None
        try:
            losses = [build(ladder) for ladder in ladders]
        except Unavailable as why:
            print(f"{name}: {why}", file=sys.stderr)
            continue
        found[f"bare + {name}"] = bare(network(hidden), (source, labels, target), batch, losses)
    return found


def network(hidden: int) -> DAN:
    """512 -> F -> 10 with dropout, always the same."""
    import torch
    from torch import nn

    from dan.models.dan import DAN

    backbone = nn.Identity()
    backbone.out_features = WIDTH  # type: ignore[assignment]  # DAN reads the width of its backbone off it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DAN(backbone, CLASSES, layers=(hidden,)).train()


def bare(
    model: DAN,
    data: tuple[Tensor, Tensor, Tensor],
    batch: int,
    losses: Sequence[Callable[[Tensor, Tensor], Tensor]] | None,
) -> Callable[[], None]:
    """The shortest loop. losses: on the hidden layer and on the probabilities; None: source-only."""
    import torch
    from torch.nn.functional import cross_entropy

    source, labels, target = data
    model.to(source.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        rows = torch.randint(SAMPLES, (batch,), device=source.device)
        if losses is None:
            loss = cross_entropy(model(source[rows]).logits, labels[rows])
        else:
            others = torch.randint(SAMPLES, (batch,), device=source.device)
            layers = model(torch.cat([source[rows], target[others]])).layers
            hidden, logits = layers["hidden1"], layers["output"]
            probs = logits.softmax(1)
            loss = cross_entropy(logits[:batch], labels[rows])
            loss = loss + losses[0](hidden[:batch], hidden[batch:]) + losses[1](probs[:batch], probs[batch:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def trainer_steps(
    hidden: int, data: tuple[Tensor, Tensor, Tensor], batch: int, kernels: int, trade_off: float
) -> Callable[[], None]:
    """Steps of a `Trainer`, with all that its loop does in one."""
    from dan.training.optimizers import set_learning_rates
    from dan.training.trainer import TrainConfig, Trainer

    source, labels, target = data
    ratio = 2**0.5 if kernels == 33 else 2.0
    config = TrainConfig(batch_size=batch, num_kernels=kernels, bandwidth_ratio=ratio, evaluate_every=10**9)
    options = {"trade_off": trade_off, "steps": 10**9, "config": config, "device": source.device.type}
    trainer = Trainer(network(hidden), (source.cpu(), labels.cpu()), target.cpu(), log_mmd=False, **options)
    trainer.model.train()
    count = itertools.count()

    def step() -> None:
        number = next(count)
        set_learning_rates(trainer.optimizer, trainer.groups.factors, trainer.config, number)
        trainer.train_step(number)
        if number % 25 == 0:
            trainer.guard.check()

    return step


# --- images -----------------------------------------------------------------------------------------------------------


def image_steps(config: TrainingStep) -> Iterator[Record]:
    """One record for each number of workers: seconds a step, from the fifth to the last."""
    import torch

    from experiments.benchmarks.measure import device_named, machine

    if not config.images:
        return
    facts, before = {"part": "images", **machine(device_named(config.device))}, torch.get_num_threads()
    torch.set_num_threads(1)
    for workers in (0, 1, 2):
        stamps = _image_training(config, workers)
        taken = [after - first for first, after in itertools.pairwise(stamps[4:])]
        print(f"images, {workers} workers: {1000 * sum(taken) / len(taken):.0f} ms a step", flush=True)
        yield {**facts, "threads": 1, "workers": workers, "seconds_mean": sum(taken) / len(taken)}
    torch.set_num_threads(before)


def _image_training(config: TrainingStep, workers: int) -> list[float]:
    """When each step of a training ended. The mean counts: workers deliver in bursts."""
    import numpy as np
    from torch import nn

    from dan.data.tensor_datasets import Images
    from dan.models.dan import DAN
    from dan.training.callbacks import Callback
    from dan.training.trainer import TrainConfig, fit

    def images(seed: int) -> Images:
        pixels = np.random.default_rng(seed).integers(0, 256, (128, 224, 224, 3), dtype=np.uint8)
        targets, names = [i % 2 for i in range(128)], ("a", "b")
        return Images(pixels, targets, names, normalisation="imagenet", digest=str(seed), augment=True)

    class Clock(Callback):
        stamps: list[float] = []

        def on_step_end(self, trainer: Trainer, losses: object) -> None:
            self.stamps.append(time.perf_counter())

    clock = Clock()
    model = DAN(nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()), 2, layers=(16,))
    recipe = TrainConfig(batch_size=32, evaluate_every=10**9)
    how = {"steps": config.images, "config": recipe, "num_workers": workers, "callbacks": [clock], "log_mmd": False}
    fit(model, images(0), images(1), trade_off=1.0, device=config.device, **how)  # type: ignore[arg-type]
    return clock.stamps


# --- the table --------------------------------------------------------------------------------------------------------


def markdown(records: Sequence[Record]) -> str:
    """A row for each setting: milliseconds of each method, then ratios."""
    cached_ones = [record for record in records if record["part"] == "cached"]
    names = list(dict.fromkeys(record["method"] for record in cached_ones))
    lines = [
        "| threads | F | batch | K | "
        + " | ".join(names)
        + " | DAN / source-only | source-only / bare | DAN / fastest exact peer |",
        "|---:" * (4 + len(names) + 3) + "|",
    ]
    settings = dict.fromkeys((r["threads"], r["hidden"], r["batch"], r["kernels"]) for r in cached_ones)
    for setting in settings:
        own = {r["method"]: r for r in cached_ones if (r["threads"], r["hidden"], r["batch"], r["kernels"]) == setting}
        times = {name: own[name]["seconds_median"] for name in names if name in own}
        exact = [times[name] for name in ("bare + pytorch-adapt", "bare + plain cdist") if name in times]
        ratios = [own[DAN_STEP]["ratio"], times[SOURCE_ONLY] / times[BARE], times[DAN_STEP] / min(exact)]
        cells = [*map(str, setting), *(f"{1000 * times[n]:.2f}" if n in times else "" for n in names)]
        lines.append("| " + " | ".join([*cells, *(f"{ratio:.2f}" for ratio in ratios)]) + " |")
    first = records[0]
    lines += [
        "",
        "Milliseconds of a step, medians of steps that took turns; the first ratio is the median of neighbours'. "
        "skada's is a Laplace kernel, at the cost of all pairs.",
    ]
    images = [record for record in records if record["part"] == "images"]
    if images:
        lines += ["", "| workers | images, augmented, 224 pixels: ms a step |", "|---:|---:|"]
        lines += [f"| {record['workers']} | {1000 * record['seconds_mean']:.0f} |" for record in images]
    lines += ["", f"{first['device_name']} ({first['device']}), torch {first['torch']}, commit {first['commit']}."]
    return "\n".join(lines) + "\n"


COMMAND = Command(TrainingStep, run_training_step, "what a whole training step costs, beside bare loops and peers")

if __name__ == "__main__":
    words = ["training_step", *sys.argv[1:]]
    sys.exit(run("python -m experiments.benchmarks", "Benchmarks.", {"training_step": COMMAND}, words))
