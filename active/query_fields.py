"""What a trained network gives a strategy of the pool: every field of `Query` that the strategy needs, and no more.

One pass over each set gives probs, logits, features and layers. What costs more is made only for those that need it:

    domain_probs    P(source | x) of a linear classifier on the features, cross-fitted
    dropout_probs   class probabilities of T passes with dropout
    patch_probs     class probabilities of P views of each image: its candidates' patches
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dan.data.batches import derived_seed
from dan.data.domain_pair import DomainPair
from dan.data.views import Views
from dan.evaluation.metrics import dropout_probabilities, predict, view_probabilities
from dan.feature_cache import stages_run
from dan.mmd import MultiKernel, domain_probabilities, median_bandwidth
from dan.models.dan import DAN, Output

PASSES = 10  # T
VIEWS = 8  # P
FOLDS = 5  # of the domain classifier


def query_fields(
    model: DAN,
    task: DomainPair,
    ids: Tensor,
    *,
    needs: frozenset[str],
    kernels: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    images: Dataset[Any] | None = None,
) -> dict[str, Any]:
    """The fields of a `Query` for these ids of the task's target, in their order.

    needs: fields that cost more than a pass, and are made only if they are named here. kernels: those that the network
    was aligned under (`dan.models.model_file.load_kernels`). seed: of the dropout, the views and the classifier's
    folds.
    images: the target as it is, for views of it, where the task holds outputs of a frozen backbone (`CachedOutputs`).
    Raises UserError for what the network or the task cannot give: dropout without dropout, views of vectors.
    """
    pool, start = Subset(task.target, ids.tolist()), stages_run(task.target)
    output = predict(model, pool, start=start)[0]
    source, source_targets = predict(model, task.source, start=start)
    fields: dict[str, Any] = {
        "probs": output.logits.double().softmax(1),
        "logits": output.logits,
        "features": output.features,
        "layers": _concatenated(output),
        "source_features": source.features,
        "source_layers": _concatenated(source),
        "source_targets": source_targets,
        "kernel": kernel_of(kernels or {}, source, output),
    }
    if task.source_test is not None:
        validation, validation_targets = predict(model, task.source_test, start=start)
        fields |= {
            "validation_logits": validation.logits,
            "validation_features": validation.features,
            "validation_layers": _concatenated(validation),
            "validation_targets": validation_targets,
        }
    if "domain_probs" in needs:
        folds = max(2, min(FOLDS, len(ids), len(source.features)))
        fields["domain_probs"] = domain_probabilities(source.features, output.features, folds=folds, seed=seed)[1]
    if "dropout_probs" in needs:
        fields["dropout_probs"] = dropout_probabilities(model, pool, passes=PASSES, seed=seed, start=start)
    if "patch_probs" in needs:
        generator = torch.Generator().manual_seed(derived_seed(seed, 1))
        # Photographs may be mirrored; a mirrored digit or letter is another one, or none.
        views = Views(VIEWS, mirror=task.normalisation == "imagenet", generator=generator)
        whole = Subset(task.target if images is None else images, ids.tolist())
        fields["patch_probs"] = view_probabilities(model, whole, views)
    return fields


def kernel_of(trained: Mapping[str, Tensor], source: Output, target: Output) -> MultiKernel:
    """The kernel that the last features were aligned under, at the median of these samples; the common ladder if none.

    trained: see `dan.models.model_file.load_kernels`.
    """
    gamma = median_bandwidth(source.features, target.features)
    name = next(name for name, layer in target.layers.items() if layer is target.features)
    if name not in trained:
        return MultiKernel.ladder(gamma)
    multiples, weights = trained[name]
    return MultiKernel(multiples * gamma, weights)


def _concatenated(output: Output) -> Tensor:
    """All layers of each sample, one after the other: (N, H)."""
    return torch.cat([layer.flatten(1) for layer in output.layers.values()], dim=1)
