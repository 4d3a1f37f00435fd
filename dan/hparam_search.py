"""The trade-off and the learning rate by search, judged without a target label: Optuna proposes, short trials answer.

    trial n:  (lambda, rate) = TPE(trials 0 .. n - 1; seed, n)   ->   fit   ->   a label-free score of
              `dan.evaluation.validators`

A proposal is a function of the seed and of the trials before it, and of nothing else: a search that is killed and
started again proposes what it would have, and one over more trials goes on from one over fewer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from dan.data.batches import derived_seed
from dan.errors import UserError, nearest
from dan.evaluation.validators import RULES, choose
from dan.models.dan import DAN
from dan.run_dir import Record, Run
from dan.training.collapse import without_collapse_warnings
from dan.training.config import TrainConfig, plain_numbers
from dan.training.trainer import Diverged, fit

LABEL_FREE = tuple(name for name, rule in RULES.items() if rule.selection == "label_free")
AT_RANDOM = 5  # trials after the first that are drawn at random: TPE needs some to stand on


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What is searched, and how a trial is judged.

    trials: how many trainings, of `steps` steps each. rule: one of `dan.evaluation.validators.RULES` that read no
    target label: "two_sample" (the paper's) or "information". trade_off and config.lr: the first trial, and the middle
    of what is searched: from 1/span to span times each, log-uniformly, in three digits. With trade_off 0 the rate alone
    is searched. config: how to train, apart from that.
    Raises UserError for no trial, an unknown rule or one that reads target labels, and a span of 1 or less.
    """

    trials: int
    steps: int
    seed: int = 0
    rule: str = "two_sample"
    trade_off: float = 1.0
    span: float = 10.0
    config: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        plain_numbers(self)
        if self.trials < 1:
            raise UserError(f"a search needs at least 1 trial, not {self.trials}")
        if not 1 < self.span < float("inf"):
            raise UserError(f"the span of a search must be above 1, not {self.span}")
        if self.rule not in LABEL_FREE:
            known = f"the rule {self.rule} doesn't look at the target, or reads its labels"
            why = known if self.rule in RULES else f'unknown rule "{self.rule}"{nearest(self.rule, LABEL_FREE)}'
            raise UserError(f"{why}: a search is judged by one of {', '.join(LABEL_FREE)}")

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """The least and the largest value of each setting that is searched."""
        rate = {"lr": _around(self.config.lr, self.span)}
        return rate | ({"trade_off": _around(self.trade_off, self.span)} if self.trade_off else {})

    @property
    def settings(self) -> dict[str, Any]:
        """What identifies the search, as its first record keeps it; more trials are the same search."""
        own = {"rule": self.rule, "trade_off": self.trade_off, "steps": self.steps, "seed": self.seed}
        return {"search": {name: list(ends) for name, ends in self.bounds.items()}, **asdict(self.config), **own}

    def point(self, records: Sequence[Record]) -> dict[str, float]:
        """What to try after these trials: a function of them and the seed alone."""
        first = {"trade_off": self.trade_off, "lr": self.config.lr}
        if not records:
            return first
        return first | _proposed(records, self.bounds, self.rule, derived_seed(self.seed, 7, len(records)))


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found. trials: its records, in order. study: the same as an `optuna.study.Study`, for its plots."""

    trade_off: float
    lr: float
    rule: str
    value: float
    trials: Sequence[Record]
    study: Any


def tune(
    build: Callable[[], DAN],
    source: Dataset,
    target: Dataset,
    search: SearchConfig,
    *,
    source_test: Dataset | None = None,
    run: Path | str | None = None,
    metadata: Mapping[str, Any] | None = None,
    on_trial: Callable[[Record], None] | None = None,
    **options: Any,
) -> SearchResult:
    """Search the trade-off and the learning rate over trainings of a few steps each; the best of them.

    build: a fresh network, the same at each call (seeded). source_test: labelled source samples that aren't trained on;
    the rule "two_sample" needs them. run: folder of the search, in which each trial is a run of its own; the same call
    on it goes on where it was killed. metadata: settings of the caller's, kept in its records. on_trial: called with
    each new trial's record. options: of every training, such as `labelled_target`, `source_weights`, `cache`, `device`
    (see `dan.training.options.TrainOptions`).

    A record: {"event": "trial", "trial", "trade_off", "lr", "value", and of its last evaluation what is measured
    without target labels}. A trial that diverges has value None, "diverged" says how, and counts as the worst one.
    Raises UserError for no held-out source where it is needed, a missing Optuna, and where every trial diverged.
    Source: Bergstra et al., "Algorithms for hyper-parameter optimization", NIPS 2011 (TPE), by Optuna; the criterion:
    Long et al., ICML 2015, section 4.1.
    """
    _check(search, source_test)
    folder = None if run is None else Run(run, {**(metadata or {}), **search.settings})
    records = [] if folder is None else [r for r in folder.records if r["event"] == "trial"][: search.trials]
    options["tests"] = {} if source_test is None else {"source_test": source_test}  # and nothing of the target

    while len(records) < search.trials:
        number = len(records)
        options["run"] = None if folder is None else folder.folder / f"trial_{number:03d}"
        record = {"event": "trial", "trial": number, **_trial(build(), source, target, search, records, options)}
        records.append(record)
        if folder is not None:
            folder.append(record)
        if on_trial is not None:
            on_trial(record)

    finished = [record for record in records if record["value"] is not None]
    if not finished:
        raise UserError(f"every trial diverged; the first: {records[0]['diverged']}")
    best = choose([{**record, "event": "evaluation"} for record in finished], search.rule)
    return SearchResult(
        trade_off=best["trade_off"], lr=best["lr"], rule=search.rule, value=best["value"], trials=tuple(records),
        study=_study(records, search.bounds, search.rule, search.seed),
    )  # fmt: skip


def _trial(
    model: DAN,
    source: Dataset,
    target: Dataset,
    search: SearchConfig,
    records: Sequence[Record],
    options: Mapping[str, Any],
) -> Record:
    """Train at the next point, and measure: its part of a record."""
    point = search.point(records)
    config = replace(search.config, lr=point["lr"], evaluate_every=search.steps, feature_map=False)
    common: dict[str, Any] = {"steps": search.steps, "seed": search.seed, "config": config, **options}
    try:
        with without_collapse_warnings():
            last = fit(model, source, target, trade_off=point["trade_off"], **common)[-1]
    except Diverged as error:
        return {**point, "value": None, "diverged": str(error)}
    kept = {name: value for name, value in last.items() if name not in ("event", "step")}
    return {**point, "value": _measured(last, search.rule), **kept}


def _check(search: SearchConfig, source_test: Dataset | None) -> None:
    if search.rule == "two_sample" and source_test is None:
        raise UserError(
            "the rule two_sample needs source samples that are held out from training, and the task has none: "
            "pass --source-holdout 0.2, or judge by the rule information"
        )
    if find_spec("optuna") is None:
        raise UserError('searching needs Optuna: pip install "active-dan[tune]"')


def _measured(last: Record, rule: str) -> float:
    key = str(RULES[rule].key)
    if key not in last:
        raise UserError(f"the rule {rule} needs 4 samples of each domain and of the held-out source: there are fewer")
    return float(last[key])


def _around(middle: float, span: float) -> tuple[float, float]:
    return _digits(middle / span), _digits(middle * span)


def _digits(value: float) -> float:
    """Three significant digits: what is used is what can be typed. It is monotone, so no end of a range is crossed."""
    return float(f"{value:.3g}")


def _proposed(
    records: Sequence[Record], bounds: Mapping[str, tuple[float, float]], rule: str, seed: int
) -> dict[str, float]:
    """What to try after these trials."""
    from optuna.distributions import FloatDistribution

    study = _study(records, bounds, rule, seed)
    space = {name: FloatDistribution(*ends, log=True) for name, ends in bounds.items()}
    return {name: _digits(value) for name, value in study.ask(space).params.items()}


def _study(records: Sequence[Record], bounds: Mapping[str, tuple[float, float]], rule: str, seed: int) -> Any:
    """The trials so far as an Optuna study, in memory, with a sampler of that seed."""
    import optuna
    from optuna.distributions import FloatDistribution

    space: dict[str, Any] = {name: FloatDistribution(*ends, log=True) for name, ends in bounds.items()}
    lowest = RULES[rule].better == "lowest"
    values = [record["value"] for record in records if record["value"] is not None]
    worst = (max if lowest else min)(values, default=0.0)
    with _silent():
        sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=AT_RANDOM + 1)
        study = optuna.create_study(direction="minimize" if lowest else "maximize", sampler=sampler)
        for record in records:
            value = worst if record["value"] is None else record["value"]
            params = {name: record[name] for name in space}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    return study


@contextmanager
def _silent() -> Iterator[None]:
    """Optuna announces every study on stderr; its verbosity is put back as it was."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
