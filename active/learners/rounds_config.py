"""How rounds with a DAN are scheduled: what each round buys, when the network queries, and what is trained between.

rounds           the start queries; after each query `steps_per_round` steps: fine-tuned, from scratch, or continued
query_epochs     one training, which queries at the end of given epochs, as in the papers on active adaptation
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from active.budgets import budget_schedule, check_rounds
from dan.data.batches import derived_seed, num_samples
from dan.data.domain_pair import DomainPair
from dan.errors import UserError, nearest
from dan.training.config import TrainConfig

Retrain = Literal["scratch", "fine-tune", "continue"]
RETRAIN = ("scratch", "fine-tune", "continue")
LABELLED_DOMAINS = ("target", "source")


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """What the rounds buy and how the network is trained between them.

    budget: labels a round, or a share of the target as "5%"; or one of these for each round
        (`active.budgets.budget_schedule`), and then `num_rounds` may be left out.
    trade_off: weight of the alignment, as in `dan.training.trainer.fit`.
    num_rounds, steps_per_round: the start queries, and after each query there are so many steps. retrain: where they
        begin:
        "fine-tune" (the default): at the last round's weights, with a new optimiser;
        "scratch": at the start's weights again, with a new optimiser;
        "continue": at the last round's weights, optimiser, method's state and step: the learning rate decays on.
    query_epochs, epochs: one training instead, of so many epochs, from the start's weights on, which queries at the end
        of each epoch named. An epoch is one pass over the target, labelled or not. Learning rates and trade-off follow
        the schedules of the `TrainConfig` over the whole training.
    labelled_domain: where the alignment sees labelled samples: see `dan.training.trainer.fit`. "source" takes them out
        of the target.
    """

    trade_off: float
    budget: int | str | Sequence[int | str] | None = None
    num_rounds: int | None = None
    steps_per_round: int | None = None
    retrain: Retrain | None = None
    query_epochs: Sequence[int] = ()
    epochs: int | None = None
    labelled_domain: Literal["target", "source"] = "target"

    @property
    def continues(self) -> bool:
        """Whether a round's training continues the last one: its optimiser, the method's state and the step."""
        return bool(self.query_epochs) or self.retrain == "continue"

    def budgets(self, pool: int) -> tuple[int, ...]:
        """Labels of each round, for a pool of so many samples. Raises UserError for an invalid budget, or for none."""
        if self.budget is None:
            raise UserError("rounds need a budget: a number of labels, or a share of the pool, as 5%")
        return budget_schedule(self.budget, len(self.query_epochs) or self.num_rounds, pool)

    @property
    def metadata(self) -> dict[str, object]:
        """What a run keeps of it, the defaults apart."""
        if self.query_epochs:
            return {"query_epochs": list(self.query_epochs), "epochs": self.epochs}
        retrain = {} if self.retrain in (None, "fine-tune") else {"retrain": self.retrain}
        return {"steps_per_round": self.steps_per_round, **retrain}


@dataclass(frozen=True, kw_only=True)
class RoundTraining:
    """The training of one round.

    from_start: begins at the start's weights, not at the last round's. continues: goes on with the last round's
    optimiser and step. steps, total_steps: as `dan.training.trainer.fit` counts them.
    """

    from_start: bool
    continues: bool
    steps: int
    total_steps: int | None
    seed: int


def round_training(
    config: RoundsConfig, round: int, *, epoch_steps: int, start_steps: int = 0, seed: int
) -> RoundTraining:
    """The training of round `round`: a function of these arguments alone.

    epoch_steps: steps of an epoch, one pass over the target. start_steps: the step at which the start's training ended.
    """
    if config.query_epochs:
        ends = [epoch_steps * epoch for epoch in (*config.query_epochs, config.epochs or 0)]
        return RoundTraining(
            from_start=round == 0,
            continues=round > 0,
            steps=ends[round],
            total_steps=ends[-1],
            seed=derived_seed(seed, 0),
        )
    steps = config.steps_per_round or 0
    if config.retrain == "continue":
        total = start_steps + round * steps
        return RoundTraining(
            from_start=False, continues=True, steps=total, total_steps=None, seed=derived_seed(seed, 0)
        )
    return RoundTraining(
        from_start=config.retrain == "scratch",
        continues=False,
        steps=steps,
        total_steps=None,
        seed=derived_seed(seed, round),
    )


def check_rounds_config(task: DomainPair, rounds: RoundsConfig, config: TrainConfig) -> None:
    """Raises UserError for simulated rounds that cannot be run; see `RoundsConfig`. It is cheap: check first."""
    if not task.target_labelled:
        raise UserError(f"the target of {task.name} has no labels, so nobody can answer: simulated rounds need them")
    _check_choices(rounds)
    for domain, data in (("source", task.source), ("target", task.target)):
        if config.batch_size > num_samples(data) and (domain == "source" or rounds.trade_off):
            raise UserError(
                f"batch_size {config.batch_size} is larger than the {domain}'s {num_samples(data)} samples: lower "
                "--batch-size"
            )
    if rounds.query_epochs:
        _check_epochs(rounds)
    else:
        _check_steps(rounds)
    pool = num_samples(task.target)
    budgets = rounds.budgets(pool)
    check_rounds(budgets, len(budgets), pool)
    left = pool - sum(budgets)
    if rounds.labelled_domain == "source" and left < config.batch_size:
        raise UserError(
            f"{left} target samples are left in the end, fewer than a batch of {config.batch_size}: lower the "
            "budget, the rounds or the batch size"
        )


def _check_choices(rounds: RoundsConfig) -> None:
    retrain, labelled_domain = (rounds.retrain, (*RETRAIN, None)), (rounds.labelled_domain, LABELLED_DOMAINS)
    for name, (value, valid) in {"retrain": retrain, "labelled_domain": labelled_domain}.items():
        if value not in valid:
            known = [word for word in valid if word]
            raise UserError(f'unknown {name} "{value}"{nearest(str(value), known)}: one of {", ".join(known)}')
    if rounds.labelled_domain == "source" and not rounds.trade_off:
        raise UserError("labelled_domain source is of the alignment, and at trade-off 0 nothing is aligned")


def _check_epochs(rounds: RoundsConfig) -> None:
    query_epochs = rounds.query_epochs
    if rounds.num_rounds is not None or rounds.steps_per_round is not None:
        raise UserError("query_epochs says when the one training queries: leave out rounds and steps_per_round")
    if rounds.retrain not in (None, "continue"):
        raise UserError(f"query_epochs is one training, which continues: retrain cannot be {rounds.retrain}")
    if query_epochs[0] < 1 or any(b <= a for a, b in zip(query_epochs, query_epochs[1:], strict=False)):
        raise UserError(f"query_epochs must be rising epochs from 1 on, not {' '.join(map(str, query_epochs))}")
    if rounds.epochs is None or rounds.epochs <= query_epochs[-1]:
        raise UserError(f"epochs must be more than {query_epochs[-1]}, the last of query_epochs: not {rounds.epochs}")


def _check_steps(rounds: RoundsConfig) -> None:
    if rounds.epochs is not None:
        raise UserError("epochs are those of the one training with query_epochs: name both, or neither")
    counted = rounds.num_rounds is not None or not isinstance(rounds.budget, (int, str))
    if not counted or rounds.steps_per_round is None or rounds.steps_per_round < 1:
        raise UserError(
            f"rounds and steps_per_round must be at least 1, not {rounds.num_rounds} and {rounds.steps_per_round}"
        )
