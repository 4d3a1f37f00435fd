"""Several methods at once: `dan+mcc` is the sum of both methods' terms, each under its own multiple of the trade-off.

L = CE(source) + trade_off * (m_dan * sum of DAN's terms + m_mcc * sum of MCC's terms)
"""

from collections.abc import Mapping

from torch import Tensor, nn

from dan.errors import UserError, nearest
from dan.models.dan import Output

SEPARATOR = "+"


def split_methods(name: str) -> tuple[str, ...]:
    """The methods of a composed name: "dan+mcc" -> ("dan", "mcc"). Raises UserError for one that is named twice."""
    parts = tuple(part.strip() for part in name.split(SEPARATOR))
    for part in parts:
        if parts.count(part) > 1:
            raise UserError(f'"{name}" names the method {part} twice: name each once')
    return parts


class ComposedLoss(nn.Module):
    """The terms of several methods, named "METHOD/TERM", each multiplied by its method's multiple of the trade-off.

    losses: a module for each method, by name. multiples: of the trade-off, >= 0; a method that is not named has 1.
    """

    def __init__(self, losses: Mapping[str, nn.Module], multiples: Mapping[str, float]) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.multiples = {name: float(multiples.get(name, 1.0)) for name in losses}

    def forward(self, source: Output, target: Output) -> dict[str, Tensor]:
        return {
            f"{name}/{term}": self.multiples[name] * value
            for name, loss in self.losses.items()
            for term, value in loss(source, target).items()
        }

    @property
    def weights(self) -> dict[str, Tensor]:
        """The kernel weights of every aligned layer of the method that has any; {} where none has."""
        return self._of_kernels("weights")

    @property
    def ladders(self) -> dict[str, Tensor]:
        """The kernels of every aligned layer of the method that has any, as `Alignment.ladders`; {} where none has."""
        return self._of_kernels("ladders")

    def _of_kernels(self, name: str) -> dict[str, Tensor]:
        found = [getattr(loss, name) for loss in self.losses.values() if hasattr(loss, name)]
        return found[0] if found else {}


def parse_multiples(entries: tuple[str, ...], methods: tuple[str, ...]) -> dict[str, float]:
    """METHOD=NUMBER entries as numbers >= 0, for methods of the composition.

    Raises UserError for an entry of another form, and for a method that is not among `methods`.
    """
    multiples = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not equals or not 0 <= value < float("inf"):
            raise UserError(f'a multiple of the trade-off is METHOD=NUMBER, such as mcc=0.5, and not "{entry}"')
        if name not in methods:
            raise UserError(f'"{name}" is not one of the methods {", ".join(methods)}{nearest(name, methods)}')
        multiples[name] = value
    return multiples
