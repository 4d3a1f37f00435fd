"""The networks of the CIFAR-10 experiments: two small CNNs, and ResNet-20 as its paper has it.

    y = relu(x' + bn(conv(relu(bn(conv(x))))))     x' = x; where the block halves the map and doubles the channels:
                                                   every second pixel of x, and zeros for new channels (option A)

Source: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2 (n = 3).

Shapes: N samples; C channels; H, W height and width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from dan.models.backbone import Backbone
from dan.models.dan import DAN
from dan.models.small_nets import small_cnn

WIDTHS, BLOCKS = (16, 32, 64), 3


def network(name: str, seed: int) -> DAN:
    """The network of that name, its features those of the backbone's last stage, the same weights for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = BACKBONES[name]()
        model = DAN(backbone, 10, layers=(), capture=(list(backbone.stages)[-1],))
    # The same sums in another order of memory, a quarter faster on a CPU.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def narrow_cnn() -> Backbone:
    """`small_cnn` at half its width, and with a max-pooling after each convolution: (N, 3, 32, 32) -> (N, 128).

    A tenth of its arithmetic, for a sweep of hundreds of trainings on a CPU; it reaches 50 % with fewer images, too.
    """
    stages = {
        "conv1": nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        "conv2": nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        "fc1": nn.Sequential(nn.Flatten(), nn.Linear(32 * 8 * 8, 128), nn.ReLU()),
    }
    return Backbone(stages, out_features=128, input_shape=(3, 32, 32), smallest=32)


class Block(nn.Module):
    """Two 3 x 3 convolutions and the shortcut beside them: (N, before, H, W) -> (N, width, H / stride, W / stride)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.new = stride, width - before

    def forward(self, x: Tensor) -> Tensor:
        kept = x[:, :, :: self.stride, :: self.stride]
        # New channels to both sides of the old ones, as in the authors' release for torch's first version.
        shortcut = pad(kept, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return relu(shortcut + self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))


def resnet20() -> Backbone:
    """A convolution, three stages of three blocks, 16, 32 and 64 channels wide, the mean: (N, 3, H, W) -> (N, 64).

    Weights start as He et al., "Delving Deep into Rectifiers", ICCV 2015, have it (fan out).
    """
    first = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
    stages: dict[str, nn.Module] = {"conv1": first}
    before = WIDTHS[0]
    for number, width in enumerate(WIDTHS, start=1):
        blocks = []
        for i in range(BLOCKS):
            blocks.append(Block(before, width, 2 if number > 1 and i == 0 else 1))
            before = width
        stages[f"layer{number}"] = nn.Sequential(*blocks)
    stages["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone = Backbone(stages, out_features=WIDTHS[-1], input_shape=(3, 32, 32), smallest=8)
    for part in backbone.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return backbone


BACKBONES: dict[str, Callable[[], Backbone]] = {"narrow_cnn": narrow_cnn, "small_cnn": small_cnn, "resnet20": resnet20}
