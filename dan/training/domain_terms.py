"""What the method's terms are computed of, and what they must be."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dan.errors import UserError
from dan.models.dan import Output


def joined_outputs(source: Output, labelled: Output, drawn: Tensor, count: int) -> Output:
    """`count` labelled samples of the batch in place of as many of the source's, which has as many rows as before.

    drawn: which labelled sample each row of the labelled batch is: the same one never comes twice (a pair of equal ones
    is no draw from a domain), so where the batch has fewer than `count` different ones it is as many as there are.
    Where the source's samples have weights, the labelled ones, which are of the target, weigh 1.
    """
    first = [row for row, sample in enumerate(drawn.tolist()) if sample not in drawn[:row].tolist()][:count]
    kept = len(source.logits) - len(first)
    layers = {name: torch.cat([layer[:kept], labelled.layers[name][first]]) for name, layer in source.layers.items()}
    logits = torch.cat([source.logits[:kept], labelled.logits[first]])
    if source.weights is None:
        return Output(logits, layers)
    return Output(logits, layers, torch.cat([source.weights[:kept], source.weights.new_ones(len(first))]))


def checked_terms(terms: Any) -> Mapping[str, Tensor]:
    """What a domain loss returned, if it is a dict of scalar tensors. Raises UserError for anything else."""
    wanted = 'a domain loss returns a dict of scalar tensors by name, such as {"mmd": value}'
    if not isinstance(terms, Mapping) or not terms:
        raise UserError(f"{wanted}, not {'an empty dict' if isinstance(terms, Mapping) else type(terms).__name__}")
    for name, value in terms.items():
        if not isinstance(value, Tensor):
            raise UserError(f'{wanted}: "{name}" is a {type(value).__name__}')
        if value.ndim:
            raise UserError(f'{wanted}: "{name}" is a tensor of shape {tuple(value.shape)}')
    return terms
