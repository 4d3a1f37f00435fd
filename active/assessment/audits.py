"""Audits: samples that are labelled to measure a network, drawn uniformly without replacement from the pool.

    train   before a strategy picks its batch, n audits are drawn from the unlabelled samples U; the picks come from
            the rest. Their labels measure the network that has not learned them, and are trained on afterwards.
    hold    one random permutation of the pool at the start; its next items are the audits. They stay out of training
            decisions too; a strategy sees them as unlabelled. A pick that hits one moves it to training.

In hold mode the picks P do not depend on the permutation. So, given P, the order of pool \\ P in it is uniform, and its
first m items are a simple random sample of pool \\ P: they measure every later network that learned nothing but P.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


def audit_generator(seed: int, round: int = 0) -> torch.Generator:
    """The generator of one round's audits: a function of (seed, round) alone, of a stream of its own.

    It shares no numbers with the generator of a strategy, so that a run with audits and a run without differ in the
    audits only.
    """
    digest = hashlib.sha256(f"audits {seed} {round}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw_audits(unlabelled_ids: Tensor | Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """`count` ids (count,), uniformly without replacement from the unlabelled ones (N,), in the order of the draw.

    Each ordered subset has probability (N - count)! / N!. The order of `unlabelled_ids` does not matter.
    Raises ValueError for repeated ids, and for a count below 1 or above N.
    """
    ids = _distinct(unlabelled_ids)
    if not 1 <= count <= len(ids):
        raise ValueError(f"{count} audits cannot be drawn from {len(ids)} unlabelled samples: draw 1 to {len(ids)}")
    return ids[torch.randperm(len(ids), generator=generator)[:count]]


@dataclass(frozen=True)
class HeldAudits:
    """The audits of hold mode. order: all ids of the pool in random order; position: how many of them are used up.

    Both are plain numbers, and a run resumes from them; `order` follows from the generator's seed.
    """

    order: tuple[int, ...]
    position: int = 0

    @classmethod
    def start(cls, pool_ids: Tensor | Sequence[int], generator: torch.Generator) -> HeldAudits:
        """The permutation of a pool, before the first audit. Raises ValueError for repeated ids."""
        ids = _distinct(pool_ids)
        return cls(tuple(ids[torch.randperm(len(ids), generator=generator)].tolist()))

    def held(self, trained_ids: Tensor | Sequence[int]) -> Tensor:
        """The audits (m,) that are no training samples, in the order of the draw: a simple random sample of the pool
        minus `trained_ids`."""
        trained = set(torch.as_tensor(trained_ids).tolist())
        return torch.tensor([i for i in self.order[: self.position] if i not in trained], dtype=torch.long)

    def draw(self, count: int, trained_ids: Tensor | Sequence[int]) -> tuple[HeldAudits, Tensor]:
        """The state after `count` further audits, and their ids (count,); samples in training are passed over.

        Picks that hit a held audit save labels. Spending these on further audits keeps the sample uniform; on further
        picks it would not, since the training set would then depend on the permutation.
        Raises ValueError where the pool has fewer than `count` samples left.
        """
        trained = set(torch.as_tensor(trained_ids).tolist())
        free = [place for place in range(self.position, len(self.order)) if self.order[place] not in trained]
        if not 0 <= count <= len(free):
            raise ValueError(f"{count} audits cannot be drawn: the pool has {len(free)} samples left")
        if count == 0:
            return self, torch.empty(0, dtype=torch.long)
        new = torch.tensor([self.order[place] for place in free[:count]], dtype=torch.long)
        return replace(self, position=free[count - 1] + 1), new


def _distinct(ids: Tensor | Sequence[int]) -> Tensor:
    """The ids, ascending, so that their order decides nothing."""
    ascending = torch.as_tensor(ids, dtype=torch.long).sort().values
    if ascending.ndim != 1 or bool((ascending[1:] == ascending[:-1]).any()):
        raise ValueError("ids must be a list without repeats")
    return ascending
