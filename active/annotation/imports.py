"""Taking people's labels back, undoing that, and training the network on with what they said.

    L = CE(source) + CE(people's labels) + lambda * alignment, on from the current network, in RUN/labelled_NN

Labels are on the disk before any training begins: a kill loses none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from active.annotation.label_log import PATIENCE, RULES, Label, LabelLog, aggregate_labels, krippendorff_alpha
from active.annotation.pool_files import Place, find_samples, labelled_samples
from active.annotation.request_log import RequestLog
from active.annotation.state import (
    ASKED,
    LABELS,
    current_network,
    learned_by,
    load_run_task_again,
    network_of,
    networks_in,
    now,
    settings_and_classes,
)
from active.annotation.tasks import read_answers, validate
from dan.data.batches import derived_seed
from dan.data.manifests import some
from dan.errors import UserError, nearest
from dan.locks import lock_dir
from dan.run_dir import Record, read_records
from dan.run_metadata import cached_backbone, load_train_config, required
from dan.training.trainer import fit

DESCRIBED = ("task", "options", "kind", "classes", "shape", "normalisation", "class_counts", "backbone")


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What was taken of a file of labels. batch: its number in the log, 0 if nothing was new. problems: a line each."""

    batch: int
    labels: list[Label]
    problems: list[str]
    notes: list[str]


class Refused(UserError):
    """Nothing of a file of labels was taken; `problems` says why, a line each."""

    def __init__(self, line: str, problems: list[str]) -> None:
        super().__init__(line)
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The network that has learned what people said. record: of its last evaluation; None if it was there already.

    shared, alpha: how many samples several people labelled, and Krippendorff's alpha over them. unsettled: a line each.
    """

    network: Path
    labels: int
    record: Record | None
    shared: int
    alpha: float
    unsettled: list[str]


def import_labels(run: Path, labels: Path, *, annotator: str, partial: bool = False) -> Taken:
    """Take people's labels back: a CSV that was filled in, or Label Studio's export (JSON).

    annotator: who labelled, for rows that do not say. partial: take what is valid, and leave the rest; without it a
    file with any problem, rows that were not filled in among them, is refused whole.
    What is taken is on the disk when this returns: nothing else is done to the run. Raises Refused, with a line for
    each problem and its row; UserError for a file that is of neither form, where nothing was asked, and while another
    process is at work in the run's folder.
    """
    _, classes = settings_and_classes(run)
    with lock_dir(run, wait=PATIENCE):  # two who give the same answers at once give them once
        asked, log = RequestLog(run / ASKED), LabelLog(run / LABELS)
        if not asked.tasks:
            raise UserError(
                f"nobody was asked anything with {run} yet: python -m active select --run {run} --pool FOLDER"
            )
        answers = read_answers(labels, annotator=annotator, when=now())
        if not answers:
            raise UserError(f"{labels} holds no rows: give back the file of tasks, with its labels filled in")
        taken, problems, rows = validate(answers, known=asked.known, classes=classes, labelled=log.labels)
        empty, skipped, repeated, changed = (
            f"{labels.name}: {len(rows[kind])} {'row' if len(rows[kind]) == 1 else 'rows'} "
            f"{words} ({some(where.removeprefix(f'{labels.name}, ') for where in rows[kind])})"
            for kind, words in (
                ("empty", "not filled in"),
                ("skipped", "skipped by whoever was asked"),
                ("repeated", "said before, and counted once"),
                ("changed", "another answer than the same person gave before: the new one counts"),
            )
        )
        problems += [empty] if rows["empty"] else []
        if problems and not partial:
            valid = len(taken) + len(rows["repeated"])
            raise Refused(
                f"{labels} was not taken: mend what is said above, or take the other {valid} of {len(answers)} rows "
                "with --partial",
                problems,
            )
        told = [(skipped, rows["skipped"]), (repeated, rows["repeated"]), (changed, rows["changed"])]
        return Taken(
            batch=log.append(taken), labels=taken, problems=problems, notes=[line for line, where in told if where]
        )


def revert_batch(run: Path) -> tuple[int, list[Label], Path]:
    """Take the latest batch of labels back: (its number, its labels, the network that is current now).

    The log keeps both, and the network that had learned them stays on the disk. Raises UserError where no batch is
    left.
    """
    settings_and_classes(run)
    batch, labels = LabelLog(run / LABELS).undo(when=now())
    return batch, labels, current_network(run)


def finetune(
    run: Path,
    *,
    rule: str = "majority",
    steps: int = 150,
    pool: Path | None = None,
    data: Path | None = None,
    cache: Path | None = None,
    cache_backbone: Path | bool | None = None,
    device: str = "cpu",
    quiet: bool = True,
) -> Learned:
    """Train the current network on with all labels that count, in RUN/labelled_NN; killed, the same call goes on.

    The training is that of the run (its source, its target, recipe and trade-off), with the cross-entropy of people's
    labels beside it. rule: how several people's answers become one (`label_log.decide`). steps: training steps.
    pool: where to look for samples that lie no longer where they were asked about; they are known by their content.
    cache_backbone: as `cache` of `dan.training.fit`; None: as the run was trained.
    Where the current network has learned just these labels, nothing is trained.
    Raises UserError where there is no label, or none that is settled, and for samples that are found nowhere.
    """
    settings, classes = settings_and_classes(run)
    if rule not in RULES:
        raise UserError(f'--aggregate is one of {", ".join(RULES)}, not "{rule}"{nearest(rule, RULES)}')
    if steps < 1:
        raise UserError(f"--steps must be at least 1, not {steps}")
    log = LabelLog(run / LABELS)
    settled, open_ones = aggregate_labels(log.labels, rule)
    unsettled = [
        f"{given[0].path} is not settled: " + ", ".join(f'{one.annotator} says "{one.label}"' for one in given)
        for given in open_ones.values()
    ]
    if not settled:
        why = f"people contradict each other about all {len(open_ones)} samples" if open_ones else "there are none yet"
        raise UserError(f"{run} has no labels to learn: {why}")
    shared, alpha = krippendorff_alpha(log.labels)
    people = {"batches": log.batches, "rule": rule, "answers": _digest(settled)}
    before = current_network(run)
    if learned_by(before).get("answers") == people["answers"]:
        return Learned(
            network=before, labels=len(settled), record=None, shared=shared, alpha=alpha, unsettled=unsettled
        )

    places = _places(run, settled, pool, settings)
    recipe = replace(load_train_config(settings), schedule="constant")  # it is aligned already: nothing to ramp up
    number, folder = _next_folder(run, people, steps)
    task = load_run_task_again(settings, run, data, cache, quiet)
    answers = [classes.index(label) for label in settled.values()]
    labelled = labelled_samples(
        [places[sample] for sample in settled], answers, settings, run, cache=cache, quiet=quiet
    )
    about = {name: settings[name] for name in DESCRIBED if name in settings}
    records = fit(
        network_of(before, classes, device),
        task.source,
        task.target,
        labelled_target=labelled,
        trade_off=required(settings, "trade_off", run),
        steps=steps,
        seed=derived_seed(int(required(settings, "seed", run)), number),
        tests=task.splits,
        config=recipe,
        run=folder,
        metadata=about | {"before": before.name, "people": people},
        cache=cached_backbone(settings, cache_backbone, cache),
        device=device,
        verbose=not quiet,
    )
    return Learned(
        network=folder, labels=len(settled), record=records[-1], shared=shared, alpha=alpha, unsettled=unsettled
    )


def _digest(settled: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(settled.items())).encode()).hexdigest()


def _next_folder(run: Path, people: Mapping[str, Any], steps: int) -> tuple[int, Path]:
    """The number and folder of the next network: one that was killed while it learned the same goes on."""
    folders = networks_in(run)
    if folders:
        records = read_records(folders[-1] / "records.jsonl")
        same = records[0].get("people") == people and records[0].get("steps") == steps
        if same and records[-1].get("event") != "done":
            return int(folders[-1].name[9:]), folders[-1]
    number = 1 + max((int(path.name[9:]) for path in run.glob("labelled_*") if path.name[9:].isdecimal()), default=0)
    return number, run / f"labelled_{number:02d}"


def _places(run: Path, settled: Mapping[str, str], pool: Path | None, settings: Mapping[str, Any]) -> dict[str, Place]:
    """Where each labelled sample lies. Raises UserError for those that are found nowhere."""
    seen_in: dict[str, list[Path]] = {sample: [] for sample in settled}
    places: dict[Path, None] = {} if pool is None else {pool: None}
    paths: dict[str, str] = {}
    for task in reversed(RequestLog(run / ASKED).tasks):  # the latest first
        if task.sample in seen_in:
            seen_in[task.sample].append(Path(task.file))
            places.setdefault(Path(task.place))
            paths.setdefault(task.sample, task.path)
    found = find_samples(seen_in, places, settings, run)
    missing = [paths.get(sample, sample[:12]) for sample in settled if sample not in found]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(settled)} labelled samples lie in none of the places that they were asked about "
            f"({some(missing)}): name the folder where they are with --pool; their labels are kept"
        )
    return found
