"""What a step does to the weights: parameter groups with a rate each, the optimiser, and the two schedules.

rate of group g at step t      lr * factor_g * (1 + gamma t)^-power
trade-off at progress p        lambda * (2 / (1 + exp(-10 p)) - 1), guarded: times (1 - CE(source batch) / log C)+
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dan.errors import UserError, nearest
from dan.models.dan import DAN
from dan.training.config import TrainConfig


def ramp(progress: float, *, sharpness: float = 10.0) -> float:
    """2 / (1 + exp(-sharpness * p)) - 1: the trade-off's factor, from 0 at p = 0 to about 1 at p = 1.

    Early features are noise, and aligning noise does harm. Source: Ganin & Lempitsky, ICML 2015, section 4.1.
    """
    return 2 / (1 + math.exp(-sharpness * progress)) - 1


def learned_share(source_loss: Tensor, num_classes: int) -> Tensor:
    """1 - CE / log C in [0, 1], without gradient: 0 while the source batch is predicted at chance, 1 where it is known.

    As a factor on the trade-off it keeps alignment from collapsing a network. The features of an untrained network
    differ little between classes and much between domains, so that the alignment's gradient is many times the
    cross-entropy's, and constant features are the shortest way to a small MMD.
    source_loss: mean cross-entropy of the source batch, a scalar.
    """
    return (1 - source_loss.detach() / math.log(num_classes)).clamp(0, 1)


def inverse_decay(step: int, *, gamma: float, power: float) -> float:
    """(1 + gamma * step)^-power, the factor on every learning rate: Caffe's "inv" policy, as DAN was trained."""
    return (1 + gamma * step) ** -power


@dataclass(frozen=True)
class ParameterGroups:
    """Parameters by group, and the factor on the learning rate of each."""

    parameters: dict[str, list[nn.Parameter]]
    factors: dict[str, float]


def parameter_groups(model: DAN, loss_module: nn.Module, config: TrainConfig) -> ParameterGroups:
    """ "backbone", "new" (with the loss's own parameters) and each part that `config.lr_mults` names, if not empty.

    Raises UserError for a part that the network does not have.
    """
    own = config.lr_mult_values
    parts = model.stage_groups()
    known = [*model.stages, *parts]
    for name in own:
        if name not in known:
            raise UserError(f'there is no part "{name}" of the network{nearest(name, known)}: {", ".join(known)}')
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "new": [], **{name: [] for name in own}}
    for name, part in parts.items():
        groups[name if name in own else "backbone" if name in model.stages else "new"] += part
    groups["new"] += list(loss_module.parameters())
    factors = {"backbone": 1.0, "new": config.head_lr_mult, **own}
    return ParameterGroups({name: group for name, group in groups.items() if group}, factors)


def build_optimizer(groups: ParameterGroups, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, Adam or Adadelta over the groups, each of which keeps its name."""
    named = [{"params": group, "name": name} for name, group in groups.parameters.items()]
    rate, decay = config.lr, config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(named, lr=rate, weight_decay=decay)
    if config.optimizer == "adadelta":
        return torch.optim.Adadelta(named, lr=rate, weight_decay=decay)
    return torch.optim.SGD(named, lr=rate, momentum=config.momentum, weight_decay=decay)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, factors: dict[str, float], config: TrainConfig, step: int
) -> None:
    """The rate of every group for this step."""
    decay = inverse_decay(step, gamma=config.lr_gamma, power=config.lr_power)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * factors[group["name"]] * decay


def gradient_norm(parameters: list[nn.Parameter]) -> float:
    """The Euclidean norm of all their gradients together."""
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
