"""Benchmarks of images in folders, one row each: where their trees lie, how many classes and images they must have.

The counts are checked at load. Without them the field's classic bug passes unseen: a tree with one folder too many
reads as one class, and every prediction is right.
"""

from dataclasses import dataclass
from pathlib import Path

from dan.data.manifests import Listing, read_list, read_tree
from dan.errors import UserError


@dataclass(frozen=True)
class Domain:
    """One domain: the folders that it may be in, below the benchmark's, and its number of images.

    `lists`: the images are those that `<folder>_train.txt` and `<folder>_test.txt` name; else all of the folder.
    """

    folders: tuple[str, ...]
    images: int
    lists: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A set of domains over the same classes. `folders`: names that its folder may have; `fetch`: where it is from."""

    title: str
    folders: tuple[str, ...]
    classes: int
    domains: dict[str, Domain]
    fetch: str
    pairs: tuple[tuple[str, str], ...] = ()  # the transfers; () means every ordered pair

    @property
    def transfers(self) -> tuple[tuple[str, str], ...]:
        """(source, target) of each transfer."""
        return self.pairs or tuple((a, b) for a in self.domains for b in self.domains if a != b)


BENCHMARKS: dict[str, Benchmark] = {
    "office31": Benchmark(
        "Office-31",
        ("office31", "office-31"),
        31,
        {
            # The publisher's archive has an extra folder `images`; it is known here, so it may stay.
            "a": Domain(("amazon", "amazon/images"), 2817),
            "d": Domain(("dslr", "dslr/images"), 498),
            "w": Domain(("webcam", "webcam/images"), 795),
        },
        "domain_adaptation_images.tar.gz, linked from https://faculty.cc.gatech.edu/~judy/domainadapt",
    ),
    "office_caltech10": Benchmark(
        "Office-10 + Caltech-10",
        ("office_caltech10",),
        10,
        {
            "a": Domain(("amazon",), 958),
            "c": Domain(("caltech",), 1123),
            "d": Domain(("dslr",), 157),
            "w": Domain(("webcam",), 295),
        },
        "office_caltech_10, the ten classes that Office-31 and Caltech-256 share (Gong et al., CVPR 2012)",
    ),
    "officehome": Benchmark(
        "Office-Home",
        ("officehome", "office_home", "OfficeHome", "OfficeHomeDataset_10072016"),
        65,
        {
            "ar": Domain(("Art",), 2427),
            "cl": Domain(("Clipart",), 4365),
            "pr": Domain(("Product",), 4439),
            "rw": Domain(("Real World", "Real_World", "RealWorld"), 4357),
        },
        "OfficeHomeDataset_10072016.zip from https://www.hemanthdv.org/officeHomeDataset.html",
    ),
    "imageclef": Benchmark(
        "ImageCLEF-DA",
        ("imageclef", "image_CLEF"),
        12,
        {"c": Domain(("c",), 600), "i": Domain(("i",), 600), "p": Domain(("p",), 600)},
        "image_CLEF.zip from https://imageclef.org/2014/adaptation, sorted into folders of classes",
    ),
    "visda2017": Benchmark(
        "VisDA-2017",
        ("visda2017", "visda-2017", "VisDA2017"),
        12,
        {"train": Domain(("train",), 152397), "validation": Domain(("validation",), 55388)},
        "train.tar and validation.tar from https://ai.bu.edu/visda-2017",
        (("train", "validation"),),
    ),
    "domainnet": Benchmark(
        "DomainNet",
        ("domainnet", "DomainNet"),
        345,
        {
            "c": Domain(("clipart",), 48129, lists=True),
            "i": Domain(("infograph",), 51605, lists=True),
            "p": Domain(("painting",), 72266, lists=True),
            "q": Domain(("quickdraw",), 172500, lists=True),
            "r": Domain(("real",), 172947, lists=True),
            "s": Domain(("sketch",), 69128, lists=True),
        },
        "the cleaned version from https://ai.bu.edu/M3SDA",
    ),
    "pacs": Benchmark(
        "PACS",
        ("pacs", "PACS", "PACS/kfold"),
        7,
        {
            "p": Domain(("photo",), 1670),
            "a": Domain(("art_painting",), 2048),
            "c": Domain(("cartoon",), 2344),
            "s": Domain(("sketch",), 3929),
        },
        "kfold of PACS (Li et al., ICCV 2017)",
    ),
}


def domain_of(benchmark: Benchmark, letter: str, data: Path) -> tuple[Listing, Listing | None]:
    """The images of a domain, for training and for test (None where the benchmark has no such split).

    Raises UserError when they are not in `data` (with the tree that is expected and where to fetch it), and when
    classes or images are more or fewer than the benchmark's.
    """
    domain = benchmark.domains[letter]
    if domain.lists:
        root, name = _lists(benchmark, domain, data)
        train, test = (read_list(root[1] / f"{name}_{split}.txt", root[0]) for split in ("train", "test"))
        if train.classes != test.classes:
            raise UserError(
                f"{train.place} and {test.place} do not list the same classes: fetch {benchmark.title} again"
            )
        _check(benchmark, domain, train, len(train.names) + len(test.names))
        return train, test
    listing = read_tree(_tree(benchmark, domain, data))
    _check(benchmark, domain, listing, len(listing.names))
    return listing, None


def _tree(benchmark: Benchmark, domain: Domain, data: Path) -> Path:
    for folder in benchmark.folders:
        for inner in reversed(domain.folders):  # the deeper one first: amazon/images before amazon
            if (data / folder / inner).is_dir():
                return data / folder / inner
    place = data / benchmark.folders[0] / domain.folders[0]
    raise UserError(
        f"{benchmark.title} needs {place}/<class>/<image> ({benchmark.classes} classes, {domain.images} images), and "
        f"there is no such folder: fetch {benchmark.fetch}, and put it there or name another --data"
    )


def _lists(benchmark: Benchmark, domain: Domain, data: Path) -> tuple[tuple[Path, Path], str]:
    """((folder that paths are relative to, folder of the lists), the domain's name)."""
    name = domain.folders[0]
    for folder in benchmark.folders:
        for lists in (data / folder, data / folder / "txt", data / folder / "splits"):
            if (lists / f"{name}_train.txt").is_file():
                return (data / folder, lists), name
    root = data / benchmark.folders[0]
    raise UserError(
        f"{benchmark.title} needs {root}/{name}/<class>/<image> and the lists {root}/{name}_train.txt and "
        f"{name}_test.txt ({benchmark.classes} classes, {domain.images} images), and there are no such lists: fetch "
        f"{benchmark.fetch}, and put it there or name another --data"
    )


def _check(benchmark: Benchmark, domain: Domain, listing: Listing, images: int) -> None:
    if len(listing.classes) != benchmark.classes or images != domain.images:
        raise UserError(
            f"{listing.place} holds {len(listing.classes)} classes and {images} images, and {benchmark.title} has "
            f"{benchmark.classes} and {domain.images} there: fetch it again (or load it as your own: the task folders)"
        )
