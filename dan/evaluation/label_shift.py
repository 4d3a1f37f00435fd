"""Does the target hold other classes, or other shares of them, than the source? What its predictions give away.

    TV = (1/2) sum_c |p_c - q_c|,    p_c share of class c in the source's labels, q_c in the target's predictions
    confidence = mean over samples of the largest class probability

Methods that align features take for granted that both domains hold the same classes in similar shares.

Shapes: N, M samples; C classes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def warnings_of(
    source_targets: Tensor,
    target_probs: Tensor,
    *,
    source_probs: Tensor | None = None,
    classes: Sequence[str] | None = None,
    share_limit: float = 0.15,
    confidence_limit: float = 0.1,
    significance: float = 1e-3,
) -> list[str]:
    """One line for each sign of label shift or of unknown classes; [] where there is none.

    source_targets: class indices (N,) of the source. target_probs: class probabilities (M, C) of the target.
    source_probs: (N', C) of source samples held out from training; without them confidence is not judged.
    classes: names of the C classes; None: their indices.

    shares      TV > share_limit, and a chi-square test of homogeneity of the two lists of counts has p < significance:
                a small sample scatters, a large one differs significantly by nothing.
    missing     a class is never predicted, though chance would do so with (1 - p_c)^M < significance / C.
    confidence  the target's is more than confidence_limit below the source's, and by more than the two-sided normal
                quantile of `significance` times its standard error.

    Predicted shares are not true shares: a network that confuses two classes under the domain shift moves them too. So
    a line is a reason to look, and no proof. Deterministic.

    Raises ValueError for shapes that do not fit, empty samples, labels outside 0 .. C - 1, rows that are no
    distribution, or names that are not C.
    """
    target_probs = _distributions("target_probs", target_probs)
    m, c = target_probs.shape
    if source_targets.ndim != 1 or not len(source_targets):
        raise ValueError(f"source_targets must be (N,) with N >= 1, not {tuple(source_targets.shape)}")
    if source_targets.is_floating_point() or not 0 <= int(source_targets.min()) <= int(source_targets.max()) < c:
        raise ValueError(f"source_targets must be class indices 0 .. {c - 1}, one of {c} probabilities each")
    if classes is not None and len(classes) != c:
        raise ValueError(f"{len(classes)} names were given for {c} classes")
    names = [str(i) for i in range(c)] if classes is None else list(classes)
    in_source = torch.bincount(source_targets.cpu().long(), minlength=c).double()  # (C,)
    in_target = torch.bincount(target_probs.argmax(1), minlength=c).double()
    lines = [
        _shares_warning(in_source, in_target, names, share_limit, significance),
        _missing_warning(in_source, in_target, names, significance),
    ]
    if source_probs is not None:
        of_source = _distributions("source_probs", source_probs)
        if of_source.shape[1] != c:
            raise ValueError(
                f"source_probs and target_probs must be of the same classes, not {of_source.shape[1]} and {c}"
            )
        lines.append(_confidence_warning(of_source.amax(1), target_probs.amax(1), confidence_limit, significance))
    return [line for line in lines if line]


def _shares_warning(
    in_source: Tensor, in_target: Tensor, names: Sequence[str], share_limit: float, significance: float
) -> str:
    """A line where the class counts (C,) of the two domains differ in their shares, else ""."""
    from scipy.stats import chi2_contingency

    p, q = in_source / in_source.sum(), in_target / in_target.sum()
    distance = float((p - q).abs().sum() / 2)
    present = (in_source + in_target) > 0
    counts = torch.stack([in_source, in_target])[:, present].numpy()
    if not (distance > share_limit and chi2_contingency(counts).pvalue < significance):
        return ""
    order = (q - p).argsort(stable=True).tolist()
    more, fewer = order[-1], order[0]
    return (
        f"the target's predicted class shares differ from the source's by {distance:.0%} (total variation): "
        f"most of all {names[more]}, {_share(q[more])} predicted against {_share(p[more])} of the source, and "
        f"{names[fewer]}, {_share(q[fewer])} against {_share(p[fewer])}; the classes may be shared out otherwise "
        "in the target, or some confused"
    )


def _missing_warning(in_source: Tensor, in_target: Tensor, names: Sequence[str], significance: float) -> str:
    """A line where classes of the source are never predicted, which chance does not explain, else ""."""
    p, m, c = in_source / in_source.sum(), int(in_target.sum()), len(names)
    missing = [
        i
        for i in range(c)
        if not in_target[i] and p[i] > 0 and m * math.log1p(-_below_one(p[i])) < math.log(significance / c)
    ]
    if not missing:
        return ""
    rest = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return (
        f"of the {m} target samples none is predicted as {', '.join(names[i] for i in missing[:5])}{rest} "
        f"({_share(p[missing].sum())} of the source): the target may not hold every class of the source"
    )


def _confidence_warning(sure: Tensor, unsure: Tensor, confidence_limit: float, significance: float) -> str:
    """A line where the confidences (M,) in the target are below those (N',) in the held-out source, else ""."""
    from scipy.stats import norm

    drop = float(sure.mean() - unsure.mean())
    error = math.sqrt(sum(float(top.var(correction=0)) / len(top) for top in (sure, unsure)))
    if not (drop > confidence_limit and drop > float(norm.isf(significance / 2)) * error):
        return ""
    below = (unsure < torch.quantile(sure, 0.05)).double().mean()
    return (
        f"the network is less sure of the target than of held-out source samples: {_share(unsure.mean())} on "
        f"average against {_share(sure.mean())}, and {_share(below)} of the target lie below "
        "the least sure 5% of the source; the target may hold classes that the source does not, or lie "
        "too far from it"
    )


def _distributions(name: str, probs: Tensor) -> Tensor:
    """(N, C) on the CPU in float64, checked."""
    if probs.ndim != 2 or not len(probs) or probs.shape[1] < 2:
        raise ValueError(f"{name} must be (N, C) with N >= 1 and C >= 2, not {tuple(probs.shape)}")
    p = probs.detach().cpu().double()
    off = ~((p >= 0).all(1) & ((p.sum(1) - 1).abs() <= 1e-2))
    if bool(off.any()):
        raise ValueError(f"row {int(off.nonzero()[0])} of {name} is no distribution: give probabilities, not logits")
    return p


def _below_one(share: Tensor) -> float:
    """A source of one class has a share of 1, whose absence has a log of -inf."""
    return min(float(share), 1 - 1e-12)


def _share(value: Tensor) -> str:
    return f"{float(value):.0%}"
