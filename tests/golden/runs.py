"""The trainings whose records are kept, and how to make them: `python -m tests.golden.runs OUT.json [NAME ...]`.

A run is a list of commands, each carried out in a process of its own on one thread. What is kept of it: the records of
every run directory below its folder, but for wall-clock fields and settings, and a SHA-256 of each trained network's
tensors in the order of its state dict (their names apart, which may change).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

COMMON = ["--quiet", "--device", "cpu"]
SHORT = [*COMMON, "--steps", "30", "--evaluate-every", "15", "--checkpoint-every", "10", "--batch-size", "16"]
DIGITS = ["-m", "dan", "train", "rendered2digits", *SHORT]
ACTIVE = ["-m", "active", "run", "rendered2digits", *SHORT, "--no-feature-map"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m", "--"]

RUNS: dict[str, list[list[str]]] = {
    "demo": [
        ["-m", "experiments", "run", "demo", "--quiet", "--workers", "1", "--seeds", "0", "--steps", "60"]
        + ["--rounds", "2", "--steps-per-round", "20", "--budget", "5", "--out", "{folder}"]
    ],
    "folders_cached": [
        ["-m", "dan", "train", "folders", "--source", "{made}/source", "--target", "{made}/target", *SHORT]
        + ["--backbone", "squeezenet1_1", "--weights", "{made}/squeezenet.pth", "--freeze-up-to", "all"]
        + ["--cache-backbone", "--image-size", "64", "--image-cache", "{made}/cache", "--run", "{folder}/run"]
    ],
    "folders_augmented": [
        ["-m", "dan", "train", "folders", "--source", "{made}/source", "--target", "{made}/target", *SHORT]
        + ["--backbone", "small_cnn", "--image-size", "32", "--augment", "--source-holdout", "0.2"]
        + ["--schedule", "ramp"]  # the recipe of folders has another
        + ["--image-cache", "{made}/cache", "--run", "{folder}/run"]
    ],
    "five_rounds": [
        [*ACTIVE, "--strategy", "hybrid", "--rounds", "5", "--steps-per-round", "15", "--run", "{folder}/run"]
    ],
    "rounds_continue": [
        [*ACTIVE, "--strategy", "badge", "--rounds", "2", "--steps-per-round", "15", "--retrain", "continue"]
        + ["--labelled-domain", "source", "--run", "{folder}/run"]
    ],
    "query_at": [
        ["-m", "active", "run", "rendered2digits", *COMMON, "--evaluate-every", "15", "--checkpoint-every", "10"]
        + ["--no-feature-map", "--batch-size", "100", "--strategy", "clue", "--query-epochs", "1", "2", "--epochs", "3"]
        + ["--budget", "1%", "2%", "--run", "{folder}/run"]
    ],
    "two_processes": [[*TORCHRUN, *DIGITS[1:], "--dropout", "0.3", "--run", "{folder}/run"]],
    "paper_recipe": [
        [*DIGITS, "--num-kernels", "33", "--bandwidth-ratio", "1.4142135623730951", "--kernel-weights", "qp"]
        + ["--kernel-weights-every", "10", "--estimator", "linear", "--bandwidth", "mean", "--bandwidth-decay", "0.5"]
        + [
            "--output-space",
            "logits",
            "--schedule",
            "constant",
            "--align",
            "hidden1",
            "output",
            "--run",
            "{folder}/run",
        ]
    ],
    "methods": [
        [*DIGITS, "--method", method, "--optimizer", optimizer, "--run", "{folder}/" + method]
        for method, optimizer in (("cdan", "adam"), ("jan", "sgd"), ("deep_coral", "adadelta"), ("mme", "sgd"))
    ],
    "source_kept": [
        [*DIGITS, "--source-weights", "kmm", "--target-labels", "1", "--dropout", "0.2", "--trade-off", "0"]
        + ["--freeze", "conv1", "--coreset-size", "50", "--precision", "bf16", "--run", "{folder}/run"],
        [*DIGITS, "--source-free", "{folder}/run", "--run", "{folder}/source_free"],
    ],
}
CLOCK = ("seconds",)


def make_images(folder: Path) -> None:
    """Two domains of three classes, 14 images of 64 pixels each, and random SqueezeNet weights, all from fixed
    seeds."""
    import numpy as np
    import torchvision
    from PIL import Image

    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[:64, :64] / 64
    for domain, tint in (("source", 0.0), ("target", 0.35)):
        for label, name in enumerate(("bars", "rings", "waves")):
            (folder / domain / name).mkdir(parents=True)
            for number in range(14):
                phase = rng.uniform(0, 6)
                plane = (columns, np.hypot(rows - 0.5, columns - 0.5), rows + columns)[label]
                picture = 0.5 + 0.4 * np.sin(2 * np.pi * 4 * plane + phase) * (1 - tint)
                noisy = picture[..., None] + tint * np.array([0.6, 0.0, -0.6]) + rng.normal(0, 0.1, (64, 64, 3))
                pixels = (255 * noisy.clip(0, 1)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / domain / name / f"{number:02d}.png")
    torch.manual_seed(11)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), folder / "squeezenet.pth")


def without_clock(value: Any) -> Any:
    """The value without its wall-clock fields, at any depth."""
    if isinstance(value, dict):
        return {name: without_clock(part) for name, part in value.items() if name not in CLOCK}
    return [without_clock(part) for part in value] if isinstance(value, list) else value


def network_hash(path: Path) -> str:
    """SHA-256 of the tensors in a model.pt, in their order."""
    digest = hashlib.sha256()
    for tensor in torch.load(path, map_location="cpu", weights_only=True)["weights"].values():
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_run(folder: Path) -> dict[str, Any]:
    """All evaluations and rounds of the run directories below `folder`, and the hashes of their networks."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("records.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [without_clock(line) for line in lines if line.get("event") in ("evaluation", "round")]
        found[path.parent.relative_to(folder).as_posix()] = kept
    for path in sorted(folder.rglob("model.pt")):
        found[path.relative_to(folder).as_posix()] = network_hash(path)
    return found


def make_run(name: str, made: Path) -> dict[str, Any]:
    """Carry out the commands of a run in a fresh folder; what `read_run` finds there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    with tempfile.TemporaryDirectory() as folder:
        for words in RUNS[name]:
            command = [word.format(folder=folder, made=made) for word in words]
            done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return read_run(Path(folder))


def machine() -> dict[str, str]:
    """What the bits depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"torch": torch.__version__, "processor": model, "threads": "1"}


def main(out: Path, names: list[str]) -> None:
    """Write the records of these runs (default: all) and the machine's description."""
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder))
        runs = {name: make_run(name, Path(folder)) for name in names or RUNS}
    content = {"machine": machine(), "runs": runs}
    out.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
