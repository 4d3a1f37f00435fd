"""Adapters: they start by changing nothing, they alone train, they are few, and they come back from a file."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dan import DAN
from dan.errors import UserError
from dan.models.adapters import Residual, is_adapter
from dan.models.backbone import Backbone
from dan.models.model_file import load_model, save_model

NO_PEFT = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft, an optional extra, is missing")
KINDS = ["residual", pytest.param("lora", marks=NO_PEFT)]
SIZES = {"squeezenet1_1": 64, "mobilenet_v2": 64, "resnet18": 64, "lenet": 28}


def pair(name: str, kind: str) -> tuple[DAN, DAN, Tensor]:
    """The same network without and with adapters, in evaluation mode, and a batch for it."""
    torch.manual_seed(0)
    plain = DAN(name, 10, layers=(8,)).eval()
    torch.manual_seed(0)
    adapted = DAN(name, 10, layers=(8,), adapters=kind).eval()
    for ours, theirs in ((adapted.hidden, plain.hidden), (adapted.output, plain.output)):
        ours.load_state_dict(theirs.state_dict())
    channels = 1 if name == "lenet" else 3
    return plain, adapted, torch.randn(4, channels, SIZES[name], SIZES[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SIZES)
def test_adapters_start_by_changing_nothing_and_are_few(name: str, kind: str) -> None:
    plain, adapted, x = pair(name, kind)
    assert torch.equal(adapted(x).logits, plain(x).logits)
    few = sum(p.numel() for p in adapted.stage_groups()["adapters"])
    many = sum(p.numel() for p in plain.backbone.parameters())
    assert 0 < few < many / 4, (few, many)
    assert list(adapted.stage_groups()) == ["hidden1", "output", "adapters"]
    assert adapted.groups()["backbone"] == [] and adapted.settings["frozen"] == list(adapted.stages)


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_and_new_layers_train_and_they_learn(kind: str) -> None:
    _, model, x = pair("squeezenet1_1", kind)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    y = torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.Adam(model.stage_groups()["adapters"], lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = cross_entropy(model(x).logits, y)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved and all(is_adapter(key) for key in moved)
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert all(is_adapter(name) or name.split(".")[0] in ("hidden", "output") for name in with_gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_come_back_from_a_file(tmp_path: Path, kind: str) -> None:
    model = DAN("squeezenet1_1", 5, adapters={"kind": kind, "rank": 2, "stages": ["fire9", "fire8"]}).eval()
    assert json.loads(json.dumps(model.settings)) == model.settings
    assert model.settings["adapters"] == {"kind": kind, "rank": 2, "stages": ["fire8", "fire9"]}
    with torch.no_grad():
        for p in model.stage_groups()["adapters"]:
            p.normal_()
    save_model(tmp_path / "model.pt", model)
    again, x = load_model(tmp_path), torch.randn(2, 3, 64, 64)
    assert again.settings == model.settings and torch.equal(again(x).logits, model(x).logits)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    # What lies below the first adapter never changes, and can be kept.
    assert list(model.stages)[model.frozen_prefix] == "fire8"


def test_residual_is_its_formula_at_every_position() -> None:
    torch.manual_seed(0)
    for dimensions, shape in ((0, (2, 5, 6)), (1, (2, 6, 5)), (2, (2, 6, 3, 4))):
        adapter = Residual(6, 3, dimensions=dimensions).double()
        y = torch.randn(shape, dtype=torch.float64)
        assert torch.equal(adapter(y), y)
        nn.init.normal_(adapter.up.weight)
        nn.init.normal_(adapter.up.bias)
        down, up = adapter.down.weight.reshape(3, 6), adapter.up.weight.reshape(6, 3)
        rows = y if not dimensions else y.flatten(2).transpose(1, 2)
        out = adapter(y) if not dimensions else adapter(y).flatten(2).transpose(1, 2)
        for n in range(2):
            for position in range(rows.shape[1]):
                v = rows[n, position]
                expected = v + up @ (down @ v + adapter.down.bias).clamp(min=0) + adapter.up.bias
                torch.testing.assert_close(out[n, position], expected)


def test_tokens_are_adapted_along_their_channels() -> None:
    class Embed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2).transpose(1, 2)

    stages = {"embed": nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), Embed()), "block": nn.Linear(6, 6)}
    model = DAN(Backbone(stages, input_shape=(3, 8, 8), tokens=True), 3, adapters="residual")
    assert [adapter.down.in_features for adapter in model.adapters.values()] == [6, 6]
    assert model(torch.randn(2, 3, 8, 8)).logits.shape == (2, 3)


@NO_PEFT
def test_lora_is_its_formula() -> None:
    """W' = W + B A, on linear and convolution layers; depthwise convolutions and attention's projection are left."""
    torch.manual_seed(0)
    stage = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    model = DAN(Backbone({"fc": stage}, out_features=5), 3, layers=(), adapters={"kind": "lora", "rank": 2})
    layer = model.get_submodule("backbone.fc.1")
    a, b = (layer.get_parameter(f"lora_{part}.default.weight") for part in "AB")
    nn.init.normal_(b)
    x = torch.randn(4, 12)
    weight = layer.get_parameter("base_layer.weight") + b @ a
    expected = model.output(nn.functional.linear(x, weight, layer.get_parameter("base_layer.bias")))
    torch.testing.assert_close(model(x).logits, expected)

    mobile = DAN("mobilenet_v2", 3, adapters={"kind": "lora", "stages": ["block3"]})
    names = [name for name, _ in mobile.named_parameters() if is_adapter(name)]
    assert len(names) == 4  # two layers of A and B: expansion and projection, not the depthwise one between

    block = nn.TransformerEncoderLayer(8, 2, 16)
    model = DAN(Backbone({"block": block}), 3, adapters="lora")
    assert {name.split(".")[2] for name, _ in model.named_parameters() if is_adapter(name)} == {"linear1", "linear2"}


@NO_PEFT
def test_lora_takes_a_module_of_ones_own() -> None:
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
    model = DAN(own, 3, adapters="lora")
    model(torch.randn(2, 3, 6, 6)).logits.sum().backward()
    assert not own.get_parameter("0.base_layer.weight").requires_grad
    assert len(model.stage_groups()["adapters"]) == 2
    with pytest.raises(UserError, match="bare layer"):
        DAN(nn.Linear(4, 4), 3, adapters="lora")
    with pytest.raises(UserError, match='no linear or convolution layer in the stage "pool"'):
        DAN("squeezenet1_1", 3, adapters={"kind": "lora", "stages": ["pool"]})


def test_adapters_in_stages_that_train_too() -> None:
    model = DAN("lenet", 3, adapters="residual", frozen=["conv1"])
    assert list(model.stage_groups()) == ["conv2", "fc1", "hidden1", "output", "adapters"]
    assert model.frozen_prefix == 0  # an adapter stands after conv1


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r'need peft: pip install "active-dan\[peft\]"'):
        DAN("lenet", 3, adapters="lora")


@pytest.mark.parametrize(
    ("backbone", "adapters", "message"),
    [
        ("lenet", "residul", 'did you mean "residual"'),
        ("lenet", {"kind": "residual", "rank": 0}, "rank of adapters must be a whole number"),
        ("lenet", {"kind": "residual", "width": 3}, "not by width"),
        ("lenet", {"kind": "residual", "stages": ["conv3"]}, 'no stage "conv3"'),
        ("features", "residual", "nothing to adapt"),
        (nn.Sequential(nn.Linear(3, 3)), "residual", "need a dan.models.backbone.Backbone"),
    ],
)
def test_bad_settings(backbone: str | nn.Module, adapters: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DAN(backbone, 3, adapters=adapters)  # type: ignore[arg-type]
