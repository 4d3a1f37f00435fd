"""What is measured of a network: accuracy, cross-entropy and confusions where labels are known, its outputs elsewhere.

Shapes: N samples; F features; C classes; T passes; P views.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dan.data.batches import derived_seed, iter_batches, num_samples
from dan.data.inputs import Input, as_unlabelled, dtype_of
from dan.data.items import as_class_numbers
from dan.data.views import Views
from dan.distributed import SINGLE_PROCESS, DistContext
from dan.errors import UserError
from dan.models.dan import Output

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class Evaluation:
    """What is measured on a data set of N samples.

    accuracy: share of right predictions, in [0, 1]. loss: mean cross-entropy, nats. Both are of the samples whose class
    is known, `labelled` in number, and None where there is none. count: N. confidence: mean probability of the
    predicted class. shares: of each class, the share of the samples that is predicted as it, (C,).
    """

    accuracy: float | Any  # Any: None only for callers that give no labels
    loss: float | Any
    count: int
    labelled: int
    confidence: float
    shares: tuple[float, ...]


@torch.no_grad()
def predict(
    model: nn.Module, data: Input, *, batch_size: int = 500, start: int = 0, context: DistContext = SINGLE_PROCESS
) -> tuple[Output, Tensor]:
    """The network's output on all of `data`, in its order and in evaluation mode, on the CPU, with the labels (N,).

    data: X, (X, y), or a map-style data set of x or (x, y); a label is -1 where there is none.
    start: how many stages of a DAN's backbone have been run already: see `DAN.forward`.
    context: the processes that share the work; each runs some of the same batches, and all get all: the same bits as
    from one process.
    Raises UserError for an empty data set, and what `dan.data.inputs.as_unlabelled` raises.
    """
    data = as_unlabelled(data, name="data", dtype=dtype_of(model))
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    batches = -(-num_samples(data) // batch_size)
    if batches < context.size:  # not one for each: they all run all
        context = SINGLE_PROCESS
    counts = context.counts(batches)
    ends = [min(batch_size * end, num_samples(data)) for end in accumulate([0, *counts])]
    samples = [end - begin for begin, end in pairwise(ends)]  # of each process
    begin = sum(counts[: context.rank])
    outputs, labels = [], []
    for x, y in iter_batches(data, batch_size, slice(begin, begin + counts[context.rank])):
        outputs.append(model(x.to(device), start=start) if start else model(x.to(device)))
        labels.append(y)
    model.train(was_training)

    def everyones(parts: list[Tensor]) -> Tensor:
        return context.rows(torch.cat(parts), samples).cpu()

    layers = {name: everyones([o.layers[name] for o in outputs]) for name in outputs[0].layers}
    return Output(everyones([o.logits for o in outputs]), layers), everyones(labels)


@torch.no_grad()
def dropout_probabilities(
    model: nn.Module, data: Input, *, passes: int = 10, seed: int = 0, batch_size: int = 500, start: int = 0
) -> Tensor:
    """Class probabilities (T, N, C), float64, of `passes` passes in which only the dropout is in training mode.

    A pass draws its units from (seed, pass) on the CPU's or the device's generator, whose state is given back after.
    start: as in `predict`.
    Raises UserError for a network that drops nothing out.
    Source: Gal & Ghahramani, "Dropout as a Bayesian approximation", ICML 2016.
    """
    dropping = [part for part in model.modules() if isinstance(part, DROPOUTS) and part.p > 0]
    if not dropping:
        raise UserError("this network has no dropout to sample: train one with dropout, such as --dropout 0.5")
    data = as_unlabelled(data, name="data", dtype=dtype_of(model))
    was_training = model.training
    device = next(model.parameters()).device
    probs = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.eval()
        for part in dropping:
            part.train()
        for number in range(passes):
            torch.manual_seed(derived_seed(seed, number))
            batches = (x.to(device) for x, _ in iter_batches(data, batch_size))
            logits = [(model(x, start=start) if start else model(x)).logits.cpu() for x in batches]
            probs.append(torch.cat(logits).double().softmax(1))
    model.eval()
    model.train(was_training)
    return torch.stack(probs)


@torch.no_grad()
def view_probabilities(model: nn.Module, data: Input, views: Views, *, batch_size: int = 100) -> Tensor:
    """Class probabilities (N, P, C), float64, of each of the views of each image, in evaluation mode."""
    data = as_unlabelled(data, name="data", dtype=dtype_of(model))
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    probs = []
    for x, _ in iter_batches(data, batch_size):
        seen = [model(view.to(device)).logits.cpu().double().softmax(1) for view in views(x)]
        probs.append(torch.stack(seen, dim=1))
    model.train(was_training)
    return torch.cat(probs)


def evaluate(
    model: nn.Module, data: Input, *, batch_size: int = 500, start: int = 0, context: DistContext = SINGLE_PROCESS
) -> Evaluation:
    """Accuracy and cross-entropy of `model` on (X, y) or a data set of (x, y); the options are those of `predict`.

    Of samples without a label (X alone, or y = -1) only the predictions are described.
    Raises UserError for an empty data set, and for a label that is not in -1, ..., C - 1.
    """
    output, labels = predict(model, data, batch_size=batch_size, start=start, context=context)
    logits, num_classes = output.logits, output.logits.shape[1]
    labels = as_class_numbers(labels, "data", num_classes=num_classes, unknown=True)
    known = labels >= 0
    count = int(known.sum())
    accuracy: float | None = None
    loss: float | None = None
    if count:
        of_known, classes = (logits, labels) if count == len(labels) else (logits[known], labels[known])
        accuracy = float((of_known.argmax(1) == classes).double().mean())
        loss = float(cross_entropy(of_known, classes))
    probs, predicted = logits.softmax(1), logits.argmax(1)
    shares = torch.bincount(predicted, minlength=num_classes).double() / len(labels)
    return Evaluation(accuracy, loss, len(labels), count, float(probs.amax(1).double().mean()), tuple(shares.tolist()))


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How often a sample of class i (row) was called j (column): predicted (N,), labels (N,) -> (C, C), int64.

    Raises ValueError for other shapes, and for a class that is not in 0, ..., C - 1.
    """
    if predicted.ndim != 1 or predicted.shape != labels.shape:
        raise ValueError(f"predicted and labels must be (N,) both, not {tuple(predicted.shape)}, {tuple(labels.shape)}")
    for name, classes in (("predicted", predicted), ("labels", labels)):
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
            raise ValueError(f"{name} must be classes from 0 to {num_classes - 1}")
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_accuracies(confusions: Tensor) -> Tensor:
    """The share of each class that is predicted right: confusions (C, C), true class by row -> (C,), float64.

    A class without samples has NaN. The mean of the others weighs rare classes as much as frequent ones.
    """
    return confusions.diagonal().double() / confusions.sum(1).double()
