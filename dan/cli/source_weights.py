"""train --source-weights: how much each source sample counts, by how much it looks like the target to the backbone.

    f = pooled output of the backbone, before any training        w = kernel mean matching, or N / count on a chosen
    subset

Weights go into the cross-entropy of the source samples, and have a mean of about 1. The alignment's batches are not
weighted. Target labels are not looked at, nor are the source's.

Shapes: N source samples; M target samples; F features.
"""

from typing import TYPE_CHECKING, Any, Literal

from dan.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["kmm", "select"]


def source_weights(
    kind: Kind,
    model: Any,
    source: Any,
    target: Any,
    *,
    share: float = 0.5,
    bound: float = 3.0,
    kernels: int = 5,
    bandwidth_ratio: float = 2.0,
    device: Any = "cpu",
    quiet: bool = True,
) -> "Tensor":
    """Weights (N,) of the source's samples, on the CPU: see `dan.instance_weights`.

    kind: "kmm" is kernel mean matching with weights of at most `bound`; "select" keeps round(share * N) samples, each
    with the weight N over that, and the rest at 0. model: a `dan.models.dan.DAN`, whose backbone says the features; it
    is moved to the device. The kernel is the recipe's ladder around the median heuristic.
    Raises UserError for a share outside (0, 1], a bound below 1, more source samples than kernel mean matching takes,
    and features that are not finite.
    """
    import torch

    from dan.instance_weights import LARGEST, kernel_mean_matching, source_subset
    from dan.mmd import MultiKernel, median_bandwidth

    if not 0 < share <= 1:
        raise UserError(f"--select-fraction is a share of the source from above 0 to 1, not {share}")
    if not 1 <= bound < float("inf"):
        raise UserError(f"--kmm-bound is what one sample may count for, 1 or more, not {bound}")
    x, y = (backbone_features(model, data, device=device, quiet=quiet) for data in (source, target))
    if kind == "kmm" and len(x) > LARGEST:
        raise UserError(
            f"--source-weights kmm takes at most {LARGEST} source samples, and there are {len(x)}: "
            "use --source-weights select"
        )
    kernel = MultiKernel.ladder(median_bandwidth(x, y), count=kernels, step=bandwidth_ratio)
    if kind == "kmm":
        return kernel_mean_matching(x, y, kernel, bound=bound).cpu()
    rows = source_subset(x, y, kernel, max(1, round(share * len(x))))
    weights = torch.zeros(len(x), dtype=torch.float64)
    weights[rows] = len(x) / len(rows)
    return weights


def backbone_features(model: Any, data: Any, *, device: Any = "cpu", quiet: bool = True) -> "Tensor":
    """The pooled output (N, F) of a DAN's whole backbone on a data set, in its order; without residual adapters."""
    from dan.feature_cache import cached
    from dan.models.backbone import Backbone

    backbone = model.backbone if isinstance(model.backbone, Backbone) else Backbone({"backbone": model.backbone})
    return backbone.pooled(cached(data, backbone, device=device, quiet=quiet).tensors[0]).flatten(1)
