"""One process at a time in a folder: the second is told so in one line, and a kill -9 leaves no lock behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from active.annotation.label_log import Label, LabelLog
from active.loop import rounds
from active.pool import Pool
from active.strategies import get_strategy
from dan.__main__ import main
from dan.errors import UserError
from dan.locks import NAME, lock_dir
from dan.run_dir import Run
from experiments.framework.trials import Trial, run_trials

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
REPOSITORY = Path(__file__).resolve().parents[1]
HOLDER = """
import sys, time
from dan.locks import lock_dir
lock = lock_dir(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the folder until it is killed."""
    words = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=REPOSITORY)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str], how: signal.Signals = signal.SIGKILL) -> None:
    process.send_signal(how)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_second_process_is_refused_and_kill_9_leaves_no_lock(tmp_path: Path) -> None:
    """In a Run, which every training and every run of rounds opens, too."""
    process = holder(tmp_path)
    try:
        for attempt in (lambda: lock_dir(tmp_path), lambda: Run(tmp_path, {"a": 1})):
            with pytest.raises(UserError, match=rf"in use by another process \({process.pid} on ") as refused:
                attempt()
            assert "\n" not in str(refused.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]  # nothing was begun
        began = time.monotonic()
        with pytest.raises(UserError):
            lock_dir(tmp_path, wait=0.2)
        assert 0.2 <= time.monotonic() - began < 30
    finally:
        end(process)
    assert (tmp_path / NAME).exists()  # the file is left, the lock is not
    run = Run(tmp_path, {"a": 1})
    assert (tmp_path / NAME).read_text().startswith(f"{os.getpid()} on ")
    del run
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records.jsonl"]


def test_within_a_process_it_is_shared_and_ends_with_the_last(tmp_path: Path) -> None:
    first = lock_dir(tmp_path)
    with lock_dir(tmp_path) as second:
        assert second is first
    del second
    assert (tmp_path / NAME).exists()
    del first
    assert list(tmp_path.iterdir()) == []
    lock = lock_dir(tmp_path)
    lock.release()
    assert list(tmp_path.iterdir()) == []
    assert lock_dir(tmp_path) is not lock


def child(folder: Path) -> None:
    try:
        lock_dir(folder)
    except UserError:
        os._exit(7)
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_is_another_one(tmp_path: Path) -> None:
    """It neither has its parent's lock for its own nor ends it."""
    with lock_dir(tmp_path):
        process = multiprocessing.get_context("fork").Process(target=child, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == 7
        assert (tmp_path / NAME).exists()


def test_a_program_that_was_started_does_not_hold_it(tmp_path: Path) -> None:
    lock = lock_dir(tmp_path)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        del lock
        assert lock_dir(tmp_path).release.alive
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_needs_no_lock(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    assert lock_dir(tmp_path / "shut").release.alive
    with pytest.raises(PermissionError):
        lock_dir(tmp_path / "shut" / "below")


def add(path: Path, who: str, batches: int) -> None:
    log = LabelLog(path)
    for i in range(batches):
        sample = f"{who}{i}"
        log.append([Label(sample=sample, path=sample, label="cat", annotator=who, when="", origin="")] * 2)
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_labels_of_three_processes_at_once_are_all_there(tmp_path: Path) -> None:
    """Each batch has a number of its own, so that taking one back takes nobody else's."""
    path, batches, people = tmp_path / "labels.jsonl", 20, ("ann", "bob", "cid")
    fork = multiprocessing.get_context("fork")  # three processes that import PyTorch take the longer to begin
    adders = [fork.Process(target=add, args=(path, name, batches)) for name in people]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join(120)
        assert adder.exitcode == 0
    log = LabelLog(path)
    assert {label.sample for label in log.labels} == {f"{who}{i}" for who in people for i in range(batches)}
    assert log.batches == list(range(1, len(people) * batches + 1))
    number, taken = log.undo(when="now")
    assert (number, len(taken), len(log.labels)) == (len(people) * batches, 2, len(people) * batches - 1)


def test_a_log_that_was_read_before_another_added_to_it_keeps_both(tmp_path: Path) -> None:
    def label(sample: str) -> Label:
        return Label(sample=sample, path=sample, label="cat", annotator="ann", when="", origin="")

    early, late = LabelLog(tmp_path / "labels.jsonl"), LabelLog(tmp_path / "labels.jsonl")
    assert late.append([label("a")]) == 1
    assert early.append([label("b")]) == 2
    assert [one.sample for one in early.labels] == ["a", "b"]
    assert late.undo(when="now")[0] == 2


def test_doors_rounds_and_experiments_are_refused_before_they_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line, before anything is trained; the folder of the other process stays as it is."""
    features = tmp_path / "features"
    features.mkdir()
    process = holder(tmp_path)
    try:
        for name in "ab":
            np.savez(features / name, x=np.eye(8), y=np.arange(8) % 2)
        words = ["train", "folders", "--source", str(features / "a.npz"), "--target", str(features / "b.npz")]
        words += ["--batch-size", "4", "--steps", "1", "--device", "cpu", "--quiet", "--run", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["python -m dan", *words])
        assert main() == 2
        said = capsys.readouterr().err
        assert said.startswith("python -m dan train: ") and said.count("\n") == 1 and "in use by another" in said, said
        pool = Pool([0, 1], [0, 1])
        with pytest.raises(UserError, match="in use by another"):
            next(
                rounds(
                    pool, get_strategy("random"), fit=never, predict=never, budget=1, num_rounds=1, seed=0, run=tmp_path
                )
            )
        with pytest.raises(UserError, match="in use by another"):
            run_trials([Trial("a", print, {})], folder=tmp_path, quiet=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "features"]
    finally:
        end(process)


def never(*_: object) -> None:
    raise AssertionError("nothing is to be trained or asked")
