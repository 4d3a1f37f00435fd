"""Collapse: features or logits that are the same for every sample, as a strong alignment or a high rate can leave them.

relative spread of z (N, F)      sqrt(mean_f var_n z_nf / mean_nf z_nf^2): 0 if z is constant, 1 if z is centred

Shapes: N samples; F features or classes.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dan.models.dan import Output

LEAST_SPREAD = 1e-3  # untrained networks have 0.05 and more; one whose units are dead has 0


class CollapseWarning(UserWarning):
    """A network in training has collapsed, and further steps will hardly change that."""


@contextmanager
def without_collapse_warnings() -> Iterator[None]:
    """For a search among trainings, whose rule scores those that collapse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        yield


def relative_spread(z: Tensor) -> float:
    """How much z (N, F) depends on the sample, whatever its scale; 0 if it is 0 throughout."""
    z = z.double()
    return float((z.var(0, correction=0).mean() / z.square().mean().clamp_min(torch.finfo(z.dtype).tiny)).sqrt())


def collapsed_part(source: Output, target: Output) -> str:
    """ "features" or "predictions" if these are constant within the source and within the target, else ""."""
    for name, pair in (
        ("features", (source.features, target.features)),
        ("predictions", (source.logits, target.logits)),
    ):
        if max(map(relative_spread, pair)) < LEAST_SPREAD:
            return name
    return ""


def collapse_message(part: str, step: int, *, trade_off: float, schedule: str, lr: float) -> str:
    """What happened, and what cures it, in a line. part: as of `collapsed_part`; the settings: of the training."""
    what = f"the network has collapsed at step {step}: its {part} are the same for every sample, and stay so"
    lower = f"a lower --lr than {lr:g}, or --head-lr-mult 1"
    if not trade_off:
        return f"{what}. Train again with {lower}; if that does not help, look for images that are all alike"
    guard = "" if schedule == "guarded" else "--schedule guarded, "
    return (
        f"{what}. Train again: first with --trade-off 0, to see that the source is learned at all (if not: {lower}); "
        f"then with {guard}a lower --trade-off than {trade_off:g}, or --head-lr-mult 1"
    )
