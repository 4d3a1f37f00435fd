"""The tables and the page of dan_table1, from records alone: our rows in the paper's columns, its own below.

gain = mean over seeds and transfers of a row - the same of source-only
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.dan_table1 import NETWORKS, TRANSFERS, UNIFORM, Network
from experiments.dan_table2 import DAN, SOURCE_ONLY, column_of
from experiments.framework.measurements import aggregate
from experiments.framework.records import Record
from experiments.framework.report import Report
from experiments.framework.reporting.tables import signed
from experiments.jobs.dan_table1 import DOMAINS, SET
from experiments.pages.dan_table2 import Accuracies, Beside, accuracy_table
from experiments.transfers import over_tasks, paper_number, paper_table


def beside(made: Network) -> Beside:
    """Whose numbers stand below those of a network."""
    return Beside(made.paper, made.rows, made.of, made.base, SET)


def with_means(records: Sequence[Record]) -> list[Record]:
    """The records, and for each run of all six transfers one more for their mean, beside the published one."""
    made = list(records)
    for record in over_tasks(records, [SET + transfer for transfer in TRANSFERS], "mean"):
        network = NETWORKS[record["network"]]
        theirs = network.rows.get(record["method"], "")
        made.append(record | paper_number(paper_table(network.paper), theirs, "Avg"))
    return made


def networks_in(records: Sequence[Record]) -> list[str]:
    """The networks that have records, in order."""
    there = {record["network"] for record in records}
    return [network for network in NETWORKS if network in there]


def findings(records: Sequence[Record]) -> list[str]:
    """Sentences that the records decide: what DAN gains, what its parts are worth, the worst transfer."""
    found = Accuracies(records, prefix=SET)
    said = []
    for network in networks_in(records):
        made = NETWORKS[network]
        paper = paper_table(made.paper).values
        base, gain = found.mean(network, SOURCE_ONLY, "mean"), found.gain(network, DAN, "mean")
        if base is None or gain is None:
            continue
        gains = {task: value for task in TRANSFERS if (value := found.gain(network, DAN, task)) is not None}
        worst = min(gains, key=gains.__getitem__)
        theirs = next(row for row in (made.rows.get(DAN), made.rows.get(UNIFORM)) if row)
        published = paper[theirs]["Avg"] - paper[made.base]["Avg"]
        said.append(
            f"{made.line}: DAN gains {signed(gain)} points over its own source-only row on six transfers, {base:.1f} "
            f"to {base + gain:.1f} (published, {made.of}: {signed(published)}, {paper[made.base]['Avg']:.1f} to "
            f"{paper[theirs]['Avg']:.1f}). Its worst transfer is {column_of(worst)}, {signed(gains[worst])}."
        )
        equal = found.gain(network, UNIFORM, "mean")
        if equal is not None:
            said.append(
                f"{made.line}: learned kernel weights are worth {signed(gain - equal)} points over equal ones, as a "
                "mean over the six."
            )
    return said


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made, and whose the others are."""
    weights = sorted({record["weights"] for record in records if "weights" in record})
    trade_offs = sorted({f"{record['trade_off']:g}" for record in records if record.get("trade_off")})
    said = [
        "Accuracy in percent on all target images, mean ± standard deviation over n seeds, of the model after the last "
        "step (nothing is selected). gain: of the mean over source-only's; worst gain: of the transfer that gains "
        "least. oracle mean: what choosing the best of a run's evaluations by target labels would have given; it is no "
        "result.",
        f"All source images labelled, no target label; {len(DOMAINS)} domains of Office-31; trade-off "
        f"{', '.join(trade_offs) or '–'}. All rows of a seed start from the same weights and see the same source "
        f"batches. Weights of the trunks: {'; '.join(weights)}.",
    ]
    for network in networks_in(records):
        made, paper = NETWORKS[network], paper_table(NETWORKS[network].paper)
        steps = sorted({str(r["steps"]) for r in records if r["network"] == network and "steps" in r})
        said.append(
            f"{made.line}: recipe {made.recipe}, {' or '.join(steps)} steps; 7 is {made.seven}, 8 the logits; DAN "
            f"aligns {', '.join(made.every)}. Published rows: {paper.source} ({paper.provenance}); {made.of}."
        )
    return said


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    everything = with_means(records)
    tables = [
        (NETWORKS[network].line, accuracy_table(everything, network, TRANSFERS, "mean", beside(NETWORKS[network])))
        for network in networks_in(records)
    ]
    return Report(
        title="Office-31: DAN's Table 1",
        findings=findings(everything),
        tables=tables,
        figures=[],
        captions=captions(records),
        rows=aggregate(everything),
    )
