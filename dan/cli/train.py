"""python -m dan train TASK: build the task and the network, fit, and print the result."""

import math
import os
import shlex
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dan.cli.method_auto import check_auto, choose_method
from dan.cli.source_free import setup_source_free
from dan.cli.train_options import AdaptationOptions, Train, command_of, preset, recipe_summary, train_config_from
from dan.cli.train_setup import TrainingSetup, check_options, setup_from_task, split_target, weigh_source
from dan.errors import UserError

if TYPE_CHECKING:
    from dan.distributed import DistContext
    from dan.run_dir import Record

__all__ = ["Train", "low_information_warning", "preset", "train"]

LOW_INFORMATION = 0.2  # of log C: any network that has learned something is well above


def train(config: Train) -> None:
    """Build the task and the network, and fit; together with the other processes, if torchrun started several."""
    from dan.devices import choose_device
    from dan.distributed import joined

    choose_device(config.device)
    check_options(config)
    with joined(os.environ, config.device) as context:
        _train(config if context.first else replace(config, quiet=True), context)


def _train(config: Train, context: "DistContext") -> None:
    from dan.training.trainer import Trainer

    if config.method == "auto":
        check_auto(config, context.size)
    if config.tune and context.size > 1:
        raise UserError("--tune runs in one process: search without torchrun, then train with the best values")
    # The first process alone decodes and downloads what the others then find.
    setup = context.first_then_all(lambda: setup_source_free(config) if config.source_free else setup_from_task(config))
    task = setup.task
    method = config.method.replace("_", "-") if config.trade_off else "source_only"
    folder = config.run or Path("runs") / task.name / f"{method}-seed{config.seed}"
    options, metadata, tests = _fit_options(config, setup, context)
    if config.tune:
        config = _tune(setup, config, folder, metadata, options)
    if config.method == "auto":
        config, weights = choose_method(config, setup, folder, metadata, options)
        options |= weights
        metadata |= {"chosen_from": "auto"} | ({"label_shift": "correct"} if weights else {})
    model = setup.build()
    trainer = Trainer(
        model,
        task.source,
        task.target,
        trade_off=config.trade_off,
        steps=config.steps,
        seed=config.seed,
        tests=tests,
        config=train_config_from(config),
        run=folder,
        metadata=metadata,
        context=context,
        **options,
    )
    if not config.quiet:  # after the data and the settings are known to be right
        print(recipe_summary(config), flush=True)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr, flush=True)
        records = trainer.train()
    if not context.first:
        return
    if setup.kept is not None:
        setup.kept.under(model).save(folder / "source.pt")
    elif config.coreset_size:
        _keep_source(model, task.source, config, folder)
    if not config.quiet:
        _print_result(records[-1], folder)
        if warning := low_information_warning(records[-1], len(task.classes), config.lr, config.trade_off):
            print(f"warning: {warning}", file=sys.stderr)


def _fit_options(
    config: Train, setup: TrainingSetup, context: "DistContext"
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(further options of `fit`, metadata of the run, data sets to evaluate on by name)."""
    from dan.data.paths import cache_folder

    options: dict[str, Any] = {
        "cache": cache_folder(config.image_cache).with_name("backbones") if config.cache_backbone else False,
        "device": config.device,
        "precision": config.precision,
        "num_workers": config.num_workers,
        "verbose": not config.quiet,
    }
    metadata, tests = dict(setup.metadata), dict(setup.task.splits)
    if config.target_labels:
        options["labelled_target"], tests["unqueried"] = split_target(setup.task, config)
        metadata["target_labels"] = config.target_labels
    if config.source_weights:
        options["source_weights"] = context.of_first(lambda: weigh_source(setup, config))
        option = "select_fraction" if config.source_weights == "select" else "kmm_bound"
        metadata |= {"source_weights": config.source_weights, option: getattr(config, option)}
    if config.label_shift != "ignore" and config.trade_off:
        weights = context.of_first(lambda: _label_shift(config, setup, options["cache"]))
        if config.label_shift == "correct":
            options["class_weights"], metadata["label_shift"] = weights, "correct"
    return options, metadata, {name: data for name, data in tests.items() if data is not None}


def _label_shift(config: Train, setup: TrainingSetup, cache: Any) -> Any:
    """The class weights, from the estimate before alignment; a shift is printed as a warning."""
    from dan.training.label_shift import estimate_label_shift

    task = setup.task
    found = estimate_label_shift(
        setup.build(), task.source, task.target, steps=config.steps, seed=config.seed, cache=cache,
        config=train_config_from(config), device=config.device, precision=config.precision,
    )  # fmt: skip
    for warning in found.warnings(task.classes):
        print(f"warning: {warning}", file=sys.stderr)
    return found.weights


def _tune(
    setup: TrainingSetup, config: Train, folder: Path, metadata: dict[str, Any], options: dict[str, Any]
) -> Train:
    """The config with the best trade-off and learning rate, and without the search."""
    from dan.hparam_search import SearchConfig, tune

    search = SearchConfig(
        trials=config.tune,
        steps=config.tune_steps or config.steps,
        seed=config.seed,
        rule=config.tune_rule,
        trade_off=config.trade_off,
        config=train_config_from(config),
    )
    found = tune(
        setup.build,
        setup.task.source,
        setup.task.target,
        search,
        source_test=setup.task.source_test,
        run=folder / "tuning",
        metadata=metadata,
        on_trial=None if config.quiet else _print_trial,
        **options,
    )
    no_search = {name: getattr(AdaptationOptions, name) for name in ("tune", "tune_rule", "tune_steps")}
    best = replace(config, trade_off=found.trade_off, lr=found.lr, **no_search)
    if not config.quiet:
        print(f"best of {len(found.trials)}: --trade-off {best.trade_off} --lr {best.lr}")
        print(command_of(best))
    return best


def _keep_source(model: Any, source: Any, config: Train, folder: Path) -> None:
    from dan.data.batches import num_samples
    from dan.source_free import keep_source

    kept = keep_source(model, source, config.coreset_size, stage=config.coreset_stage)
    file = folder / "source.pt"
    kept.save(file)
    if not config.quiet:
        distance, _ = kept.mmd2(kept.features(model)[0], estimator="biased")
        total = num_samples(source)
        print(f"kept {len(kept.y)} of {total} source samples in {file}: MMD^2 to all of them {distance:.4f}")


def low_information_warning(last: "Record", classes: int, lr: float, trade_off: float = 0.0) -> str:
    """A warning where the target's predictions hardly depend on the sample, else "".

    Their mutual information with the sample is then below LOW_INFORMATION log C, as after a training that collapsed or
    diverged. No label is read. last: the last record of a training; trade_off: 0 if nothing was aligned.
    """
    information = last.get("label_free/information")
    if information is None or information >= LOW_INFORMATION * math.log(classes):
        return ""
    lower = f"a lower --lr than {lr:g}, or for more --steps"
    alone = f"first with --trade-off 0; if the source is learned so, with a lower --trade-off than {trade_off:g} or "
    return (
        f"the network hardly distinguishes the target samples (information {max(information, 0):.2f} of "
        f"{math.log(classes):.2f}): train again {alone if trade_off else 'with '}{lower}"
    )


def _print_trial(record: "Record") -> None:
    value = "diverged" if record["value"] is None else f"{record['value']:.4f}"
    print(f"trial {record['trial']:3d}  trade-off {record['trade_off']:<8g} lr {record['lr']:<8g} {value}", flush=True)


def _print_result(last: "Record", folder: Path) -> None:
    for name, value in last.items():
        if name.startswith("accuracy/"):
            print(f"{name.removeprefix('accuracy/'):<12} {100 * value:6.2f} % accuracy")
        elif name.startswith("mmd2/"):
            print(f"{name.removeprefix('mmd2/'):<12} {value:8.4f} unbiased MMD^2")
    print(f"run: {folder}  ({shlex.join(['tensorboard', '--logdir', str(folder)])})")
