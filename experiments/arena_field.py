"""Who meets on what in the arena: its transfers, how they hang together, and the strategies, in the order of tables."""

from __future__ import annotations

from experiments.jobs.arena import TEN_CLASS
from experiments.office_caltech10 import OTHER_SIX, PAPER_SIX

DIGITS = ("rendered2digits", "digits_mnist2usps", "digits_usps2mnist")
# Each transfer is in one group. On the first, ideas may be tried; the others confirm. But the second group's targets
# were seen in development with another source: only the third has targets that nothing was ever chosen on.
GROUPS = {
    "development": tuple(TEN_CLASS + transfer for transfer in PAPER_SIX),
    "other sources": tuple(TEN_CLASS + transfer for transfer in OTHER_SIX),
    "digits": DIGITS,
}
TASKS = tuple(task for group in GROUPS.values() for task in group)
PARTS = {"development": ("development",), "confirmation": ("other sources", "digits"), "all": tuple(GROUPS)}
# Which targets hang together: what is chosen for one half is chosen on the other alone. dslr and webcam are photographs
# of the same things in the same office, so they stay together; amazon and caltech are pictures from the web.
HALVES = {"web": ("a", "c", "mnist"), "office": ("d", "w", "usps", "digits")}
TARGETS = {
    "a": "Amazon",
    "c": "Caltech",
    "d": "DSLR",
    "w": "webcam",
    "mnist": "MNIST",
    "usps": "USPS",
    "digits": "scanned digits",
}

STRATEGIES = (
    "random",
    "random_balanced",
    "least_confidence",
    "margin",
    "entropy",
    "k_center",
    "badge",
    "clue",
    "aada",
    "energy",
    "typiclust",
    "probcover",
    "uherding",
    "kernel_herding",
    "mmd_reduction",
    "aift",
    "representative",
    "sum_of_three",
    "hybrid",
)


def target_of(task: str) -> str:
    """The target domain, as HALVES names it."""
    return task.rpartition("2")[2]


def half_of(task: str) -> str:
    """The half that the transfer's target belongs to."""
    return next(half for half, targets in HALVES.items() if target_of(task) in targets)


def chosen_on(half: str) -> list[str]:
    """The development transfers that a setting for this half may be chosen on: those whose target is in the other."""
    return [task for task in GROUPS["development"] if half_of(task) != half]
