"""Small backbones that are trained from scratch: LeNet, a small CNN, a 1-D CNN for signals, and none for feature
vectors.

Shapes: N samples; F features; S height and width; L time steps.
"""

from torch import nn

from dan.models.backbone import Backbone


def lenet(channels: int = 1, *, widths: tuple[int, int] = (10, 20)) -> Backbone:
    """Two 5 x 5 convolutions with batch norm and pooling, and a dense layer: images (N, channels, S, S) -> (N, 128).

    The pooled map is brought to 4 x 4 whatever the size S >= 8, so 16-pixel digits and 28-pixel MNIST both fit.
    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998. Deviations: ReLU,
    max-pooling and batch norm, as in the digit networks of the field.
    """
    first, second = widths
    stages = {
        "conv1": nn.Sequential(
            nn.Conv2d(channels, first, 5, padding=2), nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(2)
        ),
        "conv2": nn.Sequential(
            nn.Conv2d(first, second, 5, padding=2), nn.BatchNorm2d(second), nn.ReLU(), nn.AdaptiveMaxPool2d(4)
        ),
        "fc1": nn.Sequential(nn.Flatten(), nn.Linear(second * 4 * 4, 128), nn.ReLU()),
    }
    return Backbone(stages, out_features=128, input_shape=(channels, 28, 28), smallest=8)


def small_cnn(channels: int = 3) -> Backbone:
    """Two 3 x 3 convolutions, 2 x 2 max-pooling, dense 128: images (N, channels, S, S) -> (N, 128), made for S = 32.

    The pooled map is brought to 16 x 16 whatever the size S >= 16. It is the plain network of the beginner's CIFAR-10
    experiment, without batch norm or dropout: its accuracy ends near 50 to 60 %.
    """
    stages = {
        "conv1": nn.Sequential(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()),
        "conv2": nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(16)),
        "fc1": nn.Sequential(nn.Flatten(), nn.Linear(64 * 16 * 16, 128), nn.ReLU()),
    }
    return Backbone(stages, out_features=128, input_shape=(channels, 32, 32), smallest=16)


def conv1d(channels: int = 1, *, widths: tuple[int, int, int] = (32, 64, 64)) -> Backbone:
    """Three 1-D convolutions with batch norm, and the mean over time: signals (N, channels, L) -> (N, 64), any L >= 4.

    Source: the fully convolutional network of Wang, Yan & Oates, "Time series classification from scratch with deep
    neural networks", IJCNN 2017 (kernels 8, 5, 3). Deviations: narrower, odd kernels, and two poolings by 2.
    """
    first, second, third = widths
    stages = {
        "conv1": nn.Sequential(
            nn.Conv1d(channels, first, 7, padding=3), nn.BatchNorm1d(first), nn.ReLU(), nn.MaxPool1d(2)
        ),
        "conv2": nn.Sequential(
            nn.Conv1d(first, second, 5, padding=2), nn.BatchNorm1d(second), nn.ReLU(), nn.MaxPool1d(2)
        ),
        "conv3": nn.Sequential(nn.Conv1d(second, third, 3, padding=1), nn.BatchNorm1d(third), nn.ReLU()),
        "pool": nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten()),
    }
    return Backbone(stages, out_features=third, input_shape=(channels, 128), smallest=4)


def features() -> Backbone:
    """No backbone at all, for data that are feature vectors already: (N, F) -> (N, F); F is learned from the first
    batch.

    With the hidden layers that a DAN has by itself it makes a multi-layer perceptron.
    """
    return Backbone({"features": nn.Flatten()})
