"""Which samples are labelled, and since which round (Pool); and what a strategy is given to choose by (Query).

Ids are global: an id names one target sample for good. A position in some tensor is never used as an id.

Shapes: N unlabelled samples; L labelled; S source; V validation; C classes; F features; H units of all layers;
P patches; T passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from dan.mmd import MultiKernel


class Pool:
    """The target samples by global id, with the labels bought so far and the round in which each was.

    ids: every sample of the pool. targets: the simulated oracle's label of each of them, or None with human annotators.
    classes: what the labels 0, 1, ... stand for, where they stand for something else; for targets of text the sorted
    texts, and the pool's labels are then positions in `classes`.
    Raises ValueError for repeated ids, a length mismatch, and a text that is not among the classes.
    """

    def __init__(
        self,
        ids: Tensor | Sequence[int],
        targets: Tensor | Sequence[int] | Sequence[str] | None = None,
        classes: Sequence[Any] | None = None,
    ) -> None:
        given = torch.as_tensor(ids, dtype=torch.long)
        self.ids = given.sort().values
        if self.ids.ndim != 1 or len(self.ids.unique()) != len(self.ids):
            raise ValueError("the pool's ids must be a list without repeats")
        self.classes = None if classes is None else tuple(classes)
        self._oracle: dict[int, int] | None = None
        if targets is not None:
            if self.classes is None and _is_text(targets):
                self.classes = tuple(sorted({str(target) for target in targets}))
            answers = self._encoded(targets)
            if len(answers) != len(self.ids):
                raise ValueError(f"the oracle has {len(answers)} answers for {len(self.ids)} ids")
            self._oracle = dict(zip(given.tolist(), answers, strict=True))
        self._known = set(self.ids.tolist())
        self._labels: dict[int, int] = {}
        self._rounds: dict[int, int] = {}

    def _encoded(self, targets: Tensor | Sequence[int] | Sequence[str]) -> list[int]:
        """The labels as integers: texts are positions in `classes`, numbers stay as they are."""
        if not _is_text(targets):
            return [int(target) for target in torch.as_tensor(targets).reshape(-1).tolist()]
        position = {name: i for i, name in enumerate(self.classes or ())}
        unknown = next((target for target in targets if target not in position), None)
        if unknown is not None:
            raise ValueError(f'label "{unknown}" is not one of the classes {", ".join(map(str, position)) or "(none)"}')
        return [position[target] for target in targets]  # type: ignore[index]

    @property
    def labelled_ids(self) -> Tensor:
        """Ids (L,) in the order in which they were labelled."""
        return torch.tensor(list(self._labels), dtype=torch.long)

    @property
    def labels(self) -> Tensor:
        """Labels (L,) of `labelled_ids`."""
        return torch.tensor(list(self._labels.values()), dtype=torch.long)

    @property
    def unlabelled_ids(self) -> Tensor:
        """Ids (N,) that have no label yet, ascending."""
        return torch.tensor([i for i in self.ids.tolist() if i not in self._labels], dtype=torch.long)

    @property
    def has_oracle(self) -> bool:
        """Whether the pool has the targets of a simulated oracle."""
        return self._oracle is not None

    def round_of(self, sample: int) -> int:
        """The round in which this id was labelled. Raises KeyError if it was not."""
        return self._rounds[sample]

    def oracle(self, ids: Tensor) -> Tensor:
        """The simulated oracle's labels (n,) of these ids. Raises ValueError if the pool has no oracle."""
        if self._oracle is None:
            raise ValueError("this pool has no simulated oracle: give its targets, or label by hand with pool.label")
        return torch.tensor([self._oracle[i] for i in ids.tolist()], dtype=torch.long)

    def label(
        self, ids: Tensor | Sequence[int], targets: Tensor | Sequence[int] | Sequence[str], *, round: int
    ) -> None:
        """Add these labels. Raises ValueError, and adds none of them, for an unknown, labelled or repeated id."""
        new = torch.as_tensor(ids).reshape(-1).tolist()
        answers = self._encoded(targets)
        if len(new) != len(answers):
            raise ValueError(f"{len(answers)} labels for {len(new)} ids")
        if len(set(new)) != len(new):
            raise ValueError("an id is named twice in one batch")
        for sample in new:
            if sample not in self._known:
                raise ValueError(f"id {sample} is not in the pool")
            if sample in self._labels:
                raise ValueError(f"id {sample} was labelled in round {self._rounds[sample]} already")
        for sample, answer in zip(new, answers, strict=True):
            self._labels[sample], self._rounds[sample] = answer, round


def _is_text(targets: Any) -> bool:
    """Whether labels are texts: a list or an array of str."""
    return not isinstance(targets, Tensor) and len(targets) > 0 and isinstance(next(iter(targets)), str)


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """What a strategy sees. `ids` are the unlabelled samples' global ids; a field that the learner can't give is None.

    features are those of the last hidden layer; layers are all task-specific layers' activations side by side.
    Validation samples are labelled source samples that were not trained on. domain_probs is P(source | x); patch_probs
    and dropout_probs are for candidates and for dropout passes.
    """

    ids: Tensor  # (N,)
    probs: Tensor | None = None  # (N, C)
    logits: Tensor | None = None  # (N, C)
    features: Tensor | None = None  # (N, F)
    layers: Tensor | None = None  # (N, H)
    labelled_ids: Tensor | None = None  # (L,)
    labelled_features: Tensor | None = None  # (L, F)
    labelled_layers: Tensor | None = None  # (L, H)
    labelled_targets: Tensor | None = None  # (L,)
    source_features: Tensor | None = None  # (S, F)
    source_layers: Tensor | None = None  # (S, H)
    source_targets: Tensor | None = None  # (S,)
    validation_logits: Tensor | None = None  # (V, C)
    validation_features: Tensor | None = None  # (V, F)
    validation_layers: Tensor | None = None  # (V, H)
    validation_targets: Tensor | None = None  # (V,)
    domain_probs: Tensor | None = None  # (N,)
    patch_probs: Tensor | None = None  # (N, P, C)
    dropout_probs: Tensor | None = None  # (T, N, C)
    kernel: MultiKernel | None = None

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or len(self.ids.unique()) != len(self.ids):
            raise ValueError("a query's ids must be a vector without repeats")
        for name in PER_SAMPLE:
            value = getattr(self, name)
            rows = None if value is None else value.shape[PER_SAMPLE[name]]
            if rows is not None and rows != len(self.ids):
                raise ValueError(f"{name} has {rows} rows for {len(self.ids)} ids")

    def need(self, *names: str) -> tuple[Tensor, ...]:
        """These fields. Raises ValueError for one that is absent, or that is NaN or infinite (with the sample's id)."""
        for name in names:
            value = getattr(self, name)
            if value is None:
                raise ValueError(f"this strategy needs {name}, which this query does not have")
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            of_sample = value.movedim(PER_SAMPLE.get(name, 0), 0)
            # In blocks: the features may be a memory-mapped file that is larger than the memory.
            for first in range(0, len(of_sample), BLOCK):
                block = of_sample[first : first + BLOCK]
                if bool(block.isfinite().all()):
                    continue
                if name not in PER_SAMPLE:
                    raise ValueError(f"{name} holds NaN or infinite values: has the training diverged?")
                rows = block.isfinite().reshape(len(block), -1).all(1)
                bad = int(self.ids[first : first + BLOCK][~rows][0])
                raise ValueError(f"{name} of sample {bad} is NaN or infinite: has the training diverged?")
        return tuple(getattr(self, name) for name in names)

    def by_id(self) -> "Query":
        """The same query with its samples in ascending order of id, so that the pool's order decides nothing."""
        if bool((self.ids[1:] > self.ids[:-1]).all()):
            return self  # nothing to sort, and no feature to copy
        order = self.ids.argsort()
        sorted_fields = {
            name: getattr(self, name).index_select(axis, order)
            for name, axis in PER_SAMPLE.items()
            if getattr(self, name) is not None
        }
        return replace(self, ids=self.ids[order], **sorted_fields)


BLOCK = 65536  # samples that are looked at together

# The fields with one entry a sample of `ids`, and along which axis.
PER_SAMPLE = {
    "probs": 0,
    "logits": 0,
    "features": 0,
    "layers": 0,
    "domain_probs": 0,
    "patch_probs": 0,
    "dropout_probs": 1,
}
QUERY_FIELDS = frozenset(field.name for field in fields(Query))
