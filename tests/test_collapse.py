"""Collapse: a training that ended with constant features learns under the schedule `guarded`; else it is reported."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dan import DAN, TrainConfig, evaluate, fit
from dan.__main__ import main
from dan.cli.train import low_information_warning
from dan.cli.train_options import preset
from dan.models.dan import Output
from dan.training.collapse import CollapseWarning, collapse_message, collapsed_part, relative_spread
from dan.training.config import RECIPES
from dan.training.guards import Diverged
from dan.training.optimizers import learned_share

CLASSES = 4
SIZE = 16


def shapes(generator: torch.Generator, count: int, *, paper: bool) -> tuple[Tensor, Tensor]:
    """Images (count, 3, 16, 16) in [0, 1] of discs, squares, crosses and diamonds: dark lines on white paper, or filled
    with bright colours on noisy dark grounds."""
    y = torch.arange(count) % CLASSES
    axis = torch.arange(float(SIZE))
    row, column = 5.5 + 4 * torch.rand(2, count, 1, 1, generator=generator)
    radius = 2.5 + 3 * torch.rand(count, 1, 1, generator=generator)
    down, across = torch.broadcast_tensors((axis[:, None] - row).abs(), (axis[None] - column).abs())
    larger, smaller = torch.maximum(down, across), torch.minimum(down, across)
    cross = torch.where(larger < radius, smaller - 0.8, 9.0)
    edges = torch.stack([torch.hypot(down, across) - radius, larger - radius, cross, down + across - radius])
    edge = edges[y, torch.arange(count)][:, None]
    if paper:
        return (1 - 0.9 * (edge.abs() < 0.7).float()).expand(-1, 3, -1, -1), y
    inside = (edge < 0.3).float()
    ground, colour = torch.rand(2, count, 3, 1, 1, generator=generator)
    x = (1 - inside) * 0.27 * ground + inside * (0.47 + 0.53 * colour)
    return (x + 0.08 * torch.randn(x.shape, generator=generator)).clamp(0, 1), y


def train_on_shapes(schedule: str, seed: int) -> float:
    """The recipe `small` on small_cnn with this schedule, filled shapes -> lines: accuracy on held-out source."""
    generator = torch.Generator().manual_seed(100 + seed)
    (source, y), (held, y_held), (target, _) = (
        shapes(generator, count, paper=paper) for count, paper in ((160, False), (100, False), (160, True))
    )
    source, held, target = ((x - 0.45) / 0.225 for x in (source, held, target))
    torch.manual_seed(seed)
    model = DAN("small_cnn", CLASSES)
    config = TrainConfig(schedule=schedule, evaluate_every=1000)
    fit(model, (source, y), target, trade_off=3.0, steps=100, seed=seed, config=config)
    return evaluate(model, (held, y_held)).accuracy


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_guarded_schedule_learns_where_the_ramp_collapses(seed: int) -> None:
    assert train_on_shapes("guarded", seed) > 0.5  # chance is 0.25, and a CollapseWarning is an error


@pytest.mark.parametrize("seed", [1, 2])
def test_the_ramp_collapses_or_diverges_there_and_says_so(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        with pytest.raises((CollapseWarning, Diverged), match=r"--schedule guarded|trade-off"):
            train_on_shapes("ramp", seed)


def test_the_learned_share_is_0_at_chance_and_1_at_no_loss() -> None:
    for classes in (2, 10):
        chance = math.log(classes)
        shares = [float(learned_share(torch.tensor(x * chance), classes)) for x in (0.0, 0.25, 1.0, 3.0, -0.1)]
        assert shares == pytest.approx([1, 0.75, 0, 0, 1], abs=1e-6)
    loss = torch.tensor(0.3, requires_grad=True)
    assert not learned_share(loss, 3).requires_grad


def test_the_guarded_trade_off_is_the_ramp_times_the_learned_share() -> None:
    from dan.training.trainer import Trainer

    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > -1).long()  # most samples are of class 1
    made = {}
    for schedule in ("ramp", "guarded"):
        torch.manual_seed(0)
        model = DAN("features", 2)
        model.output.bias.data = torch.tensor([0.0, 1.5])
        config = TrainConfig(schedule=schedule, batch_size=8)
        trainer = Trainer(model, (x, y), x + 1, trade_off=2.0, steps=10, config=config)
        with trainer.streams.loading(range(5, 10), pin_memory=False):
            losses = trainer.compute_loss(trainer.streams.batch(5), 5)
        made[schedule] = {name: float(value.detach()) for name, value in losses.items()}
    ramp, guarded = made["ramp"], made["guarded"]
    share = 1 - ramp["source"] / math.log(2)
    assert 0.1 < share < 0.9
    assert guarded["source"] == ramp["source"]
    assert guarded["alignment"] == pytest.approx(share * ramp["alignment"], rel=1e-5)
    assert guarded["total"] == pytest.approx(guarded["source"] + guarded["alignment"], rel=1e-5)


def test_relative_spread() -> None:
    z = torch.tensor([[1.0, 5.0], [3.0, 5.0]])  # variances 1 and 0; mean square (1 + 9 + 25 + 25) / 4 = 15
    assert relative_spread(z) == pytest.approx(math.sqrt(0.5 / 15))
    assert relative_spread(1e-6 * z) == pytest.approx(relative_spread(z))
    assert relative_spread(torch.zeros(4, 3)) == 0


def outputs(model: DAN, seed: int) -> tuple[Output, Output]:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        x, z = (shapes(generator, 40, paper=paper)[0] for paper in (False, True))
        return model((x - 0.45) / 0.225), model((z - 0.45) / 0.225)


@pytest.mark.parametrize("backbone", ["small_cnn", "lenet:3"])
def test_an_untrained_network_has_not_collapsed(backbone: str) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        assert collapsed_part(*outputs(DAN(backbone, CLASSES), seed)) == ""


def test_dead_units_and_constant_predictions_are_a_collapse() -> None:
    torch.manual_seed(0)
    model = DAN("small_cnn", CLASSES)
    alive = outputs(model, 0)
    nn.init.zeros_(model.output.weight)
    assert collapsed_part(*outputs(model, 0)) == "predictions"
    nn.init.constant_(model.hidden[0][0].bias, -1e6)
    dead = outputs(model, 0)
    assert collapsed_part(*dead) == "features"
    assert collapsed_part(alive[0], dead[1]) == "", "one domain that is constant is no collapse of the network"


def test_the_message_names_what_to_do() -> None:
    line = collapse_message("features", 250, trade_off=3.0, schedule="ramp", lr=0.01)
    for words in ("collapsed at step 250", "features", "--trade-off 0", "--schedule guarded", "lower --lr than 0.01"):
        assert words in line
    assert "\n" not in line
    assert "--schedule" not in collapse_message("features", 250, trade_off=3.0, schedule="guarded", lr=0.01)
    alone = collapse_message("predictions", 250, trade_off=0.0, schedule="ramp", lr=0.1)
    assert "trade-off" not in alone and "lower --lr than 0.1" in alone


def test_low_information_with_alignment_advises_source_only_first() -> None:
    line = low_information_warning({"label_free/information": 0.0}, 10, 0.01, 3.0)
    assert "--trade-off 0" in line and "lower --trade-off than 3" in line and "lower --lr than 0.01" in line
    assert "trade-off" not in low_information_warning({"label_free/information": 0.0}, 10, 0.01, 0.0)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["folders", "--source", "A", "--target", "B"], "own-data"),
        (["folders", "--source=A", "--target=B", "--weights", "none"], "own-data"),
        (["folders", "--source", "A", "--target", "B", "--weights", "DEFAULT"], "pretrained"),
        (["folders", "--source", "A", "--target", "B", "--recipe", "small"], "small"),
        (["rendered2digits"], "small"),
    ],
)
def test_data_of_ones_own_are_trained_guarded(words: list[str], name: str) -> None:
    given = preset(words)
    assert given.recipe == name
    assert given.schedule == RECIPES[name].recipe.schedule == ("guarded" if name == "own-data" else "ramp")


@pytest.fixture
def two_styles(tmp_path: Path) -> list[str]:
    """Folders of filled shapes and of lines; the words that train small_cnn between them."""
    generator = torch.Generator().manual_seed(5)
    for name, paper in (("filled", False), ("lines", True)):
        x, y = shapes(generator, 80, paper=paper)
        for number, (pixels, label) in enumerate(zip((255 * x).byte().numpy(), y.tolist(), strict=True)):
            folder = tmp_path / name / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(folder / f"{number}.png")
    places = ["--source", str(tmp_path / "filled"), "--target", str(tmp_path / "lines")]
    cache = ["--image-cache", str(tmp_path / "cache"), "--run", str(tmp_path / "run")]
    small = ["--backbone", "small_cnn", "--image-size", "16", "--device", "cpu", "--no-feature-map"]
    return ["dan", "train", "folders", *places, *small, *cache]


@pytest.mark.filterwarnings("always::dan.training.collapse.CollapseWarning")
def test_the_command_reports_a_collapse_in_a_line(
    two_styles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Biases of -1e6 in the hidden layer stand for what a training did; the recipe's schedule is in the record."""
    from dan.models import dan as models

    built = models.DAN.__init__

    def dead(self: DAN, *args: object, **options: object) -> None:
        built(self, *args, **options)  # type: ignore[arg-type]
        nn.init.constant_(self.hidden[0][0].bias, -1e6)

    monkeypatch.setattr(models.DAN, "__init__", dead)
    monkeypatch.setattr("sys.argv", [*two_styles, "--steps", "2", "--evaluate-every", "1"])
    assert main() == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "collapsed" in line]
    assert len(lines) == 1 and lines[0].startswith("warning: the network has collapsed at step 1: its features")
    settings = json.loads((tmp_path / "run" / "records.jsonl").read_text().splitlines()[0])
    assert settings["schedule"] == "guarded"
