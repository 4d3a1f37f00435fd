"""python -m active strategies: every strategy in one line."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Strategies:
    """List the strategies: what each one selects, its source, its cost, and the query fields that it needs."""


def list_strategies(config: Strategies) -> None:
    """Print two lines for each strategy."""
    from active.strategies import CARDS

    width = max(map(len, CARDS))
    for card in CARDS.values():
        print(f"{card.name:<{width}}  {card.line}")
        print(f"{'':<{width}}  needs {', '.join(card.needs) or 'nothing'}; {card.cost}; source: {card.source}")
