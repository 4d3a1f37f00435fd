"""Trials on a real Dask cluster on loopback: a scheduler and two workers, each a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dan.errors import UserError
from experiments.__main__ import main
from experiments.framework.trials import Trial, run_trials

pytest.importorskip("distributed", reason='no Dask: pip install "active-dan[cluster]"')
ROOT = Path(__file__).resolve().parents[1]


def where(folder: Path, *, meet: str = "", fail: bool = False) -> dict[str, Any]:
    """A trial: say which process it is; with `meet`, not before the trial of that name has begun too."""
    import torch

    (folder / "here").touch()
    if fail:
        raise RuntimeError("a reason\nand more")
    end = time.monotonic() + 60
    while meet and not (folder.parent / meet / "here").exists():
        assert time.monotonic() < end, "the other trial never began: the two are not worked on at once"
        time.sleep(0.05)
    return {"pid": os.getpid(), "threads": torch.get_num_threads(), "folder": str(folder)}


class Cluster:
    """A scheduler and workers; `address` as --cluster takes it."""

    def __init__(self, folder: Path, *, threads: int = 1, workers: int = 2) -> None:
        self.address, self.processes = "", []
        told = folder / "scheduler.json"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        env |= {"DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False"}

        def start(*words: str) -> "subprocess.Popen[bytes]":
            with (folder / "log.txt").open("ab") as log:
                made = subprocess.Popen([sys.executable, "-m", "dask", *words], cwd=folder, env=env, stderr=log)
            self.processes.append(made)
            return made

        try:
            start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(told))
            self.workers = [
                start("worker", "--scheduler-file", str(told), "--nthreads", str(threads), "--no-nanny")
                for _ in range(workers)
            ]
            from distributed import Client

            with Client(scheduler_file=str(told), timeout=60) as client:
                client.wait_for_workers(workers, timeout=60) if workers else None
                self.address = client.scheduler.address.replace("tcp://", "dask://")
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """End all of it."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers of one thread each."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.end()


def test_two_workers_share_the_trials_and_nothing_is_done_twice(cluster: Cluster, tmp_path: Path) -> None:
    left = Trial("left", where, {"meet": "right"})  # each waits for the other: they are done at the same time
    right, bad = Trial("right", where, {"meet": "left"}), Trial("bad", where, {"fail": True})
    trials = [Trial("last", where, {}, (left, right)), left, right, bad, Trial("orphan", where, {}, (bad,))]
    folder = tmp_path / "run"
    outcome = run_trials(trials, folder=folder, cluster=cluster.address, quiet=True)
    results = outcome.results
    assert set(results) == {"last", "left", "right"}
    assert {results["left"]["pid"], results["right"]["pid"]} == {worker.pid for worker in cluster.workers}
    assert {result["threads"] for result in results.values()} == {1}
    assert results["last"]["folder"] == str(folder / "last")
    assert outcome.failed["bad"].startswith("bad: RuntimeError: a reason (traceback in ")
    assert outcome.failed["orphan"] == "orphan: not started, for bad failed"
    # What is finished is read: here, without the cluster.
    again = run_trials(trials[:3], folder=folder, quiet=True, cluster="dask://localhost:1")
    assert again.results == results
    # What failed is tried again on the same cluster, though Dask has seen the very same call.
    (folder / "bad" / "here").unlink()
    run_trials(trials[3:4], folder=folder, cluster=cluster.address, quiet=True)
    assert (folder / "bad" / "here").exists()


def test_a_cluster_that_cannot_work_is_one_line(tmp_path: Path, cluster: Cluster) -> None:
    trials = [Trial("one", where, {})]
    for address in ("localhost:8786", "dask://", "dask://localhost", "dask://:8786", "tcp://localhost:8786"):
        with pytest.raises(UserError, match="dask://HOST:PORT"):
            run_trials(trials, folder=tmp_path, cluster=address, quiet=True)
    folder = tmp_path / "threads"
    folder.mkdir()
    wide = Cluster(folder, threads=2, workers=1)
    try:
        with pytest.raises(UserError, match="--nthreads 1"):
            run_trials(trials, folder=tmp_path, cluster=wide.address, quiet=True)
    finally:
        wide.end()
    with pytest.raises(UserError, match="no Dask scheduler answers"):
        run_trials(trials, folder=tmp_path, cluster=wide.address, quiet=True)


@pytest.mark.long
def test_an_experiment_on_a_cluster_makes_the_records_of_one_machine(cluster: Cluster, tmp_path: Path) -> None:
    from experiments.framework.records import read

    tiny = ["--steps", "20", "--seeds", "0", "--methods", "DAN", "frozen backbone", "--quiet"]
    assert main(["run", "approaches", *tiny, "--out", str(tmp_path / "there"), "--cluster", cluster.address]) == 0
    assert main(["run", "approaches", *tiny, "--out", str(tmp_path / "here")]) == 0
    there, here = (read(tmp_path / name / "records.jsonl") for name in ("there", "here"))
    clocks = {name for name in there[0] if "seconds" in name}
    assert [{k: v for k, v in record.items() if k not in clocks} for record in there] == [
        {k: v for k, v in record.items() if k not in clocks} for record in here
    ]
    assert len(there) > 0
