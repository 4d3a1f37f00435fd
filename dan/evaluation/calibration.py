"""Does a network that says 80 % come true 80 % of the time? The expected calibration error over bins of confidence.

    ECE = sum_b n_b / N |accuracy_b - confidence_b|,    bin b of B holds the samples with confidence in (b/B, (b+1)/B]

The confidence of a sample is its largest class probability; accuracy_b and confidence_b are means over the bin.

Shapes: N samples; C classes; B bins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Reliability:
    """By bin of confidence: how many samples, how often they are right, how sure they are. (B,) each, float64.

    accuracies and confidences of an empty bin are 0.
    """

    counts: Tensor
    accuracies: Tensor
    confidences: Tensor

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1]."""
        gaps = (self.accuracies - self.confidences).abs()
        return float((self.counts * gaps).sum() / self.counts.sum())


def reliability(probs: Tensor, labels: Tensor, *, bins: int = 15) -> Reliability:
    """probs (N, C), rows summing to 1, and labels (N,) -> what `Reliability` says of `bins` equally wide bins.

    Raises ValueError for other shapes, no samples, fewer than 1 bin, and values that are no probabilities.
    """
    if probs.ndim != 2 or labels.shape != (len(probs),) or len(probs) == 0:
        raise ValueError(
            f"probs and labels must be (N, C) and (N,), N >= 1, not {tuple(probs.shape)}, {tuple(labels.shape)}"
        )
    if bins < 1:
        raise ValueError(f"calibration needs at least 1 bin, not {bins}")
    probs = probs.detach().double()
    if not bool(((probs >= 0) & (probs <= 1 + 1e-6)).all()) or not bool(((probs.sum(1) - 1).abs() < 1e-3).all()):
        raise ValueError("each row of probs must be probabilities that sum to 1")
    confidence, predicted = probs.max(1)
    right = (predicted == labels).double()
    inner = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=probs.device)[1:-1]
    place = torch.bucketize(confidence, inner)  # an edge belongs to the bin below it
    counts = torch.bincount(place, minlength=bins).double()
    at_least_one = counts.clamp_min(1)
    return Reliability(
        counts,
        torch.bincount(place, weights=right, minlength=bins) / at_least_one,
        torch.bincount(place, weights=confidence, minlength=bins) / at_least_one,
    )


def expected_calibration_error(probs: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """The expected calibration error of probs (N, C) against labels (N,), in [0, 1]; 0 is calibrated.

    Raises ValueError as `reliability`.
    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3, and 15 bins as there.
    """
    return reliability(probs, labels, bins=bins).error
