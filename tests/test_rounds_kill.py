"""python -m active run under the real kill -9, at random moments: taken up again, it leaves what it would have left."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dan.models.model_file import load_model
from dan.run_dir import read_records

FLAGS = ["rendered2digits", "--quiet", "--device", "cpu", "--strategy", "badge", "--seed", "4", "--budget", "3"]
FLAGS += ["--batch-size", "8", "--evaluate-every", "10", "--checkpoint-every", "3", "--no-feature-map"]
ROUNDS = [*FLAGS, "--steps", "8", "--rounds", "3", "--steps-per-round", "8", "--retrain", "continue"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ONCE = ["--quiet", "--device", "cpu", "--strategy", "badge", "--budget", "3", "--rounds", "2", "--steps-per-round", "8"]
EPOCHS = [*FLAGS, "--query-epochs", "1", "2", "--epochs", "3", "--batch-size", "200"]


def command(flags: list[str], folder: Path) -> list[str]:
    return [sys.executable, "-m", "active", "run", *flags, "--run", str(folder)]


def undisturbed(flags: list[str], folder: Path) -> None:
    """In a process of its own too: what other tests loaded into this one may change the last bits of a product."""
    subprocess.run(command(flags, folder), env=ENVIRONMENT, check=True)


def killed(flags: list[str], folder: Path, sign: str, delay: float) -> bool:
    """Start the command, and kill it `delay` seconds after the file `sign` is written; whether it was still running."""
    before = stamp(folder / sign)
    process = subprocess.Popen(command(flags, folder), env=ENVIRONMENT)
    try:
        while process.poll() is None and stamp(folder / sign) == before:
            time.sleep(0.002)
        time.sleep(delay)
    finally:
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    assert code in (0, -signal.SIGKILL)
    return code != 0


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_clock(part) for name, part in value.items() if name != "seconds"}
    return [without_clock(part) for part in value] if isinstance(value, list) else value


def left_by(folder: Path) -> dict[str, Any]:
    """Every record and every round file but for the clock, and every network, by its path."""
    told: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "records.jsonl":
            told[name] = without_clock(read_records(path))
        elif path.parent.name == "rounds":
            told[name] = without_clock(json.loads(path.read_bytes()))
        elif path.name == "model.pt":
            told[name] = {part: value.tolist() for part, value in load_model(path).state_dict().items()}
    return told


def compare(whole: Path, resumed: Path) -> None:
    expected, found = left_by(whole), left_by(resumed)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name
    assert not list(resumed.rglob("*.tmp"))


def test_kill_9_twice(tmp_path: Path) -> None:
    """Once while a round asks or trains, once after its file is there and perhaps its line of records.jsonl is not."""
    undisturbed([*FLAGS, "--steps", "8", "--rounds", "1", "--steps-per-round", "1"], tmp_path / "whole")
    start = tmp_path / "whole" / "start"
    flags = [*ONCE, "--start", str(start)]
    whole, other, moments = tmp_path / "a", tmp_path / "b", random.Random(0)
    undisturbed(flags, whole)
    assert len(list((whole / "rounds").glob("*.json"))) == 3
    assert killed(flags, other, "round_01/resume.pt", 0.1 * moments.random())
    assert killed(flags, other, "rounds/round_01.json", 0.01 * moments.random())
    undisturbed(flags, other)
    compare(whole, other)


@pytest.mark.long
@pytest.mark.parametrize("flags", [ROUNDS, EPOCHS], ids=["rounds", "epochs"])
def test_kill_9_at_twenty_random_moments(
    tmp_path: Path, flags: list[str], record_property: Callable[[str, int], None]
) -> None:
    """Each on a run of its own: after some file of it, and a while; and once more while it is taken up again."""
    whole = tmp_path / "whole"
    undisturbed(flags, whole)
    signs = [str(path.relative_to(whole)) for path in whole.rglob("*") if path.suffix in (".json", ".jsonl", ".pt")]
    assert len(signs) >= 12
    signs.sort()
    moments = random.Random(1)
    alive = again = 0
    for moment in range(20):
        other = tmp_path / f"killed_{moment:02d}"
        alive += killed(flags, other, moments.choice(signs), moments.choice((0.01, 0.3)) * moments.random())
        again += killed(flags, other, moments.choice(signs), 0.3 * moments.random())
        undisturbed(flags, other)
        compare(whole, other)
    record_property("kills", alive + again)
    assert alive >= 15  # the others came after the last write
