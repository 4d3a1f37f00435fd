"""Trunks: what turns an image into a feature vector, before the task-specific layers.

Shapes: N samples; F features.
"""

from collections.abc import Callable

from torch import Tensor, nn

from dan.errors import UserError, nearest


class LeNet(nn.Module):
    """Two 5 x 5 convolutions with batch norm and pooling, and a dense layer: images (N, channels, S, S) -> (N, 128).

    The pooled map is brought to 4 x 4 whatever the size S >= 8, so 16-pixel digits and 28-pixel MNIST both fit.
    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998. Deviations: ReLU,
    max-pooling and batch norm, as in the digit networks of the field.
    """

    out_features = 128

    def __init__(self, channels: int = 1, *, widths: tuple[int, int] = (10, 20)) -> None:
        super().__init__()
        first, second = widths
        self.maps = nn.Sequential(
            nn.Conv2d(channels, first, 5, padding=2),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5, padding=2),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
        )
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(second * 4 * 4, self.out_features), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.dense(self.maps(images))


BACKBONES: dict[str, Callable[[], nn.Module]] = {"lenet": LeNet}


def build_backbone(name: str) -> nn.Module:
    """The trunk of that name, freshly initialised. Raises UserError, with the nearest name, for an unknown one."""
    if name not in BACKBONES:
        raise UserError(f'unknown backbone "{name}"{nearest(name, BACKBONES)}: one of {", ".join(BACKBONES)}')
    return BACKBONES[name]()
