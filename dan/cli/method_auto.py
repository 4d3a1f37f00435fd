"""python -m dan train TASK --method auto: train a portfolio, choose without target labels, say why."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dan.cli.train_options import AdaptationOptions, Train, command_of, train_config_from
from dan.cli.train_setup import TrainingSetup
from dan.errors import UserError


def check_auto(config: Train, processes: int) -> None:
    """Raise UserError for flags that --method auto cannot be used with."""
    for name, flag in (("tune", "--tune"), ("source_free", "--source-free"), ("source_weights", "--source-weights")):
        if getattr(config, name):
            raise UserError(f"--method auto cannot be used with {flag}: name a method")
    if config.label_shift != AdaptationOptions.label_shift:
        raise UserError("--method auto tries class weights itself: leave out --label-shift")
    if not config.trade_off:
        raise UserError("--method auto compares methods with source-only: give a --trade-off above 0")
    if processes > 1:
        raise UserError("--method auto runs in one process: choose without torchrun, then train with what it chose")


def choose_method(
    config: Train, setup: TrainingSetup, folder: Path, metadata: dict[str, Any], options: dict[str, Any]
) -> tuple[Train, dict[str, Any]]:
    """(the config with the chosen method, further options of its training); prints the table of candidates."""
    from dan.training.portfolio import choose_candidate

    choice = choose_candidate(
        setup.build, setup.task.source, setup.task.target, trade_off=config.trade_off, run=folder, steps=config.steps,
        seed=config.seed, config=replace(train_config_from(config), method="dan"), metadata=metadata, **options,
    )  # fmt: skip
    chosen = choice.candidate
    best = replace(
        config,
        method=chosen.method or "dan",
        trade_off=chosen.trade_off(config.trade_off),
        label_shift="correct" if chosen.corrected else "ignore",
    )
    if not config.quiet:
        rule = "accuracy on audit labels" if choice.rule == "audit_accuracy" else f"the validator {choice.rule}"
        print(f"{choice.table()}\nchosen by {rule}, higher is better; no other target label was read: {chosen.name}")
        print(command_of(best))
    weights = {"class_weights": choice.shift.weights} if chosen.corrected else {}
    return replace(best, label_shift="ignore"), weights
