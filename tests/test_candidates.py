"""Candidates: patches with their candidate's label, predicted by their mean; from views, from a CSV, from folders."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from active import Query
from active.learners.candidates import CandidateLearner, candidate_query_fields, candidate_rounds
from active.strategies import get_strategy
from dan import MultiKernel, median_bandwidth, mmd2
from dan.data.batches import fetch
from dan.data.candidates import Candidates, Viewed, candidates_of, read_candidates, turned_views, viewed
from dan.data.tensor_datasets import Images
from dan.data.views import Views
from dan.errors import UserError
from dan.evaluation.metrics import predict
from dan.feature_cache import cached
from dan.models.dan import DAN
from dan.run_dir import read_records
from dan.training.config import TrainConfig

COUNTS = (3, 1, 2, 4)
TARGETS = torch.tensor([1, 0, 2, 1])


def ragged() -> Candidates:
    """Four candidates of 3, 1, 2 and 4 patches; patch r is the vector (r, 100 + r)."""
    rows = torch.arange(sum(COUNTS)).double()
    owners = torch.arange(4).repeat_interleave(torch.tensor(COUNTS))
    patches = TensorDataset(torch.stack([rows, 100 + rows], dim=1), torch.full((len(rows),), -7))
    return Candidates(patches, owners, TARGETS, ("a", "b", "c"), names=("p", "q", "r", "s"))


# --- patches of candidates --------------------------------------------------------------------------------------------


def test_patches_have_the_label_of_their_candidate() -> None:
    candidates = ragged()
    ids = torch.tensor([3, 0])
    assert candidates.rows(ids).tolist() == [6, 7, 8, 9, 0, 1, 2]
    x, y = fetch(candidates.data(ids), torch.arange(7))
    assert x[:, 0].tolist() == [6, 7, 8, 9, 0, 1, 2] and y.tolist() == [1] * 7
    bought = candidates.data(ids, torch.tensor([2, 0]))
    assert [y for _, y in bought] == [2, 2, 2, 2, 0, 0, 0] and len(bought) == 7
    assert bought[-1][0].tolist() == [2, 102] and bought[-1][1] == 0
    with pytest.raises(IndexError):
        bought[7]
    assert len(candidates.data(torch.tensor([], dtype=torch.long))) == 0


def test_a_mean_is_over_the_candidates_own_patches() -> None:
    candidates = ragged()
    ids = torch.tensor([2, 3, 1])
    values = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.stack([values[:2].mean(0), values[2:6].mean(0), values[6]])
    torch.testing.assert_close(candidates.mean(values, ids), expected)


@pytest.mark.parametrize("patches", [None, 1, 2, 3, 5, 8])
def test_scored_patches_are_as_many_for_each_and_evenly_taken(patches: int | None) -> None:
    candidates, ids = ragged(), torch.tensor([0, 3, 1])
    values = torch.arange(8) * 10
    groups = (values[:3].tolist(), values[3:7].tolist(), values[7:].tolist())
    scored = candidates.scored(values, ids, patches).tolist()
    count = 4 if patches is None else patches
    for row, own in zip(scored, groups, strict=True):
        assert row == [own[math.floor(p * len(own) / count)] for p in range(count)]
        often = [row.count(value) for value in own]
        assert max(often) - min(often) <= 1
    with pytest.raises(ValueError, match="1 patch or more"):
        candidates.scored(values, ids, 0)


def test_what_does_not_fit_is_refused() -> None:
    patches = TensorDataset(torch.zeros(3, 2), torch.zeros(3))
    for owners, message in (([1, 0, 1], "rising order"), ([0, 0], "for each patch"), ([0, 0, 2], "rising order")):
        with pytest.raises(ValueError, match=message):
            Candidates(patches, torch.tensor(owners), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="candidate 1 has no patch"):
        Candidates(patches, torch.tensor([0, 0, 2]), torch.tensor([0, 1, 0]), ("a", "b"))
    with pytest.raises(ValueError, match="1 names or groups for 2"):
        Candidates(patches, torch.tensor([0, 0, 1]), torch.tensor([0, 1]), ("a", "b"), names=["x"])


# --- views ------------------------------------------------------------------------------------------------------------


def pictures(count: int = 5, size: int = 9, channels: int = 3) -> TensorDataset:
    x = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))
    return TensorDataset(x, torch.arange(count) % 2)


def test_patches_of_an_image_are_its_views_in_whatever_order_they_are_asked_for() -> None:
    images = pictures()
    views = turned_views(6, seed=3)
    candidates = viewed(images, views, ("a", "b"))
    every = torch.stack(list(views(images.tensors[0])), dim=1).flatten(0, 1)  # (N P, ...)
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    x, y = fetch(candidates.patches, shuffled)
    torch.testing.assert_close(x, every[shuffled], atol=1e-6, rtol=0)
    assert y.tolist() == (shuffled // 6 % 2).tolist()
    assert torch.equal(candidates.patches[12][0], images.tensors[0][2])  # view 0 is the image, to the bit
    held = candidates.in_memory()
    torch.testing.assert_close(held.patches.tensors[0], every, atol=1e-6, rtol=0)
    assert held.counts.tolist() == [6] * 5 and held.targets.tolist() == [0, 1, 0, 1, 0]


def test_views_are_the_seeds_and_turn_by_quarters() -> None:
    one, again, other = (turned_views(8, seed=seed).theta for seed in (4, 4, 5))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(one[0], torch.eye(2, 3).double())
    for seed in range(20):
        theta = turned_views(8, seed=seed).theta
        flip = theta[:, :, :2].det().sign()  # -1 where mirrored
        size = theta[:, :, :2].det().abs().sqrt()
        assert float(size.min()) >= 0.8 - 1e-9 and float(size.max()) <= 1 + 1e-9
        second = theta[:, :, 1] / size[:, None]  # where "down" goes: a mirror of left and right leaves it
        angle = torch.atan2(-second[:, 0], second[:, 1])
        quarters = (angle / (math.pi / 2)).round()
        assert float((angle - quarters * math.pi / 2).abs().max()) <= math.radians(15) + 1e-9
        assert set((flip * quarters % 4).long().tolist()) == {0, 1, 2, 3}
        assert float(theta[:, :, 2].abs().max()) <= 0.2


def test_a_quarter_turn_is_the_turned_image() -> None:
    images = pictures(2)
    views = turned_views(4, seed=0)
    quarter = views.theta[1:, :, :2] @ torch.linalg.inv(unturned(4)[1:])
    for p in range(3):  # what was multiplied in is a turn by p + 1 quarters
        views.theta[p + 1] = torch.cat([quarter[p], torch.zeros(2, 1)], dim=1)
    shown = list(views(images.tensors[0]))
    for p in (1, 2, 3):
        turns = [torch.allclose(shown[p], images.tensors[0].rot90(k, (2, 3)), atol=1e-5) for k in (p, -p)]
        assert any(turns)


def unturned(count: int) -> torch.Tensor:
    return Views(count, mirror=True, generator=torch.Generator().manual_seed(0)).theta[:, :, :2]


def test_vectors_have_no_views() -> None:
    with pytest.raises(UserError, match="views are of images"):
        Viewed(TensorDataset(torch.zeros(3, 4), torch.zeros(3)), turned_views(2, seed=0))[0]


def test_groups_and_names_come_from_the_images_and_a_fingerprint_tells_views_apart() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    images = Images(
        pixels, [0, 1, 0, 1], ("a", "b"), normalisation="half", digest="d", paths=list("wxyz"), groups=list("1122")
    )
    candidates = viewed(images, turned_views(3, seed=0), images.classes)
    assert candidates.names == tuple("wxyz") and candidates.groups == tuple("1122")
    prints = {viewed(images, turned_views(3, seed=seed), images.classes).patches.fingerprint for seed in (0, 1, 0)}
    assert len(prints) == 2 and None not in prints
    assert viewed(pictures(), turned_views(3, seed=0), ("a", "b")).patches.fingerprint is None


# --- files ------------------------------------------------------------------------------------------------------------


def picture(file: Path, value: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(file)


def a_table(folder: Path, lines: list[str], header: str = "path,label,candidate,group") -> Path:
    for value, name in enumerate(("a.png", "b.png", "sub/c.png", "d.png", "e.png")):
        picture(folder / name, value)
    file = folder / "candidates.csv"
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return file


LINES = [
    "d.png,benign,l2,p1",
    "b.png,malign,l1,p2",
    "a.png,benign,l2,p1",
    "sub/c.png,malign,l1,p2",
    "e.png,benign,l3,p1",
]


def test_a_csv_with_a_column_of_candidates(tmp_path: Path) -> None:
    found = read_candidates(a_table(tmp_path, LINES))
    assert found.owners == ("l1", "l1", "l2", "l2", "l3")
    assert found.listing.names == ("b.png", "sub/c.png", "a.png", "d.png", "e.png")
    candidates = candidates_of(found, image_size=8, channels=1, normalisation="half")
    assert candidates.names == ("l1", "l2", "l3") and candidates.classes == ("benign", "malign")
    assert candidates.targets.tolist() == [1, 0, 0] and candidates.groups == ("p2", "p1", "p1")
    x, y = fetch(candidates.data(torch.tensor([1, 0])), torch.arange(4))
    grey = ((x[:, 0, 0, 0] * 0.5 + 0.5) * 255).round().tolist()
    assert grey == [0, 3, 1, 2] and y.tolist() == [0, 0, 1, 1]
    # Without groups, and without labels.
    bare = read_candidates(a_table(tmp_path, ["a.png,,x", "b.png,,y"], "path,label,candidate"))
    assert candidates_of(bare, image_size=8, classes=("benign", "malign")).targets.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*LINES, "a.png,benign,l9,p1"], "line 7 names a.png a second time"),
        ([LINES[0], "a.png,malign,l2,p1"], "line 3 says malign p1 of the candidate l2, and an earlier line benign p1"),
        ([LINES[0], "a.png,benign,l2,p7"], "line 3 says benign p7 of the candidate l2"),
        ([LINES[0], "a.png,benign,,p1"], "line 3 names no candidate"),
        ([LINES[0], "a.png,benign,l2"], "line 3 has 3 fields, and the header 4"),
        ([LINES[0], "../a.png,benign,l2,p1"], "leads out of"),
        ([LINES[0], "z.png,benign,l2,p1"], "there is no file"),
        ([LINES[0]], "one class only (benign)"),
        ([LINES[0], "b.png,,l1,p2"], "1 of 2 lines have no label"),
        ([], "lists no patches"),
    ],
)
def test_a_csv_that_cannot_be_is_refused_with_its_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        read_candidates(a_table(tmp_path, lines))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_csv_without_the_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='begins with "path,label,group": its first line must be path,label,candidate'):
        read_candidates(a_table(tmp_path, LINES, "path,label,group"))
    with pytest.raises(UserError, match="does not exist"):
        read_candidates(tmp_path / "none.csv")


def test_a_folder_a_candidate(tmp_path: Path) -> None:
    for value, name in enumerate(("x/l2/2.png", "x/l2/1.png", "x/l1/1.png", "y/l1/1.png")):
        picture(tmp_path / name, value)
    found = read_candidates(tmp_path)
    assert found.owners == ("x/l1", "x/l2", "x/l2", "y/l1")  # l1 of x and l1 of y are two candidates
    candidates = candidates_of(found, image_size=8)
    assert candidates.targets.tolist() == [0, 0, 1] and candidates.counts.tolist() == [1, 2, 1]
    alone = read_candidates(tmp_path / "x", unlabelled=True)
    assert alone.owners == ("l1", "l2", "l2") and not alone.listing.labelled


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x/1.png", "y/1.png"], "holds files (1.png): candidates are a tree of"),
        (["x/l/1.png"], "one class only (x)"),
        (["x/l/deep/1.png", "y/l/1.png"], "holds folders (deep)"),
        (["x/l/1.png", "y/l/1.pdf"], "files that are no images (1.pdf)"),
    ],
)
def test_another_tree_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError) as error:
        read_candidates(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


# --- a network and rounds on them -------------------------------------------------------------------------------------


def blobs(count: int = 24, seed: int = 0) -> Candidates:
    """Two classes of noisy images, bright above or below; 2 or 3 patches each."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 2
    counts = 2 + torch.arange(count) % 2
    owners = torch.arange(count).repeat_interleave(counts)
    x = 0.7 * torch.randn(len(owners), 1, 8, 8, generator=generator)
    x[targets[owners] == 0, :, :4] += 1
    x[targets[owners] == 1, :, 4:] += 1
    return Candidates(TensorDataset(x, torch.full((len(owners),), -1)), owners, targets, ("above", "below"))


def small_network(seed: int = 0) -> DAN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DAN("lenet", 2, layers=(8,))


SMALL = TrainConfig(batch_size=16, checkpoint_every=2)


def begun(training: str, strategy: str, folder: Path | None = None, candidates: Candidates | None = None, **how):
    made = {"start": small_network(), "steps_per_round": 4, "seed": 1, "config": SMALL, "run": folder} | how
    budget, num_rounds = made.pop("budget", 4), made.pop("num_rounds", 3)
    learner = CandidateLearner(candidates or blobs(), training, **made)
    return candidate_rounds(learner, strategy, budget=budget, num_rounds=num_rounds)


def run(training: str, strategy: str, folder: Path | None = None, **how):
    return list(begun(training, strategy, folder, **how))


def test_a_candidate_is_predicted_by_the_mean_over_its_patches() -> None:
    model, candidates, ids = small_network(), blobs(), torch.tensor([5, 0, 3])
    seen = candidate_query_fields(model, candidates, ids)
    model.eval()
    for place, i in enumerate(ids.tolist()):
        with torch.no_grad():
            output = model(candidates.patches.tensors[0][candidates.owners == i])
        probs = output.logits.double().softmax(1)
        torch.testing.assert_close(seen["probs"][place], probs.mean(0))
        torch.testing.assert_close(seen["features"][place], output.features.mean(0))
        own = [probs[p * len(probs) // 3] for p in range(3)]
        torch.testing.assert_close(seen["patch_probs"][place], torch.stack(own))
    assert candidate_query_fields(model, candidates, patches=5)["patch_probs"].shape == (24, 5, 2)
    query = Query(ids=torch.arange(24), **candidate_query_fields(model, candidates))
    assert len(get_strategy("aift:D+E+M")(query, 3, generator=torch.Generator())) == 3


def test_rounds_count_candidates_and_learn_their_patches() -> None:
    start = small_network()
    before = {name: value.clone() for name, value in start.state_dict().items()}
    records = run("AFT(LQ)", "aift:D+E+M", start=start, evaluate=lambda model: {"accuracy/target_test": 0.5})
    assert [record["labelled"] for record in records] == [0, 4, 8, 12]
    assert [len(record["queried"]) for record in records] == [4, 4, 4, 0]
    assert len({i for record in records for i in record["queried"]}) == 12
    assert all(record["accuracy/target_test"] == 0.5 for record in records)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())  # M_0 stays


def test_the_network_learns_and_codes_differ() -> None:
    made = {
        training: run(training, "random", steps_per_round=25) for training in ("RFT", "ACFT(Q)", "ACFT(LQ)", "ACFT(HQ)")
    }
    assert all(records[-1]["accuracy/target"] > 0.8 for records in made.values())
    # The first purchase is asked for and learned alike; what follows is not.
    first = {records[1]["accuracy/target"] for records in made.values()}
    assert len(first) == 1
    assert {tuple(records[0]["queried"]) for records in made.values()} == {tuple(made["RFT"][0]["queried"])}


def test_what_each_training_learns_is_in_its_folder(tmp_path: Path) -> None:
    for training in ("AFT(LQ)", "ACFT(Q)"):
        folder = tmp_path / training
        records = run(training, "random", folder)
        asked = [record["queried"] for record in records]
        for number in (1, 2, 3):
            settings = read_records(folder / f"round_{number:02d}" / "records.jsonl")[0]
            expected = asked[number - 1] if training == "ACFT(Q)" else sum(asked[:number], [])
            assert settings["learned"] == expected and settings["training"] == training
        again = run(training, "random", folder)  # nothing is trained twice
        assert again == records
    with pytest.raises(UserError, match="holds another run"):
        run("ACFT(LQ)", "random", tmp_path / "ACFT(Q)")


def test_a_run_that_is_cut_off_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    whole = run("ACFT(HQ)", "aift:E+M+R", tmp_path / "whole")
    partly = begun("ACFT(HQ)", "aift:E+M+R", tmp_path / "cut")
    for _ in range(3):
        next(partly)
    partly.close()
    rest = run("ACFT(HQ)", "aift:E+M+R", tmp_path / "cut")

    def without_time(records):
        return [{name: value for name, value in record.items() if name != "seconds"} for record in records]

    assert without_time(rest) == without_time(whole)
    in_memory = run("ACFT(HQ)", "aift:E+M+R")
    assert without_time(in_memory) == without_time(whole)


def test_patches_are_aligned_with_a_source() -> None:
    """With a trade-off the last hidden layers of source and patches come closer than without."""
    generator = torch.Generator().manual_seed(3)
    targets = torch.arange(60) % 2
    x = 0.7 * torch.randn(60, 1, 8, 8, generator=generator) - 2
    x[targets == 0, :, :4] += 1
    x[targets == 1, :, 4:] += 1
    source = TensorDataset(x, targets)
    apart, seen = {}, {}
    for trade_off in (0.0, 10.0):
        networks: list[DAN] = []

        def keep(model: DAN, networks: list[DAN] = networks) -> dict[str, float]:
            networks.append(model)
            return {}

        run("ACFT(LQ)", "random", source=source, trade_off=trade_off, steps_per_round=30, num_rounds=1, evaluate=keep)
        candidates = blobs()
        of_source = predict(networks[-1], source)[0].features
        of_patches = predict(networks[-1], candidates.data(torch.arange(24)))[0].features
        kernel = MultiKernel.ladder(median_bandwidth(of_source, of_patches))
        apart[trade_off] = float(mmd2(of_source, of_patches, kernel))
        seen[trade_off] = of_patches
    assert apart[10.0] < 0.7 * apart[0.0] and not torch.equal(seen[0.0], seen[10.0])


def test_the_pool_of_patches_may_be_the_outputs_of_a_frozen_backbone() -> None:
    model = small_network()
    model.freeze(up_to="conv1")
    candidates = blobs()
    outputs = cached(candidates.patches, model)
    held = Candidates(outputs, candidates.owners, candidates.targets, candidates.classes)
    assert held.data(torch.tensor([1])).after_stages == 1
    direct, through = (candidate_query_fields(model, each)["probs"] for each in (candidates, held))
    torch.testing.assert_close(direct, through, atol=1e-6, rtol=0)
    how = {"start": model, "num_rounds": 1, "steps_per_round": 3, "seed": 0}
    ends = [run("RFT", "random", candidates=each, **how)[-1] for each in (candidates, held)]
    assert ends[0]["accuracy/target"] == ends[1]["accuracy/target"]


@pytest.mark.parametrize(
    ("training", "strategy", "how", "message"),
    [
        ("AFT(QL)", "random", {}, "no training code"),
        ("RFT", "aift:D", {}, "RFT is fine-tuning on a random draw"),
        ("AFT(LQ)", "aift:Q", {}, "no code of aift"),
        ("AFT(LQ)", "aift:D", {"trade_off": 1.0}, "give one, or a trade-off of 0"),
        ("AFT(LQ)", "aift:D", {"steps_per_round": 0}, "steps_per_round must be 1 or more"),
        ("AFT(LQ)", "aift:D", {"budget": 9}, "lower the budget or the rounds"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(training: str, strategy: str, how: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(training, strategy, **how)


def test_candidates_without_labels_cannot_be_simulated() -> None:
    candidates = blobs()
    candidates.targets[3] = -1
    with pytest.raises(UserError, match="have no label"):
        next(begun("RFT", "random", candidates=candidates))
