"""DAN: named layers, any trunk, strict weights, parameter groups."""

import pytest
import torch
from torch import nn

from dan import DAN
from dan.checkpoint import load_model, save_model
from dan.errors import UserError


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


@pytest.mark.parametrize("trunk", [nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(12, 7)), nn.Identity()])
def test_any_module_is_a_trunk(trunk: nn.Module) -> None:
    model = DAN(trunk, 3, layers=(5,))
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


def test_a_trunk_of_ones_own_cannot_be_rebuilt_from_the_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
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
