"""How to train, apart from what is trained on what: one dataclass, and the recipes that papers and practice named."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from dan.errors import UserError, nearest

POSITIVE_COUNTS = (
    "batch_size", "num_kernels", "evaluate_every", "checkpoint_every", "kernel_weights_every", "discriminator_width",
)  # fmt: skip
POSITIVE_NUMBERS = ("lr", "bandwidth_ratio", "head_lr_mult", "temperature")
CHOICES = {
    "optimizer": ("sgd", "adam", "adadelta"),
    "estimator": ("unbiased", "biased", "linear"),
    "kernel_weights": ("uniform", "qp"),
    "bandwidth": ("median", "mean"),
    "output_space": ("probabilities", "logits"),
    "schedule": ("ramp", "constant", "guarded"),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. The defaults suit a small network from scratch.

    Raises UserError for a value that cannot be; NumPy scalars become Python numbers. What depends on the method (the
    smallest batch) is checked when the trainer is built.
    """

    method: str = "dan"
    """What aligns the domains: dan, ddc, deep_coral, jan, dann, cdan, cdan_e, mcc or mme; several as dan+mcc. `train`
    also takes auto: train a portfolio, source-only in it, and choose without target labels."""
    method_multiples: tuple[str, ...] = ()
    """Multiples of the trade-off for single methods of a composition, such as: mcc=0.5 (default: 1 each)."""
    optimizer: Literal["sgd", "adam", "adadelta"] = "sgd"
    """How steps are made of gradients: SGD with momentum, Adam, or Adadelta (whose rate is near 1)."""
    batch_size: int = 32
    """Samples a step of each domain."""
    lr: float = 0.01
    """Learning rate of the backbone."""
    head_lr_mult: float = 10.0
    """The task-specific layers learn this many times faster than the backbone."""
    lr_mults: tuple[str, ...] = ()
    """Other multiples of the rate for named parts, such as: conv4=1 fc6=1 output=10."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 5e-4
    """L2 penalty on all weights."""
    lr_gamma: float = 1e-3
    """Rates fall as (1 + gamma * step)^-power."""
    lr_power: float = 0.75
    """The power in that decay."""
    schedule: Literal["ramp", "constant", "guarded"] = "ramp"
    """The trade-off grows from 0 over the training (ramp), stays as it is (constant), or is the ramp times what has
    been learned of the source, 1 - loss / log C of its batch (guarded): a network at chance is not aligned."""
    align: tuple[str, ...] = ()
    """Layers to align, such as: hidden1 output. None named: all task-specific layers."""
    num_kernels: int = 5
    """Gaussian kernels in the ladder; the paper has 33."""
    bandwidth_ratio: float = 2.0
    """Factor between neighbouring bandwidths; the paper has 2^(1/2)."""
    kernel_weights: Literal["uniform", "qp"] = "uniform"
    """Equal weights, or the paper's quadratic program on running statistics, in turn with the network's steps."""
    kernel_weights_every: int = 50
    """Steps between two solutions of that program."""
    bandwidth: Literal["median", "mean"] = "median"
    """Heuristic that the ladder is built around: median or mean squared distance of the batch."""
    bandwidth_decay: float = 0.0
    """Share of the old bandwidth that a new batch keeps; 0 takes each batch's own."""
    output_space: Literal["probabilities", "logits"] = "probabilities"
    """What is aligned of the layer `output`."""
    temperature: float = 2.5
    """Of mcc: the target's logits are divided by it."""
    discriminator_width: int = 256
    """Of dann and cdan: hidden units of the domain discriminator."""
    estimator: Literal["unbiased", "biased", "linear"] = "unbiased"
    """How a batch estimates MMD^2; the paper trains with the linear-time one."""
    evaluate_every: int = 250
    """Steps between evaluations (one record each)."""
    checkpoint_every: int = 100
    """Steps between checkpoints: at most these are done again after a kill."""
    feature_map: bool = True
    """At the end of a run, draw the features of both domains for TensorBoard."""

    def __post_init__(self) -> None:
        """Raises UserError for a value that cannot be, and for values that cannot be together."""
        plain_numbers(self)
        for name in ("align", "lr_mults"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name in POSITIVE_COUNTS:
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in POSITIVE_NUMBERS:
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("bandwidth_decay", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        for name in ("weight_decay", "lr_gamma", "lr_power"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name, valid in CHOICES.items():
            value = getattr(self, name)
            if value not in valid:
                raise UserError(f'unknown {name} "{value}"{nearest(str(value), valid)}: one of {", ".join(valid)}')
        if self.estimator == "linear" and self.batch_size % 2:
            raise UserError(
                f"the linear estimate takes samples in pairs: batch_size must be even, not {self.batch_size}"
            )
        if self.kernel_weights == "qp" and (self.batch_size < 4 or self.batch_size % 2):
            raise UserError(f"kernel_weights qp needs an even batch_size of 4 or more, not {self.batch_size}")
        _ = self.lr_mult_values

    @property
    def lr_mult_values(self) -> dict[str, float]:
        """`lr_mults` as numbers. Raises UserError for an entry that is not NAME=NUMBER, number >= 0."""
        factors = {}
        for entry in self.lr_mults:
            name, equals, text = entry.partition("=")
            try:
                factors[name] = float(text)
            except ValueError:
                factors[name] = -1.0
            if not (equals and name and 0 <= factors[name] < float("inf")):
                raise UserError(f'a rate is NAME=NUMBER, such as conv4=0.1, and not "{entry}"')
        return factors


def check_train_config(config: TrainConfig, fewest: int) -> None:
    """Raises UserError for a batch smaller than `fewest`: samples a batch that the method needs of each domain."""
    if config.batch_size < fewest:
        raise UserError(f"the method {config.method} needs batch_size >= {fewest}")


def plain_number(value: Any) -> Any:
    """A NumPy scalar as the Python number that it is; anything else as it is.

    Only NumPy's scalars have both a `dtype` and no dimension among what settings are: JSON cannot write them, and the
    arithmetic of seeds overflows in them.
    """
    return value.item() if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0 else value


def plain_numbers(config: Any) -> None:
    """Convert every NumPy scalar among the fields of a frozen dataclass, for its `__post_init__`."""
    for entry in fields(config):
        object.__setattr__(config, entry.name, plain_number(getattr(config, entry.name)))


@dataclass(frozen=True, kw_only=True)
class NamedRecipe:
    """A whole recipe: how to train, on which network (keywords of `dan.models.dan.DAN`), how long, how strongly."""

    line: str
    recipe: TrainConfig
    trade_off: float
    steps: int
    network: Mapping[str, Any] = field(default_factory=dict)


RECIPES: dict[str, NamedRecipe] = {
    "small": NamedRecipe(
        line="a small network from scratch: the default",
        recipe=TrainConfig(),
        trade_off=3.0,
        steps=1000,
    ),
    # No network is known for data that a user brings: this schedule cannot collapse one that has learned nothing yet.
    "own-data": NamedRecipe(
        line="data of your own (task folders) without published --weights: small, aligned as the source is learned",
        recipe=TrainConfig(schedule="guarded"),
        trade_off=3.0,
        steps=1000,
    ),
    # At the rate of "small" a backbone's features, large as they are, kill the new layers. This rate is what a
    # label-free
    # search chose for a frozen SqueezeNet on photographs (docs/dan_table2.md), the lower of the two networks'.
    "pretrained": NamedRecipe(
        line="a backbone with published weights, frozen or not: the default with published --weights",
        recipe=TrainConfig(lr=3e-4),
        trade_off=1.0,
        steps=500,
    ),
    "dan-2015": NamedRecipe(
        line="the paper: AlexNet, fc6-8, 33 kernels weighed by the quadratic program, linear-time estimate",
        recipe=TrainConfig(
            batch_size=64,
            lr=1e-3,
            schedule="constant",
            align=("fc6", "fc7", "output"),
            num_kernels=33,
            bandwidth_ratio=2**0.5,
            kernel_weights="qp",
            output_space="logits",
            estimator="linear",
            evaluate_every=500,
        ),
        trade_off=1.0,
        steps=20_000,
        network={
            "backbone": "alexnet",
            "pretrained": "DEFAULT",
            "layers": (),
            "frozen": ("conv1", "conv2", "conv3"),
        },
    ),
    "dan-caffe": NamedRecipe(
        line="the authors' release: AlexNet, fc7 and fc8, 5 equal kernels around the mean distance, nothing frozen",
        recipe=TrainConfig(
            batch_size=64,
            lr=1e-3,
            schedule="constant",
            align=("fc7", "output"),
            bandwidth="mean",
            output_space="logits",
            estimator="linear",
            evaluate_every=500,
        ),
        trade_off=1.0,
        steps=20_000,
        network={"backbone": "alexnet", "pretrained": "DEFAULT", "layers": ()},
    ),
    "dan-resnet": NamedRecipe(
        line="common practice: ResNet-50, a bottleneck of 256 that is aligned, the backbone at a tenth of the rate",
        recipe=TrainConfig(lr=3e-4, lr_gamma=3e-4, schedule="constant", align=("hidden1",), evaluate_every=500),
        trade_off=1.0,
        steps=10_000,
        network={"backbone": "resnet50", "pretrained": "DEFAULT", "layers": (256,), "dropout": 0.5},
    ),
}


def get_recipe(name: str) -> NamedRecipe:
    """The recipe of that name. Raises UserError, with the nearest name, for an unknown one."""
    if name not in RECIPES:
        raise UserError(f'unknown recipe "{name}"{nearest(name, RECIPES)}: one of {", ".join(RECIPES)}')
    return RECIPES[name]
