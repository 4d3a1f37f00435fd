"""The flags of python -m dan train, as dataclasses; the defaults that a recipe gives; the command line of a config."""

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dan.training.config import TrainConfig, get_recipe

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which domains, and how their samples are read."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")] = "rendered2digits"
    """Task <set>_<source>2<target>, or `folders` for your own data, with --source and --target."""
    source: Path | None = None
    """Source of the task `folders`: a tree DIR/<class>/<image>, a CSV manifest (path,label[,group]), or a feature
    file."""
    target: Path | None = None
    """Target of the task `folders`, in the same forms; a flat folder of images is a target without labels."""
    classes: tuple[str, ...] = ()
    """Use these classes only; `shared`: the classes that both domains have."""
    image_size: int | None = None
    """Side of the square images in pixels. Default: what suits the task, 224 for photographs."""
    augment: bool = False
    """Train on random crops and mirror images."""
    source_holdout: float = 0.0
    """Fraction of the source that is held out for evaluation, for data sets without a test split."""
    target_test: Path | None = None
    """Labelled target samples of the task `folders` for evaluation: never queried, trained on or aligned with."""
    target_holdout: float = 0.0
    """Fraction of the target that is held out for evaluation: never queried, trained on or aligned with."""
    download: bool = False
    """Download missing data sets with torchvision, where it can."""
    data: Path | None = None
    """Folder of data sets, for tasks that read any. Default: ACTIVE_DAN_DATA, or the user's cache folder."""
    image_cache: Path | None = None
    """Folder for decoded images. Default: in the user's cache folder."""

    def options(self) -> dict[str, Any]:
        """The chosen options of the task, as `dan.data.tasks.load_pair` takes them: None for the default."""
        domains = ("source", "target", "target_test", "classes", "source_holdout", "target_holdout")
        return {name: getattr(self, name) or None for name in (*domains, "image_size", "augment", "download")}

    def load(self, quiet: bool) -> Any:
        """The source and the target, as `dan.data.tasks.load_pair` gives them."""
        from dan.data.paths import cache_folder, data_folder
        from dan.data.tasks import load_pair

        cache = cache_folder(self.image_cache)
        return load_pair(self.task, data_folder(self.data), **self.options(), cache=cache, quiet=quiet)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Which network, and which parts of it are trained."""

    backbone: str | None = None
    """Backbone of the network; `timm:NAME` for one of timm's. Default: what suits the task."""
    weights: str | None = None
    """Weights of the backbone: their publisher's name for them (DEFAULT: the best), a state-dict file, a run, or
    none."""
    layers: tuple[int, ...] = (64,)
    """Widths of the hidden task-specific layers."""
    dropout: float = 0.0
    """Dropout probability after each hidden task-specific layer."""
    freeze: tuple[str, ...] = ()
    """Stages of the backbone that are not trained."""
    freeze_up_to: str | None = None
    """Freeze the backbone up to and including this stage; `all` freezes the whole backbone."""
    adapters: Literal["residual", "lora"] | None = None
    """Train small adapters inside the frozen backbone."""

    def build(self, task: Any, seed: int, align: Sequence[str]) -> Any:
        """The network, as `dan.models.factory.build_network` makes it."""
        from dan.models.factory import build_network

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
class AdaptationOptions:
    """Source weights, few target labels, adaptation without the source, and hyperparameter search."""

    source_weights: Literal["kmm", "select"] | None = None
    """Weight source samples by their similarity to the target: kernel mean matching, or selection of a subset."""
    select_fraction: float = 0.5
    """Fraction of the source that `--source-weights select` keeps."""
    kmm_bound: float = 3.0
    """Upper bound of a sample's weight in `--source-weights kmm`; large weights make training unstable."""
    label_shift: Literal["ignore", "warn", "correct"] = "ignore"
    """Class shares that differ between the domains, estimated before alignment by a source-only training of as many
    steps: ignore them, warn, or correct by class weights in the cross-entropy and in the method's terms."""
    target_labels: int = 0
    """Semi-supervised: number of labelled target samples of each class, drawn by the seed."""
    coreset_size: int = 0
    """Number of source samples to keep as backbone outputs in RUN/source.pt, for --source-free."""
    coreset_stage: str | None = None
    """Stage of the backbone whose outputs --coreset-size keeps. Default: the last."""
    source_free: Path | None = None
    """Adapt this run's network with what it kept of its source, instead of the source itself."""
    tune: int = 0
    """Number of trials that search --trade-off and --lr without target labels; then train with the best."""
    tune_rule: Literal["two_sample", "information"] = "two_sample"
    """Label-free criterion of --tune; two_sample needs held-out source samples."""
    tune_steps: int = 0
    """Training steps of a trial of --tune. Default: --steps."""


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig, NetworkOptions, DataOptions, AdaptationOptions):
    """Train a network on a labelled source and an unlabelled target."""

    recipe: str = "small"
    """Source of the defaults: small, own-data (used with --source and no --weights), pretrained (used with published
    --weights), dan-2015, dan-caffe or dan-resnet. Other flags override it."""
    trade_off: float = 3.0
    """Weight lambda of the alignment terms; 0 trains on the source only."""
    steps: int = 1000
    """Training steps."""
    seed: int = 0
    """Seed of everything random in this run."""
    run: Path | None = None
    """Run directory; the same command on it resumes. Default: runs/<task>/<method>-seed<seed>."""
    cache_backbone: bool = False
    """Compute the outputs of the frozen first stages once, keep them on disk, and train on them: many times faster."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the network's forward pass in training; losses, MMD and evaluations are always in float32."""
    num_workers: int = 0
    """Processes that decode and augment training images; the batches are the same for any number."""
    device: Device = "auto"
    """Device to compute on."""
    quiet: bool = False
    """Print no progress bar and no summary."""


def preset(argv: Sequence[str]) -> Train:
    """The defaults of the recipe that `argv` names, or that suits its --weights and data; flags may change them."""
    words = [part for word in argv for part in word.split("=", 1)]
    given = {flag: word for flag, word in itertools.pairwise(words) if flag in ("--recipe", "--weights")}
    weights = given.get("--weights", "none")
    # A folder is a run of this project: the recipe that suits its network was chosen when it was trained.
    from_scratch = weights == "none" or Path(weights).is_dir()
    scratch = "own-data" if "--source" in words and weights == "none" else "small"
    name = given.get("--recipe", scratch if from_scratch else "pretrained")
    named = get_recipe(name)
    renamed = {"pretrained": "weights", "frozen": "freeze"}
    network = {renamed.get(key, key): value for key, value in named.network.items()}
    return Train(recipe=name, trade_off=named.trade_off, steps=named.steps, **asdict(named.recipe), **network)


def train_config_from(config: TrainConfig) -> TrainConfig:
    """The training settings alone, of a config that has more."""
    return TrainConfig(**{entry.name: getattr(config, entry.name) for entry in fields(TrainConfig)})


def flag_of(name: str) -> str:
    """The flag of a config's field."""
    return f"--{name.replace('_', '-')}"


def recipe_summary(config: Any) -> str:
    """Which recipe, the flags that override it, and what is used: "recipe small with --lr 0.1: lr 0.1, trade-off 3,
    1000 steps".

    config: `Train`, or another one with its fields recipe, trade_off and steps and those of TrainConfig.
    """
    named = get_recipe(config.recipe)
    values = {**asdict(named.recipe), "trade_off": named.trade_off, "steps": named.steps}
    changed = [word for name, value in values.items() for word in _flag_words(name, getattr(config, name), value)]
    override = f" with {shlex.join(changed)}" if changed else ""
    used = f"lr {config.lr:g}, trade-off {config.trade_off:g}, {config.steps} steps"
    return f"recipe {config.recipe}{override}: {used}"


def command_of(config: Train) -> str:
    """The command line that means this config, with the flags that differ from their defaults."""
    default = preset(["--recipe", config.recipe])
    words = ["python", "-m", "dan", "train", config.task]
    for entry in fields(Train):
        if entry.name != "task":
            before = Train.recipe if entry.name == "recipe" else getattr(default, entry.name)
            words += _flag_words(entry.name, getattr(config, entry.name), before)
    return shlex.join(words)


def _flag_words(name: str, value: Any, default: Any) -> list[str]:
    """The words that set this flag on a command line; none where it has its default."""
    if value == default:
        return []
    if isinstance(value, bool):
        return [flag_of(name) if value else flag_of(f"no_{name}")]
    return [flag_of(name), *map(str, value if isinstance(value, tuple) else (value,))]
