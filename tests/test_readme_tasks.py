"""The README's tasks take few lines: each is run as written, and has no more lines than the README promises."""

from typing import Any

import pytest
import torch
from torch import nn

C = 3

# Each task: the lines allowed, the code as a user writes it, and what it must leave behind.
TASKS: dict[str, tuple[int, str, str]] = {
    "compute an MMD": (
        3,
        """
from dan import MultiKernel, median_bandwidth, mmd2
kernel = MultiKernel.ladder(median_bandwidth(x, y))
gap = mmd2(x, y, kernel)
""",
        "float(gap) > 0.1",
    ),
    "train on two data sets": (
        3,
        """
from dan import DAN, fit
model = DAN(backbone, num_classes=C, layers=(64,))
records = fit(model, source, target, trade_off=1.0, steps=5, seed=0)
""",
        "records[-1]['step'] == 5",
    ),
    "train on arrays": (
        3,
        """
from dan import DAN, fit
model = DAN("features", num_classes=C, layers=(64,))
records = fit(model, (X, labels), Xt, trade_off=1.0, steps=5, seed=0)
""",
        "records[-1]['step'] == 5",
    ),
    "predict": (
        2,
        """
from dan import predict
classes = predict(model, Xt)[0].logits.argmax(1)
""",
        "classes.shape == (40,)",
    ),
    "predict as scikit-learn does": (
        2,
        """
from dan import DANClassifier
classes = DANClassifier(steps=5).fit(X, labels, X_target=Xt).predict(Xt)
""",
        "classes.shape == (40,)",
    ),
    "load a domain pair": (
        2,
        """
from dan import load_pair
pair = load_pair("rendered2digits")
""",
        "len(pair.classes) == 10",
    ),
}


@pytest.fixture
def names() -> dict[str, Any]:
    """What a user has at hand."""
    from dan import DAN

    generator = torch.Generator().manual_seed(0)
    x, xt = (torch.randn(40, 4, generator=generator) + shift for shift in (0.0, 1.0))
    y = torch.arange(40) % C
    backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    return {
        "C": C,
        "x": x,
        "y": xt,
        "X": x.numpy(),
        "Xt": xt.numpy(),
        "labels": y.numpy(),
        "source": torch.utils.data.TensorDataset(x, y),
        "target": torch.utils.data.TensorDataset(xt),
        "backbone": backbone,
        "model": DAN(nn.Linear(4, 8), num_classes=C),
    }


@pytest.mark.parametrize("task", TASKS)
def test_a_task_takes_few_lines(task: str, names: dict[str, Any]) -> None:
    limit, code, holds = TASKS[task]
    lines = code.strip().splitlines()
    assert len(lines) <= limit and all(len(line) <= 100 and ";" not in line for line in lines)
    exec(compile("\n".join(lines), task, "exec"), names)
    assert eval(holds, names)


def test_a_backbone_is_a_name_or_any_module_with_its_width() -> None:
    from dan import DAN

    class Widths(nn.Module):
        out_features = 8

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.flatten(1).repeat(1, 2)[:, :8]

    for backbone, shape in ((Widths(), (5, 4)), (nn.Linear(4, 8), (5, 4)), ("lenet", (5, 1, 28, 28))):
        output = DAN(backbone, num_classes=C, layers=(64,))(torch.zeros(shape))
        assert output.logits.shape == (5, C) and output.layers["hidden1"].shape == (5, 64)
