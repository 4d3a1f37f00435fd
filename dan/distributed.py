"""Several processes train one network: each sends its share of a batch through it, and all see the whole batch's loss.

    rank r:   z_r = f(x_r; theta)              x_r: its share of the global batch x = (x_0, ..., x_{W-1})
    all:      z = (z_0, ..., z_{W-1}), L(z)    MMD, bandwidths, kernel weights, all of the whole batch
    rank r:   W dL/dz_r, back through f

DistributedDataParallel takes the mean of the gradients over the ranks, and
    (1/W) sum_r (W dL/dz_r) (dz_r/dtheta) = dL/dtheta,
so a step is the step of one process on x. What stands on z itself (a discriminator, a classifier that a term uses) has
the gradient of the whole loss in every process, and the mean of equal numbers is that number.

Shapes: W processes; B samples of a domain's batch; N samples; F features.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from dan.devices import choose_device
from dan.errors import UserError
from dan.models.dan import Output

__all__ = ["SINGLE_PROCESS", "DistContext", "joined"]

Result = TypeVar("Result")
PATIENCE = timedelta(hours=6)  # how long the others wait for the first, which may have a data set to decode


@dataclass(frozen=True)
class DistContext:
    """Which of how many processes this is. The methods that speak to the others are to be called in all of them, in one
    order; of a single process they give back what they were given."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes records, checkpoints and curves, and that is heard."""
        return self.rank == 0

    @property
    def path(self) -> tuple[int, ...]:
        """What a random stream that is to differ between the processes adds to its seed: nothing where one is alone."""
        return () if self.size == 1 else (self.rank,)

    def counts(self, total: int) -> list[int]:
        """How many of `total` each process has: the first ones have one more where it does not go up."""
        return [total // self.size + (rank < total % self.size) for rank in range(self.size)]

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows, neighbours all: the shares one after the other are the whole."""
        return rows.split(self.counts(len(rows)))[self.rank]

    def rows(self, share: Tensor, counts: list[int]) -> Tensor:
        """The rows of all processes, by rank: share (counts[rank], ...) -> (sum of counts, ...), the same in all.

        Its gradient is taken to be one and the same in all processes; what goes back to the share is W times its part.
        """
        if self.size == 1:
            return share
        return _Rows.apply(share, counts, self.rank)

    def whole(self, output: Output, batch: int, *, layers: bool = True) -> Output:
        """What the network says of the global batch, domain by domain, in the order in which one process would have it.

        output: of this process's shares of D batches of `batch` samples, one domain after the other. layers: False
        leaves them out. One message a step, whatever the number of layers.
        """
        if self.size == 1:
            return output
        counts = self.counts(batch)
        domains = len(output.logits) // counts[self.rank]
        wanted = output.layers if layers else {}
        columns = list({id(part): part for part in (output.logits, *wanted.values())}.values())
        everyones = self.rows(torch.cat(columns, dim=1), [domains * count for count in counts])
        starts = [domains * before for before in accumulate([0, *counts])]
        order = [
            start + domain * count + torch.arange(count)
            for domain in range(domains)
            for start, count in zip(starts, counts, strict=False)
        ]
        parts = everyones[torch.cat(order).to(everyones.device)].split([part.shape[1] for part in columns], dim=1)
        of = {id(part): new.contiguous() for part, new in zip(columns, parts, strict=True)}
        return Output(of[id(output.logits)], {name: of[id(layer)] for name, layer in wanted.items()})

    def network(self, model: nn.Module) -> nn.Module:
        """The model, whose gradients are from now on means over the processes, and which is the first one's in all."""
        return model if self.size == 1 else nn.parallel.DistributedDataParallel(model)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """The mean over the processes of the gradients of what is not in `network`."""
        if self.size > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.size

    def same_buffers(self, model: nn.Module) -> None:
        """The first process's buffers (batch norm's running statistics) in all."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def alone(self, work: Callable[[], Result]) -> Result | None:
        """What `work` gives in the first process, None in the others, which don't run it. Its UserError is raised in
        all: a process that waits for one that has given up waits long."""
        result = work() if self.size == 1 else None
        if self.size > 1:
            said: list[Any] = [None]
            if self.first:
                try:
                    result = work()
                except UserError as error:
                    said = [error]
            dist.broadcast_object_list(said, 0)
            if said[0] is not None:
                raise said[0]
        return result

    def of_first(self, work: Callable[[], Result]) -> Result:
        """What `work` gives in the first process, in all of them; tensors in it should be on the CPU."""
        said: list[Any] = [self.alone(work)]
        if self.size > 1:
            dist.broadcast_object_list(said, 0)
        return said[0]

    def first_then_all(self, work: Callable[[], Result]) -> Result:
        """`work` in the first process, and then in the others, which find on the disk what it left there."""
        done: list[Result] = []
        self.alone(lambda: done.append(work()))
        return done[0] if done else work()


SINGLE_PROCESS = DistContext()


class _Rows(torch.autograd.Function):
    """All processes' rows; backward, W times the gradient of one's own: see the top of the file."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, counts: list[int], rank: int) -> Tensor:
        ctx.place = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        ctx.size = len(counts)
        # Messages are to be equally long.
        padded = share.new_zeros(max(counts), *share.shape[1:])
        padded[: len(share)] = share
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0][ctx.place] * ctx.size, None, None


@contextmanager
def joined(environment: Mapping[str, str], device: str) -> Iterator[DistContext]:
    """The processes that torchrun started, as `environment` tells of them; SINGLE_PROCESS where it tells of no other.

    On the CPU they speak by gloo. With CUDA (`device` "cuda", or "auto" where there is one) they speak by NCCL, and
    each takes the GPU of its LOCAL_RANK. Whoever loses the others is told so in a UserError.
    Raises UserError for a device that several processes cannot share, for more processes than GPUs, and where the
    processes do not find each other.
    """
    size = int(environment.get("WORLD_SIZE", 1))
    if size == 1:
        yield SINGLE_PROCESS
        return
    backend = "gloo"
    kind = choose_device(device).type
    if kind == "mps":
        raise UserError("several processes need --device cpu or cuda: mps has no way to speak between them")
    if kind == "cuda":
        local, present = int(environment.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= present:
            raise UserError(f"each process needs a GPU of its own, and here are {present}: lower --nproc-per-node")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        # torchrun keeps its store when it starts killed processes again. Under names of their own the new ones do not
        # read there where the dead ones listened.
        start = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"start {start} of {size}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the {size} processes do not find each other ({str(error).splitlines()[0]})") from None
    try:
        yield DistContext(dist.get_rank(), size)
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise UserError(
            "another of the processes is gone: its own message says why; the same command goes on from the last "
            "checkpoint"
        ) from None
    finally:
        dist.destroy_process_group()


def _lost(error: RuntimeError) -> bool:
    """Whether a message between processes failed, as it does where the other end is gone."""
    return isinstance(error, dist.DistError) or any(
        sign in str(error) for sign in ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    )
