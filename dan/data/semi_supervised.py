"""Semi-supervised adaptation: a few target samples of each class are labelled, and learned beside the source.

    L = CE(source) + CE(the few) + lambda * alignment

The few are drawn at random, class by class, so they need the labels of the whole target: this is for benchmarks. Where
people are to be asked, `active` chooses whom to ask about without them.

Shapes: N samples; C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dan.data.batches import derived_seed
from dan.errors import UserError


def few_a_class(y: Tensor, count: int, generator: torch.Generator, *, classes: Sequence[str] | None = None) -> Tensor:
    """Rows of `count` samples of each class, drawn without replacement: (C * count,), ascending.

    y: (N,) class numbers; negative ones are unlabelled and never drawn. classes: names of the classes 0, ..., C - 1,
    all of which must be there; None: those that occur in y. With generators of the same state the rows of a smaller
    count are among those of a larger one, so that curves over the count are nested.

    Raises UserError for a class with fewer samples, named, and for a count below 1; ValueError for y of other shapes,
    and for a class number without a name.
    Source: the protocol of Saito et al., "Semi-supervised Domain Adaptation via Minimax Entropy", ICCV 2019 (1 and 3 a
    class), and of the second half of Long et al., ICML 2015, table 3.
    """
    if y.ndim != 1 or y.is_floating_point():
        raise ValueError(f"y must be one class number a sample, not {y.dtype} of shape {tuple(y.shape)}")
    if count < 1:
        raise UserError(f"at least 1 sample of each class is to be labelled, not {count}")
    y = y.cpu()
    known = y[y >= 0]
    if classes is not None and len(known) and int(known.max()) >= len(classes):
        raise ValueError(f"class {int(known.max())} has no name: there are {len(classes)} names")
    wanted = known.unique().tolist() if classes is None else range(len(classes))
    rows = []
    for number in wanted:
        own = (y == number).nonzero()[:, 0]
        if len(own) < count:
            name = number if classes is None else classes[number]
            raise UserError(f'class "{name}" has {len(own)} labelled samples of the {count} asked for: ask for fewer')
        # Each class is shuffled whole, whatever the count: that is what nests the draws.
        rows.append(own[torch.randperm(len(own), generator=generator, device=generator.device).cpu()[:count]])
    return torch.cat(rows).sort().values if rows else torch.empty(0, dtype=torch.long)


def drawn_by_seed(y: Tensor, count: int, seed: int, *, classes: Sequence[str]) -> Tensor:
    """The rows that a run with this seed labels (`--target-labels`): a function of (y, count, seed) alone."""
    generator = torch.Generator().manual_seed(derived_seed(seed, 6))
    return few_a_class(y, count, generator, classes=classes)


def rest_of(rows: Tensor, total: int) -> Tensor:
    """The rows 0, ..., total - 1 that aren't among `rows`, ascending: where the accuracy `unqueried` is measured."""
    left = torch.ones(total, dtype=torch.bool)
    left[rows] = False
    return left.nonzero()[:, 0]
