"""Where trials run: in processes of this machine, or on the workers of a Dask cluster.

local               one process a trial at a time, one thread each
dask://HOST:PORT    the workers of that scheduler; they see the same folders, and have active-dan installed:
                    dask scheduler                                           on one machine
                    dask worker HOST:PORT --nthreads 1 --nworkers N          on each
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait as wait_for
from typing import Any

from dan.errors import UserError

DASK = "dask://"
SECONDS = 10  # in which a scheduler has to answer


@dataclass(frozen=True)
class Place:
    """executor: takes what is submitted. at_once: how many trials it works on at a time. stop: end them now."""

    executor: Executor
    at_once: int
    stop: Callable[[], None]


@contextmanager
def place_of(cluster: str | None, workers: int) -> Iterator[Place]:
    """The place of trials: `workers` processes, or, with `cluster` as "dask://HOST:PORT", all of the cluster's workers.

    Raises UserError for an address of another form, a scheduler that does not answer or has no worker, a worker of more
    than one thread (trials share their process's state), and a missing library.
    """
    if cluster is None:
        with _processes(workers) as place:
            yield place
    else:
        with _dask(cluster) as place:
            yield place


@contextmanager
def _processes(workers: int) -> Iterator[Place]:
    strangers = set(active_children())
    spawn = get_context("spawn")  # a forked child would inherit PyTorch's threads in an unknown state

    def stop() -> None:
        for child in set(active_children()) - strangers:
            child.terminate()

    with ProcessPoolExecutor(workers, spawn, _prepare) as pool:
        yield Place(pool, workers, stop)


def _prepare() -> None:
    """A worker's first act: one thread, Ctrl-C left to the parent, and an end when the parent is gone."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read once, when PyTorch is imported
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    single_threaded()


def single_threaded() -> None:
    """One thread for this process's tensors."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def _dask(cluster: str) -> Iterator[Place]:
    address = cluster.removeprefix(DASK)
    if not cluster.startswith(DASK) or not address.rpartition(":")[2].isdigit() or not address.rpartition(":")[0]:
        raise UserError(f'--cluster must look like dask://HOST:PORT, as dask://localhost:8786, and not "{cluster}"')
    try:
        from distributed import Client
    except ImportError:
        raise UserError('--cluster needs the extra "cluster": pip install "active-dan[cluster]"') from None
    try:
        client: Any = Client(f"tcp://{address}", timeout=SECONDS)
    except (OSError, TimeoutError):
        raise UserError(
            f"no Dask scheduler answers at {address}: start one with `dask scheduler`, or mend the address"
        ) from None
    with client:
        threads = client.nthreads()
        if not threads:
            raise UserError(f"the scheduler at {address} has no workers: start some with `dask worker {address}`")
        if max(threads.values()) > 1:
            raise UserError(
                "a Dask worker here works on several trials in one process, which would share its state: start the "
                "workers with --nthreads 1 (and --nworkers for more of them)"
            )
        # pure=False: a trial that failed is tried again when it is asked for again.
        executor = client.get_executor(pure=False)
        yield Place(executor, len(threads), lambda: executor.shutdown(wait=False))
