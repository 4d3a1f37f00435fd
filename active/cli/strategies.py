"""python -m active strategies: every strategy in one line."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Strategies:
    """Every strategy in one line: what it asks for, its source, its cost, what it needs."""


def list_strategies(config: Strategies) -> None:
    """Print the cards, as plain lines that fit any terminal and any pipe."""
    from active.strategies import CARDS

    width = max(map(len, CARDS))
    for card in CARDS.values():
        print(f"{card.name:<{width}}  {card.line}")
        print(f"{'':<{width}}  needs {', '.join(card.needs) or 'nothing'}; {card.cost}; source: {card.source}")
