"""The transfers of the arena, how they are grouped, and the strategies, in the order of tables."""

from __future__ import annotations

from experiments.office_caltech10 import OTHER_SIX, PAPER_SIX
from experiments.office_caltech10.trial import SET

TEN_CLASS = SET  # with which the names of its tasks begin
# Ideas are tried on the first group; the others confirm. The targets of the second were seen in development with other
# sources: only the third has targets that nothing was chosen on.
GROUPS = {
    "development": tuple(TEN_CLASS + transfer for transfer in PAPER_SIX),
    "other sources": tuple(TEN_CLASS + transfer for transfer in OTHER_SIX),
    "digits": ("rendered2digits", "digits_mnist2usps", "digits_usps2mnist"),
}
PARTS = {"development": ("development",), "confirmation": ("other sources", "digits"), "all": tuple(GROUPS)}
TASKS, CONFIRMATION = (tuple(t for group in PARTS[part] for t in GROUPS[group]) for part in ("all", "confirmation"))
# Halves by target: a setting for one is chosen on the other. DSLR and webcam show the same things in one office.
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
BASE, OWN = "random", "hybrid"  # drawn in every figure
STRATEGIES = (
    *(BASE, "random_balanced", "least_confidence", "margin", "entropy", "k_center", "badge", "clue", "aada", "energy"),
    *("typiclust", "probcover", "uherding", "kernel_herding", "mmd_reduction", "aift", "representative"),
    *("sum_of_three", OWN),
)
BACKBONE = "squeezenet1_1"
EVERYTHING = "pool"  # the last stage of the backbone: all of it is frozen


def target_of(task: str) -> str:
    """The target domain, as in HALVES."""
    return task.rpartition("2")[2]


def half_of(task: str) -> str:
    """The half of the transfer's target."""
    return next(half for half, targets in HALVES.items() if target_of(task) in targets)


def chosen_on(half: str) -> list[str]:
    """The development transfers that a setting for this half is chosen on: those of the other half."""
    return [task for task in GROUPS["development"] if half_of(task) != half]
