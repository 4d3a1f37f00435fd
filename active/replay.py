"""A simulated round asked again: the same network, pool, and generator, and so the same picks as were recorded.

    picks = strategy(query(network of the round, labels it had learned), budget, generator as it was then)

Shapes: N samples of the pool; B picked; H, W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from active.annotation.state import load_classified_run, reload_run_task
from active.gallery import Card, gallery, thumbnail
from active.learners.dan import folder_of
from active.loop import query_of
from active.pool import Pool
from active.query_fields import query_fields
from active.round_files import pool_at, read_round
from active.selection import Pick, pick_details, pick_facts
from active.strategies import get_strategy, required_fields
from dan.data.batches import fetch, num_samples
from dan.data.domain_pair import DomainPair
from dan.data.tensor_datasets import NORMALISATIONS
from dan.devices import choose_device
from dan.errors import UserError
from dan.feature_cache import cached_pair
from dan.models.model_file import load_kernels, load_model
from dan.run_location import DataLocation
from dan.run_metadata import cached_backbone, labels_of


@dataclass(frozen=True, kw_only=True)
class Replay:
    """asked: the ids on record, in pick order; again: those of the replay; answers: the labels that were bought.

    picks: what the network says of the recorded ones. learned: how many target labels it knew.
    """

    task: DomainPair
    strategy: str
    number: int
    learned: int
    network: Path
    asked: list[int]
    again: list[int]
    answers: list[int]
    picks: list[Pick]

    @property
    def difference(self) -> str:
        """In one line how the replay differs from the record; "" if it does not."""
        pairs = list(zip(self.asked, self.again, strict=True))
        differing = [(i + 1, a, b) for i, (a, b) in enumerate(pairs) if a != b]
        if not differing:
            return ""
        order, was, now = differing[0]
        others = len(set(self.again) - set(self.asked))
        return (
            f"the replay differs from the record: pick {order} was sample {was}, and is {now} now "
            f"({len(differing)} of {len(pairs)} places, {others} other samples)"
        )


def replay(
    run: Path,
    number: int,
    *,
    start: Path | None = None,
    data: Path | None = None,
    cache: Path | None = None,
    location: DataLocation | None = None,
    cache_backbone: Path | bool | None = None,
    device: str = "cpu",
    quiet: bool = True,
) -> Replay:
    """Ask again what round `number` of a simulated run asked.

    start: the folder of the run that the rounds started from, where it lies neither in RUN nor beside it. location:
    where that run's data lie now. cache_backbone: as `cache` of `dan.training.fit`; None: as the rounds were run.
    Outputs of a frozen backbone that were computed in other batches are equal up to rounding only.
    Raises UserError for a round that the run did not get to, or that asked for nothing (the last), and where the data
    are not those of the run.
    """
    if number < 0:
        raise UserError(f"rounds are numbered from 0, and there is none {number}")
    if not run.is_dir():
        raise UserError(f"{run} does not exist: name the folder of a `python -m active run`")
    file = read_round(run, number)
    asked = [int(sample) for sample in file.record["queried"]]
    if not asked:
        raise UserError(f"round {number} of {run} is the last and asked for nothing: name an earlier one")
    strategy = str(file.settings["strategy"])
    if start is None:
        beside = run.parent / str(file.settings["start"])
        start = next((folder for folder in (run / "start", beside) if folder.is_dir()), None)
    if start is None or not start.is_dir():
        raise UserError(
            f'{run} started from the run "{file.settings["start"]}", which lies neither in it nor beside it: name its '
            "folder with --start"
        )
    network = folder_of(run, start, number)
    task = reload_run_task(load_classified_run(start)[0], start, data, cache, quiet, location)
    pool = pool_at(Pool(torch.arange(num_samples(task.target)), labels_of(task.target)), run, number)
    if not set(asked).issubset(pool.ids.tolist()) or pool.oracle(torch.tensor(asked)).tolist() != list(file.answers):
        raise UserError(f"the target of {task.name} answers otherwise than {run} has on record: restore its data")

    model = load_model(network, choose_device(device))
    whole = task.target
    if kept := cached_backbone(file.settings, cache_backbone, cache):
        task = cached_pair(task, model, None if kept is True else kept, quiet=quiet)
    seen = query_fields(
        model,
        task,
        pool.ids,
        needs=required_fields(strategy),
        kernels=load_kernels(network),
        seed=int(file.settings["seed"]),
        images=whole,
    )
    query = query_of(pool, seen)
    again = get_strategy(strategy)(query, len(asked), generator=file.generator())
    return Replay(
        task=replace(task, target=whole),
        strategy=strategy,
        number=number,
        learned=len(file.labelled),
        network=network,
        asked=asked,
        again=again.tolist(),
        answers=list(file.answers),
        picks=pick_details(asked, query),
    )


def replay_page(shown: Replay, side: int = 320) -> str:
    """The picks as a gallery, each with its picture, its figures, and what the oracle answered."""
    names = shown.task.classes
    pictures = _pictures(shown.task, shown.asked, side)
    paths = getattr(shown.task.target, "paths", None)
    cards = [
        Card(
            order=pick.order,
            title=names[pick.guess],
            share=pick.probability,
            path=f"sample {pick.id}" if paths is None else f"sample {pick.id}: {paths[pick.id]}",
            picture=picture,
            facts=[("answer", names[answer], answer != pick.guess), *pick_facts(pick, names)],
        )
        for pick, answer, picture in zip(shown.picks, shown.answers, pictures, strict=True)
    ]
    wrong = sum(pick.guess != answer for pick, answer in zip(shown.picks, shown.answers, strict=True))
    lines = [
        f"Chosen by {shown.strategy} on {shown.task.name}, with a network that had learned {shown.learned} target "
        f"labels; of its guesses {wrong} of {len(shown.picks)} were wrong. In the order of the picks: each title is "
        "the guess, the bar its probability, and the answer is the oracle's.",
        "distance: to the nearest labelled sample, in the last hidden layer; nearest: that sample's class and domain. "
        "entropy: 1 means that the network has no idea.",
    ]
    notes = [shown.difference] if shown.difference else []
    return gallery(f"Round {shown.number}: {len(shown.picks)} samples asked for", lines, cards, notes=notes)


def _pictures(task: DomainPair, ids: Sequence[int], side: int) -> list[str]:
    """What the network saw of each, as a data: URI; "" for samples that are no images."""
    from PIL import Image

    if task.kind != "image" or task.normalisation is None:
        return [""] * len(ids)
    x = fetch(task.target, torch.tensor(ids))[0]
    return [thumbnail(Image.fromarray(picture), side) for picture in _pixels(x, task.normalisation)]


def _pixels(x: Tensor, normalisation: str) -> list[np.ndarray]:
    """Normalised images (B, channels, H, W) -> (H, W) or (H, W, 3) uint8 each."""
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALISATIONS[normalisation])
    pixels = ((x * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return [picture.squeeze(-1).numpy() for picture in pixels]
