"""The released checkpoints: what their model cards say is what is in them, and, where the data are, what they do."""

import json
import re
from pathlib import Path

import pytest
import torch

from dan.data.tasks import load_pair
from dan.errors import UserError
from dan.evaluation.metrics import evaluate
from dan.models.model_file import load_model, sha256_of
from dan.models.pretrained import current_names
from dan.run_dir import read_tensors
from experiments.publish_checkpoint import LIMIT

HOME = Path(__file__).resolve().parents[1] / "checkpoints"
RELEASED = sorted(path.parent for path in HOME.glob("*/model.pt"))
each = pytest.mark.parametrize("folder", RELEASED, ids=lambda folder: folder.name)


def last_evaluation(folder: Path) -> dict[str, float]:
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == "evaluation"][-1]


def test_there_are_some_and_the_page_names_each() -> None:
    page = (HOME / "README.md").read_text(encoding="utf-8")
    assert len(RELEASED) >= 6
    assert all(f"({folder.name}/README.md)" in page for folder in RELEASED)


@each
def test_the_card_is_of_this_file(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert sha256_of(folder / "model.pt") in card
    assert (folder / "model.pt").stat().st_size < LIMIT
    accuracy = last_evaluation(folder)["accuracy/target"]
    assert f"| target | {100 * accuracy:.2f} % |" in card


@each
def test_no_weights_of_others_are_in_it(folder: Path) -> None:
    """A frozen backbone is named by its file's sha256, and asked for; what is there was trained here."""
    saved = current_names(read_tensors(folder / "model.pt", "cpu"))
    if not saved["network"]["frozen"]:
        return
    assert re.fullmatch("[0-9a-f]{64}", saved["backbone_file"]["sha256"])
    assert not any(name.startswith("backbone.") for name in saved["weights"])
    with pytest.raises(UserError, match=re.escape(saved["backbone_file"]["name"])):
        load_model(folder)


def test_a_head_on_real_images(data_folder: Path, tmp_path: Path) -> None:
    """C->D, whose target is the smallest: the accuracy of the card, from the images."""
    folder = HOME / "office_caltech10_c2d_squeezenet1_1"
    weights = data_folder / "weights" / "squeezenet1_1_caffe_as_torchvision.pth"
    model = load_model(folder, weights=weights)
    task = load_pair("office_caltech10_c2d", data_folder, cache=tmp_path, quiet=True)
    with torch.inference_mode():
        measured = evaluate(model, task.target).accuracy
    assert measured == pytest.approx(last_evaluation(folder)["accuracy/target"], abs=1.01 / 157)  # one image's rounding
