"""Faults of the machine in the middle of a run: a clear line, exit code 2, and a checkpoint that the run goes on from.

Batches are decoded before training, or memory-mapped; no worker processes load them (there is no DataLoader in `dan`),
so that none can die.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile
import numpy as np
import pytest
import torch

from active.annotation.label_log import Label, LabelLog
from dan.__main__ import main
from dan.data.image_cache import pixels_of
from dan.data.manifests import Listing, read_tree
from dan.errors import UserError
from dan.models.dan import DAN
from dan.models.model_file import load_model, save_model
from dan.run_dir import Run, read_records, read_tensors

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
REPOSITORY = Path(__file__).resolve().parents[1]


def features(folder: Path) -> list[str]:
    """Two domains as files of features, and the words that train on them."""
    drawn = np.random.default_rng(0)
    for name in "ab":
        np.save(folder / f"{name}.npy", drawn.normal(size=(64, 6)).astype(np.float32))
        np.save(folder / f"{name}_labels.npy", np.arange(64) % 3)
    words = ["train", "folders", "--source", str(folder / "a.npy"), "--target", str(folder / "b.npy")]
    words += ["--batch-size", "8", "--steps", "60", "--evaluate-every", "10", "--checkpoint-every", "5"]
    return [*words, "--device", "cpu", "--quiet", "--no-feature-map", "--seed", "3", "--layers", "16"]


def door(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["python -m dan", *words])
    return main()


def without_clock(run: Path) -> list[dict]:
    return [{k: v for k, v in one.items() if k != "seconds"} for one in read_records(run / "records.jsonl")]


def same(run: Path, other: Path) -> None:
    """Records but for the clock, and every weight."""
    assert without_clock(run) == without_clock(other)
    one, two = (load_model(folder).state_dict() for folder in (run, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not list(run.rglob("*.tmp")) and not (run / ".lock").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here to make a small disk with")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_a_training_in_one_line_and_room_lets_it_go_on(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = features(tmp_path)
    assert door([*words, "--run", str(tmp_path / "whole")], monkeypatch) == 0
    sizes = {path: path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    filler = small_disk / "filler"
    small = sizes.pop(tmp_path / "whole" / "data.json")  # it takes a whole page of the disk
    free = sum(sizes.values()) - sizes[tmp_path / "whole" / "model.pt"] + max(4096, small)  # but for pages not full
    filler.write_bytes(b"x" * (256 * 1024 - free))
    capsys.readouterr()
    assert door([*words, "--run", str(small_disk / "run")], monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "No space left on device" in said and "make room" in said, said
    assert (small_disk / "run" / "resume.pt").is_file()
    filler.unlink()
    assert door([*words, "--run", str(small_disk / "run")], monkeypatch) == 0, capsys.readouterr().err
    same(small_disk / "run", tmp_path / "whole")


@pytest.mark.parametrize("part", ["save", "append", "model"])
def test_a_file_that_may_not_grow_leaves_the_old_one(part: str, tmp_path: Path) -> None:
    """The same without a disk of its own: a limit on the size of files (RLIMIT_FSIZE) in the middle of each write."""
    run = Run(tmp_path, {"a": 1})
    run.append({"event": "evaluation", "step": 1})
    run.save({"step": 1, "x": torch.zeros(10)})
    with torch.random.fork_rng():
        model = DAN("lenet", 3, layers=(4,))
    save_model(tmp_path / "model.pt", model)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    writes = {
        "save": lambda: run.save({"step": 2, "x": torch.ones(100_000)}),
        "append": lambda: run.append({"event": "evaluation", "step": 2, "text": "x" * 1000}),
        "model": lambda: save_model(tmp_path / "model.pt", model),
    }
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, old[1]))
        with pytest.raises(UserError, match="make room") as told:
            writes[part]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(told.value)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after["records.jsonl"].startswith(before.pop("records.jsonl"))
    assert after.items() >= before.items() and after.keys() == before.keys() | {"records.jsonl"}
    assert read_records(tmp_path / "records.jsonl")[-1] == {"event": "evaluation", "step": 1}  # a torn line is none
    assert read_tensors(tmp_path / "resume.pt", "cpu")["step"] == 1


def test_a_read_only_disk_is_told_of(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root, too, may not write there."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    words = features(tmp_path)
    assert door([*words, "--run", str(small_disk / "run")], monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Read-only file system" in said and "--run" in said, said


def test_an_image_that_vanishes_before_it_is_decoded_is_named(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(hostile.png(4, 4, bytes(20)))
    listing: Listing = read_tree(tmp_path)
    (tmp_path / "b" / "2.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 images cannot be read: b/2\.png"):
        pixels_of(listing, 4)


@pytest.mark.parametrize("rate", ["1e8", "1e25"])
def test_a_loss_that_is_nan_leaves_a_checkpoint_of_numbers(
    rate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*features(tmp_path), "--checkpoint-every", "1", "--lr", rate, "--lr-gamma", "0"]
    assert door([*words, "--trade-off", "0", "--run", str(tmp_path / "run")], monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "lower the rate" in said, said
    kept = tmp_path / "run" / "resume.pt"
    if kept.exists():
        weights = read_tensors(kept, "cpu")["model"]
        assert all(bool(value.isfinite().all()) for value in weights.values() if value.is_floating_point())


def killed(words: list[str], run: Path, sign: str, delay: float, gone: tuple[Path, ...] = ()) -> bool:
    """Start, wait for `sign` to change, and after `delay` seconds kill -9; or, with `gone`, remove those and let be."""
    command = [sys.executable, "-m", "dan", *words, "--run", str(run)]
    stamp = mtime(run / sign)
    process = subprocess.Popen(command, env=ENVIRONMENT, cwd=REPOSITORY)
    try:
        while process.poll() is None and mtime(run / sign) == stamp:
            time.sleep(0.001)
        if gone:
            alive = process.poll() is None
            for path in gone:
                path.unlink()
            return alive and process.wait(timeout=300) == 0
        time.sleep(delay)
    finally:
        if not gone or process.poll() is None:
            process.send_signal(signal.SIGKILL)
        code = process.wait()
    return code == -signal.SIGKILL


def mtime(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.long
def test_kill_9_of_a_training_and_files_that_vanish_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, int], None]
) -> None:
    """Killed once, then taken up again; then its features are removed in the middle, and it ends as it would have."""
    words = [*features(tmp_path), "--steps", "400", "--checkpoint-every", "20"]
    assert door([*words, "--run", str(tmp_path / "whole")], monkeypatch) == 0
    run = tmp_path / "run"
    assert killed(words, run, "resume.pt", 0.02)
    assert not (run / "model.pt").exists()
    files = tuple(tmp_path / f"{name}.npy" for name in "ab")
    assert killed(words, run, "resume.pt", 0.0, gone=files)
    same(run, tmp_path / "whole")
    record_property("kills", 1)


@pytest.mark.long
def test_kill_9_of_a_training_at_fifty_random_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, int], None]
) -> None:
    """Each on a run of its own, and the one after it is taken up to its end."""
    words = features(tmp_path)
    assert door([*words, "--run", str(tmp_path / "whole")], monkeypatch) == 0
    moments = random.Random(2)
    alive = 0
    for moment in range(50):
        run = tmp_path / f"run_{moment}"
        alive += killed(words, run, moments.choice(("records.jsonl", "resume.pt")), 0.4 * moments.random())
        assert door([*words, "--run", str(run)], monkeypatch) == 0
        same(run, tmp_path / "whole")
    assert alive >= 25  # the others had ended
    record_property("kills", alive)


def labels_until_killed(path: Path, told: int) -> None:
    """In a child: batch after batch, and each one's number is told once it is said to be on the disk."""
    log = LabelLog(path)
    while True:
        at = 1 + len(log.batches)
        batch = [
            Label(sample=f"{at}.{i}", path="a", label="cat", annotator="ann", when="", origin="") for i in range(3)
        ]
        os.write(told, log.append(batch).to_bytes(4, "big"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_kill_9_of_a_label_log_at_fifty_random_moments_loses_no_label(tmp_path: Path) -> None:
    """One log all along: what was said to be taken is there, each batch as a whole, in the order in which it came."""
    path = tmp_path / "labels.jsonl"
    moments = random.Random(4)
    for _ in range(50):
        heard, told = os.pipe()
        child = os.fork()
        if not child:
            try:
                labels_until_killed(path, told)
            finally:
                os._exit(1)
        os.close(told)
        said = os.read(heard, 4)
        time.sleep(0.01 * moments.random())
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        while more := os.read(heard, 4096):
            said += more
        os.close(heard)
        log = LabelLog(path)
        last = int.from_bytes(said[-4:], "big")
        assert log.batches == list(range(1, len(log.batches) + 1)) and log.batches[-1] in (last, last + 1)
        samples = [label.sample for label in log.labels]
        whole = [f"{at}.{i}" for at in log.batches for i in range(3)]
        assert (
            samples == whole[: len(samples)] and len(samples) >= 3 * last
        )  # the one that nobody was told of may be cut
        if len(samples) % 3:
            log.undo(when="now")
            log.append(
                [Label(sample=s, path="a", label="cat", annotator="ann", when="", origin="") for s in whole[-3:]]
            )
            path.write_text(renumbered(path))


def renumbered(path: Path) -> str:
    """The log as if its last batch had come whole at once, so that the next kill is judged by the same rule."""
    lines = [record for record in read_records(path) if record["event"] == "label"]
    seen = {record["sample"]: record for record in lines}
    return "".join(json.dumps({**one, "batch": int(name.split(".")[0])}) + "\n" for name, one in seen.items())


WORK = """
import time
from pathlib import Path
from dan.run_dir import write_atomically

def work(place, *, seed):
    for part in range(20):
        time.sleep(0.01)
        write_atomically(place / "part.txt", lambda file: file.write(b"%d\\n" % part * 1000))
    return {"seed": seed, "square": seed * seed}
"""
SWEEP = """
import sys
from pathlib import Path
from sweep_work import work

from experiments.framework.trials import Trial, run_trials

if __name__ == "__main__":
    made = [Trial(f"t{i}", work, {"seed": i}) for i in range(8)]
    outcome = run_trials(made, folder=Path(sys.argv[1]), workers=2, quiet=True)
    assert outcome.results == {f"t{i}": {"seed": i, "square": i * i} for i in range(8)}, outcome
"""


@pytest.mark.long
def test_kill_9_of_a_sweep_at_ten_random_moments(tmp_path: Path, record_property: Callable[[str, int], None]) -> None:
    """The parent is killed, and its workers with it: the next run does what is missing, and all results are whole."""
    (tmp_path / "sweep_work.py").write_text(WORK)
    (tmp_path / "sweep.py").write_text(SWEEP)
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(REPOSITORY)))}
    moments = random.Random(5)
    for moment in range(10):
        out = tmp_path / f"out_{moment}"
        words = [sys.executable, str(tmp_path / "sweep.py"), str(out)]
        process = subprocess.Popen(words, env=environment, start_new_session=True)
        while process.poll() is None and not list(out.glob("*/part.txt")):
            time.sleep(0.005)
        time.sleep(moments.random())
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for file in out.glob("*/trial.json"):
            assert json.loads(file.read_bytes())["function"] == "sweep_work:work"
        assert subprocess.run(words, env=environment).returncode == 0
        assert {len(file.read_bytes().split()) for file in out.glob("*/part.txt")} == {1000}
    record_property("kills", 10)
