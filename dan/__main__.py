"""The door to training: python -m dan train | evaluate | predict | export | compare."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dan.cli import Command, run
from dan.compare import Compare, run_compare
from dan.doors.evaluate import Evaluate, evaluate_run
from dan.doors.export import Export, export_run
from dan.doors.predict import Predict, predict_folder
from dan.recipes import RECIPES, Recipe, recipe_named

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which domains, and how their samples are read."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")] = "rendered2digits"
    """Transfer, as <set>_<source>2<target>; `folders` for your own, with --source and --target."""
    source: Path | None = None
    """Of `folders`: a tree DIR/<class>/<image>, a CSV manifest (path,label[,group]), or a file of features."""
    target: Path | None = None
    """Of `folders`: the same; a flat folder of images is a target without labels."""
    classes: tuple[str, ...] = ()
    """Train on these classes only; `shared`: on those that both domains hold."""
    image_size: int | None = None
    """Pixels a side; default: what suits the task, 224 for photographs."""
    augment: bool = False
    """Random training views: crops and mirror images."""
    source_holdout: float = 0.0
    """Share of the source that is held out, to judge models by; for sets without a test split."""
    download: bool = False
    """Let torchvision fetch what is missing, where it can."""
    data: Path | None = None
    """Folder of data sets, for tasks that read any (also: ACTIVE_DAN_DATA)."""
    image_cache: Path | None = None
    """Folder that decoded images are kept in; default: in the user's cache folder."""

    def load(self, quiet: bool) -> Any:
        """The transfer, as `dan.domains.tasks.load_task` gives it."""
        from dan.domains.places import cache_folder, data_folder
        from dan.domains.tasks import load_task

        names = ("source", "target", "classes", "image_size", "augment", "source_holdout", "download")
        options = {name: getattr(self, name) or None for name in names}
        cache = cache_folder(self.image_cache)
        return load_task(self.task, data_folder(self.data), **options, cache=cache, quiet=quiet)


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network, and what of it is trained."""

    backbone: str | None = None
    """Trunk of the network; default: the one that the task suggests. `timm:NAME` for one of timm's."""
    weights: str | None = None
    """Weights of the trunk: a name that its publisher uses (DEFAULT: the best), a state-dict file, a run, or none."""
    layers: tuple[int, ...] = (64,)
    """Widths of the hidden task-specific layers."""
    dropout: float = 0.0
    """Dropout after each hidden task-specific layer."""
    freeze: tuple[str, ...] = ()
    """Stages of the trunk that are not trained."""
    freeze_up_to: str | None = None
    """Freeze the trunk up to and with this stage; `all` freezes all of it."""
    adapters: Literal["residual", "lora"] | None = None
    """Train few weights in a frozen trunk."""

    def build(self, task: Any, seed: int, align: Sequence[str]) -> Any:
        """The network, as `dan.build.build_network` makes it."""
        from dan.build import build_network

        return build_network(
            task,
            seed=seed,
            backbone=self.backbone,
            pretrained=self.weights,
            layers=self.layers,
            dropout=self.dropout,
            align=align,
            frozen=self.freeze,
            freeze_up_to=self.freeze_up_to,
            adapters=self.adapters,
        )


@dataclass(frozen=True, kw_only=True)
class Train(Recipe, Network, Data):
    """Train a network on a transfer: labelled source, unlabelled target."""

    recipe: str = "small"
    """Whose defaults to take: small, dan-2015, dan-caffe or dan-resnet. Other flags change what it says."""
    trade_off: float = 3.0
    """lambda, the weight of the method's terms; 0 trains on the source only."""
    steps: int = 1000
    """Training steps."""
    seed: int = 0
    """Decides everything random in this run."""
    run: Path | None = None
    """Folder of the run; the same command on the same folder goes on. Default: runs/<task>/<method>-seed<seed>."""
    cache_trunk: bool = False
    """Compute the frozen first stages once, keep their outputs on the disk, and train on them: many times faster."""
    device: Device = "auto"
    """Where to compute."""
    quiet: bool = False
    """No progress bar, no summary."""


def preset(argv: Sequence[str]) -> Train:
    """The defaults that the named recipe gives, which all other flags may change."""
    words = [part for word in argv for part in word.split("=", 1)]
    places = [i for i, word in enumerate(words[:-1]) if word == "--recipe"]
    named = recipe_named(words[places[-1] + 1]) if places else RECIPES["small"]
    network = dict(named.network)
    renamed = {"pretrained": "weights", "frozen": "freeze"}
    return Train(
        recipe=words[places[-1] + 1] if places else "small",
        trade_off=named.trade_off,
        steps=named.steps,
        **asdict(named.recipe),
        **{renamed.get(name, name): value for name, value in network.items()},
    )


def train(config: Train) -> None:
    """Build the task and the network, and fit."""
    from dan.devices import choose_device
    from dan.domains.places import cache_folder
    from dan.doors.run_settings import described
    from dan.training import fit

    choose_device(config.device)
    task = config.load(config.quiet)
    method = config.method.replace("_", "-") if config.trade_off else "source_only"
    folder = config.run or Path("runs") / task.name / f"{method}-seed{config.seed}"
    recipe = Recipe(**{entry.name: getattr(config, entry.name) for entry in fields(Recipe)})
    model = config.build(task, config.seed, recipe.align)
    chosen = {entry.name: getattr(config, entry.name) for entry in fields(Network)}
    records = fit(
        model,
        task.source,
        task.target,
        trade_off=config.trade_off,
        steps=config.steps,
        seed=config.seed,
        tests=task.splits,
        recipe=recipe,
        run=folder,
        about={
            "task": task.name,
            "options": dict(task.options),
            **described(task),
            **chosen,
            "backbone": model.settings["backbone"],
        },
        cache=cache_folder(config.image_cache).with_name("trunks") if config.cache_trunk else False,
        device=config.device,
        quiet=config.quiet,
    )
    if not config.quiet:
        for name, value in records[-1].items():
            if name.startswith("accuracy/"):
                print(f"{name.removeprefix('accuracy/'):<12} {100 * value:6.2f} % accuracy")
            elif name.startswith("mmd2/"):
                print(f"{name.removeprefix('mmd2/'):<12} {value:8.4f} unbiased MMD^2")
        print(f"run: {folder}  (tensorboard --logdir {folder})")


COMMANDS = {
    "train": Command(Train, train, "Train a network on a transfer: source-only, DAN, or another method.", preset),
    "evaluate": Command(Evaluate, evaluate_run, "Measure a finished run on every split of its task."),
    "predict": Command(Predict, predict_folder, "Name the classes of images (or features) that nobody has labelled."),
    "export": Command(Export, export_run, "Write a finished run's network as one file for other programs."),
    "compare": Command(Compare, run_compare, "How far apart are two sets of images or features? MMD, test, picture."),
}


def main() -> int:
    """The exit code of the command line."""
    return run("python -m dan", "Features that do not know their domain: deep adaptation with MK-MMD.", COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
