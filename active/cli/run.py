"""python -m active run TASK: train a starting network if none is given, then rounds of queries and training, or one
training that queries at given epochs."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from dan.cli.train import train
from dan.cli.train_options import DataOptions, NetworkOptions, Train, flag_of, preset, recipe_summary, train_config_from
from dan.errors import UserError
from dan.training.config import TrainConfig, get_recipe

DEFAULT_ROUNDS = 4  # where one budget is that of every round


@dataclass(frozen=True, kw_only=True)
class Rounds(TrainConfig, NetworkOptions, DataOptions):
    """Train a DAN, then query labels in rounds, answered by the data set (a simulated oracle), and train on them."""

    strategy: str = "margin"
    """Acquisition strategy: a name that `python -m active strategies` lists, module:function, or NAME@SHARE, which
    picks this share of each batch with the strategy and the rest at random."""
    budget: tuple[str, ...] = ("15",)
    """Labels of each round: a number, or a percentage of the target as 5%, rounded up; or one for each round, such as
    1% 1% 3%, whose cumulative sums are rounded up."""
    rounds: int | None = None
    """Number of rounds. Default: 4, or one for each budget."""
    steps_per_round: int = 150
    """Training steps after each round."""
    retrain: Literal["scratch", "fine-tune", "continue"] | None = None
    """Training of each round. scratch: from the starting weights; fine-tune (default): from the last round's weights
    with a new optimiser; continue: with the last round's optimiser and schedule, too."""
    query_epochs: tuple[int, ...] = ()
    """Instead of rounds: one training that queries at the end of these epochs, such as 10 12 14 16 18. It starts from
    the initialised network, or from --start."""
    epochs: int | None = None
    """Length of the training of --query-epochs; one epoch is one pass over the target."""
    labelled_domain: Literal["target", "source"] = "target"
    """Domain to which the alignment counts labelled target samples."""
    start: Path | None = None
    """Finished run of `python -m dan train` to start from, with its task, network and recipe. Default: train one inside
    the run directory."""
    recipe: str = "small"
    """Source of the defaults: small, pretrained (used with published --weights), dan-2015, dan-caffe or dan-resnet.
    Other flags override it."""
    trade_off: float = 3.0
    """Weight lambda of the alignment terms; 0 aligns nothing."""
    steps: int = 1000
    """Training steps before the first round."""
    seed: int = 0
    """Seed of everything random in this run."""
    run: Path | None = None
    """Run directory; the same command on it resumes. Default: runs/<task>/<strategy>-seed<seed>."""
    cache_backbone: bool = False
    """Compute the outputs of the frozen first stages once, keep them on disk, and train on them: many times faster."""
    num_workers: int = 0
    """Processes that decode and augment training images; the batches are the same for any number."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    quiet: bool = False
    """Print no progress bar and no table."""


def defaults(argv: Sequence[str]) -> Rounds:
    """The defaults that --start or the recipe gives; all other flags may change them."""
    words = [part for word in argv for part in word.split("=", 1)]
    positions = [i for i, word in enumerate(words[:-1]) if word == "--start"]
    if positions:
        return _defaults_of_run(Path(words[positions[-1] + 1]))
    named = preset(argv)
    shared = {entry.name for entry in fields(Rounds)} & {entry.name for entry in fields(Train)}
    return Rounds(**{name: getattr(named, name) for name in shared})


def _defaults_of_run(run: Path) -> Rounds:
    from dan.run_metadata import load_run_config, load_train_config, required

    settings = load_run_config(run)
    given: dict[str, Any] = asdict(load_train_config(settings))
    given |= {"task": required(settings, "task", run), "trade_off": required(settings, "trade_off", run)}
    options = dict(settings.get("options", {}))
    options |= {name: Path(options[name]) for name in ("source", "target", "target_test") if name in options}
    if "classes" in options:
        options["classes"] = tuple(options["classes"])
    return Rounds(start=run, **given, **options)


def run_active(config: Rounds) -> None:
    """Train a starting network if none is given, then print one line for each round."""
    from active.learners.dan import run_rounds
    from active.learners.rounds_config import RoundsConfig, check_rounds_config
    from active.strategies import get_strategy
    from dan.data.paths import cache_folder

    get_strategy(config.strategy)  # a misspelt name must not cost a training first
    rounds = RoundsConfig(**_rounds_plan(config), trade_off=config.trade_off)
    if config.start is not None:
        for entry in fields(NetworkOptions):
            if getattr(config, entry.name) != entry.default:
                raise UserError(f"{flag_of(entry.name)} describes a new network, and --start brings one: use only one")
    task = config.load(config.quiet)
    check_rounds_config(task, rounds, train_config_from(config))
    name = config.strategy.replace(":", ".")
    folder = config.run or Path("runs") / task.name / f"{name}-seed{config.seed}"
    records = run_rounds(
        task,
        config.strategy,
        rounds,
        start=_start(config, task, folder),
        seed=config.seed,
        run=folder,
        config=train_config_from(config),
        cache=cache_folder(config.image_cache).with_name("backbones") if config.cache_backbone else False,
        num_workers=config.num_workers,
        device=config.device,
        quiet=config.quiet,
    )
    for record in records:
        if not config.quiet:
            print(_round_line(record), flush=True)
    if not config.quiet:
        print(f"run: {folder}  ({shlex.join(['tensorboard', '--logdir', str(folder)])})")


def _rounds_plan(config: Rounds) -> dict[str, Any]:
    """The fields of `RoundsConfig` but for the trade-off. Raises UserError for flags without use."""
    budget = config.budget[0] if len(config.budget) == 1 else config.budget
    plan: dict[str, Any] = {"budget": budget, "retrain": config.retrain, "labelled_domain": config.labelled_domain}
    if not config.query_epochs:
        rounds = DEFAULT_ROUNDS if config.rounds is None and len(config.budget) == 1 else config.rounds
        plan |= {"num_rounds": rounds, "steps_per_round": config.steps_per_round}
        return plan | ({} if config.epochs is None else {"epochs": config.epochs})
    for name, default in (
        ("rounds", Rounds.rounds),
        ("steps_per_round", Rounds.steps_per_round),
        ("steps", Rounds.steps if config.start else get_recipe(config.recipe).steps),
    ):
        if getattr(config, name) != default:
            raise UserError(f"{flag_of(name)} cannot be used with --query-epochs, which is one training of --epochs")
    return plan | {"query_epochs": config.query_epochs, "epochs": config.epochs}


def _start(config: Rounds, task: Any, folder: Path) -> Path:
    """The run to start from: --start; else one that is trained, or only initialised for --query-epochs, in `folder`."""
    if config.start is not None:
        return config.start
    start = folder / "start"
    if not config.query_epochs:
        shared = {entry.name for entry in fields(Train)} & {entry.name for entry in fields(config)}
        train(Train(**{name: getattr(config, name) for name in shared} | {"run": start}))
        return start
    if not config.quiet:
        print(recipe_summary(config), flush=True)
    _save_untrained(config, task, start)
    return start


def _save_untrained(config: Rounds, task: Any, folder: Path) -> None:
    """A run directory with the initialised network, for rounds to start from."""
    from dan.models.model_file import save_model
    from dan.run_dir import Run
    from dan.run_metadata import run_metadata

    network = {entry.name: getattr(config, entry.name) for entry in fields(NetworkOptions)}
    model = config.build(task, config.seed, config.align)
    settings = {**run_metadata(task), **network, "backbone": model.settings["backbone"]}
    settings |= {"trade_off": config.trade_off, "steps": 0, "seed": config.seed}
    try:
        Run(folder, {**settings, **asdict(train_config_from(config)), "labelled": 0})
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error}): name another --run") from None
    if not (folder / "model.pt").exists():
        save_model(folder / "model.pt", model)


def _round_line(record: Mapping[str, Any]) -> str:
    accuracies = [f"{key[9:]} {100 * value:5.2f} %" for key, value in record.items() if key.startswith("accuracy/")]
    return f"round {record['round']}  {record['labelled']:5d} labels  {'  '.join(accuracies)}"
