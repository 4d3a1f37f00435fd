"""Importing annotators' labels, reverting an import, and training the network on with them.

    L = CE(source) + CE(labels) + lambda * alignment, on from the current network, in RUN/labelled_NN

Labels are on the disk before any training begins: a kill loses none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from active.annotation.label_log import PATIENCE, RULES, Label, LabelLog, aggregate_labels, krippendorff_alpha
from active.annotation.pool_files import SampleLocation, find_samples, labelled_samples
from active.annotation.request_log import RequestLog
from active.annotation.state import (
    LABELS,
    REQUESTS,
    current_network,
    load_classified_run,
    load_network,
    reload_run_task,
    utc_now,
)
from active.annotation.tasks import read_label_file, validate
from dan.data.batches import derived_seed
from dan.data.listing import some
from dan.errors import UserError, nearest
from dan.locks import lock_dir
from dan.run_dir import Record, read_records
from dan.run_location import DataLocation
from dan.run_metadata import cached_backbone, load_train_config, required
from dan.run_networks import network_labels, network_number, networks_in
from dan.training.trainer import fit

DESCRIBED = ("task", "options", "kind", "classes", "shape", "normalisation", "class_counts", "backbone")
_ROW_NOTES = {
    "empty": "not filled in",
    "skipped": "skipped by the annotator",
    "rejected": "rejected by a reviewer: left out (an import from before it still counts: --undo)",
    "repeated": "given before, and counted once",
    "changed": "another answer than the same person gave before: the new one counts",
}


@dataclass(frozen=True, kw_only=True)
class LabelImport:
    """What was imported of a file. batch: its number in the log, 0 if nothing was new. problems, notes: a line each."""

    batch: int
    labels: list[Label]
    problems: list[str]
    notes: list[str]


class ImportRefused(UserError):
    """Nothing of a file of labels was imported; `problems` says why, a line each."""

    def __init__(self, line: str, problems: list[str]) -> None:
        super().__init__(line)
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """The network that was trained on the labels. record: of its last evaluation; None if there was nothing to train.

    labels: how many it was trained on. shared, alpha: how many samples several people labelled, and Krippendorff's
    alpha over them. unsettled, missing: a line each, on labels that contradict each other, and on samples that were not
    found.
    """

    network: Path
    labels: int
    record: Record | None
    shared: int
    alpha: float
    unsettled: list[str]
    missing: list[str]


def import_labels(run: Path, labels: Path, *, annotator: str, partial: bool = False) -> LabelImport:
    """Import labels: a CSV that was filled in, or Label Studio's export (see `active.annotation.tasks`).

    annotator: who labelled, for rows that do not say. partial: import what is valid, and leave the rest; without it a
    file with any problem, rows that were not filled in among them, is refused whole.
    What is imported is on the disk when this returns: nothing else is done to the run. Raises ImportRefused, with a
    line for each problem and its row; UserError for a file that is of neither form, where no label was requested, and
    while another process is at work in the run's folder.
    """
    _, classes = load_classified_run(run)
    with lock_dir(run, wait=PATIENCE):  # two who give the same answers at once give them once
        requests, log = RequestLog(run / REQUESTS), LabelLog(run / LABELS)
        if not requests.tasks:
            raise UserError(
                f"nobody was asked anything with {run} yet: python -m active select --run {run} --pool FOLDER"
            )
        answers, notes = read_label_file(labels, annotator=annotator, when=utc_now(), classes=classes)
        if not answers:
            raise UserError(f"{labels} holds no rows: give back the file of tasks, with its labels filled in")
        valid, problems, rows = validate(answers, known=requests.known, classes=classes, labelled=log.labels)
        on_rows = {kind: _rows_note(labels, rows[kind], words) for kind, words in _ROW_NOTES.items() if rows[kind]}
        problems += [on_rows.pop("empty")] if "empty" in on_rows else []
        if problems and not partial:
            count = len(valid) + len(rows["repeated"])
            raise ImportRefused(
                f"{labels}: import failed; fix the errors above, or import the other {count} of {len(answers)} rows "
                "with --partial",
                problems,
            )
        return LabelImport(batch=log.append(valid), labels=valid, problems=problems, notes=[*notes, *on_rows.values()])


def _rows_note(labels: Path, rows: Sequence[str], words: str) -> str:
    where = some(row.removeprefix(f"{labels.name}, ") for row in rows)
    return f"{labels.name}: {len(rows)} {'row' if len(rows) == 1 else 'rows'} {words} ({where})"


def revert_batch(run: Path) -> tuple[int, list[Label], Path]:
    """Revert the latest batch of labels: (its number, its labels, the network that is current now).

    The log keeps both, and the network that was trained on them stays on the disk. Raises UserError where no batch is
    left.
    """
    load_classified_run(run)
    batch, labels = LabelLog(run / LABELS).undo(when=utc_now())
    return batch, labels, current_network(run)


def finetune(
    run: Path,
    *,
    rule: str = "majority",
    steps: int = 150,
    pool: Path | None = None,
    data: Path | None = None,
    location: DataLocation | None = None,
    cache: Path | None = None,
    cache_backbone: Path | bool | None = None,
    device: str = "cpu",
    quiet: bool = True,
) -> FinetuneResult:
    """Train the current network on with all labels that count, in RUN/labelled_NN; killed, the same call goes on.

    The training is that of the run (its source, its target, recipe and trade-off), with the cross-entropy of the labels
    added. rule: how several people's answers become one (`label_log.aggregate_labels`). steps: training steps.
    pool: where to look for samples that were moved; they are known by their content. Those that are found nowhere are
    left out, and their labels are kept. location: where the run's own data lie now. cache_backbone: as `cache` of
    `dan.training.fit`; None: as the run was trained.
    Where the current network was trained on just these labels, nothing is done.
    Raises UserError where there is no label, none that is settled, or no labelled sample is found.
    """
    settings, classes = load_classified_run(run)
    if rule not in RULES:
        raise UserError(f'--aggregate is one of {", ".join(RULES)}, not "{rule}"{nearest(rule, RULES)}')
    if steps < 1:
        raise UserError(f"--steps must be at least 1, not {steps}")
    log = LabelLog(run / LABELS)
    settled, open_ones = aggregate_labels(log.labels, rule)
    if not settled:
        why = f"people contradict each other about all {len(open_ones)} samples" if open_ones else "there are none yet"
        raise UserError(f"{run} has no labels to train on: {why}")
    places, missing = _find_labelled(run, settled, pool, settings)
    found = {sample: label for sample, label in settled.items() if sample in places}
    shared, alpha = krippendorff_alpha(log.labels)
    result = FinetuneResult(
        network=current_network(run),
        labels=len(found),
        record=None,
        shared=shared,
        alpha=alpha,
        unsettled=_unsettled(open_ones),
        missing=missing,
    )
    people = {"batches": log.batches, "rule": rule, "answers": _digest(found)}
    if network_labels(result.network).get("answers") == people["answers"]:
        return result
    number, folder = _next_folder(run, people, steps)
    task = reload_run_task(settings, run, data, cache, quiet, location)
    labelled = labelled_samples(
        [places[sample] for sample in found],
        [classes.index(label) for label in found.values()],
        settings,
        run,
        cache=cache,
        quiet=quiet,
    )
    records = fit(
        load_network(result.network, classes, device),
        task.source,
        task.target,
        labelled_target=labelled,
        trade_off=required(settings, "trade_off", run),
        steps=steps,
        seed=derived_seed(int(required(settings, "seed", run)), number),
        tests=task.splits,
        config=replace(load_train_config(settings), schedule="constant"),  # aligned already: nothing to ramp up
        run=folder,
        metadata={name: settings[name] for name in DESCRIBED if name in settings}
        | {"before": result.network.name, "people": people},
        cache=cached_backbone(settings, cache_backbone, cache),
        device=device,
        verbose=not quiet,
    )
    return replace(result, network=folder, record=records[-1])


def _unsettled(open_ones: Mapping[str, Sequence[Label]]) -> list[str]:
    return [
        f"{given[0].path} is not settled: " + ", ".join(f'{one.annotator} says "{one.label}"' for one in given)
        for given in open_ones.values()
    ]


def _digest(settled: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(settled.items())).encode()).hexdigest()


def _next_folder(run: Path, people: Mapping[str, Any], steps: int) -> tuple[int, Path]:
    """The number and folder of the next network: one that was killed in a training on the same labels goes on."""
    folders = networks_in(run)
    if folders:
        records = read_records(folders[-1] / "records.jsonl")
        same = records[0].get("people") == people and records[0].get("steps") == steps
        if same and records[-1].get("event") != "done":
            return network_number(folders[-1]), folders[-1]
    taken = [network_number(path) for path in run.glob("labelled_*") if path.name[9:].isdecimal()]
    number = 1 + max(taken, default=0)
    return number, run / f"labelled_{number:02d}"


def _find_labelled(
    run: Path, settled: Mapping[str, str], pool: Path | None, settings: Mapping[str, Any]
) -> tuple[dict[str, SampleLocation], list[str]]:
    """(where each labelled sample lies, a line on each that is found nowhere). Raises UserError where none is found."""
    if pool is not None and not pool.exists():
        raise UserError(f"{pool} does not exist: name the folder where the labelled samples are with --pool")
    files: dict[str, list[Path]] = {sample: [] for sample in settled}
    places: dict[Path, None] = {} if pool is None else {pool: None}
    paths: dict[str, str] = {}
    for task in reversed(RequestLog(run / REQUESTS).tasks):  # the latest first
        if task.sample in files:
            files[task.sample].append(Path(task.file))
            places.setdefault(Path(task.place))
            paths.setdefault(task.sample, task.path)
    found = find_samples(files, places, settings, run)
    missing = [paths.get(sample, sample[:12]) for sample in settled if sample not in found]
    if missing and not found:
        raise UserError(
            f"{len(missing)} of {len(settled)} labelled samples lie in none of the places that they were asked about "
            f"({some(missing)}): name the folder where they are with --pool; their labels are kept"
        )
    return found, [f"{path} was labelled and is not found: left out of the training (--pool)" for path in missing]
