"""What one trial of dan_table1 does: dan_table2's, on Office-31 and by a whole named recipe of
`dan.training.config`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.jobs import dan_table2
from experiments.jobs.dan_table2 import prepared, start_new_layers, trained
from experiments.transfers import transfer_named, with_tuples

SET = "office31_"
DOMAINS = ("a", "d", "w")


@dataclass(frozen=True)
class Place(dan_table2.Place):
    """As dan_table2's, with the network of the recipe of that name in `dan.training.config.RECIPES`, every layer in
    `layers` of which can be aligned, and the `device` that computes."""

    recipe: str
    layers: tuple[str, ...]
    device: str

    def task(self, transfer: str, held_out: float = 0.0) -> Any:
        return transfer_named(SET + transfer, self.data, self.images, self.image_size, held_out)

    def network(self, task: Any, seed: int) -> Any:
        """The same weights for the same seed, whatever the method: pre-trained ones, and new layers."""
        from dan.models.factory import build_network
        from dan.training.config import get_recipe

        made = {**get_recipe(self.recipe).network, "pretrained": self.weights, "align": self.layers}
        model = build_network(task, seed=seed, **made)
        start_new_layers(model, seed)
        return model

    def outputs(self, data: Any, model: Any, *, keep: bool = True) -> Any:
        from dan.devices import choose_device
        from dan.feature_cache import cached

        return cached(data, model, folder=self.backbones if keep else None, device=choose_device(self.device))


def load_train_config(name: str, how: dict[str, Any], steps: int) -> Any:
    """The recipe of that name with what a row changes of it, from JSON, where tuples are lists."""
    from dan.training.config import get_recipe

    recipe = get_recipe(name).recipe
    every = min(recipe.evaluate_every, steps)
    return replace(recipe, feature_map=False, evaluate_every=every, **with_tuples(how))


def prepare(_folder: Path, *, place: dict[str, Any], sides: list[str]) -> dict[str, Any]:
    """A trial: the outputs of the frozen stages on each domain, kept on the disk."""
    return prepared(_place(place), sides, DOMAINS)


def adapt(
    folder: Path,
    *,
    place: dict[str, Any],
    transfer: str,
    how: dict[str, Any],
    trade_off: float,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """A trial of the table: train on the whole source. A killed one goes on from its checkpoint."""
    from dan.devices import choose_device

    where = _place(place)
    recipe = load_train_config(where.recipe, how, steps)
    settings: dict[str, Any] = {"trade_off": trade_off, "steps": steps, "seed": seed, "device": where.device}
    told = trained(where, folder, transfer=transfer, recipe=recipe, **settings)
    told["measured_on"] = told["measured_on"] | {"device": choose_device(where.device).type}
    return told


def _place(place: dict[str, Any]) -> Place:
    return Place(**{**place, "layers": tuple(place["layers"])})
