"""The ablations: every variant is there once and works, choices by definition, the command on a few images."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_hybrid import query

from active.strategies import get_strategy
from experiments import arena_ablations
from experiments.__main__ import main
from experiments.ablations import (
    PREFIX,
    REFERENCES,
    STRATEGIES,
    VARIANTS,
    across,
    areas,
    choices,
    compared,
    findings,
    table_of,
)
from experiments.arena.tasks import GROUPS, chosen_on, half_of
from experiments.framework import publish
from experiments.framework.records import read

DEVELOPMENT = GROUPS["development"]


def summary(method: str, task: str, seed: int, area: float) -> dict[str, Any]:
    about = {"experiment": "ablations", "task": task, "seed": seed, "method": method, "network": "squeezenet1_1"}
    about |= {"labels": 100, "selection": "", "summary": True, "alc/target_test": area, "how": {"lr": 0.1}}
    return about | {"trade_off": 1.0, "sizes": {"target": 100, "target_test": 40}, "budget": "1%", "steps_per_round": 5}


def fabricated() -> list[dict[str, Any]]:
    """Two seeds; on web targets `ones` leads, on office's `entropy` does, and the strategy entropy is far behind."""
    records = []
    for task in DEVELOPMENT:
        web = half_of(task) == "web"
        for seed in (0, 1):
            for name, area in (("margin", 0.5), ("ones", 0.6 if web else 0.4), ("entropy", 0.45 if web else 0.7)):
                records.append(summary(PREFIX + name, task, seed, area + 0.01 * seed))
            records.append(summary("entropy", task, seed, 0.2))
    return records


def test_uncertain_picks_are_plain_coverage_where_all_are_as_uncertain() -> None:
    for seed in range(5):
        shown = query(seed, probs=torch.full((14, 3), 1 / 3, dtype=torch.float64))
        picks = arena_ablations.uncertain_picks(shown, 6, generator=torch.Generator())
        assert torch.equal(picks, arena_ablations.ones(shown, 6, generator=torch.Generator()))
    sure = torch.eye(3, dtype=torch.float64)[torch.arange(14) % 3]
    sure[3:5] = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)
    shown = query(0, probs=sure)  # the others' weight is 0, as pick and as what is covered
    assert set(arena_ablations.uncertain_picks(shown, 2, generator=torch.Generator()).tolist()) == {103, 104}


def test_doubt_is_of_what_the_source_does_not_cover() -> None:
    """A sample far from all sources counts in full, however sure of it the network is; near ones by their margin."""
    shown = query(0)
    features, source = shown.need("features", "source_features")
    features = features.clone()
    features[0], features[1:] = 100.0, source[torch.arange(13) % len(source)]  # the others lie on source samples
    probs = torch.tensor([[0.98, 0.01, 0.01]], dtype=torch.float64).expand(14, 3)
    alone = replace(shown, features=features, probs=probs, labelled_features=None)
    assert arena_ablations.doubt(alone, 1, generator=torch.Generator()).tolist() == [100]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_asks_for_distinct_samples_of_the_pool(name: str) -> None:
    plain = query(6)
    features, source, probs = plain.need("features", "source_features", "probs")
    labelled = plain.labelled_features
    draws = torch.randn(len(plain.ids), 8, probs.shape[1], generator=torch.Generator().manual_seed(0))
    shown = replace(
        plain,
        patch_probs=draws.double().softmax(2),
        layers=torch.cat((features, features), 1),
        source_layers=torch.cat((source, source), 1),
        source_targets=torch.arange(len(source)) % probs.shape[1],
        labelled_targets=torch.arange(len(plain.labelled_ids)),  # type: ignore[arg-type]
        labelled_layers=None if labelled is None else torch.cat((labelled, labelled), 1),
    )
    picks = get_strategy(PREFIX + name)(shown, 4, generator=torch.Generator())
    assert len(set(picks.tolist())) == 4 and set(picks.tolist()) <= set(shown.ids.tolist())


def test_every_variant_is_told_and_run_once() -> None:
    assert len(set(STRATEGIES)) == len(STRATEGIES) == len(VARIANTS) + len(REFERENCES)
    assert all(get_strategy(PREFIX + name) for name in VARIANTS)


def test_the_choice_for_a_half_is_made_on_the_other() -> None:
    found = areas(fabricated())
    assert list(found) == ["margin", "ones", "entropy", "entropy (strategy)"]
    # On office's transfers entropy leads, so it is chosen for web's, where it is the last; and the other way round.
    assert choices(found, DEVELOPMENT) == {"web": "entropy", "office": "ones"}
    crossed = across(found, choices(found, DEVELOPMENT), DEVELOPMENT)
    assert {task: by_seed[0] for task, by_seed in crossed.items()} == {
        task: pytest.approx(45 if half_of(task) == "web" else 40) for task in DEVELOPMENT
    }
    for half in ("web", "office"):
        assert not {half_of(task) for task in chosen_on(half)} & {half}
    # A variant that lacks a seed is not chosen.
    short = [r for r in fabricated() if not (r["method"] == PREFIX + "entropy" and r["seed"])]
    assert choices(areas(short), DEVELOPMENT) == {"web": "margin", "office": "ones"}


def test_the_table_and_what_is_said() -> None:
    records = fabricated()
    headers, lines = table_of(records)
    rows = {line[0]: dict(zip(headers, line, strict=True)) for line in lines}
    web = sum(half_of(task) == "web" for task in DEVELOPMENT)
    mean = statistics.fmean([60.5] * web + [40.5] * (6 - web))
    assert rows["ones"]["mean"].startswith(f"{mean:.2f}") and rows["ones"]["runs"] == "12"
    assert rows["margin"]["over margin"] == "–" and "chosen across halves" in rows
    first, web_half, office_half, above, below = findings(records)
    assert all(part in first for part in ("3 variants", " 53.83", "margin 50.50", "entropy (strategy) 20.00"))
    assert "entropy (chosen on the others) 45.50, rank 3 of 3" in web_half and "60.50" in web_half
    assert "ones (chosen on the others) 40.50, rank 3 of 3" in office_half and "70.50" in office_half
    assert "0 of 3" in above and "1 of 3" in below and "entropy (strategy) −30.50" in below
    comparison, by_seed = compared(records)
    assert {test.n for test in by_seed.tests} == {12}
    tests = {test.a: test for test in comparison.tests}
    assert set(tests) == {"ones", "entropy", "entropy (strategy)"} and tests["ones"].n == 6
    assert tests["ones"].mean == pytest.approx(mean - 50.5)


def test_the_command_on_a_few_images_and_its_report_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "ablations", "--quick", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*words, "--steps", "5", "--steps-per-round", "2", "--samples", "100", "--quiet"]) == 0
    records = read(tmp_path / "out" / "records.jsonl")
    assert {r["method"] for r in records if r.get("summary")} == {"random", PREFIX + "margin", PREFIX + "ones"}
    assert {r["experiment"] for r in records} == {"ablations"}
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| margin |" in text and "| ones |" in text and "run ablations --quick" in text

    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:ablations_tiny -->\n<!-- /results:ablations_tiny -->\n")
    monkeypatch.setattr(publish, "publish", partial(publish.publish, home=tmp_path, readme=readme))
    again = ["report", "ablations", "--out", str(tmp_path / "out")]
    assert main([*again, "--publish", "--publish-name", "ablations_tiny"]) == 0
    assert (tmp_path / "results" / "ablations_tiny" / "records.jsonl.xz").is_file() and "| ones |" in readme.read_text()
    capsys.readouterr()
    for flags in (["--publish-name", "x"], ["--publish", "--publish-name", "../x"]):
        assert main([*again, *flags]) == 2
        assert "--publish-name takes a name" in capsys.readouterr().err
