"""python -m active run TASK: train a start if none is given, then rounds of asking and training on; or one training
that asks at given epochs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from dan.cli.train import Data, Network, Train, preset, train, train_config_from
from dan.errors import UserError
from dan.run_dir import Run
from dan.run_metadata import load_run_config, load_train_config, required, run_metadata
from dan.training.config import TrainConfig, get_recipe

ROUNDS = 4  # where one budget is that of every round


@dataclass(frozen=True, kw_only=True)
class Rounds(TrainConfig, Network, Data):
    """Train a DAN, then ask for labels in rounds, answered by the data set (a simulated oracle), and train on."""

    strategy: str = "margin"
    """Which samples to ask for: a name that `python -m active strategies` lists, module:function, or NAME@SHARE: a
    share of each batch by that strategy and the rest at random."""
    budget: tuple[str, ...] = ("15",)
    """Labels a round: a number, or a share of the target as 5%, rounded up; or one for each round, such as: 1% 1% 3%,
    of which the sums are rounded up."""
    rounds: int | None = None
    """Rounds of asking (default: 4, or as many as there are budgets)."""
    steps_per_round: int = 150
    """Training steps after each round."""
    retrain: Literal["scratch", "fine-tune", "continue"] | None = None
    """Each round's training: scratch, the starting weights again; fine-tune (default), the last round's weights, a new
    optimiser; continue: weights, optimiser and schedule go on."""
    query_epochs: tuple[int, ...] = ()
    """In place of rounds: one training, which asks at the end of these epochs, such as: 10 12 14 16 18. It starts from
    the network as it is built, or from --start."""
    epochs: int | None = None
    """Of --query-epochs: epochs of that training; one is one pass over the target."""
    labelled_domain: Literal["target", "source"] = "target"
    """Where the alignment counts labelled target samples: as part of the target, or with the source."""
    start: Path | None = None
    """Folder of a finished `python -m dan train` run to start from, with its task, network and recipe; default: train
    one inside the run's folder."""
    recipe: str = "small"
    """Whose defaults to take: small, pretrained (the default with published --weights), dan-2015, dan-caffe or
    dan-resnet. Other flags change what it says."""
    trade_off: float = 3.0
    """lambda, the weight of the method's terms; 0 aligns nothing."""
    steps: int = 1000
    """Training steps before the first round."""
    seed: int = 0
    """Decides everything random in this run."""
    run: Path | None = None
    """Folder of the run; the same command on the same folder goes on. Default: runs/<task>/<strategy>-seed<seed>."""
    cache_backbone: bool = False
    """Compute the frozen first stages once, keep their outputs on the disk, and train on them: many times faster."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    quiet: bool = False
    """No progress bar, no table."""


def defaults(argv: Sequence[str]) -> Rounds:
    """The defaults that --start or the named recipe gives, which all other flags may change."""
    words = [part for word in argv for part in word.split("=", 1)]
    places = [i for i, word in enumerate(words[:-1]) if word == "--start"]
    if not places:
        named = preset(argv)
        shared = {entry.name for entry in fields(Rounds)} & {entry.name for entry in fields(Train)}
        return Rounds(**{name: getattr(named, name) for name in shared})
    run = Path(words[places[-1] + 1])
    settings = load_run_config(run)
    given: dict[str, Any] = {
        entry.name: getattr(load_train_config(settings), entry.name) for entry in fields(TrainConfig)
    }
    given |= {"task": required(settings, "task", run), "trade_off": required(settings, "trade_off", run)}
    options = dict(settings.get("options", {}))
    for name in ("source", "target"):
        if name in options:
            options[name] = Path(options[name])
    if "classes" in options:
        options["classes"] = tuple(options["classes"])
    return Rounds(start=run, **given, **options)


def run_active(config: Rounds) -> None:
    """Train a start if none is given, then print one line a round."""
    from active.learners.dan import run_rounds
    from active.learners.rounds_config import RoundsConfig, check_rounds_config
    from active.strategies import get_strategy
    from dan.data.paths import cache_folder

    get_strategy(config.strategy)  # a misspelt name must not cost a training first
    rounds = RoundsConfig(**_plan(config), trade_off=config.trade_off)
    if config.start is not None:
        for entry in fields(Network):
            if getattr(config, entry.name) != entry.default:
                flag = f"--{entry.name.replace('_', '-')}"
                raise UserError(f"{flag} is of a new network, and --start brings its own: leave one of them out")
    task = config.load(config.quiet)
    check_rounds_config(task, rounds, train_config_from(config))
    name = config.strategy.replace(":", ".")
    folder = config.run or Path("runs") / task.name / f"{name}-seed{config.seed}"
    start = config.start
    if start is None and config.query_epochs:
        start = folder / "start"
        _as_built(config, task, start)
    elif start is None:
        start = folder / "start"
        shared = {entry.name for entry in fields(Train)} & {entry.name for entry in fields(config)}
        train(Train(**{name: getattr(config, name) for name in shared} | {"run": start}))
    records = run_rounds(
        task,
        config.strategy,
        rounds,
        start=start,
        seed=config.seed,
        run=folder,
        config=train_config_from(config),
        cache=cache_folder(config.image_cache).with_name("backbones") if config.cache_backbone else False,
        device=config.device,
        quiet=config.quiet,
    )
    for record in records:
        if not config.quiet:
            figures = [
                f"{key[9:]} {100 * value:5.2f} %" for key, value in record.items() if key.startswith("accuracy/")
            ]
            print(f"round {record['round']}  {record['labelled']:5d} labels  {'  '.join(figures)}", flush=True)
    if not config.quiet:
        print(f"run: {folder}  (tensorboard --logdir {folder})")


def _plan(config: Rounds) -> dict[str, Any]:
    """The fields of `RoundsConfig` but for the trade-off. Raises UserError for flags that would do nothing."""
    budget = config.budget[0] if len(config.budget) == 1 else config.budget
    plan: dict[str, Any] = {"budget": budget, "retrain": config.retrain, "labelled_domain": config.labelled_domain}
    if not config.query_epochs:
        rounds = ROUNDS if config.rounds is None and len(config.budget) == 1 else config.rounds
        plan |= {"num_rounds": rounds, "steps_per_round": config.steps_per_round}
        return plan | ({} if config.epochs is None else {"epochs": config.epochs})
    for name, unsaid in (
        ("rounds", Rounds.rounds),
        ("steps_per_round", Rounds.steps_per_round),
        ("steps", Rounds.steps if config.start else get_recipe(config.recipe).steps),
    ):
        if getattr(config, name) != unsaid:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{flag} is not of --query-epochs, which is one training of --epochs: leave one of them out"
            )
    return plan | {"query_epochs": config.query_epochs, "epochs": config.epochs}


def _as_built(config: Rounds, task: Any, folder: Path) -> None:
    """A run folder with the network before any training, for rounds to start from."""
    from dan.models.model_file import save_model

    chosen = {entry.name: getattr(config, entry.name) for entry in fields(Network)}
    recipe = train_config_from(config)
    model = config.build(task, config.seed, config.align)
    about = {**run_metadata(task), **chosen}
    about |= {"backbone": model.settings["backbone"], "trade_off": config.trade_off, "steps": 0, "seed": config.seed}
    try:
        Run(folder, {**about, **asdict(recipe), "labelled": 0})
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error}): name another --run") from None
    if not (folder / "model.pt").exists():
        save_model(folder / "model.pt", model)
