"""Mixed precision in training: the network's products in half, everything that the loss is made of in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dan import DAN, fit
from dan.data.batched import BatchedDataset
from dan.errors import UserError
from dan.models.dan import Output
from dan.run_dir import read_records
from dan.training.config import TrainConfig

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def blobs(count: int, shift: float, scale: float = 1.0) -> TensorDataset:
    generator = torch.Generator().manual_seed(int(10 * shift))
    y = torch.arange(count) % 2
    x = torch.randn(count, 3, generator=generator) + shift
    x[:, 0] += 4.0 * y
    return TensorDataset(scale * x, y)


def network() -> DAN:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(3, 16), nn.ReLU())
    backbone.out_features = 16  # type: ignore[assignment]
    return DAN(backbone, 2, layers=(8,))


def train(precision: str, *, steps: int = 4, **options: Any) -> tuple[DAN, list[dict[str, Any]]]:
    model = network()
    recipe = TrainConfig(
        batch_size=8,
        lr=0.05,
        head_lr_mult=1,
        schedule="constant",
        evaluate_every=2,
        checkpoint_every=2,
        feature_map=False,
    )
    options = {"trade_off": 1.0, "seed": 0, "config": recipe, "source": blobs(40, 0.0)} | options
    return model, fit(model, target=blobs(40, 1.0), steps=steps, precision=precision, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", HALF)
def test_the_network_in_half_the_loss_in_full(precision: str) -> None:
    """What a term sees is float32 that holds half-precision values; weights and their gradients are float32."""
    seen: list[Output] = []

    def term(source: Output, target: Output) -> dict[str, Tensor]:
        seen.extend((source, target))
        return {"apart": (source.features.mean(0) - target.features.mean(0)).square().sum()}

    model, records = train(precision, domain_loss=term)
    plain, of_plain = train("fp32", domain_loss=term)
    half, full = seen[:8], seen[8:]
    for output in half:
        for values in (output.logits, *output.layers.values()):
            assert values.dtype == torch.float32
            assert torch.equal(values, values.to(HALF[precision]).float())
    assert not torch.equal(full[0].logits, full[0].logits.to(HALF[precision]).float())
    torch.testing.assert_close(half[0].logits, full[0].logits, rtol=0.02, atol=0.02)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not torch.equal(model.output.weight, plain.output.weight)
    torch.testing.assert_close(model.output.weight, plain.output.weight, rtol=0, atol=0.02)
    assert records[-1]["loss"] == pytest.approx(of_plain[-1]["loss"], abs=0.05)


@pytest.mark.parametrize("precision", HALF)
def test_resumed_in_half_precision_with_the_same_bits(tmp_path: Path, precision: str) -> None:
    """The scale of fp16's loss goes on, too."""
    whole, _ = train(precision, steps=6, run=tmp_path / "a")

    class Killed(Exception):
        pass

    class Deadly(BatchedDataset, TensorDataset):
        left = 5

        def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
            self.left -= generator is not None
            if not self.left:
                raise Killed
            return self.tensors[0][indices], self.tensors[1][indices]

    with pytest.raises(Killed):
        train(precision, steps=6, run=tmp_path / "b", source=Deadly(*blobs(40, 0.0).tensors))
    assert torch.load(tmp_path / "b" / "resume.pt", weights_only=True)["step"] == 4
    resumed, _ = train(precision, steps=6, run=tmp_path / "b")
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))
    state = torch.load(tmp_path / "a" / "resume.pt", weights_only=True)
    assert ("scaler" in state) == (precision == "fp16")
    assert read_records(tmp_path / "a" / "records.jsonl")[0]["precision"] == precision
    with pytest.raises(UserError, match=f"precision is {precision}, not None"):
        train("fp32", steps=6, run=tmp_path / "a")


def test_fp16_leaves_out_a_step_that_overflows() -> None:
    """A loss of some thousand, times the scale of 2^16, is beyond fp16: no step is taken until the scale has fallen."""

    def term(source: Output, target: Output) -> dict[str, Tensor]:
        return {"steep": 1e3 * source.logits.sum()}

    before = network()
    model, _ = train("fp16", steps=1, domain_loss=term)
    assert all(torch.equal(p, q) for p, q in zip(before.parameters(), model.parameters(), strict=True))
    in_bfloat16, _ = train("bf16", steps=1, domain_loss=term)  # whose range is float32's
    assert not torch.equal(before.output.weight, in_bfloat16.output.weight)


def test_full_precision_is_not_said_in_the_records(tmp_path: Path) -> None:
    """Runs from before there was a choice are the same runs."""
    train("fp32", run=tmp_path)
    assert "precision" not in read_records(tmp_path / "records.jsonl")[0]


def test_unknown_precision() -> None:
    with pytest.raises(UserError, match='unknown precision "bf15".*did you mean "bf16"'):
        train("bf15")
