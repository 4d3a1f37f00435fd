"""Training codes: from which network each goes on, and what it learns, against the table of the paper."""

import pytest
import torch

from active import Pool
from active.aift_training import TRAINING_CODES, continual, learned_ids, training_code
from active.loop import rounds
from active.strategies import get_strategy
from dan.errors import UserError

# The paper's Table 2: where a code starts, and what it learns of L (before), H (misclassified) and Q (now).
TABLE = {
    "RFT": ("M0", "LQ"),
    "AFT(LQ)": ("M0", "LQ"),
    "ACFT(Q)": ("last", "Q"),
    "ACFT(LQ)": ("last", "LQ"),
    "ACFT(HQ)": ("last", "HQ"),
}


def bought() -> Pool:
    """Ids 10 .. 19, of which 12, 15 were labelled in round 1, 11 in round 2, and 19, 10 in round 3."""
    pool = Pool(torch.arange(10, 20), torch.arange(10) % 3)
    for number, ids in ((1, [15, 12]), (2, [11]), (3, [19, 10])):
        pool.label(ids, pool.oracle(torch.tensor(ids)), round=number)
    return pool


@pytest.mark.parametrize("name", TABLE)
def test_what_is_learned_is_the_papers_table(name: str) -> None:
    pool, asked = bought(), []

    def wrong(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert labels.tolist() == pool.oracle(ids).tolist()
        asked.extend(ids.tolist())
        return ids == 12

    expected = {"LQ": [15, 12, 11, 19, 10], "Q": [19, 10], "HQ": [12, 19, 10]}[TABLE[name][1]]
    assert learned_ids(TRAINING_CODES[name], pool, 3, wrong=wrong).tolist() == expected
    assert asked == ([15, 12, 11] if name == "ACFT(HQ)" else [])  # only what was labelled before, and only for HQ


def test_the_first_purchase_is_the_same_for_all_codes() -> None:
    pool = Pool(torch.arange(4), [0, 1, 0, 1])
    pool.label([2, 1], [0, 1], round=1)

    def wrong(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        pytest.fail("nothing was labelled before")

    for code in TRAINING_CODES.values():
        assert learned_ids(code, pool, 1, wrong=wrong).tolist() == [2, 1]


@pytest.mark.parametrize("name", TABLE)
def test_where_each_round_goes_on_from(name: str) -> None:
    """A model is the list of (round, ids) that it was trained on; `wrong` are the labels 1."""
    kept = {0: ()}
    seen = []

    def train(model, ids, labels, number):
        assert labels.tolist() == (ids % 2).tolist()
        kept[number] = (*model, (number, tuple(ids.tolist())))
        return kept[number]

    def predict(model, ids):
        seen.append(model)
        return torch.zeros(len(ids), dtype=torch.long)

    fit = continual(TRAINING_CODES[name], before=kept.__getitem__, train=train, predict=predict)
    pool = Pool(torch.arange(8), torch.arange(8) % 2)
    one_hot = torch.eye(2)[torch.arange(8) % 2]
    run = rounds(
        pool,
        get_strategy("random"),
        fit=fit,
        predict=lambda model, ids: {"probs": one_hot[ids]},
        budget=2,
        num_rounds=3,
        seed=5,
    )
    asked = [tuple(record["queried"]) for record in run]
    q = {number + 1: ids for number, ids in enumerate(asked[:3])}
    start, learns = TABLE[name]
    for number in (1, 2, 3):
        before = tuple(i for earlier in range(1, number) for i in q[earlier])
        old = {"LQ": before, "Q": (), "HQ": tuple(i for i in before if i % 2)}[learns]
        steps = kept[number - 1] if start == "last" else ()
        assert kept[number] == (*steps, (number, (*old, *q[number])))
    assert seen == ([kept[1], kept[2]] if learns == "HQ" else [])  # judged by the last network, whatever it starts from


def test_names_are_checked_and_rft_is_random() -> None:
    assert set(TRAINING_CODES) == set(TABLE)
    assert training_code("RFT", "random").at_random and training_code("RFT").at_random
    assert training_code("ACFT(HQ)", "aift:E+M+R") is TRAINING_CODES["ACFT(HQ)"]
    with pytest.raises(UserError, match=r'no training code "ACFT\(QL\)" \(did you mean "ACFT'):
        training_code("ACFT(QL)")
    with pytest.raises(UserError, match="RFT is fine-tuning on a random draw, and aift:E is none"):
        training_code("RFT", "aift:E")
    with pytest.raises(ValueError, match="say what that is"):
        learned_ids(TRAINING_CODES["ACFT(HQ)"], bought(), 3)
