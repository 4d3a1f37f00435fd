"""Which method for these domains? A small portfolio is trained, and a rule without target labels chooses.

1. split the source, class by class, into a training part and a held-out part
2. train every candidate on the training part; source-only is always one: the guard against alignment that harms
3. from source-only's outputs, estimate the class shares, whose weights the corrected candidates have
4. choose by a validator of `dan.evaluation.validators`, or by audit labels where there are enough of them
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dan.data.batches import derived_seed, labels_of
from dan.errors import UserError
from dan.evaluation.metrics import predict
from dan.evaluation.validators import validate, validator_inputs
from dan.models.dan import DAN
from dan.run_dir import Record
from dan.training.collapse import without_collapse_warnings
from dan.training.config import TrainConfig
from dan.training.label_shift import HOLDOUT, LabelShift, shift_from_outputs, split_by_class
from dan.training.options import train_options
from dan.training.setup import prepare_data, training_device
from dan.training.trainer import Trainer

VALIDATOR = "information"  # provisional: the experiment `validators` has not been run in full yet
FEWEST_AUDITS = 30  # audit labels from which on they choose


@dataclass(frozen=True)
class Candidate:
    """A way to train. method: of `dan.losses`, None: source-only. multiple: of the trade-off. corrected: with class
    weights for label shift."""

    name: str
    method: str | None
    multiple: float = 1.0
    corrected: bool = False

    def trade_off(self, whole: float) -> float:
        """Its trade-off, of the portfolio's."""
        return float(f"{whole * self.multiple:.6g}")


SOURCE_ONLY = Candidate("source-only", None, 0.0)
PORTFOLIO = (
    SOURCE_ONLY,
    Candidate("DAN, a tenth of the trade-off", "dan", 0.1),
    Candidate("DAN", "dan"),
    Candidate("DAN, corrected", "dan", corrected=True),
    Candidate("MCC", "mcc"),
    Candidate("DAN+MCC", "dan+mcc"),
    Candidate("DAN+MCC, corrected", "dan+mcc", corrected=True),
)


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen, by which rule, and a record of every candidate in their order: {"candidate", "method",
    "trade_off", "corrected", "score", "audit_accuracy"}. shift: the class shares, whose weights a corrected one has."""

    candidate: Candidate
    rule: str
    records: list[Record]
    shift: LabelShift

    def table(self) -> str:
        """All candidates, the chosen one marked."""
        width = max(len(record["candidate"]) for record in self.records)
        lines = [f"  {'candidate':<{width}}  {self.rule}"]
        for record in self.records:
            mark = ">" if record["candidate"] == self.candidate.name else " "
            lines.append(f"{mark} {record['candidate']:<{width}}  {record[self.rule]:.4f}")
        return "\n".join(lines)


def choose_candidate(
    build: Callable[[], DAN],
    source: Dataset[Any],
    target: Dataset[Any],
    *,
    trade_off: float = 3.0,
    validator: str = VALIDATOR,
    audits: tuple[Tensor, Tensor] | None = None,
    candidates: Sequence[Candidate] = PORTFOLIO,
    run: Path | str | None = None,
    **options: Any,
) -> Choice:
    """Train every candidate on four fifths of the source and choose one; `build` makes a fresh, always equal network.

    validator: a name of `VALIDATORS`; its score is of logits calibrated on held-out source. audits: (ids (n,), labels
    (n,)) of target samples drawn UNIFORMLY at random; with 30 or more their accuracy chooses, and the validator breaks
    ties. run: candidates are trained in RUN/candidates, and the choice is RUN/choice.json; a killed choice goes on
    there. options: of `dan.training.fit` (steps, seed, config, cache, device, ...).
    Raises UserError for a portfolio without source-only, and as `estimate_label_shift`.
    Source: the guard is ours; for the rules see `dan.evaluation.validators`.
    """
    if SOURCE_ONLY not in candidates:
        raise UserError("a portfolio holds source-only, which guards against alignment that harms: add SOURCE_ONLY")
    chosen = train_options(**{**options, "trade_off": trade_off, "run": None, "tests": {}})
    data = prepare_data(build(), source, target, chosen, training_device(chosen))
    labels = labels_of(data.source)
    kept, held = split_by_class(labels, HOLDOUT, derived_seed(chosen.seed, 11))
    if len(kept) < chosen.config.batch_size or not held:
        raise UserError(
            f"{len(labels)} source samples are too few to hold a fifth out with batches of {chosen.config.batch_size}: "
            "lower --batch-size, or name a --method"
        )
    training, holdout = Subset(data.source, kept), Subset(data.source, held)
    shift: LabelShift | None = None
    records: list[Record] = []
    for candidate in sorted(candidates, key=lambda one: one != SOURCE_ONLY):  # source-only first: it gives the shares
        weights = shift.weights if candidate.corrected and shift is not None else None
        folder = None if run is None else Path(run) / "candidates" / _folder_name(candidate)
        domains = training, data.target, data.labelled
        model = _trained(build(), candidate, domains, trade_off, weights, folder, chosen)
        inputs = validator_inputs(model, holdout, data.target, start=data.start_stage)
        if candidate == SOURCE_ONLY:
            outputs = predict(model, holdout, start=data.start_stage)[0].logits, labels[held]
            shift = shift_from_outputs(*outputs, inputs.target_logits, labels, seed=chosen.seed)
        records.append(_record(candidate, trade_off, validate(inputs.calibrated(), [validator]), inputs, audits))
    assert shift is not None
    rule = "audit_accuracy" if audits is not None and len(audits[0]) >= FEWEST_AUDITS else validator
    best = max(records, key=lambda record: (record[rule], record[validator]))
    found = Choice(next(one for one in candidates if one.name == best["candidate"]), rule, records, shift)
    if run is not None:
        kept_choice = {"chosen": found.candidate.name, "rule": rule, "candidates": records}
        (Path(run) / "choice.json").write_text(json.dumps(kept_choice, indent=1) + "\n", encoding="utf-8")
    return found


def _folder_name(candidate: Candidate) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in candidate.name.lower())


def _trained(
    model: DAN,
    candidate: Candidate,
    domains: tuple[Dataset[Any], Dataset[Any], Dataset[Any] | None],
    trade_off: float,
    weights: Tensor | None,
    folder: Path | None,
    options: Any,
) -> DAN:
    """The network of a candidate, evaluated and kept after the last step alone. domains: source, target, labelled."""
    method = candidate.method or options.config.method
    every = {"evaluate_every": options.steps, "checkpoint_every": options.steps}
    multiples = options.config.method_multiples if candidate.method == options.config.method else ()
    config: TrainConfig = replace(options.config, method=method, method_multiples=multiples, feature_map=False, **every)
    common = {name: getattr(options, name) for name in ("steps", "seed", "device", "precision", "num_workers")}
    common |= {"metadata": dict(options.metadata), "verbose": options.verbose, "log_mmd": False}
    source, target, labelled = domains
    common |= {"labelled_target": labelled, "class_weights": weights, "config": config, "run": folder}
    with without_collapse_warnings():
        Trainer(model, source, target, trade_off=candidate.trade_off(trade_off), **common).train()
    return model


def _record(
    candidate: Candidate, trade_off: float, scores: dict[str, float], inputs: Any, audits: tuple[Tensor, Tensor] | None
) -> Record:
    record: Record = {"candidate": candidate.name, "method": candidate.method, "corrected": candidate.corrected}
    record |= {"trade_off": candidate.trade_off(trade_off), **scores}
    if audits is not None and len(audits[0]):
        predicted = inputs.target_logits.argmax(1)[torch.as_tensor(audits[0])]
        record["audit_accuracy"] = float((predicted.cpu() == torch.as_tensor(audits[1])).double().mean())
    return record
