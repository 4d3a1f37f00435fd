"""python -m dan export RUN: the network as one file that runs without this package, from a batch to its logits.

    model.pt2     torch.export, read by torch.export.load(path).module()
    model.onnx    ONNX, through the extra "onnx"

The size of the batch is free; all else is as in training. What was written is loaded again, and its logits are compared
with those of the network, on batches of several sizes. The file carries the names of the classes, the shape of a sample
and its normalisation.
"""

import io
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dan.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMATS = (".pt2", ".onnx")
NOTE = "active_dan.json"  # metadata of the network inside the file
SIZES = (1, 2, 5)  # batches that are compared
TOLERANCE = 1e-4  # largest difference, over the largest logit: other kernels sum in another order


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a finished run's network as one file for torch.export or ONNX."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory, or folder of a released checkpoint."""
    out: Path | None = None
    """The file: .pt2 (torch.export) or .onnx. Default: RUN/model.pt2."""
    network: str = "current"
    """Which of the run's networks: current, the newest that labels have trained; first, the run's own; or
    labelled_NN."""
    weights: Path | None = None
    """Weights of the frozen backbone, for a checkpoint that holds the trained parts only."""


def export_run(config: Export) -> None:
    """Export, check, and print where the file is. Raises UserError for another suffix, and for missing packages."""
    import torch

    from dan.models.model_file import load_model
    from dan.run_dir import write_atomically
    from dan.run_metadata import load_run_config, required
    from dan.run_networks import chosen_network

    out = config.out or config.run / "model.pt2"
    suffix = out.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(
            f'{out}: a network is exported as {" or ".join(FORMATS)}, not "{suffix}"{nearest(suffix, FORMATS)}'
        )
    if suffix == ".onnx":
        _refuse_without_onnx()
    settings = load_run_config(config.run)
    shape = tuple(required(settings, "shape", config.run))
    note = {name: settings.get(name) for name in ("task", "kind", "classes", "shape", "normalisation")}
    folder = chosen_network(config.run, config.network)
    network = logits_of(load_model(folder, weights=config.weights))
    samples = torch.randn(max(SIZES), *shape, generator=torch.Generator().manual_seed(0))
    content = (as_pt2 if suffix == ".pt2" else as_onnx)(network, samples, json.dumps(note))
    try:
        write_atomically(out, lambda file: file.write(content))
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}): name another --out") from None
    difference = largest_difference(out, network, samples)
    if not difference <= TOLERANCE:
        out.unlink()
        raise RuntimeError(f"{out} gave other logits than the network (by {difference:.2g} of the largest): removed")
    print(f"network: {folder}")
    print(f"{out}: (batch, {', '.join(map(str, shape))}) -> logits (batch, {len(note['classes'] or ())})")
    print(
        f"checked on batches of {', '.join(map(str, SIZES))}: largest difference {difference:.1g} of the largest logit"
    )


def logits_of(model: Any) -> "nn.Module":
    """The network as a module from a batch to its logits (N, C), in evaluation mode."""
    from torch import nn

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, inputs: "Tensor") -> "Tensor":
            return self.network(inputs).logits

    return Logits().eval()


def as_pt2(network: "nn.Module", samples: "Tensor", note: str) -> bytes:
    """The network by torch.export, with a free size of the batch; `note` goes with it. samples: at least 2."""
    import torch

    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (samples[:2],), dynamic_shapes=({0: batch},))
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={NOTE: note})
    return content.getvalue()


def as_onnx(network: "nn.Module", samples: "Tensor", note: str) -> bytes:
    """The network as ONNX, its input called "inputs" and its output "logits"; `note` is in its metadata."""
    import torch

    program: Any = torch.onnx.export(
        network,
        (samples[:2],),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        input_names=["inputs"],
        output_names=["logits"],
        verbose=False,
    )
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = NOTE, note
    return proto.SerializeToString()


def largest_difference(path: Path, network: "nn.Module", samples: "Tensor") -> float:
    """The file, loaded again, against the network: max |difference of logits| / max |logits|, over batches of SIZES."""
    import torch

    worst = torch.zeros((), dtype=torch.float64)
    run = _loaded(path)
    with torch.no_grad():
        for count in SIZES:
            expected = network(samples[:count]).double()
            difference = (run(samples[:count]).double() - expected).abs().max()
            worst = torch.maximum(worst, difference / expected.abs().max().clamp_min(1e-12))
    return float(worst)


def _loaded(path: Path) -> Any:
    import torch

    if path.suffix.lower() == ".pt2":
        return torch.export.load(path).module()
    if find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    else:
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(str(path))
    return lambda x: torch.from_numpy(session.run(None, {"inputs": x.numpy()})[0])


def _refuse_without_onnx() -> None:
    import torch

    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f'ONNX needs {" and ".join(missing)}: pip install "active-dan[onnx]", or export to .pt2')
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise UserError(
            f"ONNX needs PyTorch 2.6 or newer, and this is {torch.__version__}: update it, or export to .pt2"
        )
