"""DAN: named layers, captured and frozen stages, any backbone, strict weights, parameter groups."""

import json

import pytest
import torch
from torch import nn

from dan import DAN
from dan.errors import UserError
from dan.models.backbone import Backbone
from dan.models.model_file import load_model, save_model


def test_layers_are_named_and_features_are_the_last_hidden() -> None:
    model = DAN("lenet", 10, layers=(32, 16))
    output = model(torch.randn(3, 1, 16, 16))
    assert list(output.layers) == model.layer_names == ["hidden1", "hidden2", "output"]
    assert output.logits.shape == (3, 10) and output.logits is output.layers["output"]
    assert output.features is output.layers["hidden2"] and output.features.shape == (3, 16)


def test_without_hidden_layers_the_features_are_the_logits() -> None:
    output = DAN("lenet", 4, layers=())(torch.randn(2, 1, 16, 16))
    assert output.features is output.logits


@pytest.mark.parametrize("size", [8, 16, 28, 32])
def test_lenet_takes_any_size(size: int) -> None:
    assert DAN("lenet", 10)(torch.randn(2, 1, size, size)).logits.shape == (2, 10)


@pytest.mark.parametrize("backbone", [nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(12, 7)), nn.Identity()])
def test_any_module_is_a_backbone(backbone: nn.Module) -> None:
    model = DAN(backbone, 3, layers=(5,))
    output = model(torch.randn(4, 3, 4))
    output.logits.sum().backward()
    assert output.features.shape == (4, 5)


def test_groups_hold_every_parameter_once() -> None:
    model = DAN("lenet", 10)
    grouped = [id(p) for group in model.groups().values() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_weights_are_loaded_strictly() -> None:
    model = DAN("lenet", 10)
    again = DAN("lenet", 10, weights=model.state_dict())
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(again.eval()(x).logits, model.eval()(x).logits, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="size mismatch"):
        DAN("lenet", 4, weights=model.state_dict())


def test_saved_model_is_the_same_network(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = DAN("lenet", 10, layers=(8,), dropout=0.25).eval()
    save_model(tmp_path / "model.pt", model)
    x = torch.randn(2, 1, 16, 16)
    loaded = load_model(tmp_path)
    torch.testing.assert_close(loaded(x).logits, model(x).logits, rtol=0, atol=0)
    assert loaded.settings == model.settings


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_loaded_network_lies_in_memory_as_it_was_trained(tmp_path, order) -> None:  # type: ignore[no-untyped-def]
    """Where the two orders round otherwise, what goes on from the file has the bits of one training."""
    model = DAN("lenet", 10).to(memory_format=order)
    save_model(tmp_path / "model.pt", model)
    loaded = load_model(tmp_path)
    assert [p.stride() for p in loaded.parameters() if p.ndim != 4 or p.shape[1] > 1] == [
        p.stride() for p in model.parameters() if p.ndim != 4 or p.shape[1] > 1
    ]
    assert any(not p.is_contiguous() for p in loaded.parameters()) == (order is torch.channels_last)


def test_a_backbone_of_ones_own_cannot_be_rebuilt_from_the_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = DAN(nn.Flatten(), 10, layers=())
    model(torch.randn(2, 1, 4, 4))  # its width is known from the first batch on
    save_model(tmp_path / "model.pt", model)
    with pytest.raises(UserError, match="no name"):
        load_model(tmp_path)


def test_bad_input() -> None:
    with pytest.raises(UserError, match='did you mean "lenet"'):
        DAN("lennet", 10)
    with pytest.raises(ValueError, match="num_classes >= 2"):
        DAN("lenet", 1)


def small_backbone(seed: int = 0) -> Backbone:
    """Two convolutional stages with batch norm and dropout, and a pooling: (N, 3, 8, 8) -> (N, 6)."""
    torch.manual_seed(seed)
    return Backbone(
        {
            "first": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)),
            "second": nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
            "pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        },
        out_features=6,
        input_shape=(3, 8, 8),
    )


def test_captured_stages_are_layers_in_the_backbones_order_pooled() -> None:
    model = DAN(small_backbone(), 5, layers=(7,), capture=["second", "first"]).eval()
    x = torch.randn(3, 3, 8, 8)
    output = model(x)
    assert list(output.layers) == model.layer_names == ["first", "second", "hidden1", "output"]
    backbone = model.backbone
    assert isinstance(backbone, Backbone)
    for stop, name in ((1, "first"), (2, "second")):
        maps = backbone.run(x, stop=stop)
        for n in range(3):
            for c in range(maps.shape[1]):
                assert output.layers[name][n, c].item() == pytest.approx(maps[n, c].mean().item(), abs=1e-6)
    assert output.features is output.layers["hidden1"]


def test_alexnets_fc6_and_fc7_are_what_the_paper_aligns() -> None:
    torch.manual_seed(0)
    model = DAN("alexnet", 31, layers=(), capture=["fc6", "fc7"]).eval()
    with torch.no_grad():
        output = model(torch.randn(2, 3, 64, 64))
        assert model.layer_names == ["fc6", "fc7", "output"]
        assert [tuple(layer.shape) for layer in output.layers.values()] == [(2, 4096), (2, 4096), (2, 31)]
        assert output.features is output.layers["fc7"]
        linear = model.get_submodule("backbone.fc7.1")
        torch.testing.assert_close(output.layers["fc7"], linear(output.layers["fc6"]).relu())
        torch.testing.assert_close(output.logits, model.output(output.layers["fc7"]))


def test_capturing_changes_nothing_else() -> None:
    x = torch.randn(2, 3, 8, 8)
    plain = DAN(small_backbone(), 5)
    watched = DAN(small_backbone(), 5, capture=["first"], weights=plain.state_dict())
    assert torch.equal(plain.eval()(x).logits, watched.eval()(x).logits)


@pytest.mark.parametrize("capture", [(), ("second",), ("first", "pool")])
def test_entering_at_a_stage_equals_the_whole_forward_bit_for_bit(capture: tuple[str, ...]) -> None:
    model = DAN(small_backbone(), 5, capture=capture).eval()
    x = torch.randn(4, 3, 8, 8)
    whole = model(x)
    first = ["first", "second", "pool"].index(capture[0]) if capture else 2
    for k in range(first + 2):
        entered = model(model.backbone.run(x, stop=k), start=k)  # type: ignore[operator]
        assert list(entered.layers) == list(whole.layers)
        assert all(torch.equal(entered.layers[name], whole.layers[name]) for name in whole.layers)
    for k in (-1, first + 2):
        with pytest.raises(ValueError, match="cannot be entered"):
            model(x, start=k)


def test_a_frozen_stage_does_not_move_at_all() -> None:
    """Neither its weights nor its batch norm's statistics, and its dropout does nothing, while the rest trains."""
    model = DAN(small_backbone(), 5, frozen=["first"]).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(8, 3, 8, 8)
    first = model.stages["first"]
    assert torch.equal(first(x), first(x)) and not first.training and model.stages["second"].training
    optimizer = torch.optim.SGD([p for group in model.groups().values() for p in group], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).logits.square().sum().backward()
        assert all(p.grad is None for p in first.parameters())
        optimizer.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert not any(key.startswith("backbone.first.") for key in moved)
    assert {"backbone.second.0.weight", "backbone.second.1.running_mean", "output.weight"} <= moved
    model.freeze()  # free again
    assert first.training and all(p.requires_grad for p in first.parameters())


def test_freezing_up_to_a_stage_and_groups() -> None:
    model = DAN("alexnet", 10, layers=(16,))
    assert list(model.stage_groups()) == [*model.stages, "hidden1", "output"]
    model.freeze(up_to="conv3")
    assert model.settings["frozen"] == ["conv1", "conv2", "conv3"] and model.frozen_prefix == 3
    assert list(model.stage_groups()) == ["conv4", "conv5", "fc6", "fc7", "hidden1", "output"]
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    for groups in (model.groups(), model.stage_groups()):
        assert sorted(id(p) for group in groups.values() for p in group) == sorted(trained)
    assert [id(p) for p in model.groups()["backbone"]] == [
        id(p) for name in ("conv4", "conv5", "fc6", "fc7") for p in model.stages[name].parameters()
    ]
    model.freeze(model.stages)
    assert model.groups()["backbone"] == [] and list(model.stage_groups()) == ["hidden1", "output"]
    model.freeze("fc7")
    assert model.frozen_prefix == 0 and model.settings["frozen"] == ["fc7"]


def test_what_can_be_kept_ends_at_the_first_stage_that_trains_or_is_captured() -> None:
    for capture, frozen, prefix, kept in [
        ((), ("first", "second"), 2, 2),
        (("first",), ("first", "second"), 2, 1),
        (("pool",), ("first", "second", "pool"), 3, 3),
        (("pool",), ("first",), 1, 1),
        ((), ("second",), 0, 0),
    ]:
        model = DAN(small_backbone(), 5, capture=capture, frozen=frozen)
        assert (model.frozen_prefix, model.cached_stages) == (prefix, kept)


def test_a_module_of_ones_own_is_one_stage() -> None:
    model = DAN(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 5, capture=["backbone"], frozen=["backbone"])
    output = model.train()(torch.randn(2, 3, 4, 4))
    assert output.layers["backbone"].shape == (2, 4) and output.features.shape == (2, 64)
    assert model.frozen_prefix == 1 and model.groups()["backbone"] == []


def test_what_was_frozen_by_its_owner_stays_frozen() -> None:
    backbone = small_backbone()
    backbone.get_parameter("second.0.weight").requires_grad_(False)
    model = DAN(backbone, 5)
    model.freeze("first")
    model.freeze()
    assert not backbone.get_parameter("second.0.weight").requires_grad


def test_settings_build_the_same_network_again(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = DAN("squeezenet1_1", 10, layers=(16,), capture=("fire9",), frozen=["conv1", "fire2"])
    assert json.loads(json.dumps(model.settings)) == model.settings
    save_model(tmp_path / "model.pt", model)
    loaded = load_model(tmp_path)
    assert loaded.settings == model.settings and loaded.layer_names == ["fire9", "hidden1", "output"]
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(x).logits, model.eval()(x).logits)


def test_bad_stages() -> None:
    for options in ({"capture": ["fc8"]}, {"frozen": ["fc8"]}):
        with pytest.raises(UserError, match='no stage "fc8".*did you mean "fc'), torch.device("meta"):
            DAN("alexnet", 10, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be called output"):
        DAN(Backbone({"output": nn.Flatten()}), 3)
