"""Make a checkpoint to publish from a finished run: a small model.pt, the records that prove it, and its model card.

checkpoints/NAME/model.pt         the network; what is frozen and published by others is named, not copied
checkpoints/NAME/records.jsonl    the run's settings, its last evaluation, and its end
checkpoints/NAME/README.md        recipe, command, seed, data, accuracy, sha256: all of it from these two
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from platform import python_version
from typing import Annotated, Any

import tyro

from dan.cli.command_line import Command, run
from dan.errors import UserError
from experiments.framework.records import read, write_text

MARK = "<!-- released -->"  # twice in the README of the checkpoints: their list stands between
LIMIT = 3_000_000  # bytes of model.pt that may go into the repository


@dataclass(frozen=True, kw_only=True)
class PublishCheckpoint:
    """Which run is published, and under which name."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the finished run."""
    name: str
    """Name of the checkpoint: a folder in `out`."""
    weights: Path | None = None
    """File of the frozen backbone's weights, which are left out (default: the one that the run was trained with)."""
    weights_from: str = ""
    """Where that file can be fetched, for the model card."""
    out: Path = Path("checkpoints")
    """Folder of the checkpoints."""


def publish_checkpoint(config: PublishCheckpoint) -> None:
    """Write the checkpoint's folder. Raises UserError for a run that cannot be published as it is."""
    from dan.models.model_file import load_model, save_model
    from dan.run_dir import read_records, write_atomically
    from dan.run_metadata import load_run_config, required

    settings = load_run_config(config.run)
    task = required(settings, "task", config.run)
    records = read_records(config.run / "records.jsonl")
    evaluations = [record for record in records if record.get("event") == "evaluation"]
    if records[-1].get("event") != "done" or not evaluations:
        raise UserError(f"{config.run} is not finished: run its command again, and then release it")
    if task == "folders":
        raise UserError(f"{config.run} was trained on folders of your own, which nobody else has: release a named task")
    if not config.name or Path(config.name).name != config.name:
        raise UserError(f'"{config.name}" is no name for a checkpoint: it becomes a folder in {config.out}')
    folder = config.out / config.name
    model = load_model(config.run)
    backbone_file = None
    if model.settings["frozen"]:
        named = config.weights or Path(str(settings.get("weights")))
        if not named.is_file():
            raise UserError("weights of a frozen backbone are not ours and stay out: name their file with --weights")
        backbone_file = named
    elif config.weights is not None:
        raise UserError(f"nothing in {config.run} is frozen: leave out --weights")
    save_model(folder / "model.pt", model, backbone_file=backbone_file)
    size = (folder / "model.pt").stat().st_size
    if size > LIMIT:
        (folder / "model.pt").unlink()
        folder.rmdir()
        raise UserError(f"model.pt would have {size:,} bytes, and {LIMIT:,} may be published: freeze more stages")
    # Paths of this machine are nobody's business: of the weights the file's name is kept.
    kept = dict(settings)
    if backbone_file is not None or Path(str(settings.get("weights"))).is_file():
        kept["weights"] = (backbone_file or Path(str(settings["weights"]))).name
    lines = [kept, evaluations[-1], records[-1]]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomically(folder / "records.jsonl", lambda file: file.write(text.encode()))
    page = model_card(config.name, kept, evaluations[-1], folder / "model.pt", config.weights_from)
    write_atomically(folder / "README.md", lambda file: file.write(page.encode()))
    index = config.out / "README.md"
    if index.is_file() and len(parts := index.read_text(encoding="utf-8").split(MARK)) == 3:
        write_text(index, MARK.join([parts[0], f"\n{listing(config.out)}", parts[2]]))
    print(f"{folder}: model.pt ({size:,} bytes), records.jsonl, README.md")


def listing(out: Path) -> str:
    """A table of the checkpoints in a folder, from their records."""
    lines = ["| checkpoint | method | seed | accuracy on the target |", "|---|---|---:|---:|"]
    for path in sorted(out.glob("*/records.jsonl")):
        records = read(path)
        settings, evaluation = records[0], records[-2]
        accuracy = f"{100 * evaluation['accuracy/target']:.2f} %"
        cells = [f"[{path.parent.name}]({path.parent.name}/README.md)", method_of(settings), str(settings["seed"])]
        lines.append(f"| {' | '.join([*cells, accuracy])} |")
    return "\n".join(lines) + "\n"


def method_of(settings: Mapping[str, Any]) -> str:
    """What trained it, in plain words."""
    return str(settings.get("method", "dan")) if settings["trade_off"] else "source-only"


def model_card(
    name: str, settings: Mapping[str, Any], evaluation: Mapping[str, Any], model: Path, weights_from: str = ""
) -> str:
    """The README of a checkpoint, from the run's settings, its last evaluation, and model.pt itself."""
    import torch
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from dan import __version__
    from dan.models.model_file import sha256_of
    from dan.run_dir import read_tensors

    saved = read_tensors(model, "cpu")
    versions = {"active-dan": __version__, "PyTorch": torch.__version__.split("+")[0], "Python": python_version()}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("checkpoint_card.md").render(
        name=name,
        settings=settings,
        method=method_of(settings),
        accuracies={key.split("/", 1)[1]: v for key, v in evaluation.items() if key.startswith("accuracy/")},
        command=command_of(settings),
        versions=versions,
        network=saved["network"],
        needed=saved.get("backbone_file"),
        weights_from=weights_from,
        parameters=sum(value.numel() for value in saved["weights"].values()),
        sha256=sha256_of(model),
    )


def command_of(settings: Mapping[str, Any]) -> str:
    """The command line that trains this again: what differs from the defaults of `python -m dan train`.

    A run that something else than that command made says its own in the settings, as "command".
    """
    from dan.cli import train_options

    if "command" in settings:
        return str(settings["command"])
    chosen = {**settings, "classes": None, **settings.get("options", {})}  # the classes of a run are those of its data
    names = [field.name for field in fields(train_options.Train) if chosen.get(field.name) is not None]
    values = {name: chosen[name] for name in names}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return train_options.command_of(train_options.Train(**values))


COMMAND = Command(
    PublishCheckpoint, publish_checkpoint, "make a checkpoint to publish, with its model card, from a finished run"
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run("python -m", "", {"experiments.publish_checkpoint": COMMAND}, ["experiments.publish_checkpoint", *words])


if __name__ == "__main__":
    sys.exit(main())
