"""What a task is: two domains over the same classes (`Transfer`), and what a user may choose about them (`Options`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch.utils.data import Dataset

from dan.data.tensor_datasets import Images, Vectors, held_out
from dan.errors import UserError

Split = TypeVar("Split", Images, Vectors)


@dataclass(frozen=True, kw_only=True)
class DomainPair:
    """A source and a target domain over the same classes.

    Every item of a data set is (x, y): x a float32 tensor, already normalised, of shape (channels, height, width) for
    kind "image" and (features,) for "vector"; y the index of a class. The target's labels are for the simulated oracle
    of active learning and for evaluation only.

    source_test, target_test: None where there is no such split; no sample of target_test is in target, so none is
    queried, trained on or aligned with. target_labelled, target_test_labelled: False where every y of it is -1: then
    there is no accuracy on it. normalisation: a name of `dan.data.tensor_datasets.NORMALISATIONS`.
    options: what
    `load_pair(name, data, **options)` needs to give the same transfer again, as plain values (but the cache folder).
    """

    name: str
    classes: tuple[str, ...]
    source: Dataset[Any]
    target: Dataset[Any]
    source_test: Dataset[Any] | None = None
    target_test: Dataset[Any] | None = None
    backbone: str = "lenet"  # the network that suits the size of the images
    kind: Literal["image", "vector"] = "image"
    image_size: int | None = None  # pixels a side
    normalisation: str | None = None
    target_labelled: bool = True
    target_test_labelled: bool | None = None  # None: as the target
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Dataset[Any]]:
        """The data sets that an accuracy can be told of, by the names that records use."""
        of_test = self.target_labelled if self.target_test_labelled is None else self.target_test_labelled
        labelled = {
            "source_test": self.source_test,
            "target": self.target if self.target_labelled else None,
            "target_test": self.target_test if of_test else None,
        }
        return {name: data for name, data in labelled.items() if data is not None}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be chosen about a task; which of these a task takes is in its family's `takes`."""

    cache: Path | None = None
    """Folder that decoded images are kept in; None decodes them into memory, each time."""
    image_size: int = 224
    """Pixels a side: the shorter side is resized to it, and the middle square kept."""
    augment: bool = False
    """Random training views: crops of 70 to 100 % of the area, mirrored half of the time."""
    source: Path | None = None
    """Of `folders`: a tree DIR/<class>/<image>, a CSV manifest (path,label[,group]), or a file of features."""
    target: Path | None = None
    """Of `folders`: the same; a flat folder of images is a target without labels."""
    classes: tuple[str, ...] = ()
    """Train on these classes only; `shared`: on those that both domains hold. Default: all, and they must be equal."""
    source_holdout: float = 0.0
    """Share of the source that is held out as source_test (stratified; whole groups where there are any)."""
    target_test: Path | None = None
    """Of `folders`: labelled target samples that are never trained on, aligned with or queried, as a tree, a manifest
    or features."""
    target_holdout: float = 0.0
    """Share of the target that is held out as target_test, the same way: never trained on, aligned with or queried."""
    download: bool = False
    """Let torchvision fetch what is missing, where it can."""
    quiet: bool = True
    """No progress bar while images are decoded."""

    @property
    def chosen(self) -> dict[str, Any]:
        """What differs from the defaults and decides the data, as plain values: JSON keeps them."""
        differing = {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if getattr(self, entry.name) != entry.default and entry.name not in ("cache", "download", "quiet")
        }
        plain = {Path: str, tuple: list}
        return {
            name: next((to(value) for kind, to in plain.items() if isinstance(value, kind)), value)
            for name, value in differing.items()
        }


def checked(given: Mapping[str, Any], takes: frozenset[str], task: str) -> Options:
    """Options from what a caller gave. None stands for the default, as on a command line that left a flag out.

    Raises UserError for a value that cannot be, and for an option that the task would not use.
    """
    defaults = {entry.name: entry.default for entry in fields(Options)}
    unknown = [name for name in given if name not in defaults]
    if unknown:
        raise TypeError(f"load_pair has no option {unknown[0]}: it takes {', '.join(defaults)}")
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in ("cache", "source", "target", "target_test"):
        if name in values:
            values[name] = Path(values[name]).expanduser().absolute()
    if "classes" in values:
        wanted = values["classes"]
        values["classes"] = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    options = Options(**values)
    for name in values:
        if values[name] != defaults[name] and name not in takes | {"cache", "quiet"}:
            taken = ", ".join(sorted(takes)) or "none"
            raise UserError(f"the task {task} has no use for {name} (of these options it takes: {taken})")
    if not 8 <= options.image_size <= 2048:
        raise UserError(f"image_size must be 8 to 2048 pixels, not {options.image_size}")
    for domain in ("source", "target"):
        share = getattr(options, f"{domain}_holdout")
        if not 0 <= share <= 0.5:
            raise UserError(f"{domain}_holdout is a share of the {domain} from 0 to 0.5, not {share}")
    return options


def source_split(source: Split, share: float) -> tuple[Split, Split | None]:
    """(training part, held-out part): all of it and None for share 0. Raises UserError where a side would be empty."""
    return (source, None) if share == 0 else split_off(source, share, "source_holdout")


def split_off(data: Split, share: float, option: str) -> tuple[Split, Split]:
    """(the rest, `share` of the samples), as `held_out` draws them. Raises UserError where a side would be empty."""
    rest, held = held_out(data, share)
    if not len(held) or not len(rest):
        raise UserError(
            f"{option} {share} of {len(data)} samples leaves a side empty: the groups or classes are too large"
        )
    return data.subset(rest), data.subset(held)
