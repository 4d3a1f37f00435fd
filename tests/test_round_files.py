"""RUN/rounds/round_NN.json: what it holds, that it is the truth, and that a kill at any write changes nothing."""

import json
import math
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from active import STRATEGIES, Pool, rounds
from active.budgets import budget_count
from active.loop import generator_of, query_of
from active.round_files import agree, path_of, pool_at, read_round, read_rounds, state_of
from dan.errors import UserError
from dan.run_dir import read_records

# Ids that are no positions: any confusion of the two names a sample that is not there, or another one.
IDS = torch.tensor([500 - 3 * i for i in range(40)])
ROW_OF = {int(sample): row for row, sample in enumerate(IDS)}
X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = (X[:, 0] > 0).long()


def rows(ids: Tensor) -> list[int]:
    return [ROW_OF[int(i)] for i in ids]


def fit_means(pool: Pool, number: int) -> Tensor:
    """A learner in a line: the two classes' means (2, 3), from labels bought so far, over a fixed guess."""
    x, y = X[rows(pool.labelled_ids)], pool.labels
    guess = torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]], dtype=torch.float64)
    return torch.stack([(guess[c] + x[y == c].sum(0)) / (1 + (y == c).sum()) for c in (0, 1)])


def predict_means(model: Tensor, ids: Tensor) -> dict[str, Any]:
    x = X[rows(ids)]
    return {"probs": (-torch.cdist(x, model)).softmax(1), "features": x}


def loop(run: Path | None, strategy: Any = "badge", **options: Any) -> Iterator[dict[str, Any]]:
    options = {"budget": 4, "num_rounds": 3, "seed": 5} | options
    ask = STRATEGIES[strategy] if isinstance(strategy, str) else strategy
    return rounds(Pool(IDS, Y), ask, fit=fit_means, predict=predict_means, run=run, **options)


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_clock(part) for name, part in value.items() if name != "seconds"}
    return [without_clock(part) for part in value] if isinstance(value, list) else value


def told(run: Path) -> tuple[list[Any], list[Any]]:
    """All that a run left: its records and its files, but for the clock."""
    files = [json.loads(path.read_bytes()) for path in sorted((run / "rounds").iterdir())]
    return without_clock(read_records(run / "records.jsonl")), without_clock(files)


def test_a_file_says_what_was_labelled_when(tmp_path: Path) -> None:
    records = list(loop(tmp_path))
    files = read_rounds(tmp_path)
    assert [file.number for file in files] == [0, 1, 2, 3] and [file.record for file in files] == records
    assert read_records(tmp_path / "records.jsonl") == [files[0].settings, *records]
    known: list[tuple[int, int, int]] = []
    for file in files:
        assert list(file.labelled) == known
        assert list(file.answers) == Y[rows(torch.tensor(file.record["queried"], dtype=torch.long))].tolist()
        pairs = zip(file.record["queried"], file.answers, strict=True)
        known += [(sample, label, file.number + 1) for sample, label in pairs]
    assert len(known) == 12 and path_of(tmp_path, 3).stat().st_size < 20_000


@pytest.mark.parametrize("strategy", ["random", "badge", "margin"])
def test_a_round_can_be_asked_again_from_its_file(tmp_path: Path, strategy: str) -> None:
    list(loop(tmp_path, strategy))
    for number in range(3):
        file = read_round(tmp_path, number)
        pool = pool_at(Pool(IDS, Y), tmp_path, number)
        model = fit_means(pool, number)
        generator = file.generator()
        assert torch.equal(generator.get_state(), generator_of(5, number).get_state())
        picks = STRATEGIES[strategy](query_of(pool, predict_means(model, pool.ids)), 4, generator=generator)
        assert picks.tolist() == file.record["queried"]
        assert state_of(generator) == file.after
        assert (file.after != file.before) == (strategy != "margin")  # margin draws nothing
    with pytest.raises(UserError, match="has no query"):
        read_round(tmp_path, 3).generator()
    with pytest.raises(UserError, match="did not get as far as round 4"):
        pool_at(Pool(IDS, Y), tmp_path, 4)


class Killed(BaseException):
    """Stands for a kill at that moment: nothing gets a chance to tidy up."""


@pytest.mark.parametrize("kill_at", range(1, 10))
def test_a_kill_at_any_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int) -> None:
    """3 rounds write 1 + 2 * 4 times: the settings, then each round's file and its line of records.jsonl."""
    list(loop(tmp_path / "a"))
    writes = 0

    def fsync(_: int) -> None:
        nonlocal writes
        writes += 1
        if writes == kill_at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(Killed):
            list(loop(tmp_path / "b"))
    list(loop(tmp_path / "b"))
    assert told(tmp_path / "a") == told(tmp_path / "b")


def test_the_files_are_the_truth_and_the_records_follow(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    records = list(loop(whole))
    started = loop(part)
    next(started), next(started)
    started.close()  # type: ignore[attr-defined]
    lines = (part / "records.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    first = json.loads(lines[1])
    forged = json.dumps(first | {"queried": first["queried"][::-1], "accuracy/target": 1.0}).encode() + b"\n"
    for content in (lines[:2], [*lines[:1], forged, lines[2]], [*lines, lines[2]], [*lines, b'{"event": "rou']):
        (part / "records.jsonl").write_bytes(b"".join(content))
        list(loop(part))
        assert told(part) == told(whole)
        for number in (2, 3):
            path_of(part, number).unlink()  # and back to where two rounds were done
    assert without_clock(list(loop(part))) == without_clock(records)
    assert told(part) == told(whole)


def test_files_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    list(loop(tmp_path))
    header = read_records(tmp_path / "records.jsonl")[0]
    path, content = path_of(tmp_path, 1), path_of(tmp_path, 1).read_text()
    for text in (
        content[:-30],
        content.replace('"round": 1', '"round": 2'),
        "[]",
        content.replace('"answers"', '"no"'),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match="is not the file of round 1"):
            list(loop(tmp_path))
    path.unlink()
    with pytest.raises(UserError, match=r"round_01\.json is missing"):
        list(loop(tmp_path))
    path.write_text(content)
    with pytest.raises(UserError, match="other settings"):
        agree(tmp_path, {**header, "seed": 6}, read_rounds(tmp_path))
    with pytest.raises(UserError, match="its seed is 5, not 6"):
        list(loop(tmp_path, seed=6))
    assert path.read_text() == content
    other = rounds(
        Pool(IDS, 1 - Y),
        STRATEGIES["badge"],
        fit=fit_means,
        predict=predict_means,
        budget=4,
        num_rounds=3,
        seed=5,
        run=tmp_path,
    )
    # The same ids, and labels from the files: whoever changes the answers of a finished run is not asked again.
    assert without_clock(list(other)) == told(tmp_path)[0][1:]
    how: dict[str, Any] = {"fit": fit_means, "predict": predict_means, "budget": 4, "num_rounds": 3, "seed": 5}
    fewer = rounds(Pool(IDS[20:], Y[20:]), STRATEGIES["badge"], run=tmp_path, **how)
    with pytest.raises(UserError, match="is a run on another pool"):
        list(fewer)


def belongs(query: Any) -> bool:
    """Whether all that the query shows is of the samples that its ids name."""
    return bool(
        torch.equal(query.features, X[rows(query.ids)])
        and torch.equal(query.labelled_features, X[rows(query.labelled_ids)])
        and torch.equal(query.labelled_targets, Y[rows(query.labelled_ids)])
    )


def of_the_rest(pool: Pool, ids: Tensor) -> Tensor:
    """The planted confusion: positions among the unlabelled samples in place of positions in the pool."""
    if torch.equal(ids, pool.unlabelled_ids):
        return torch.arange(len(ids))
    return torch.searchsorted(pool.unlabelled_ids, ids).clamp(max=len(pool.ids) - 1)


def among_candidates(query: Any, budget: int, *, generator: torch.Generator) -> Tensor:
    """Another one: rows of the query, which a strategy gives back as if they were ids."""
    return torch.arange(len(query.ids))[-budget:]


def test_an_index_of_a_subset_is_never_an_id_and_planting_that_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bool] = []

    def spy(query: Any, budget: int, *, generator: torch.Generator) -> Tensor:
        shown.append(belongs(query))
        return STRATEGIES["k_center"](query, budget, generator=generator)

    list(loop(None, spy))
    assert shown == [True, True, True]
    shown.clear()
    monkeypatch.setattr(sys.modules["active.loop"], "_rows", of_the_rest)  # active.loop is the function
    list(loop(None, spy))
    assert shown == [True, False, False]  # in round 0 nothing is labelled, and the two are the same
    monkeypatch.undo()
    with pytest.raises(ValueError, match="0 unlabelled ids of the pool"):
        list(loop(None, among_candidates))


@given(share=st.integers(1, 10_000), pool=st.integers(1, 10**6))
def test_a_share_is_rounded_up_and_exact(share: int, pool: int) -> None:
    text = f"{share // 100}.{share % 100:02d}%"
    assert budget_count(text, pool) == math.ceil(Fraction(share, 10_000) * pool)


def test_budgets() -> None:
    assert budget_count(30, 100) == budget_count("30", 100) == budget_count(" 30 ", 100) == 30
    assert budget_count("7%", 100) == 7  # 0.07 * 100 is more than 7 in binary
    assert budget_count("5%", 1197) == 60 and budget_count("0.01%", 10) == 1 and budget_count("100 %", 9) == 9
    for budget in (0, "0", "0%", "0.0%", -3, "-3%", "2.5", "five", "", "%", "nan%", "101%", "1e3", "5%%"):
        with pytest.raises(UserError) as caught:
            budget_count(budget, 100)
        assert "\n" not in str(caught.value)
    by_share, by_number = list(loop(None, budget="10%")), list(loop(None, budget=4))
    assert without_clock(by_share) == without_clock(by_number)
