"""Budgets: how many labels each round buys, from numbers and shares of the pool, exactly.

one budget for all rounds:   ceil(a) each             one a round:   b_1 + ... + b_r = ceil(a_1 + ... + a_r)
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise

from dan.errors import UserError


def budget_count(budget: int | str, pool: int) -> int:
    """How many labels a budget is: a number, or a share of the pool's samples, such as "5%" or "0.5%", rounded up.

    Exact: 7 % of 100 is 7, whatever binary fractions make of 0.07. Raises UserError, with what it should look like, for
    anything else, for less than one label, and for more than the whole pool.
    """
    return _rounded_up(_amount(budget, pool))


def budget_schedule(budget: int | str | Sequence[int | str], num_rounds: int | None, pool: int) -> tuple[int, ...]:
    """How many labels each round buys: b_1 + ... + b_r = ceil(a_1 + ... + a_r) for one budget a_i a round.

    The exact parts of the pool are added up, and only the sums are rounded, upwards: "1%" five times buys 5 % of the
    pool, rounded once. A single budget is that of each of `num_rounds` rounds, rounded by itself (`budget_count`).
    Raises UserError for an invalid budget, for no rounds or another number of rounds than of budgets, and for a round
    that would buy nothing, since the rounds before it were rounded up.
    """
    if isinstance(budget, str) or not isinstance(budget, Sequence):
        if num_rounds is None:
            raise UserError("one budget does not say how many rounds there are: name rounds, or a budget for each")
        if num_rounds < 1:
            raise UserError(f"budget and rounds must be at least 1, not {budget} and {num_rounds}")
        return (budget_count(budget, pool),) * int(num_rounds)
    if num_rounds not in (None, len(budget)) or not budget:
        others = "no rounds" if num_rounds is None else f"{num_rounds} round{'s'[: num_rounds != 1]}"
        raise UserError(f"{len(budget)} budgets are not those of {others}: name one budget for each, or one for all")
    sums = [0, *map(_rounded_up, accumulate(_amount(each, pool) for each in budget))]
    labels = tuple(after - before for before, after in pairwise(sums))
    if 0 in labels:
        number = labels.index(0) + 1
        raise UserError(
            f"round {number} with its budget of {budget[number - 1]} buys nothing, for the sum before was rounded up "
            f"to {sums[number]} of {pool} samples: raise it"
        )
    return labels


def _amount(budget: int | str, pool: int) -> Fraction:
    """The exact number of samples of a budget; see `budget_count` for what it raises."""
    # At most 30 digits: Python refuses to convert thousands of them.
    parts = re.fullmatch(r"(\d{1,30}(?:\.\d{1,30})?)\s*(%?)", str(budget).strip())
    amount = Fraction(parts[1]) if parts else Fraction(0)
    if not parts or (not parts[2] and amount.denominator > 1):
        raise UserError(
            "a budget is a number of labels of at least 1, as 30, or a share of the pool, as 5%, and not "
            f'"{str(budget)[:40]}"'
        )
    if amount == 0:
        raise UserError(f"the budget must be at least 1, not {budget}")
    if not parts[2]:
        return amount
    if amount > 100:
        raise UserError(f"a budget of {budget} is more than the pool: name a share of 100% or less")
    return amount * pool / 100


def _rounded_up(amount: Fraction) -> int:
    return int(-(-amount // 1))


def check_rounds(budget: int | Sequence[int], num_rounds: int, unlabelled: int) -> None:
    """Raises UserError for a budget or number of rounds that is not positive, or that needs more samples than there
    are. budget: labels a round, or those of each."""
    budgets = [budget] * max(num_rounds, 1) if isinstance(budget, int) else list(budget)
    if num_rounds < 1 or min(budgets) < 1:
        raise UserError(f"budget and rounds must be at least 1, not {min(budgets)} and {num_rounds}")
    if sum(budgets) > unlabelled:
        each = " + ".join(map(str, budgets)) if len(set(budgets)) > 1 else str(budgets[0])
        raise UserError(
            f"{num_rounds} rounds of {each} need {sum(budgets)} unlabelled samples, and the pool has {unlabelled}: "
            "lower the budget or the rounds"
        )
