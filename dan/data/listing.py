"""Which images a domain holds, in which classes: the value that trees, manifests and lists are read into, none decoded
yet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dan.class_names import class_names, doubtful_names
from dan.errors import UserError, print_warnings

# What the seven formats of `dan.data.decoding` are called.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".gif", ".pbm", ".pgm", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
UNLABELLED = -1  # the target of an image whose class is unknown

MAX_DIGITS = 18  # of a number that stands for a class: Python itself refuses to read thousands
_NAMED = 3  # of many offenders this many are named, and the rest counted


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of one domain: `names[i]` lies at `root / names[i]` and is of class `classes[targets[i]]`.

    place: the folder or file that it was read from, for messages. targets: all UNLABELLED where classes are unknown.
    classes: as `dan.class_names.class_name` gives them. groups: what belongs together (a patient, a series), one name
    an image, or None.
    """

    place: Path
    root: Path
    names: tuple[str, ...]
    targets: tuple[int, ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return bool(self.classes)

    def subset(self, rows: Sequence[int]) -> "Listing":
        """Those images of it, in that order."""
        return replace(
            self,
            names=tuple(self.names[i] for i in rows),
            targets=tuple(self.targets[i] for i in rows),
            groups=None if self.groups is None else tuple(self.groups[i] for i in rows),
        )


def some(words: Iterable[object], *, most: int = _NAMED) -> str:
    """`a, b, c and 4 more`: the first few of a list that may be long."""
    listed = [str(word) for word in words]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def sorted_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The names of classes in their order: as numbers where all are whole numbers, else as texts."""
    different = set(names)
    numbers = all(name.isdecimal() and len(name) <= MAX_DIGITS for name in different)
    return tuple(sorted(different, key=lambda name: (int(name) if numbers else 0, name)))


def labels_to_targets(labels: Sequence[str], place: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(targets, classes) of the labels in a table, "" being none; where all of them are "-1", none is known either.
    Classes that are hardly meant (`doubtful_names`) are warned of.

    Raises UserError where some have a label and others none, and for one class only.
    """
    if set(labels) <= {"", str(UNLABELLED)}:
        return (UNLABELLED,) * len(labels), ()
    classes = sorted_classes(set(labels) - {""})
    if "" in labels:
        raise UserError(
            f"{place}: {labels.count('')} of {len(labels)} lines have no label: give all of them one, or none"
        )
    if len(classes) == 1:
        raise UserError(f"{place} holds one class only ({classes[0]}): a classifier needs at least two")
    print_warnings(doubtful_names(place, classes))
    position = {name: index for index, name in enumerate(classes)}
    return tuple(position[label] for label in labels), classes


def agreed_classes(
    source: tuple[Path, Sequence[str]], target: tuple[Path, Sequence[str]], wanted: Sequence[str] = ()
) -> tuple[str, ...]:
    """The classes of a transfer, in the source's order, from what each side (its place, its classes) holds.

    wanted: () takes all, and they must be the same on both sides; ("shared",) takes those on both sides; any other
    names are the classes to take. A target without classes (unlabelled) agrees with any source. Names are compared,
    and returned, in the form of `dan.class_names.class_name`.

    Raises UserError that names the classes on one side only, and for fewer than two classes.
    """
    source_place, target_place = source[0], target[0]
    of_source = class_names(source[1])
    of_target = class_names(target[1]) or of_source
    wanted = class_names(wanted)
    shared = tuple(name for name in of_source if name in set(of_target))
    if wanted == ("shared",):
        chosen = shared
    elif wanted:
        for place, names in ((source_place, of_source), (target_place, of_target)):
            missing = [name for name in wanted if name not in names]
            if missing:
                raise UserError(f"{place} has no class {some(missing)}: it holds {some(names, most=12)}")
        chosen = tuple(name for name in of_source if name in set(wanted))
    else:
        chosen = of_source
        one_sided = [
            f"only in {place}: {some(only, most=8)}"
            for place, only in (
                (source_place, [name for name in of_source if name not in set(of_target)]),
                (target_place, [name for name in of_target if name not in set(of_source)]),
            )
            if only
        ]
        if one_sided:
            raise UserError(
                f"the domains do not hold the same classes (a partial or open set); {'; '.join(one_sided)}: "
                f"make them equal, or take the {len(shared)} that both hold with --classes shared"
            )
    if len(chosen) < 2:
        raise UserError(
            f"{source_place} and {target_place} share {len(chosen)} classes: a classifier needs at least two"
        )
    return chosen


def restricted(listing: Listing, classes: Sequence[str]) -> Listing:
    """The images of those classes only, with targets that count in the order of `classes`; unlabelled ones all stay."""
    if not listing.labelled or listing.classes == tuple(classes):
        return listing
    position = {name: index for index, name in enumerate(classes)}
    to = [position.get(name) for name in listing.classes]
    kept = listing.subset([i for i, target in enumerate(listing.targets) if to[target] is not None])
    return replace(kept, targets=tuple(to[target] or 0 for target in kept.targets), classes=tuple(classes))
