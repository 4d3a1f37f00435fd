"""Choosing, with a trained run, what people are to be asked about a folder of images: the tasks, and a page to look at.

    create_tasks -> tasks.csv or tasks.json -> people -> answers.import_labels, train_on -> create_tasks -> ...

Shapes: N samples of the pool; L labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from active.annotation.label_log import PATIENCE, LabelLog, aggregate_labels
from active.annotation.pool_files import Unlabelled, read_unlabelled
from active.annotation.request_log import Asked, RequestLog
from active.annotation.state import (
    ASKED,
    LABELS,
    current_network,
    load_run_task_again,
    network_of,
    now,
    settings_and_classes,
)
from active.annotation.tasks import Task, write_tasks
from active.budgets import budget_count
from active.gallery import Card, gallery, thumbnail, write_page
from active.loop import query_of
from active.pool import Pool
from active.query_fields import query_fields
from active.selection import Pick, pick_details, pick_facts
from active.strategies import get_strategy, required_fields
from dan.data.batches import derived_seed
from dan.data.decoding import decode
from dan.errors import UserError
from dan.feature_cache import cached_pair
from dan.locks import lock_dir
from dan.models.model_file import load_kernels
from dan.progress import showing

BATCHES = 20  # the stream of seeds that batches of tasks are drawn with


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What was asked. files: written; network: that chose; notes: what the asker should know, a line each."""

    picks: list[Pick]
    tasks: list[Task]
    files: list[Path]
    network: Path
    notes: list[str]


def create_tasks(
    run: Path,
    pool: Path,
    *,
    budget: int | str,
    out: Path,
    strategy: str = "margin",
    page: Path | None = None,
    again: bool = False,
    seed: int = 0,
    side: int = 320,
    data: Path | None = None,
    cache: Path | None = None,
    cache_backbone: Path | bool = False,
    device: str = "cpu",
    quiet: bool = True,
) -> Chosen:
    """Choose samples of a pool for people to label, by the run's current network, and write the tasks.

    budget: how many: a number, or a share of the pool as "5%".
    pool: a folder of images, a CSV manifest, or a file of features. out: .csv, or .json for Label Studio, with its
    labelling interface (.xml) beside it. page: a gallery to look at. again: what is still out with people, and what
    they contradict each other about, may be asked again. seed: with the number of batches that went out before, it
    decides what is random. side: pixels of the pictures in `page` and in a .json. data, cache: folders of data sets
    and of decoded images; cache_backbone: as `cache` of `dan.training.fit`.
    Copies of one image are asked once; what is labelled is left out. Nothing is written into the pool.
    Raises UserError for a run, pool or strategy that cannot be, for a budget beyond what is left, for an `out` that is
    there already (labels may have been filled in), and where the run's own task cannot be read again.
    """
    settings, classes = settings_and_classes(run)
    ask, wanted = get_strategy(strategy), required_fields(strategy)
    _refuse_output(out, page, settings["kind"], budget)
    with lock_dir(run, wait=PATIENCE):  # two who choose at once would ask for the same samples
        asked, log = RequestLog(run / ASKED), LabelLog(run / LABELS)
        network = current_network(run)
        model = network_of(network, classes, device)
        samples = read_unlabelled(pool, settings, run, cache=cache, quiet=quiet)

        settled = aggregate_labels(log.labels)[0]
        labelled = [i for i, sample in enumerate(samples.samples) if sample in settled]
        busy = {task.sample for task in asked.tasks} | {label.sample for label in log.labels}
        waiting = [i for i, s in enumerate(samples.samples) if s in busy and s not in settled]
        closed = set(labelled) if again else {*labelled, *waiting}
        candidates = [i for i in range(len(samples.samples)) if i not in closed]
        notes = _notes(samples, labelled, waiting, again, len(settled))
        count = budget_count(budget, len(samples.samples))
        if count > len(candidates):
            raise UserError(
                f"--budget {count}: {pool} has {len(candidates)} samples to ask for (of {len(samples.samples)}, "
                f"{len(labelled)} labelled{'' if again else f', {len(waiting)} still out with people'})"
                + (
                    ": lower it"
                    if again or not waiting
                    else ": lower it, or ask for those once more with --include-pending"
                )
            )

        task = replace(load_run_task_again(settings, run, data, cache, quiet), target=samples.data, target_test=None)
        whole = task.target
        if cache_backbone:
            task = cached_pair(task, model, None if cache_backbone is True else cache_backbone, quiet=quiet)
        # Those that are out with people are neither labelled nor to be asked for: the strategy does not see them.
        shown = sorted([*candidates, *labelled])
        everyone = Pool(shown)
        everyone.label(labelled, [classes.index(settled[samples.samples[i]]) for i in labelled], round=asked.batches)
        seen = query_fields(
            model, task, everyone.ids, needs=wanted, kernels=load_kernels(network), seed=seed, images=whole
        )
        query = query_of(everyone, seen)
        generator = torch.Generator().manual_seed(derived_seed(seed, BATCHES, asked.batches))
        with showing(quiet=quiet):
            chosen = ask(query, count, generator=generator).tolist()
        if len(chosen) != count or len(set(chosen)) != count or not set(candidates).issuperset(chosen):
            raise ValueError(f"the strategy {strategy} must return {count} different ids of the query, and did not")

        picks = pick_details(chosen, query)
        pictures = [_picture(samples, pick.id, side) if page or out.suffix.lower() == ".json" else "" for pick in picks]
        tasks = [
            Task(
                order=pick.order,
                sample=samples.samples[pick.id],
                path=samples.places[pick.id].path,
                guess=classes[pick.guess],
                confidence=pick.probability,
                image=picture,
            )
            for pick, picture in zip(picks, pictures, strict=True)
        ]
        name = network.name if network == run else f"{run.name}/{network.name}"
        if page is not None:
            write_page(page, _page(tasks, picks, classes, strategy=strategy, network=name))
        files = write_tasks(out, tasks, classes, version=name)
        # The files first: a kill in between leaves tasks that the same command, on the same state, chooses again.
        asked.append(
            [
                Asked(
                    order=task.order,
                    sample=task.sample,
                    path=task.path,
                    file=str(samples.places[pick.id].file),
                    place=str(pool.absolute()),
                    guess=task.guess,
                    confidence=round(task.confidence, 6),
                    strategy=strategy,
                    network=network.name,
                    out=str(out),
                    when=now(),
                )
                for task, pick in zip(tasks, picks, strict=True)
            ]
        )
        return Chosen(picks=picks, tasks=tasks, files=[*files, *([page] if page else [])], network=network, notes=notes)


def _refuse_output(out: Path, page: Path | None, kind: str, budget: int | str) -> None:
    """Before time is spent."""
    budget_count(budget, 1)
    if out.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"--out {out}: tasks are written as .csv, or as .json for Label Studio")
    if kind != "image" and (page is not None or out.suffix.lower() == ".json"):
        raise UserError("features have no pictures to show: write the tasks as .csv, without --gallery")
    if out.exists():
        raise UserError(f"{out} is there already, and may hold labels: take them back first, or name another --out")


def _notes(samples: Unlabelled, labelled: list[int], waiting: list[int], again: bool, settled: int) -> list[str]:
    notes = []
    if samples.copies:
        notes.append(f"{samples.copies} copies of other samples: each content is asked for once")
    if waiting:
        what = "may be asked for again" if again else "left out (--include-pending asks for them once more)"
        notes.append(f"{len(waiting)} still out with people, skipped or contradicted: {what}")
    if settled > len(labelled):
        notes.append(f"{settled - len(labelled)} labelled samples are not in this pool: the strategy does not see them")
    return notes


def _picture(samples: Unlabelled, row: int, side: int) -> str:
    return thumbnail(decode(samples.places[row].file), side)


def _page(tasks: Sequence[Task], picks: Sequence[Pick], classes: Sequence[str], *, strategy: str, network: str) -> str:
    cards = [
        Card(
            order=task.order,
            title=task.guess,
            share=task.confidence,
            path=task.path,
            picture=task.image,
            facts=pick_facts(pick, classes),
        )
        for task, pick in zip(tasks, picks, strict=True)
    ]
    lines = [
        f"Chosen by {strategy} with the network {network}, the most useful first. Each title is the network's guess, "
        "and the bar its probability.",
        "distance: to the nearest labelled sample, in the last hidden layer; nearest: that sample's class and domain. "
        "entropy: 1 means that the network has no idea.",
    ]
    return gallery(f"{len(tasks)} samples to label", lines, cards)
