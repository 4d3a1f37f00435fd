"""Training, evaluation and selection over 2 and 3 real processes (gloo, CPU): everything equals one process on the
whole batch, in float64; a killed process is followed by a restart that ends with the same records."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from active.strategies.coreset import k_center_greedy
from active.strategies.distributed import sharded_k_center, sharded_mmd_reduction
from active.strategies.mmd_reduction import greedy_mmd_reduction
from dan import DAN, fit
from dan.data.batched import BatchedDataset
from dan.distributed import SINGLE_PROCESS, DistContext, joined
from dan.errors import UserError
from dan.evaluation.metrics import evaluate, predict
from dan.losses import METHODS, build_loss
from dan.mmd import MultiKernel, median_bandwidth
from dan.models.dan import Output
from dan.run_dir import read_records
from dan.training.config import TrainConfig

CLASSES = 3
# Imported once, before the forks; torch.optim imports torch._dynamo when the first optimizer is made.
FORKED_WITH = ["dan.training.trainer", "active.strategies.distributed", "torch._dynamo", "torch.utils.tensorboard"]
FORKED_WITH += ["sklearn.linear_model", "sklearn.model_selection", "sklearn.pipeline", "pytest"]


# --- processes --------------------------------------------------------------------------------------------------------


def one_of_them(
    work: Callable[[DistContext], Any], rank: int, size: int, port: int, folder: Path, more: dict[str, str], late: float
) -> None:
    """One process: what `work` gives, or the line of its UserError, goes to a file. late: seconds a rank waits."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(size)}
    meeting |= more
    os.environ.update(meeting)
    time.sleep(late * rank)
    try:
        with joined(meeting, "cpu") as world:
            said = work(world)
    except UserError as error:
        said = f"UserError: {error}"
    except Exception:  # noqa: BLE001  (the parent shows it)
        said = traceback.format_exc()
    torch.save(said, folder / f"{rank}.pt")


def together(
    size: int,
    work: Callable[[DistContext], Any],
    folder: Path,
    *,
    port: int = 0,
    more: dict[str, str] | None = None,
    late: float = 0.0,
) -> list[Any]:
    """What `work` gives in each of `size` processes; None of one that was killed. They meet at `port`; 0: at any."""
    folder.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(FORKED_WITH)  # a fork of this process could not run backward
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = port or free.getsockname()[1]
    told = [(work, rank, size, port, folder, more or {}, late) for rank in range(size)]
    processes = [context.Process(target=one_of_them, args=args) for args in told]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    files = [folder / f"{rank}.pt" for rank in range(size)]
    return [torch.load(file, weights_only=False) if file.exists() else None for file in files]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# --- what they do -----------------------------------------------------------------------------------------------------


def blobs(count: int, shift: float, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    x = torch.randn(count, 5, generator=generator) + shift
    x[torch.arange(count), y] += 2
    return TensorDataset(x, y)


def network(*, dropout: float = 0.0, norm: bool = False) -> DAN:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(8) if norm else nn.Tanh()
    backbone = nn.Sequential(nn.Linear(5, 8), middle, nn.ReLU())
    backbone.out_features = 8  # type: ignore[assignment]
    return DAN(backbone, CLASSES, layers=(6,), dropout=dropout)


OPTIONS: dict[str, dict[str, Any]] = {
    "dan, linear": {"estimator": "linear"},
    "dan, biased": {"estimator": "biased"},
    "dan, quadratic program": {"kernel_weights": "qp", "kernel_weights_every": 1, "bandwidth_decay": 0.9},
    "dan, mean bandwidth": {"bandwidth": "mean"},
}
CASES = [(name, batch) for name in [*METHODS, *OPTIONS] for batch in (14, 13)]


def possible(case: tuple[str, int]) -> bool:
    return case[1] % 2 == 0 or OPTIONS.get(case[0], {}).keys().isdisjoint({"estimator", "kernel_weights"})


CASES = [case for case in CASES if possible(case) or OPTIONS[case[0]].get("estimator") == "biased"]


def loss_and_gradients(case: tuple[str, int], world: DistContext) -> tuple[float, list[Tensor], dict[str, Tensor]]:
    """CE + two times the method's terms, of a global batch of each domain: the loss, the gradients of network and
    method, and what the method remembers."""
    name, batch = case
    source, target = blobs(batch, 0.0), blobs(batch, 1.0, seed=1)
    model = network()
    torch.manual_seed(1)
    term = build_loss(name.split(",")[0], model, ("hidden1", "output"), **OPTIONS.get(name, {}))
    learned = term if isinstance(term, nn.Module) else nn.Module()
    term(*model(torch.cat([source.tensors[0], target.tensors[0]])).split([batch, batch]))  # lazy layers learn widths
    both = [world.share(part.tensors[0]) for part in (source, target)]
    network_of_all = world.network(model)  # held: it averages for as long as it lives
    whole = world.whole(network_of_all(torch.cat(both)), batch)
    outputs = whole.split([batch, batch])
    y = world.rows(world.share(source.tensors[1]), world.counts(batch))
    loss = cross_entropy(outputs[0].logits, y) + 2 * torch.stack([*term(*outputs).values()]).sum()
    learned.zero_grad()
    model.zero_grad()
    loss.backward()
    world.average(learned.parameters())
    gradients = [p.grad for p in (*model.parameters(), *learned.parameters()) if p.grad is not None]
    return float(loss.detach()), [g.clone() for g in gradients], {k: v.clone() for k, v in learned.state_dict().items()}


TRAININGS: dict[str, dict[str, Any]] = {
    "qp, labels join the source": {
        "config": {"kernel_weights": "qp", "kernel_weights_every": 2, "batch_size": 14},
        "labelled_domain": "source",
    },
    "cdan_e, odd batch": {"config": {"method": "cdan_e", "batch_size": 13}, "weighted": True},
    "source only": {"config": {"batch_size": 13}, "trade_off": 0.0},
}


def trained(name: str, run: Path | None, world: DistContext) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Some steps of fit(): its records, and the weights."""
    chosen = TRAININGS[name]
    model = network()
    options: dict[str, Any] = {"trade_off": chosen.get("trade_off", 1.0)}
    if "labelled_domain" in chosen:
        options |= {"labelled_target": blobs(9, 1.0, seed=3), "labelled_domain": chosen["labelled_domain"]}
    if "weighted" in chosen:
        options["source_weights"] = torch.linspace(0, 2, 40)
    records = fit(
        model,
        blobs(40, 0.0),
        blobs(36, 1.0, seed=1),
        steps=4,
        seed=3,
        config=TrainConfig(lr=0.05, head_lr_mult=2.0, evaluate_every=2, feature_map=False, **chosen["config"]),
        tests={"target": blobs(36, 1.0, seed=2)},
        run=run,
        context=world,
        **options,
    )
    return records, model.state_dict()


def big() -> TensorDataset:
    return blobs(1750, 0.0, seed=5)


def kernel_of(x: Tensor, y: Tensor) -> MultiKernel:
    return MultiKernel.ladder(median_bandwidth(x, y))


def everything(folder: Path, world: DistContext) -> dict[str, Any]:
    """All that is compared with one process, in one go: starting processes is what costs."""
    said: dict[str, Any] = {"steps": {case: loss_and_gradients(case, world) for case in CASES}}
    said["fits"] = {name: trained(name, folder / name.split(",")[0], world) for name in TRAININGS}

    model = network().float()
    data = TensorDataset(big().tensors[0].float(), big().tensors[1])
    output, y = predict(model, data, context=world)
    few = predict(model, blobs(5, 0.0), context=world) if model.double() else None
    assert few is not None
    said["predict"] = (output, y, few[0])
    said["accuracy"] = evaluate(network(), big(), context=world).accuracy

    features = output.features
    if world.size > 1:
        mine = world.share(torch.arange(len(features)))
        said["k-center"] = sharded_k_center(features[mine], features[:3], 40)
        pool, source = features[:600], features[600:1100] + 0.2
        said["mmd"] = sharded_mmd_reduction(pool, source, 30, kernel_of(source, pool), joins_source=True)
    else:
        said["k-center"] = k_center_greedy(features, features[:3], 40)
        pool, source = features[:600], features[600:1100] + 0.2
        said["mmd"] = greedy_mmd_reduction(pool, source, 30, kernel_of(source, pool), joins_source=True)

    said["refused"] = []
    for work in (
        lambda: fit(
            network(), big(), big(), trade_off=0, steps=1, seed=0, config=TrainConfig(batch_size=1), context=world
        ),
        lambda: world.alone(refuse),
        lambda: world.of_first(refuse),
    ):
        try:
            work()
        except UserError as error:
            said["refused"].append(str(error))
    said["of first"] = world.of_first(lambda: ("from", world.rank))
    said["in turn"] = world.first_then_all(lambda: in_turn(folder, world))
    said["norm"] = normalised(world)
    return said


def refuse() -> None:
    raise UserError("no such run")


def in_turn(folder: Path, world: DistContext) -> bool:
    """Whether the first was here before."""
    before = (folder / "first").exists()
    if world.first:
        (folder / "first").touch()
    return before


def normalised(world: DistContext) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Batch norm and dropout: other numbers than one process', but the same in all."""
    model = network(dropout=0.5, norm=True)
    options = {
        "trade_off": 1.0,
        "steps": 3,
        "seed": 0,
        "config": TrainConfig(batch_size=12, lr=0.05, feature_map=False),
    }
    tests = {"target": blobs(36, 1.0)}
    records = fit(model, blobs(40, 0.0), blobs(36, 1.0, seed=1), tests=tests, context=world, **options)  # type: ignore[arg-type]
    return records, model.state_dict()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.set_default_dtype(torch.float64)
    return everything(tmp_path_factory.mktemp("alone"), SINGLE_PROCESS)


@pytest.fixture(scope="module", params=[2, 3])
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two, and each of three processes says; and the folder of their runs."""
    folder = tmp_path_factory.mktemp("runs")
    results = together(request.param, partial(everything, folder), folder / "said")
    for result in results:
        assert isinstance(result, dict), result
    return [{**result, "folder": folder} for result in results]


def without_clock(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in ("seconds", "processes")} for record in records]


def close(a: dict[str, Any], b: dict[str, Any]) -> bool:
    numbers = [key for key in a if isinstance(a[key], float)]
    return a.keys() == b.keys() and all(a[key] == pytest.approx(b[key], abs=1e-9) for key in numbers)


# --- what must hold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_gradients_are_those_of_the_whole_batch(
    alone: dict[str, Any], said: list[dict[str, Any]], case: tuple[str, int]
) -> None:
    """Every method, a batch that the processes can share evenly and one that they can't."""
    loss, gradients, remembered = alone["steps"][case]
    for process in said:
        of_share, gradients_of_share, remembered_of_share = process["steps"][case]
        assert of_share == pytest.approx(loss, abs=1e-12)
        assert len(gradients) == len(gradients_of_share) >= 6
        for ours, theirs in zip(gradients, gradients_of_share, strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-12)
        assert remembered.keys() == remembered_of_share.keys()
        for name in remembered:  # bandwidths, statistics of the kernel weights, discriminators
            torch.testing.assert_close(remembered_of_share[name], remembered[name], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_loss_is_not_that_of_the_shares(alone: dict[str, Any]) -> None:
    """What DistributedDataParallel alone would do, the mean of the shares' losses, is another number: the test
    above can fail."""
    source, target = blobs(14, 0.0), blobs(14, 1.0, seed=1)
    outputs = [network()(part.tensors[0]) for part in (source, target)]
    term = build_loss("dan", network(), ("hidden1", "output"))

    def loss(rows: slice) -> float:
        a, b = (Output(o.logits[rows], {k: v[rows] for k, v in o.layers.items()}) for o in outputs)
        return float(cross_entropy(a.logits, source.tensors[1][rows]) + 2 * sum(term(a, b).values()))

    whole, shares = loss(slice(None)), (loss(slice(0, 7)) + loss(slice(7, 14))) / 2
    assert whole == pytest.approx(alone["steps"][("dan", 14)][0], abs=1e-12)
    assert abs(whole - shares) > 1e-3


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_the_same_by_one_and_by_many(
    alone: dict[str, Any], said: list[dict[str, Any]], name: str
) -> None:
    """Records and weights after some steps with momentum, bought labels, weighted samples; and one writer."""
    records, weights = alone["fits"][name]
    assert [record["step"] for record in records] == [2, 4] and "processes" not in records[0]
    for process in said:
        of_many, weights_of_many = process["fits"][name]
        assert [record["processes"] for record in of_many] == [len(said)] * 2
        for ours, theirs in zip(without_clock(records), without_clock(of_many), strict=True):
            assert close(ours, theirs)
        for key in weights:
            torch.testing.assert_close(weights_of_many[key], weights[key], rtol=0, atol=1e-10)
    run = said[0]["folder"] / name.split(",")[0]
    written = [r for r in read_records(run / "records.jsonl") if r["event"] == "evaluation"]
    assert written == said[0]["fits"][name][0]
    events = [file for file in run.iterdir() if "tfevents" in file.name]
    assert len(events) == 1 and (run / "model.pt").exists() == (run / "resume.pt").exists() is True


def test_predictions_are_the_same_bits(alone: dict[str, Any], said: list[dict[str, Any]]) -> None:
    output, y, few = alone["predict"]
    assert len(y) == 1750
    for process in said:
        of_many, y_of_many, few_of_many = process["predict"]
        assert torch.equal(output.logits, of_many.logits) and torch.equal(y, y_of_many)
        assert all(torch.equal(output.layers[name], of_many.layers[name]) for name in output.layers)
        assert torch.equal(few.logits, few_of_many.logits)  # a batch for the first process alone
        assert process["accuracy"] == alone["accuracy"]


def test_picks_are_the_same(alone: dict[str, Any], said: list[dict[str, Any]]) -> None:
    for process in said:
        assert torch.equal(process["k-center"], alone["k-center"])
        assert torch.equal(process["mmd"], alone["mmd"])


def test_the_first_speaks_for_all(alone: dict[str, Any], said: list[dict[str, Any]]) -> None:
    size = len(said)
    small = f"a batch of 1 has no share for each of {size} processes: raise batch_size, or start fewer"
    for process in said:
        assert process["refused"] == [small, "no such run", "no such run"]
        assert process["of first"] == ("from", 0)
    assert [process["in turn"] for process in said] == [False] + [True] * (size - 1)
    assert alone["refused"] == ["no such run", "no such run"] and alone["of first"] == ("from", 0)


def test_batch_norm_and_dropout_are_alike_in_all(said: list[dict[str, Any]]) -> None:
    (first, weights), *others = (process["norm"] for process in said)
    for records, weights_of_other in others:
        assert without_clock(records) == without_clock(first)
        assert all(torch.equal(weights[key], weights_of_other[key]) for key in weights)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [5, 6, 32])
def test_shares_are_all_of_it_once(size: int, total: int) -> None:
    worlds = [DistContext(rank, size) for rank in range(size)]
    shares = [world.share(torch.arange(total)) for world in worlds]
    assert torch.equal(torch.cat(shares), torch.arange(total))
    assert [len(share) for share in shares] == worlds[0].counts(total)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


class Deadly(BatchedDataset, TensorDataset):
    """Its nth batch kills the process."""

    def __init__(self, data: TensorDataset, nth: int) -> None:
        super().__init__(*data.tensors)
        self.left = nth

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        if generator is not None:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.tensors[0][indices], self.tensors[1][indices]


def mortal(run: Path, dies: int, after: int, dropout: float, world: DistContext) -> list[dict[str, Any]]:
    """A training in which the process `dies` is killed in step `after`."""
    recipe = TrainConfig(batch_size=13, lr=0.05, evaluate_every=4, checkpoint_every=3, feature_map=False)
    data = Deadly(blobs(40, 0.0), after if world.rank == dies else 0)
    options = {"trade_off": 1.0, "steps": 10, "seed": 0, "config": recipe, "tests": {"target": blobs(36, 1.0)}}
    return fit(network(dropout=dropout), data, blobs(36, 1.0, seed=1), run=run, context=world, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dies", [0, 1])
def test_a_killed_process_and_a_restart(tmp_path: Path, dies: int) -> None:
    """SIGKILL in the eighth step: the other says so in a line; both started again end with the undisturbed records."""
    together(2, partial(mortal, tmp_path / "a", -1, 0, 0.3), tmp_path / "undisturbed")
    killed = together(2, partial(mortal, tmp_path / "b", dies, 8, 0.3), tmp_path / "killed")
    assert killed[dies] is None
    assert killed[1 - dies].startswith("UserError: another of the processes is gone"), killed[1 - dies]
    before = read_records(tmp_path / "b" / "records.jsonl")
    assert [record["event"] for record in before] == ["settings", "evaluation"]
    again = together(2, partial(mortal, tmp_path / "b", -1, 0, 0.3), tmp_path / "again")
    a, b = (read_records(tmp_path / run / "records.jsonl") for run in "ab")
    assert without_clock(a) == without_clock(b) and b[-1]["event"] == "done"
    assert without_clock(again[1]) == without_clock(b[1:-1])
    first, second = (torch.load(tmp_path / run / "resume.pt", weights_only=True) for run in "ab")
    assert all(torch.equal(first["model"][key], second["model"][key]) for key in first["model"])


def test_a_restart_with_fewer_processes(tmp_path: Path) -> None:
    """Three of which one is killed, then two: without dropout the records are those of one process."""
    undisturbed = mortal(tmp_path / "a", -1, 0, 0.0, SINGLE_PROCESS)
    killed = together(3, partial(mortal, tmp_path / "b", 2, 8, 0.0), tmp_path / "killed")
    assert [said is None for said in killed] == [False, False, True]
    again = together(2, partial(mortal, tmp_path / "b", -1, 0, 0.0), tmp_path / "again")
    assert [record["processes"] for record in again[0]] == [3, 2, 2]
    for ours, theirs in zip(without_clock(undisturbed), without_clock(again[0]), strict=True):
        assert close(ours, theirs)


def sum_of_ranks(world: DistContext) -> float:
    ranks = torch.tensor([float(world.rank)])
    dist.all_reduce(ranks)
    return float(ranks)


def test_those_that_torchrun_starts_again_do_not_look_for_the_dead(tmp_path: Path) -> None:
    """torchrun's store outlives its processes: in the second start the first rank comes a second before the other, when
    only the address of the dead one is there to be read."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    for start in range(2):
        more = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": str(start)}
        said = together(2, sum_of_ranks, tmp_path / str(start), port=store.port, more=more, late=1.0 * start)
        assert said == [1.0, 1.0]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds torchrun's workers in /proc")
@pytest.mark.parametrize("killed", [0, 1])
def test_torchrun_starts_killed_processes_again(
    tmp_path: Path, killed: int, record_property: Callable[[str, int], None]
) -> None:
    """The real command under torchrun: a worker is killed after the first checkpoint, all are started again, and the
    records are those of an undisturbed run."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", "1", "-m", "--", "dan", "train", "--device", "cpu", "--quiet", "--steps"]
    command += ["60", "--evaluate-every", "20", "--checkpoint-every", "5", "--batch-size", "9", "--lr", "0.002"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for run in "ab":
        process = subprocess.Popen([*command, "--run", str(tmp_path / run)], env=environment)
        checkpoint = tmp_path / run / "resume.pt"
        while run == "b" and not checkpoint.exists():
            assert process.poll() is None
            time.sleep(0.01)
        if run == "b":
            os.kill(worker_of(process.pid, killed), signal.SIGKILL)
        assert process.wait() == 0
    a, b = (read_records(tmp_path / run / "records.jsonl") for run in "ab")
    assert without_clock(a) == without_clock(b)
    assert [record.get("processes") for record in b] == [None, 2, 2, 2, None]
    assert len([file for file in (tmp_path / "b").iterdir() if "tfevents" in file.name]) == 2  # it did start again
    record_property("kills", 1)


def worker_of(parent: int, rank: int) -> int:
    """The process with that rank, among the children of torchrun."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            father = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if father == parent and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except OSError:
            continue  # it ended while we looked
    raise AssertionError(f"torchrun has no worker of rank {rank}")


def test_who_is_alone_joins_nobody() -> None:
    for environment in ({}, {"WORLD_SIZE": "1", "RANK": "0"}):
        with joined(environment, "cpu") as world:
            assert world is SINGLE_PROCESS and not dist.is_initialized()
