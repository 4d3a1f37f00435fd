"""Are two samples from one distribution? A permutation test of MMD^2, and the proxy A-distance of a classifier.

With K the Gram matrix of the pooled sample, r = K 1, and s in {0, 1}^(N + M) the indicator of the N rows called x,
    s'K s  gives the sum within x,     s'r - s'K s  that between,     1'r - 2 s'r + s'K s  that within y,
so every relabelling of the pooled sample costs one column of K S, and K is passed over once, in tiles.

Shapes: N, M samples; F features; P permutations.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dan.mmd.kernels import MultiKernel
from dan.mmd.samples import Sample, as_samples
from dan.mmd.tiled import kernel_blocks


@dataclass(frozen=True, eq=False)
class TwoSampleTest:
    """A permutation test: the unbiased MMD^2, its p-value, and `null` (P,), what it is under relabellings, float64."""

    statistic: float
    p_value: float
    null: Tensor

    @property
    def band(self) -> tuple[float, float]:
        """The 2.5 % and 97.5 % quantiles of the null: 95 % of MMD^2 values lie between when the domains are one."""
        low, high = torch.quantile(self.null, self.null.new_tensor([0.025, 0.975])).tolist()
        return low, high


@torch.no_grad()
def permutation_test(
    x: Sample, y: Sample, kernel: MultiKernel, *, permutations: int = 500, generator: torch.Generator
) -> TwoSampleTest:
    """Test whether x (N, F) and y (M, F) have one distribution by the unbiased MMD^2 under the weighted kernel.

    p = (1 + number of relabellings with MMD^2 >= that observed) / (1 + P), valid at any sample size if the kernel was
    chosen without looking at which sample is which (the median heuristic of the pooled sample is, `optimal_weights` on
    these samples is not: learn weights on others). Equal values up to rounding count as >=: the smallest p-value is
    1 / (1 + P), and samples of equal points give 1. O((N + M)^2 (F + P)) by tiles, in float64 beyond the kernel; memory
    O((N + M) P) bytes and a tile.

    Raises ValueError for other shapes, fewer than 2 samples on a side, less than one permutation, or NaN.
    Source: Gretton et al., JMLR 2012, section 5; the count of the observed labelling: Phipson and Smyth, 2010.
    """
    x, y = as_samples(x, y)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"a two-sample test needs at least 2 samples on each side, not {n} and {m}")
    if permutations < 1:
        raise ValueError(f"a permutation test needs at least one permutation, not {permutations}")
    z = torch.cat([x, y])  # (N + M, F)
    indicators = torch.zeros(n + m, 1 + permutations, dtype=torch.bool, device=z.device)
    indicators[:n, 0] = True  # the labelling observed
    for some in indicators[:, 1:].split(64, dim=1):
        orders = [torch.randperm(n + m, generator=generator, device=generator.device)[:n] for _ in range(some.shape[1])]
        some.scatter_(0, torch.stack(orders, dim=1).to(z.device), True)  # a view: it fills the columns in place

    within_x = torch.zeros(1 + permutations, dtype=torch.float64, device=z.device)  # s'K s, without the diagonal
    touching_x = torch.zeros_like(within_x)  # s'r
    total = within_x.new_zeros(())  # 1'r
    for rows, columns, block in kernel_blocks(z, kernel):
        k = block.double()
        of_rows, of_columns = indicators[rows].double(), indicators[columns].double()  # (T, 1 + P)
        if rows == columns:
            k.fill_diagonal_(0)
        times = 1 if rows == columns else 2  # ordered pairs of which this tile holds one
        within_x += times * (of_rows * (k @ of_columns)).sum(0)
        by_row, by_column = k.sum(1), k.sum(0)
        touching_x += by_row @ of_rows
        if times == 2:
            touching_x += by_column @ of_columns
        total += times * by_row.sum()
    if not bool(total.isfinite()):
        raise ValueError("the samples hold NaN or infinite values: a two-sample test needs finite features")

    between = touching_x - within_x
    within_y = total - 2 * touching_x + within_x
    values = within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - between * (2 / (n * m))
    observed, null = values[0], values[1:]
    rounding = 1e-12 * total / ((n + m) * (n + m - 1))  # relative to the mean of the kernel
    extreme = int((null >= observed - rounding).sum())
    return TwoSampleTest(float(observed), (1 + extreme) / (1 + permutations), null)


def a_distance(x: Sample, y: Sample, *, folds: int = 2, seed: int = 0) -> float:
    """The proxy A-distance 2 (1 - 2 err), err the held-out error of a linear classifier that tells x from y.

    Logistic regression (scikit-learn's, C = 1) on features standardised by its own training part; every sample is held
    out once, in `folds` stratified folds shuffled by `seed`. Both domains weigh the same, in training and in err,
    whatever N and M. 2: the domains are told apart without error; 0: by chance, around which it scatters when they are
    the same, and so may be somewhat negative.

    x (N, F), y (M, F) -> float in [-2, 2].
    Raises ValueError for other shapes, fewer than 2 samples a fold on either side, or features that are not finite.
    Source: Ben-David et al., "Analysis of representations for domain adaptation", NIPS 2006.
    """
    x, y = as_samples(x, y)
    if folds < 2:
        raise ValueError(f"the A-distance holds samples out: it needs at least 2 folds, not {folds}")
    n, m = len(x), len(y)
    if min(n, m) < 2 * folds:
        raise ValueError(
            f"the A-distance with {folds} folds needs at least {2 * folds} samples on each side, not {n} and {m}"
        )
    of_x, of_y = domain_probabilities(x, y, folds=folds, seed=seed)
    # As the classifier decides: an exact tie goes to x.
    error = ((of_x < 0.5).double().mean() + (of_y >= 0.5).double().mean()) / 2
    return float(2 * (1 - 2 * error))


def domain_probabilities(x: Sample, y: Sample, *, folds: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """P(domain of x | sample) by the A-distance's classifier, for every sample by one that it did not train.

    Logistic regression (scikit-learn's, C = 1) on features standardised by its own training part; every sample is held
    out once, in `folds` stratified folds shuffled by `seed`; both domains weigh the same, whatever N and M.
    x (N, F), y (M, F) -> (N,), (M,), float64 in [0, 1].
    Raises ValueError for other shapes, fewer than `folds` samples on a side, or features that are not finite.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = as_samples(x, y)
    n, m = len(x), len(y)
    if min(n, m) < folds or folds < 2:
        raise ValueError(f"2 folds or more, and a sample of each side in each of them: not {folds}, {n} and {m}")
    features = torch.cat([x, y]).detach().double().cpu().numpy()  # (N + M, F)
    if not np.isfinite(features).all():
        raise ValueError("the samples hold NaN or infinite values: a classifier of domains needs finite features")
    domain = np.repeat([1, 0], [n, m])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    held_out = StratifiedKFold(folds, shuffle=True, random_state=seed)
    said = cross_val_predict(classifier, features, domain, cv=held_out, method="predict_proba")[:, 1]
    return torch.from_numpy(said[:n]), torch.from_numpy(said[n:])
