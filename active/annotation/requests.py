"""Requesting labels with a trained run: which samples of a pool to label, the tasks for annotators, and a gallery.

    create_tasks -> tasks.csv or tasks.json -> annotators -> imports.import_labels, finetune -> create_tasks -> ...

Shapes: N samples of the pool; L labelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from active.annotation.label_log import PATIENCE, LabelLog, aggregate_labels
from active.annotation.pool_files import UnlabelledPool, read_unlabelled
from active.annotation.request_log import Request, RequestLog
from active.annotation.request_options import RunAccess, SampleChoice, TaskFiles
from active.annotation.state import LABELS, REQUESTS, load_classified_run, load_network, reload_run_task, utc_now
from active.annotation.tasks import Task, write_tasks
from active.budgets import budget_count
from active.gallery import Card, gallery, thumbnail, write_page
from active.loop import query_of
from active.pool import Pool, Query
from active.query_fields import query_fields
from active.selection import Pick, pick_details, pick_facts
from active.strategies import get_strategy, required_fields
from dan.data.batches import derived_seed
from dan.data.decoding import decode
from dan.data.domain_pair import DomainPair
from dan.errors import UserError
from dan.feature_cache import cached_pair
from dan.locks import lock_dir
from dan.models.dan import DAN
from dan.models.model_file import load_kernels
from dan.progress import showing
from dan.run_networks import chosen_network

BATCHES = 20  # the stream of seeds that batches of tasks are drawn with


@dataclass(frozen=True, kw_only=True)
class TaskBatch:
    """What was requested. files: written; network: that chose; notes: what the caller should know, a line each."""

    picks: list[Pick]
    tasks: list[Task]
    files: list[Path]
    network: Path
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class _Candidates:
    """Rows of the pool's samples. labelled: with a settled label; pending: with a request, and none; candidates: that
    may be requested. labels: of the labelled, in their order."""

    labelled: list[int]
    labels: list[int]
    pending: list[int]
    candidates: list[int]


def create_tasks(
    run: Path, pool: Path, choice: SampleChoice, files: TaskFiles, access: RunAccess | None = None
) -> TaskBatch:
    """Choose samples of a pool to be labelled, by a network of the run, and write the tasks.

    run: a finished run. pool: a folder of images, a CSV manifest, or a file of features. choice: which samples.
    files: what to write. access: how the run is reached, RunAccess() if None: its current network, on the CPU.
    Of copies of one image one is requested; what is labelled is left out. Nothing is written into the pool.
    Raises UserError for a run, pool or strategy that cannot be, for a budget beyond what is left, for an `out` that is
    there already (labels may have been filled in), and where the run's own task cannot be read again.
    """
    access = access or RunAccess()
    settings, classes = load_classified_run(run)
    get_strategy(choice.strategy)
    _refuse_output(files, settings["kind"], choice.budget)
    with lock_dir(run, wait=PATIENCE):  # two who choose at once would request the same samples
        requests, log = RequestLog(run / REQUESTS), LabelLog(run / LABELS)
        folder = chosen_network(run, access.network)
        model = load_network(folder, classes, access.device)
        samples = read_unlabelled(
            pool, settings, run, skip_unreadable=choice.skip_unreadable, cache=access.cache, quiet=access.quiet
        )
        settled = aggregate_labels(log.labels)[0]
        rows = _candidates(samples, requests, log, settled, classes, choice.include_pending)
        count = _budget(choice, samples, rows, pool)
        task = replace(
            reload_run_task(settings, run, access.data, access.cache, access.quiet, access.location),
            target=samples.data,
            target_test=None,
        )
        query = _query(model, task, rows, choice, access, kernels=load_kernels(folder), batches=requests.batches)
        generator = torch.Generator().manual_seed(derived_seed(choice.seed, BATCHES, requests.batches))
        chosen = _select(choice.strategy, query, count, generator, rows.candidates, access.quiet)
        picks = pick_details(chosen, query)
        tasks = _tasks(picks, samples, classes, files)
        name = folder.name if folder == run else f"{run.name}/{folder.name}"
        if files.page is not None:
            write_page(files.page, _page(tasks, picks, classes, strategy=choice.strategy, network=name))
        written = write_tasks(files.out, tasks, classes, version=name)
        # The files first: a kill in between leaves tasks that the same command, on the same state, chooses again.
        requests.append(
            _requests(tasks, picks, samples, pool, strategy=choice.strategy, network=folder.name, out=files.out)
        )
        return TaskBatch(
            picks=picks,
            tasks=tasks,
            files=[*written, *([files.page] if files.page else [])],
            network=folder,
            notes=_notes(samples, rows, choice.include_pending, len(settled)),
        )


def _tasks(picks: Sequence[Pick], samples: UnlabelledPool, classes: Sequence[str], files: TaskFiles) -> list[Task]:
    return [
        Task(
            order=pick.order,
            sample=samples.samples[pick.id],
            path=samples.places[pick.id].path,
            guess=classes[pick.guess],
            confidence=pick.probability,
            image=_picture(samples, pick.id, files.thumbnail_side) if files.with_pictures else "",
        )
        for pick in picks
    ]


def _candidates(
    samples: UnlabelledPool,
    requests: RequestLog,
    log: LabelLog,
    settled: Mapping[str, str],
    classes: Sequence[str],
    include_pending: bool,
) -> _Candidates:
    labelled = [i for i, sample in enumerate(samples.samples) if sample in settled]
    known = {task.sample for task in requests.tasks} | {label.sample for label in log.labels}
    pending = [i for i, s in enumerate(samples.samples) if s in known and s not in settled]
    closed = {*labelled} if include_pending else {*labelled, *pending}
    return _Candidates(
        labelled=labelled,
        labels=[classes.index(settled[samples.samples[i]]) for i in labelled],
        pending=pending,
        candidates=[i for i in range(len(samples.samples)) if i not in closed],
    )


def _budget(choice: SampleChoice, samples: UnlabelledPool, rows: _Candidates, pool: Path) -> int:
    """How many samples to request. Raises UserError for more than there are."""
    count = budget_count(choice.budget, len(samples.samples))
    if count > len(rows.candidates):
        closed = not choice.include_pending
        pending = f", {len(rows.pending)} still out with people" if closed else ""
        again = ", or ask for those once more with --include-pending" if closed and rows.pending else ""
        raise UserError(
            f"--budget {count}: {pool} has {len(rows.candidates)} samples to ask for (of {len(samples.samples)}, "
            f"{len(rows.labelled)} labelled{pending}): lower it{again}"
        )
    return count


def _query(
    model: DAN,
    task: DomainPair,
    rows: _Candidates,
    choice: SampleChoice,
    access: RunAccess,
    *,
    kernels: Mapping[str, Tensor],
    batches: int,
) -> Query:
    """What the strategy sees: the candidates and the labelled samples. Pending samples are neither, and left out."""
    images = task.target
    if access.cache_backbone:
        backbones = None if access.cache_backbone is True else access.cache_backbone
        task = cached_pair(task, model, backbones, quiet=access.quiet)
    pool = Pool(sorted([*rows.candidates, *rows.labelled]))
    pool.label(rows.labelled, rows.labels, round=batches)
    fields = query_fields(
        model,
        task,
        pool.ids,
        needs=required_fields(choice.strategy),
        kernels=kernels,
        seed=choice.seed,
        images=images,
    )
    return query_of(pool, fields)


def _select(
    strategy: str, query: Query, count: int, generator: torch.Generator, candidates: Sequence[int], quiet: bool
) -> list[int]:
    """The ids that the strategy picks. Raises ValueError where they are not `count` different candidates."""
    with showing(quiet=quiet):
        chosen: list[int] = get_strategy(strategy)(query, count, generator=generator).tolist()
    if len(chosen) != count or len(set(chosen)) != count or not set(candidates).issuperset(chosen):
        raise ValueError(f"the strategy {strategy} must return {count} different ids of the query, and did not")
    return chosen


def _requests(
    tasks: Sequence[Task],
    picks: Sequence[Pick],
    samples: UnlabelledPool,
    pool: Path,
    *,
    strategy: str,
    network: str,
    out: Path,
) -> list[Request]:
    when = utc_now()
    return [
        Request(
            order=task.order,
            sample=task.sample,
            path=task.path,
            file=str(samples.places[pick.id].file),
            place=str(pool.absolute()),
            guess=task.guess,
            confidence=round(task.confidence, 6),
            strategy=strategy,
            network=network,
            out=str(out),
            when=when,
        )
        for task, pick in zip(tasks, picks, strict=True)
    ]


def _refuse_output(files: TaskFiles, kind: str, budget: int | str) -> None:
    """Raises UserError for an output that cannot be, before time is spent."""
    budget_count(budget, 1)
    out = files.out
    if out.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"--out {out}: tasks are written as .csv, or as .json for Label Studio")
    if kind != "image" and files.with_pictures:
        raise UserError("features have no pictures to show: write the tasks as .csv, without --gallery")
    if out.exists():
        raise UserError(f"{out} is there already, and may hold labels: take them back first, or name another --out")


def _notes(samples: UnlabelledPool, rows: _Candidates, include_pending: bool, settled: int) -> list[str]:
    notes = list(samples.unreadable)
    if samples.copies:
        notes.append(f"{samples.copies} copies of other samples: each content is asked for once")
    if rows.pending:
        what = "may be asked for again" if include_pending else "left out (--include-pending asks for them once more)"
        notes.append(f"{len(rows.pending)} still out with people, skipped or contradicted: {what}")
    if settled > len(rows.labelled):
        count = settled - len(rows.labelled)
        notes.append(f"{count} labelled samples are not in this pool: the strategy does not see them")
    return notes


def _picture(samples: UnlabelledPool, row: int, side: int) -> str:
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
