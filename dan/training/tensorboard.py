"""What TensorBoard shows of a run: curves, settings, maps of the features, pictures of what was asked.

A monitor only watches: it draws no random number and touches no tensor, so a run with it equals a run without it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dan.errors import UserError
from dan.run_dir import write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

POINTS_PER_DOMAIN = 500  # in a map of features: more hide each other, and the files grow
PROJECTOR_COMPONENTS = 50  # as many as t-SNE is usually given; 2048 features would be 14 MB of text a map


class Band(NamedTuple):
    """A chart of one curve inside the band between two others: their names."""

    value: str
    low: str
    high: str


class TensorBoardLogger:
    """Writes TensorBoard events into `folder`; with `folder` None, every method does nothing.

    `step` is the first step that will be written: what an earlier, interrupted run wrote there or later is hidden, so
    that no curve doubles. Names are grouped by their part before the slash: "loss/total", "accuracy/target".
    """

    def __init__(self, folder: Path | None, *, step: int = 0) -> None:
        self._folder = None if folder is None else Path(folder)
        self._step = step
        self._writer: SummaryWriter | None = None
        if self._folder is not None:
            # Here, not atop the file: it takes a second or more, which a run without a folder need not wait for.
            from torch.utils import tensorboard

            self._writer = tensorboard.SummaryWriter(str(self._folder), purge_step=step)

    def __enter__(self) -> "TensorBoardLogger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except UserError:
            if error is None:
                raise  # else what went wrong before is what counts

    @property
    def on(self) -> bool:
        """Whether anything is written: what costs something to compute should be computed only then."""
        return self._writer is not None

    def settings(self, settings: Mapping[str, object]) -> None:
        """The run's settings as a table, under TEXT."""
        if self._writer is None:
            return
        cell = {name: str(value).replace("|", r"\|").replace("\n", " ") for name, value in settings.items()}
        rows = [f"| {name} | {value} |" for name, value in cell.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]), self._step)

    def scalars(self, values: Mapping[str, float | Tensor], step: int) -> None:
        """One point of each named curve. A name may hold letters, digits and `_ - . /`; others become `_`."""
        if self._writer is None:
            return
        with self._writing():
            for name, value in values.items():
                self._writer.add_scalar(_tag(name), float(value), step)

    def charts(self, layout: Mapping[str, Mapping[str, Band | Sequence[str]]]) -> None:
        """Charts of several curves each, under CUSTOM SCALARS: category -> title -> a Band, or the names of curves.

        A name that ends in a slash, outside a Band, stands for all curves that begin so. It says where curves are shown
        and writes none, so it may come before them. Call it once: of a run's layouts the last one counts. Runs that are
        shown together share the charts of equal category and title.
        """
        if self._writer is None:
            return
        # TensorBoard takes a list as regular expressions to match from the start of a name on, and a band by its names.
        # Its page draws the bands of a category after the lists, and the last band first: hence the order here.
        drawn: dict[str, dict[str, list[Any]]] = {}
        for category, charts in layout.items():
            lists = {title: chart for title, chart in charts.items() if not isinstance(chart, Band)}
            bands = {title: chart for title, chart in charts.items() if isinstance(chart, Band)}
            drawn[category] = {
                title: ["Multiline", [re.escape(_tag(name)) + ("" if name.endswith("/") else "$") for name in chart]]
                for title, chart in lists.items()
            }
            for title in reversed(bands):
                drawn[category][title] = ["Margin", [_tag(name) for name in bands[title]]]
        self._writer.add_custom_scalars(drawn)

    def feature_map(
        self,
        source_features: Tensor,
        source_targets: Tensor,
        target_features: Tensor,
        target_targets: Tensor | None,
        step: int,
        name: str = "features",
        *,
        classes: Sequence[str] = (),
    ) -> None:
        """Source (N, F) and target (M, F) features as a map under IMAGES, and in the projector with domain and class.

        At most 500 of each domain are shown, evenly spaced over the given order; the projector gets the features
        themselves up to F = 50, and their first 50 principal components beyond.
        """
        if self._writer is None or self._folder is None:
            return
        from dan.figures import feature_map_figure, pixels, principal_components

        chosen = _spread(len(source_features), POINTS_PER_DOMAIN), _spread(len(target_features), POINTS_PER_DOMAIN)
        xs, ys = _rows(source_features, chosen[0]), _rows(source_targets, chosen[0])
        xt = _rows(target_features, chosen[1])
        yt = None if target_targets is None else _rows(target_targets, chosen[1])
        figure = feature_map_figure(xs, ys, xt, yt, classes=classes, title=f"{name}, step {step}")
        with self._writing():
            self._writer.add_image(_tag(name), pixels(figure), step, dataformats="HWC")

        labels = [*ys.tolist(), *([None] * len(xt) if yt is None else yt.tolist())]
        named = ["?" if y is None or y < 0 else classes[y] if y < len(classes) else str(y) for y in labels]
        domains = ["source"] * len(xs) + ["target"] * len(xt)
        metadata = [f"{domain}\t{label}" for domain, label in zip(domains, named, strict=True)]
        points = torch.cat([xs, xt])
        if points.shape[1] > PROJECTOR_COMPONENTS:
            points = torch.from_numpy(principal_components(points.double().numpy(), PROJECTOR_COMPONENTS)[0])
        with self._writing():
            _project(self._folder, _tag(name), step, points, metadata)

    def pictures(self, images: Tensor, captions: Sequence[str], step: int, name: str = "queried") -> None:
        """The images (N, C, H, W) with a caption each, in a grid under IMAGES; nothing when there are none."""
        if self._writer is None or len(images) == 0:
            return
        from dan.figures import pictures_figure, pixels

        figure = pictures_figure(images, captions, title=f"{name}, step {step}")
        with self._writing():
            self._writer.add_image(_tag(name), pixels(figure), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is pending. A closed monitor is off."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with self._writing():
                writer.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raises UserError where the disk takes no more; TensorBoard tells of it at a later write, or at the end."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._folder} cannot be written any more ({error.strerror or error}): make room, and run the same "
                "command again; it goes on from the last checkpoint"
            ) from None


def _tag(name: str) -> str:
    return re.sub(r"[^-/\w.]", "_", name)


def _spread(count: int, limit: int) -> Tensor:
    """At most `limit` indices of `count`, evenly spaced: no random number is drawn."""
    return torch.linspace(0, count - 1, min(count, limit), dtype=torch.float64).round().long()


def _rows(tensor: Tensor, indices: Tensor) -> Tensor:
    tensor = tensor.detach()[indices.to(tensor.device)].cpu()
    return tensor.float() if tensor.is_floating_point() else tensor


def _project(folder: Path, name: str, step: int, points: Tensor, metadata: Sequence[str]) -> None:
    """Add points (N, F) to the projector of `folder`: tables of points and of metadata, and the list of all tables.

    Written here and not by SummaryWriter.add_embedding, which forgets the embeddings of earlier runs on resuming and
    prints a warning when a step is written again. The list is made from the tables that are there.
    """
    here = folder / "projector" / name.replace("/", "-") / f"{step:08d}"
    here.mkdir(parents=True, exist_ok=True)
    rows = ("\t".join(f"{value:.5g}" for value in row) for row in points.tolist())
    for path, lines in ((here / "tensors.tsv", rows), (here / "metadata.tsv", ["domain\tclass", *metadata])):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    entries = []
    for table in sorted((folder / "projector").glob("*/*/tensors.tsv")):
        place = table.parent.relative_to(folder).as_posix()
        entries.append(
            f'embeddings {{\n  tensor_name: "{table.parent.parent.name}:{table.parent.name}"\n'
            f'  tensor_path: "{place}/tensors.tsv"\n  metadata_path: "{place}/metadata.tsv"\n}}'
        )
    listed = "\n".join(entries) + "\n"
    write_atomically(folder / "projector_config.pbtxt", lambda file: file.write(listed.encode()))
