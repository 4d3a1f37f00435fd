"""The README's tasks of active learning, as pasted: each runs, in as few lines as it promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dan import DAN

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
RNG = np.random.default_rng(0)


def block(word: str, without: str = "\0") -> str:
    (found,) = [text for text in BLOCKS if word in text and without not in text]
    return found


def lines(text: str) -> int:
    return len([line for line in text.splitlines() if line.strip() and not line.startswith("#")])


def network() -> DAN:
    torch.manual_seed(0)
    return DAN("features", 3, layers=(8,))


def names(classifier: Any) -> dict[str, Any]:
    """What a user has before the first line."""
    x_source, x_target, x_test = (RNG.normal(size=(count, 4)).astype(np.float32) for count in (50, 80, 60))

    def labels(x: np.ndarray) -> np.ndarray:
        return np.array(["ant", "bee", "cow"])[(x[:, 0] > 0).astype(int) + (x[:, 1] > 0)]

    given = {"classifier": classifier, "x_source": x_source, "y_source": labels(x_source), "x_target": x_target}
    given |= {"y_target": labels(x_target), "x_test": x_test, "y_test": labels(x_test)}
    return given | {"annotate": lambda ids: labels(x_target[ids])}


@pytest.mark.parametrize("classifier", [LogisticRegression(), network()])
def test_query_a_batch_in_three_lines(classifier: Any) -> None:
    text, namespace = block("learner.query(20)"), names(classifier)
    exec(text, namespace)
    ids = namespace["ids"]
    assert lines(text) <= 3 and len(set(ids.tolist())) == 20 and set(ids.tolist()) <= set(range(80))


@pytest.mark.parametrize("classifier", [LogisticRegression(), network()])
def test_run_an_active_learning_loop_in_six_lines(classifier: Any, capsys: pytest.CaptureFixture[str]) -> None:
    text, namespace = block("learner.teach("), names(classifier)
    exec(text, namespace)
    assert lines(text) <= 6 and len(namespace["learner"].pool.labelled_ids) == 50
    assert float(capsys.readouterr().out) > 0.8


def test_simulate_a_loop(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("SklearnLearner"), names(LogisticRegression()))
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [labelled for labelled, _ in told] == ["0", "4", "8", "12"]
    assert all(0 <= float(accuracy) <= 1 for _, accuracy in told)
