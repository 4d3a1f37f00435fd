"""A live look at the records: streamlit run experiments/dashboard.py [-- --runs DIR --data DIR]

Choose an experiment, published or still running, a network, transfers and methods: accuracy against labels with bands,
the table, and the pictures that each round asked for. Records are read again every few seconds while trials run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # streamlit puts this folder on the path, and not its parent
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import streamlit as st

from dan.errors import UserError
from experiments.framework.measurements import aggregate, measurements
from experiments.framework.records import NAMES, Record, located, read, text_of
from experiments.framework.reporting.plots import SPLIT_NAMES, bars, curves
from experiments.queried_images import queried_images
from experiments.tasks import HOME

EVERY = 5  # seconds between looks at a run
PICTURES = 60  # of a round, at most
COMMANDS = 3  # that are told


def options(argv: Sequence[str]) -> argparse.Namespace:
    """The flags after `--`."""
    parser = argparse.ArgumentParser(prog="streamlit run experiments/dashboard.py --")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    parser.add_argument("--data", type=Path, default=None, help="folder of data sets (also: ACTIVE_DAN_DATA)")
    return parser.parse_args(argv)


def folders(runs: Path) -> dict[str, Path]:
    """What can be looked at: the published results, then each run that has records."""
    published = {path.parent.name: path for path in records_in(HOME / "results")}
    own = {str(path.parent): path for path in records_in(runs)}
    return {name: path for name, path in (published | own).items() if _of_experiment(path)}


def records_in(home: Path) -> list[Path]:
    """The records file of each folder in `home` that has one."""
    folders = sorted({path.parent for name in NAMES for path in home.glob(f"*/{name}")})
    return [located(folder) for folder in folders]


def _of_experiment(path: Path) -> bool:
    """Benchmarks and single trainings keep records of another kind."""
    try:
        return '"selection"' in text_of(path).partition("\n{}")[0][:20_000]
    except (OSError, UserError):
        return False


def chosen(records: Sequence[Record]) -> list[Record]:
    """The records of what the side bar chooses; nothing chosen is everything."""
    for field, label, many in (("network", "network", False), ("task", "transfer", False), ("method", "methods", True)):
        values = list(dict.fromkeys(str(record.get(field, "")) for record in records))
        if many:
            wanted = st.sidebar.multiselect(label, values, default=[], placeholder="all")
        else:
            wanted = [st.sidebar.selectbox(label, values)]
        records = [record for record in records if not wanted or str(record.get(field, "")) in wanted]
    selections = list(dict.fromkeys(record["selection"] for record in records))
    if len(selections) > 1:
        wanted = [st.sidebar.selectbox("selection of the model", selections)]
        records = [record for record in records if record["selection"] in wanted]
    return list(records)


def show_accuracy(records: Sequence[Record]) -> None:
    """Curves with bands where labels were bought, bars where not; and the rows of the table."""
    measured = measurements(records)
    splits = [split for split in SPLIT_NAMES if any(key.split == split for key in measured)]
    if not splits:
        st.info("These records hold no accuracy on the target: see the experiment's own page.")
        return
    split = st.segmented_control("measured on", splits, default=splits[0], format_func=SPLIT_NAMES.__getitem__)
    split = split or splits[0]
    figure = curves(measured, split) or bars(measured, split)
    st.pyplot(figure, width="content")
    rows = [asdict(row) for row in aggregate(records) if row.split == split]
    shown = ("method", "labels", "metric", "mean", "spread", "n", "selection", "paper")
    decimals = {name: st.column_config.NumberColumn(format="%.1f") for name in ("mean", "spread", "paper")}
    st.dataframe([{name: row[name] for name in shown} for row in rows], hide_index=True, column_config=decimals)
    st.caption("Accuracies and areas in percent; spread: standard deviation over n seeds.")


def show_asked(records: Sequence[Record], data: Path | None) -> None:
    """The pictures of one method, seed and round."""
    rounds = [record for record in records if record.get("queried")]
    if not rounds:
        return
    st.subheader("What was asked")
    left, middle, right = st.columns(3)
    method = left.selectbox("strategy", list(dict.fromkeys(record["method"] for record in rounds)))
    seeds = sorted({record["seed"] for record in rounds if record["method"] == method})
    seed = middle.selectbox("seed", seeds)
    of_trial = [record for record in rounds if (record["method"], record["seed"]) == (method, seed)]
    number = right.selectbox("round", [record["round"] for record in of_trial])
    record = next(record for record in of_trial if record["round"] == number)
    try:
        pictures = queried_images(record, data)
    except UserError as error:
        st.info(str(error))
        return
    if pictures:
        st.image(
            [picture.pixels for picture in pictures[:PICTURES]],
            caption=[picture.name for picture in pictures[:PICTURES]],
            width=72,
        )
    else:
        st.info("The records name the pictures by id alone: " + ", ".join(map(str, record["queried"])))
    st.caption(f"In pick order, with the answers; asked with {record['labels']} labels known.")


@st.fragment(run_every=EVERY)
def follow(path: Path, shown: int) -> None:
    """Draw the page again once the records have changed."""
    if path.stat().st_mtime_ns != shown:
        st.rerun()


def main(argv: Sequence[str]) -> None:
    """The page."""
    given = options(argv)
    st.set_page_config(page_title="active-dan", layout="wide", initial_sidebar_state="expanded")
    st.title("active-dan: experiments")
    found = folders(given.runs)
    if not found:
        st.info(f"No records yet in {given.runs}: python -m experiments run demo")
        return
    linked = st.query_params.get("experiment")  # http://localhost:8501/?experiment=demo
    first = list(found).index(linked) if linked in found else 0
    name: Any = st.sidebar.selectbox("experiment", list(found), index=first)
    path = found[name]
    try:
        records = [record for record in read(path) if record.get("selection")]
    except UserError as error:
        st.error(str(error))
        return
    follow(path, path.stat().st_mtime_ns)
    records = chosen(records)
    show_accuracy(records)
    show_asked(records, given.data)
    commands = dict.fromkeys(str(record.get("command_of_all") or record.get("command")) for record in records)
    shown = ", ".join(f"`{command}`" for command in list(commands)[:COMMANDS])
    st.caption(f"Made by {shown}" + (f" and {len(commands) - COMMANDS} more." if len(commands) > COMMANDS else "."))


if __name__ == "__main__":
    main(sys.argv[1:])
