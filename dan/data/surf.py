"""Office-10 + Caltech-10 as vectors: the 800-bin SURF histograms that the set was published with, z-scored per domain.

    z = (h - mean_domain) / std_domain,    h = counts / sum of counts        per bin; std over the domain's images

Each domain is scaled by its own mean and deviation (no label is needed for that), as the common practice has it; the
mean shift between the domains is gone by that alone. Source: Gong et al., "Geodesic flow kernel", CVPR 2012.
"""

from pathlib import Path

import torch
from torch import Tensor

from dan.data.benchmarks import BENCHMARKS
from dan.data.feature_files import read_features
from dan.data.tensor_datasets import Vectors
from dan.errors import UserError

FOLDER = "office_caltech10_surf"
FILES = {
    "a": "amazon_SURF_L10.mat",
    "c": "Caltech10_SURF_L10.mat",
    "d": "dslr_SURF_L10.mat",
    "w": "webcam_SURF_L10.mat",
}
# Labels 1..10 in the files, in this order: the names that the images' folders have.
CLASSES = (
    "backpack",
    "bike",
    "calculator",
    "headphones",
    "keyboard",
    "laptop",
    "monitor",
    "mouse",
    "mug",
    "projector",
)


def surf(letter: str, data: Path) -> Vectors:
    """One domain's z-scored SURF histograms (N, 800). Raises UserError for a missing file or another count."""
    file = data / FOLDER / FILES[letter]
    if not file.is_file():
        raise UserError(
            f"{file} does not exist: fetch the SURF features of Office-10 + Caltech-10 (Gong et al., CVPR 2012; "
            f"{', '.join(FILES.values())}), and put them into {data / FOLDER}"
        )
    features = read_features(file)
    expected = BENCHMARKS["office_caltech10"].domains[letter].images
    labels = features.y
    if labels is None or features.x.shape != (expected, 800) or set(labels.tolist()) != set(range(1, 11)):
        raise UserError(f"{file} should hold {expected} x 800 histograms with labels 1 to 10: fetch it again")
    return Vectors(z_scored(features.x), labels - 1, CLASSES)


def z_scored(counts: Tensor) -> Tensor:
    """(N, F) counts -> (N, F) float32, each bin of mean 0 and deviation 1 (over N); a constant bin is 0."""
    shares = counts.double() / counts.double().sum(1, keepdim=True).clamp_min(1)
    std = shares.std(0, correction=0)
    return ((shares - shares.mean(0)) / torch.where(std > 0, std, torch.ones_like(std))).float()
