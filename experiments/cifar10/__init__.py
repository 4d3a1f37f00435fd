"""What the experiments on CIFAR-10 share: their options, networks, and the trial of one curve of accuracy over labels.

    round r = 0, 1, ...:   a fresh network learns `start` + r `budget` labelled images, is measured, and queries more

The network is made anew in each round, so that a round's accuracy tells what its labels are worth, and not how long the
training has been going on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from active.budgets import check_rounds
from dan.errors import UserError
from experiments.framework.experiment import Cell, Results, round_records
from experiments.framework.options import Options, check_least, check_runs, check_samples
from experiments.framework.records import Record
from experiments.framework.reporting.tables import each
from experiments.framework.trials import Trial
from experiments.tasks import folders_of, machine

if TYPE_CHECKING:
    from active.learner import Learner
    from dan.data.cifar10 import Splits

TASK = "cifar10"


@dataclass(frozen=True)
class Training:
    """How a network learns. schedule: the rate stays (constant), or falls to a tenth at half of the steps and again at
    three quarters (steps). crop: training images are shifted by up to 4 pixels and mirrored half of the time."""

    epochs: int
    batch_size: int = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["constant", "steps"] = "constant"
    crop: bool = False


@dataclass(frozen=True)
class Network:
    """A backbone's name in reports, how it is trained, and the epochs of the full form."""

    line: str
    training: Training
    epochs: int


PLAIN = Training(epochs=10)
# He et al., section 4.2: 64,000 steps of 128 on 45,000 images are 182 epochs; the rate falls after 32,000 and 48,000.
HE_2016 = Training(
    epochs=20, batch_size=128, optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, schedule="steps", crop=True
)
NETWORKS = {
    "narrow_cnn": Network("a narrow small CNN", PLAIN, 10),
    "small_cnn": Network("the small CNN", PLAIN, 10),
    "resnet20": Network("ResNet-20", HE_2016, 182),
}


@dataclass(frozen=True)
class Cifar10Options(Options):
    """The options of both experiments."""

    QUICK: ClassVar[dict[str, Any]] = {
        "seeds": (0,),
        "pool": 1000,
        "test": 500,
        "start": 100,
        "budget": 100,
        "rounds": 2,
        "epochs": 2,
    }

    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    pool: int = 12_000
    """at most so many images that can be queried, evenly spaced (0: all 49,000)"""
    test: int = 5_000
    """at most so many images of test, evenly spaced (0: all 10,000)"""
    start: int = 1_000
    """random images that are labelled at the start"""
    budget: int = 1_500
    """labels a round"""
    rounds: int = 5
    """rounds of queries"""
    epochs: int | None = None
    """passes over the labelled images in each training (default: 10; resnet20: 20, in coreset_curve --full 182)"""
    full: bool = False
    """the full form, with all images, into runs/NAME_full"""
    device: str = "cpu"
    """cpu, cuda, mps or auto"""

    def check(self) -> None:
        """The data are decoded here, once."""
        from dan.devices import choose_device

        check_runs(self.seeds, 1)
        check_least(self, "start", "budget", "rounds", *(["epochs"] if self.epochs is not None else []))
        check_samples(self, "pool", "test")
        choose_device(self.device)
        images = len(DataPaths(**self.arm()["place"]).splits().train)
        if self.start > images:
            raise UserError(f"--start {self.start} is more than the {images} images of the pool")
        check_rounds(self.budget, self.rounds, images - self.start)

    def arm(self, network: str | None = None, epochs: int | None = None) -> dict[str, Any]:
        """The arguments of a trial but its strategy and seed; epochs: where neither is said, the network's."""
        place = {**folders_of(self), "pool": self.pool, "test": self.test, "device": self.device}
        made: dict[str, Any] = {"place": place, "start": self.start, "budget": self.budget, "rounds": self.rounds}
        if network is not None:
            how = NETWORKS[network].training
            made |= {"network": network, "how": asdict(replace(how, epochs=self.epochs or epochs or how.epochs))}
        return made


@dataclass(frozen=True)
class DataPaths:
    """`data`: folder of data sets; `images`: that of decoded ones; `pool` and `test`: at most so many images, evenly
    spaced (0: all); `device`: who computes."""

    data: str
    images: str
    pool: int = 0
    test: int = 0
    device: str = "cpu"

    def splits(self) -> Splits:
        """The images of this trial."""
        from experiments.digits.trial import evenly

        whole = _whole(self.data, self.images)
        return replace(
            whole,
            train=evenly(whole.train, self.pool or len(whole.train)),
            test=evenly(whole.test, self.test or len(whole.test)),
        )


@cache
def _whole(data: str, images: str) -> Splits:
    """All of CIFAR-10, read once in a process."""
    from dan.data.cifar10 import cifar10

    return cifar10(Path(data), cache=Path(images))


# --- trials -----------------------------------------------------------------------------------------------------------


def curve(folder: Path, *, network: str, how: dict[str, Any], **arm: Any) -> dict[str, Any]:
    """A trial: `rounds` + 1 trainings of a network, the strategy querying `budget` labels after each but the last.

    A strategy made for two domains finds the labelled images where it looks for the source: MMD, in what it minimises,
    is then that between labelled and unlabelled images. As such strategies (`mmd_reduction`) add the labelled
    to the source by themselves, they are given one of them only.
    """
    from experiments.cifar10.learner import CifarLearner

    place = DataPaths(**arm.pop("place"))
    data = place.splits()
    learner = CifarLearner(data, network, Training(**how), place.device, arm["seed"])
    result = _rounds(folder, data, learner, {"network": network, "training": how}, **arm)
    result["measured_on"] = result["measured_on"] | {"device": learner.device.type}
    return result


def forest(folder: Path, *, place: dict[str, Any], seed: int, **arm: Any) -> dict[str, Any]:
    """A trial: the same rounds with scikit-learn's random forest on pixels as the learner."""
    from experiments.cifar10.learner import TREES, ForestLearner

    data = DataPaths(**place).splits()
    metadata = {"network": "random_forest", "trees": TREES}
    return _rounds(folder, data, ForestLearner(data, seed), metadata, seed=seed, **arm)


def _rounds(
    folder: Path,
    data: Splits,
    learner: Learner,
    metadata: dict[str, Any],
    *,
    strategy: str,
    start: int,
    budget: int,
    rounds: int,
    seed: int,
) -> dict[str, Any]:
    """The rounds' records without the ids queried, which the rounds' own files keep."""
    from active.loop import run_loop
    from experiments.cifar10.learner import started

    options: dict[str, Any] = {"budget": budget, "num_rounds": rounds, "seed": seed, "run": folder}
    options["metadata"] = {"task": TASK, "strategy": strategy, "start": start, **metadata}
    records = run_loop(started(data, start, seed), strategy, learner, **options)
    evaluations = [{k: v for k, v in record.items() if k not in ("event", "queried")} for record in records]
    return {"evaluations": evaluations, "pool": len(data.train), "test": len(data.test), "measured_on": machine()}


def rounds_records(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """One record a round: the network after its last step."""
    made = round_records(cell, trial, results)
    for record in made:
        record["test_images"] = record.pop("test")
    return made


# --- reports ----------------------------------------------------------------------------------------------------------


def networks_in(records: Sequence[Record]) -> list[str]:
    """The networks that have records, in order."""
    there = {record["network"] for record in records}
    return [network for network in NETWORKS if network in there]


def setting_of(records: Sequence[Record]) -> str:
    """The caption on data and training."""
    pools, start, budget, tests = (each(records, name) for name in ("pool", "start", "budget", "test_images"))
    trained = []
    for network in networks_in(records):
        how = next(record["how"] for record in records if record["network"] == network)
        decay = ", a tenth of the rate from half of the steps on and again from three quarters"
        trained.append(
            f"{NETWORKS[network].line}: {how['epochs']} passes, {how['optimizer']} at {how['lr']:g}, batches of "
            f"{how['batch_size']}{decay if how.get('schedule') == 'steps' else ''}"
            + (", images shifted and mirrored at random" if how.get("crop") else "")
        )
    return (
        f"CIFAR-10, pool of {pools} images, {start} of them labelled at random at the start (the same for all rows of "
        f"a seed), {budget} labels a round, {tests} test images. A fresh network in each round "
        f"({'; '.join(trained)}). Nothing is selected, and no test label was read to choose anything."
    )
