"""train --source-free RUN: adapt a run's network to a new target, with what the run kept of its source and no more.

The network is RUN's own: backbone, task-specific layers and classes. Its backbone is frozen up to the stage whose
outputs were kept of the source (`--coreset-size N` keeps them, in RUN/source.pt).
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dan.cli.train_options import NetworkOptions, Train, flag_of, preset
from dan.cli.train_setup import TrainingSetup, check_batch_size, first_then
from dan.errors import UserError

if TYPE_CHECKING:
    from dan.data.domain_pair import DomainPair
    from dan.models.dan import DAN
    from dan.source_free import KeptSource

MAX_SAMPLES = 2000  # of the target, evenly spread, for the MMD^2 that is printed before training


def setup_source_free(config: Train) -> TrainingSetup:
    """The target alone, with what a run kept of its source, and that run's network."""
    from dan.data.paths import cache_folder, data_folder
    from dan.devices import choose_device
    from dan.run_metadata import load_run_config
    from dan.run_target import load_target
    from dan.source_free import read_kept

    run = config.source_free
    assert run is not None
    settings, kept = load_run_config(run), read_kept(run)
    given, default = (
        {entry.name: getattr(options, entry.name) for entry in fields(NetworkOptions)}
        for options in (config, preset(["--recipe", config.recipe]))
    )

    def build() -> Any:
        return adapted_network(run, kept, given, default, device=choose_device(config.device))

    model = build()
    task = load_target(
        config.task,
        config.options(),
        kept,
        settings,
        run,
        data=data_folder(config.data),
        cache=cache_folder(config.image_cache),
        quiet=config.quiet,
    )
    check_batch_size(config, target=task.target)
    if not config.quiet:
        _print_distance(kept, model, task.target)
    metadata = _metadata(task, model, kept, settings, run)
    return TrainingSetup(task=task, build=first_then(model, build), metadata=metadata, kept=kept)


def adapted_network(
    run: Path, kept: "KeptSource", chosen: Mapping[str, Any], default: Mapping[str, Any], *, device: Any = "cpu"
) -> "DAN":
    """RUN's network, frozen up to where its source was kept.

    chosen, default: the values of `NetworkOptions`, as given and as they are if no flag is given.
    Raises UserError for flags that describe another network, and for a kept source that does not go with RUN.
    """
    from dan.models.model_file import load_model

    weights = chosen["weights"]
    other_file = None if weights in (None, default["weights"]) or _same(Path(weights), run) else Path(weights)
    model = load_model(run, device, weights=other_file)
    for name, value in chosen.items():
        if name != "weights" and value != default[name]:
            raise UserError(f"--source-free uses the network of {run}: leave out {flag_of(name)}")
    kept.check(model)
    model.freeze(up_to=list(model.stages)[kept.after_stages - 1])
    return model.train()


def _print_distance(kept: "KeptSource", model: "DAN", target: Any) -> None:
    from torch.utils.data import Subset

    from dan.data.batches import num_samples
    from dan.evaluation.metrics import predict

    total = num_samples(target)
    some = Subset(target, range(0, total, -(-total // MAX_SAMPLES)))
    if len(some) > 1:
        distance, error = kept.mmd2(predict(model, some)[0].features)
        print(f"unbiased MMD^2 between the kept source and the target: {distance:.4f} +- {error:.4f}")


def _metadata(
    task: "DomainPair", model: "DAN", kept: "KeptSource", settings: Mapping[str, Any], run: Path
) -> dict[str, Any]:
    from dan.run_metadata import run_metadata

    network = {name: model.settings[name] for name in ("backbone", "layers", "dropout", "adapters")}
    return {
        **run_metadata(task),
        # The kept source has the shape of the backbone's outputs, and the class counts of a core-set.
        "shape": list(settings["shape"]),
        "class_counts": kept.counts.tolist(),
        **network,
        "weights": None,
        "freeze": model.settings["frozen"],
        "freeze_up_to": None,
        "source_free": {"run": run.name, "samples": len(kept.y), "after_stages": kept.after_stages},
    }


def _same(one: Path, other: Path) -> bool:
    one = one.parent if one.name == "model.pt" else one
    return one.exists() and one.resolve() == other.resolve()
