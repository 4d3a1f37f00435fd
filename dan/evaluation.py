"""What is measured of a network: accuracy and cross-entropy on a labelled data set, and its outputs on any.

Shapes: N samples; F features; C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from dan.batches import in_order
from dan.networks.dan import Output


@dataclass(frozen=True)
class Evaluation:
    """accuracy: share of right predictions, in [0, 1]. loss: mean cross-entropy, nats. count: samples N."""

    accuracy: float
    loss: float
    count: int


@torch.no_grad()
def predict(model: nn.Module, data: Dataset, *, batch_size: int = 500) -> tuple[Output, Tensor]:
    """The network's output on all of `data`, in its order and in evaluation mode, on the CPU, with the labels (N,).

    Raises UserError for an empty data set.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    outputs, labels = [], []
    for x, y in in_order(data, batch_size):
        outputs.append(model(x.to(device)))
        labels.append(y)
    model.train(was_training)
    layers = {name: torch.cat([o.layers[name] for o in outputs]).cpu() for name in outputs[0].layers}
    return Output(torch.cat([o.logits for o in outputs]).cpu(), layers), torch.cat(labels)


def evaluate(model: nn.Module, data: Dataset, *, batch_size: int = 500) -> Evaluation:
    """Accuracy and cross-entropy of `model` on a data set of (x, y). Raises UserError for an empty one."""
    output, labels = predict(model, data, batch_size=batch_size)
    accuracy = (output.logits.argmax(1) == labels).double().mean()
    return Evaluation(float(accuracy), float(cross_entropy(output.logits, labels)), len(labels))
