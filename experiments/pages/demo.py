"""What the demo's report says and shows: the feature maps before and after, and the images that were asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.records import Record
from experiments.report import Page, Picture

if TYPE_CHECKING:
    from dan.data.tasks import DomainPair

MAP_COUNT = 300  # images of each domain on a feature map: more would only cover one another
NOTES = (
    "The target's labels are used in two places only: to measure accuracy, and by the simulated oracle, which gives "
    "the label of an image when a strategy asks for it. DAN sees the target's images and none of their labels.",
    "No model was chosen by looking at target labels: each number is that of the last model of its training, and both "
    "source-only and DAN start from the same weights and train for as many steps.",
    "An image that was labelled and trained on counts in “target”; “unqueried” leaves those images out. Strategies "
    "differ in which images that leaves, so the test split is the one to compare them on.",
    "A few seeds on small images show what the pieces do, not which strategy is best: look at the spread and at the "
    "worst seed.",
)


def demo_page(folder: Path, records: Sequence[Record]) -> Page:
    """The page of a demo folder; draws its pictures into folder/figures with the networks of the first seed."""
    from dan.data.tasks import load_pair

    selected = [record for record in records if record["selection"]]
    seeds = sorted({record["seed"] for record in selected})
    task = load_pair(selected[0]["task"])
    (folder / "figures").mkdir(exist_ok=True)
    sections = [
        (
            "Features before and after adaptation",
            "The last hidden layer in the plane of its two first principal components. Left, by domain: the more the "
            "two mix, the less the features tell domains apart. Right, by class: classes should stay apart.",
            _maps(folder, task, selected, seeds[0]),
        ),
        (
            "What each strategy asked for in its first round",
            f"The images, in the order asked (seed {seeds[0]}), each under its true class. All strategies saw the same "
            "DAN.",
            _asked(folder, task, selected, seeds[0]),
        ),
    ]
    return Page(
        title=f"{task.name}: from rendered fonts to handwritten scans",
        opening=f"{len(task.source)} labelled rendered digits (source), {len(task.target)} scanned ones "  # type: ignore[arg-type]
        "without labels (target). source-only learns from the source alone; DAN also aligns the features of the two "
        "domains by MK-MMD; then a few target labels are asked for, in rounds, and the DAN is trained on with them.",
        notes=NOTES,
        facts=_facts(folder, records, seeds),
        sections=[section for section in sections if section[2]],
    )


def _maps(folder: Path, task: DomainPair, records: Sequence[Record], seed: int) -> list[Picture]:
    from torch.utils.data import Subset

    from dan.evaluation.metrics import predict
    from dan.figures import feature_map_figure
    from dan.models.model_file import load_model

    source, target = (
        Subset(data, range(min(MAP_COUNT, len(data))))  # type: ignore[arg-type]
        for data in (task.source, task.target)
    )
    pictures = []
    for method, prefix in (("source-only", "source-only"), ("DAN", "dan")):
        mine = [record for record in records if (record["method"], record["seed"]) == (method, seed)]
        if not mine or not (folder / f"{prefix}-seed{seed}").is_dir():  # published records have no networks with them
            continue
        model = load_model(folder / f"{prefix}-seed{seed}")
        (of_source, y_source), (of_target, y_target) = predict(model, source), predict(model, target)
        figure = feature_map_figure(of_source.features, y_source, of_target.features, y_target, classes=task.classes)
        file = f"features_{prefix.replace('-', '_')}.png"
        figure.savefig(folder / "figures" / file, dpi=100)
        distance = mine[-1].get("mmd2/hidden1")
        told = "" if distance is None else f"; MMD² of this layer between the domains {distance:.3f}"
        pictures.append(Picture(file=file, caption=f"{method}, seed {seed}{told}.", wide=True))
    return pictures


def _asked(folder: Path, task: DomainPair, records: Sequence[Record], seed: int) -> list[Picture]:
    import torch

    from dan.data.batches import fetch
    from dan.figures import pictures_figure

    pictures = []
    for record in records:
        # Round 0 is the network before any label, and the question that it asks is the first round's.
        if record.get("round") != 0 or record["seed"] != seed:
            continue
        images, answers = fetch(task.target, torch.tensor(record["queried"]))
        names = [task.classes[int(answer)] for answer in answers]
        figure = pictures_figure(images, names, columns=5)
        figure.savefig(folder / "figures" / f"asked_{record['method'].replace(':', '.')}.png", dpi=80)
        counts = ", ".join(f"{name} ×{count}" for name, count in sorted(Counter(names).items()))
        caption = f"{record['method']}: {len(set(names))} of {len(task.classes)} classes ({counts})."
        pictures.append(
            Picture(file=f"asked_{record['method'].replace(':', '.')}.png", caption=caption, of_images=True)
        )
    return pictures


def _facts(folder: Path, records: Sequence[Record], seeds: Sequence[int]) -> list[tuple[str, str]]:
    """How it was measured, from the records and from the arguments that the trials were made with."""
    first, made = records[0], _arguments(folder)
    start = next((arguments for arguments in made if arguments.get("trade_off") and "steps" in arguments), {})
    asked = next((arguments for arguments in made if "budget" in arguments), {})
    facts = [
        ("Command", str(first["command"])),
        ("Network", f"{first['network']} and one hidden layer, from random weights"),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Steps", f"{start.get('steps', '–')} for source-only, the same for DAN (λ = {start.get('trade_off', '–')})"),
    ]
    if asked:
        rounds = (
            f"{asked['num_rounds']} rounds of {asked['budget']} labels, {asked['steps_per_round']} steps after each"
        )
        facts.append(("Labels", f"{rounds}, from the DAN of the same seed, with the alignment still on"))
    where = sorted({f"PyTorch {r['torch']}, Python {r['python']}, CPU ({r['processor']})" for r in records})
    return [
        *facts,
        ("Selection", "last: the model at the end of training, no early stopping"),
        ("Measured on", "; ".join(where) + "; one thread a trial"),
        ("Spread", "sample standard deviation over seeds"),
    ]


def _arguments(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8"))["arguments"] for path in sorted(folder.glob("*/trial.json"))]
