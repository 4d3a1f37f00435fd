"""What experiments on tasks share: data made once a process, published tables, the floor, means, the machine."""

from __future__ import annotations

import hashlib
import math
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from dan.data.paths import cache_folder, data_folder
from dan.errors import UserError
from experiments.framework.records import Record

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from dan.data.tasks import DomainPair

HOME = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A published table: values[method][column] in percent; `source` and `provenance` say whose and how they came here.
    A value that is not in the table is not in the mapping."""

    source: str
    provenance: str
    columns: tuple[str, ...]
    values: Mapping[str, Mapping[str, float]]
    errors: Mapping[str, Mapping[str, float]]


@cache
def paper_table(name: str) -> PaperTable:
    """The table in experiments/paper_tables/<name>.toml. Raises UserError if it isn't there or its rows are ragged."""
    path = HOME / "paper_tables" / f"{name}.toml"
    if not path.is_file():
        raise UserError(f"there is no published table {path}")
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    columns = tuple(table["columns"])
    found: dict[str, dict[str, dict[str, float]]] = {"values": {}, "errors": {}}
    for row in table["rows"]:
        for kind, rows in found.items():
            numbers = row.get(kind, [math.nan] * len(columns))
            if len(numbers) != len(columns):
                raise UserError(f"{path}: the {kind} of {row['method']} are {len(numbers)}, the columns {len(columns)}")
            named = zip(columns, map(float, numbers), strict=True)
            rows[row["method"]] = {column: number for column, number in named if math.isfinite(number)}
    return PaperTable(source=str(table["source"]), provenance=str(table["provenance"]), columns=columns, **found)


def folders_of(config: Any) -> dict[str, str]:
    """The folders of data sets and of decoded images that settings with `data` and `image_cache` mean, as a trial's
    arguments have them."""
    folders = {"data": data_folder(config.data), "images": cache_folder(config.image_cache)}
    return {name: str(folder.absolute()) for name, folder in folders.items()}


@cache
def transfer_named(task: str, data: str, images: str, image_size: int = 224, source_holdout: float = 0.0) -> DomainPair:
    """The task's data, made once in a process: its trials only read it. data: the folder of data sets; images: the one
    for decoded images; the rest as in `dan.data.domain_pair.Options`."""
    from dan.data.tasks import load_pair

    return load_pair(task, data, cache=images, image_size=image_size, source_holdout=source_holdout or None)


def logistic_regression(source: Dataset[Any], target: Dataset[Any]) -> float:
    """Accuracy in [0, 1] on the target of scikit-learn's logistic regression (C = 1) on the source's features as they
    are: the floor of every network that is trained on those features. No randomness."""
    import torch
    from sklearn.linear_model import LogisticRegression

    from dan.data.batches import fetch, num_samples

    (x, y), (x_target, y_target) = (fetch(data, torch.arange(num_samples(data))) for data in (source, target))
    model = LogisticRegression(max_iter=5000).fit(x.double().numpy(), y.numpy())
    return float(model.score(x_target.double().numpy(), y_target.numpy()))


def over_tasks(
    records: Iterable[Record], tasks: Sequence[str], name: str, splits: Sequence[str] = ("accuracy/target",)
) -> list[Record]:
    """A record `name` for the mean of `splits` over `tasks`, for each (network, method, labels, seed, selection) that
    has all of them; the others give none."""
    groups: dict[tuple[Any, ...], dict[str, Record]] = {}
    for record in records:
        if record.get("selection") and record["task"] in tasks and record.get("accuracy/target") is not None:
            key = tuple(record[part] for part in ("network", "method", "labels", "seed", "selection"))
            groups.setdefault(key, {})[record["task"]] = record
    means = []
    for by_task in groups.values():
        if set(by_task) == set(tasks):
            first = by_task[tasks[0]]
            kept = ("experiment", "network", "method", "labels", "seed", "selection", "provenance", "command")
            mean = {split: statistics.fmean(by_task[task][split] for task in tasks) for split in splits}
            means.append({part: first[part] for part in kept} | {"task": name, "paper": None, **mean})
    return means


def last_and_oracle(about: Record, result: Mapping[str, Any]) -> list[Record]:
    """A record an evaluation of a trial's result. `last` is the model after the last step; `oracle`, which reads target
    labels to choose among several evaluations, is there to be compared with and is never the result."""
    evaluations: list[Record] = [
        {**about, **{key: value for key, value in each.items() if key != "event"}, **result["measured_on"]}
        for each in result["evaluations"]
    ]
    best = max(evaluations, key=lambda each: each["accuracy/target"])
    oracle = [{**best, "selection": "oracle", "seconds": None}] if len(evaluations) > 1 else []
    evaluations[-1]["selection"] = "last"
    return evaluations + oracle


def with_tuples(how: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's fields from JSON, where its tuples are lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in how.items()}


def weights_file(said: str, data: Path) -> str:
    """`said` if it names published weights; else the path of that file, looked for from here and from the folder of
    data sets. Raises UserError, before any work, where there is no such file."""
    if Path(said).suffix not in (".pt", ".pth"):
        return said
    places = [Path(said).expanduser(), data / said]
    for place in places:
        if place.is_file():
            return str(place.absolute())
    raise UserError(
        f"there is no weights file {said}, neither here nor in {data}: name another, or DEFAULT to fetch it"
    )


@cache
def weights_label(weights: str) -> str:
    """What records say of weights: the published name, or the file's name and the first 12 digits of its sha256."""
    path = Path(weights)
    if not path.is_file():
        return weights
    return f"{path.name} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]})"


@cache
def machine() -> dict[str, str]:
    """What the numbers were measured with: versions, processor, and the commit, if this is a checkout."""
    import torch

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        processor = named[0].partition(":")[2].strip() if named else processor
    about = {"torch": torch.__version__, "python": platform.python_version(), "processor": processor, "device": "cpu"}
    words = ["git", "-C", str(HOME), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        about["commit"] = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        about["commit"] = ""
    return about
