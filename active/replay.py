"""The replay of a simulated round's query: the same network, pool and generator, and so the same picks as recorded.

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
from dan.data.batches import fetch, labels_of, num_samples
from dan.data.domain_pair import DomainPair
from dan.data.tensor_datasets import NORMALISATIONS
from dan.devices import choose_device
from dan.errors import UserError
from dan.feature_cache import cached_pair
from dan.models.model_file import load_kernels, load_model
from dan.run_location import DataLocation
from dan.run_metadata import cached_backbone


@dataclass(frozen=True, kw_only=True)
class Replay:
    """recorded: the ids on record, in pick order; replayed: those of the replay; labels: the labels that were bought.

    picks: the network's figures of the recorded ids. learned: how many target labels it had learned.
    """

    task: DomainPair
    strategy: str
    number: int
    learned: int
    network: Path
    recorded: list[int]
    replayed: list[int]
    labels: list[int]
    picks: list[Pick]

    @property
    def difference(self) -> str:
        """In one line how the replay differs from the record; "" if it does not."""
        pairs = list(zip(self.recorded, self.replayed, strict=True))
        differing = [(i + 1, a, b) for i, (a, b) in enumerate(pairs) if a != b]
        if not differing:
            return ""
        order, was, now = differing[0]
        others = len(set(self.replayed) - set(self.recorded))
        return (
            f"the replay differs from the record: pick {order} was sample {was}, and is {now} now "
            f"({len(differing)} of {len(pairs)} picks, {others} other samples)"
        )


def replay(
    run: Path | str,
    number: int,
    *,
    start: Path | str | None = None,
    data: Path | None = None,
    cache: Path | None = None,
    location: DataLocation | None = None,
    cache_backbone: Path | bool | None = None,
    device: str = "cpu",
    quiet: bool = True,
) -> Replay:
    """Replay the query of round `number` of a simulated run.

    start: the folder of the run that the rounds started from, where it is neither in RUN nor next to it. location:
    where that run's data are now. cache_backbone: as `cache` of `dan.training.fit`; None: as the rounds were run.
    Outputs of a frozen backbone that were computed in other batches are equal up to rounding only.
    Raises UserError for a round that the run did not get to, or that has no query (the last), and where the data
    are not those of the run.
    """
    if number < 0:
        raise UserError(f"rounds are numbered from 0, and there is none {number}")
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"{run} does not exist: name the folder of a `python -m active run`")
    file = read_round(run, number)
    recorded = [int(sample) for sample in file.record["queried"]]
    if not recorded:
        raise UserError(f"round {number} of {run} is the last and has no query: name an earlier one")
    strategy = str(file.settings["strategy"])
    start = _start_of(run, str(file.settings["start"]), start)
    network = folder_of(run, start, number)
    task = reload_run_task(load_classified_run(start)[0], start, data, cache, quiet, location)
    pool = pool_at(Pool(torch.arange(num_samples(task.target)), labels_of(task.target)), run, number)
    known = set(recorded).issubset(pool.ids.tolist())
    if not known or pool.oracle(torch.tensor(recorded)).tolist() != list(file.answers):
        raise UserError(f"the target of {task.name} answers otherwise than {run} has on record: restore its data")

    model = load_model(network, choose_device(device))
    whole = task.target
    if kept := cached_backbone(file.settings, cache_backbone, cache):
        task = cached_pair(task, model, None if kept is True else kept, quiet=quiet)
    fields = query_fields(
        model,
        task,
        pool.ids,
        needs=required_fields(strategy),
        kernels=load_kernels(network),
        seed=int(file.settings["seed"]),
        images=whole,
    )
    query = query_of(pool, fields)
    replayed = get_strategy(strategy)(query, len(recorded), generator=file.generator())
    return Replay(
        task=replace(task, target=whole),
        strategy=strategy,
        number=number,
        learned=len(file.labelled),
        network=network,
        recorded=recorded,
        replayed=replayed.tolist(),
        labels=list(file.answers),
        picks=pick_details(recorded, query),
    )


def _start_of(run: Path, name: str, start: Path | str | None) -> Path:
    """The folder of the run that the rounds started from: as given, in RUN, or next to it. UserError for none."""
    places = (run / "start", run.parent / name) if start is None else (Path(start),)
    found = next((folder for folder in places if folder.is_dir()), None)
    if found is None:
        raise UserError(
            f'{run} started from the run "{name}", which lies neither in it nor beside it: name its folder with --start'
        )
    return found


def replay_page(result: Replay, side: int = 320) -> str:
    """The picks as a gallery, each with its image, its figures, and the oracle's label."""
    names = result.task.classes
    pictures = _pictures(result.task, result.recorded, side)
    paths = getattr(result.task.target, "paths", None)
    cards = [
        Card(
            order=pick.order,
            title=names[pick.guess],
            share=pick.probability,
            path=f"sample {pick.id}" if paths is None else f"sample {pick.id}: {paths[pick.id]}",
            picture=picture,
            facts=[("answer", names[answer], answer != pick.guess), *pick_facts(pick, names)],
        )
        for pick, answer, picture in zip(result.picks, result.labels, pictures, strict=True)
    ]
    wrong = sum(pick.guess != answer for pick, answer in zip(result.picks, result.labels, strict=True))
    lines = [
        f"Chosen by {result.strategy} on {result.task.name}, with a network that had learned {result.learned} target "
        f"labels; of its guesses {wrong} of {len(result.picks)} were wrong. In the order of the picks: each title is "
        "the guess, the bar its probability, and the answer is the oracle's.",
        "distance: to the nearest labelled sample, in the last hidden layer; nearest: that sample's class and domain. "
        "entropy: 1 means that the network has no idea.",
    ]
    notes = [result.difference] if result.difference else []
    return gallery(f"Round {result.number}: {len(result.picks)} samples queried", lines, cards, notes=notes)


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
