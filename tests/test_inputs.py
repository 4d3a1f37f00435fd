"""Natural inputs: whatever holds the same samples trains the same network; what cannot is refused in one line."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from dan import DAN, TrainConfig, evaluate, fit, predict
from dan.data.batched import BatchedDataset
from dan.data.batches import fetch
from dan.data.inputs import as_labelled, as_unlabelled
from dan.data.tensor_datasets import Images
from dan.errors import UserError
from dan.feature_cache import fingerprint

SMALL = TrainConfig(batch_size=8, lr=0.05, evaluate_every=10, checkpoint_every=10, feature_map=False)
N, C = 24, 3
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % C
XT = torch.randn(N, 4, generator=torch.Generator().manual_seed(1)) + 0.5


class Items(Dataset):
    """A map-style data set of any items."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def network(features: int = 4) -> DAN:
    torch.manual_seed(0)
    return DAN(nn.Sequential(nn.Linear(features, 8), nn.ReLU()), C, layers=(6,))


def trained(source: Any, target: Any) -> dict[str, Tensor]:
    model = network()
    fit(model, source, target, trade_off=1.0, steps=4, seed=0, config=SMALL)
    return model.state_dict()


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return trained(TensorDataset(X, Y), TensorDataset(XT, Y))


def pairs(x: Tensor, y: Tensor) -> list[tuple[Tensor, int]]:
    return [(row, int(label)) for row, label in zip(x, y, strict=True)]


def read_only(x: Tensor) -> np.ndarray:
    array = x.numpy().copy()
    array.flags.writeable = False
    return array


SOURCES: dict[str, Any] = {
    "tensors": (X, Y),
    "arrays": (X.numpy(), Y.numpy()),
    "read-only arrays": (read_only(X), read_only(Y)),
    "float64": (X.double().numpy(), Y.numpy()),
    "lists": (X.tolist(), Y.tolist()),
    "reversed twice": (X.numpy()[::-1][::-1], Y.numpy()[::-1].copy()[::-1]),
    "another byte order": (X.numpy().astype(">f4"), Y.numpy().astype(">i8")),
    "a mapping": {"x": X, "y": Y},
    "labels (N, 1)": (X, Y[:, None]),
    "labels int8": (X, Y.to(torch.int8)),
    "labels uint8": (X, Y.to(torch.uint8)),
    "labels int32": TensorDataset(X, Y.to(torch.int32)),
    "labels uint16": (X, Y.numpy().astype(np.uint16)),
    "whole float labels": (X, Y.double()),
    "float64 data set": TensorDataset(X.double(), Y),
    "three tensors": TensorDataset(X, Y, torch.arange(N)),
    "items": Items(pairs(X, Y)),
    "a list of items": pairs(X, Y),
    "items of three": Items([(x, y, "path") for x, y in pairs(X, Y)]),
    "items of arrays": Items([(x.numpy().astype(np.float64), np.int16(y)) for x, y in pairs(X, Y)]),
    "items of lists": Items([(x.tolist(), [y]) for x, y in pairs(X, Y)]),
    "items x, y": Items([{"x": x, "y": y} for x, y in pairs(X, Y)]),
    "items image, label": Items([{"image": x, "label": y, "id": "a"} for x, y in pairs(X, Y)]),
    "items features, target": Items([{"features": x, "target": torch.tensor(y)} for x, y in pairs(X, Y)]),
    "items input": Items([{"input": x, "target": y} for x, y in pairs(X, Y)]),
    "a subset": Subset(TensorDataset(torch.cat([XT, X]), torch.cat([Y, Y])), range(N, 2 * N)),
    "a subset of items": Subset(Items(pairs(torch.cat([XT, X.double()]), torch.cat([Y, Y]))), range(N, 2 * N)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_in_any_form_trains_the_same_network(name: str, expected: dict[str, Tensor]) -> None:
    state = trained(SOURCES[name], TensorDataset(XT, Y))
    assert all(torch.equal(state[key], expected[key]) for key in expected)


TARGETS: dict[str, Any] = {
    "a tensor": XT,
    "an array": XT.numpy(),
    "a float64 array": XT.double().numpy(),
    "a read-only array": read_only(XT),
    "a list": XT.tolist(),
    "x alone": TensorDataset(XT),
    "items of x": Items(list(XT)),
    "items (x,)": Items([(x,) for x in XT]),
    "items {x}": Items([{"image": x} for x in XT]),
    "unknown labels": (XT, torch.full((N,), -1)),
    "other classes": (XT, Y + 10),
    "subset of x": Subset(TensorDataset(torch.cat([X, XT])), range(N, 2 * N)),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_in_any_form_trains_the_same_network(name: str, expected: dict[str, Tensor]) -> None:
    state = trained((X, Y), TARGETS[name])
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.numpy())
    data = as_labelled((frame, pandas.Series(Y.numpy())), name="source", num_classes=C)
    x, y = fetch(data, torch.arange(N))
    assert torch.equal(x, X) and torch.equal(y, Y)


def test_bool_labels_and_integer_features() -> None:
    data = as_labelled((torch.arange(8).reshape(4, 2), torch.tensor([True, False, True, False])), name="source")
    x, y = fetch(data, torch.arange(4))
    assert x.dtype == torch.float32 and torch.equal(x, torch.arange(8.0).reshape(4, 2))
    assert y.dtype == torch.int64 and y.tolist() == [1, 0, 1, 0]


def test_features_take_the_type_of_the_network() -> None:
    model = network().double()
    output, _ = predict(model, X.numpy())
    assert output.logits.dtype == torch.float64


def test_data_that_are_ready_are_not_copied() -> None:
    data = as_labelled((X, Y), name="source")
    assert isinstance(data, TensorDataset) and data.tensors[0].data_ptr() == X.data_ptr()
    array = np.ones((4, 2), dtype=np.float32)
    assert fetch(as_unlabelled(array, name="target"), torch.arange(4))[0].sum() == 8
    shared = as_unlabelled(array, name="target")
    assert isinstance(shared, TensorDataset) and shared.tensors[0].data_ptr() == array.ctypes.data


def test_pictures_with_a_transform() -> None:
    from torchvision.transforms.functional import to_tensor

    images = [Image.fromarray(np.full((5, 5, 3), 10 * i, dtype=np.uint8)) for i in range(4)]

    class Pictures(Dataset):
        def __init__(self, transform: Callable[[Any], Any] | None) -> None:
            self.transform = transform

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return images[index] if self.transform is None else self.transform(images[index]), index % 2

    x, y = fetch(as_labelled(Pictures(to_tensor), name="source", num_classes=2), torch.arange(4))
    assert torch.allclose(x.amax((1, 2, 3)), torch.arange(4) * 10 / 255) and y.tolist() == [0, 1, 0, 1]
    with pytest.raises(UserError, match="item 2 of source is a PIL image: give the data set a transform"):
        fetch(as_labelled(Pictures(None), name="source"), torch.tensor([2]))


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        yield X[0], 0


def labels(*values: Any) -> Any:
    return X[: len(values)], np.array(values)


REFUSED: dict[str, tuple[Any, str]] = {
    "a loader": (DataLoader(TensorDataset(X, Y)), "source is a DataLoader: give its data set, loader.dataset"),
    "an iterable": (Endless(), "source is an IterableDataset: give a map-style data set"),
    "a generator": ((x for x in X), "source is a generator: give .X, y., X, or a map-style data set"),
    "nothing": (None, "source is None: give"),
    "a path": ("data.csv", "source is 'data.csv': give"),
    "three arrays": ((X, Y, Y[:3], [X]), ""),
    "no labels": (X, "source has no labels: give .X, y."),
    "no labels in the data set": (TensorDataset(X), "source has no labels: give .X, y."),
    "no samples": ((X[:0], Y[:0]), "source is empty: give at least one sample"),
    "an empty data set": (Items([]), "source is empty"),
    "an empty tensor data set": (TensorDataset(X[:0], Y[:0]), "source is empty"),
    "too few labels": ((X, Y[:-1]), "source has 24 samples and 23 labels"),
    "text labels": (labels("cat", "dog"), "source has labels that are not numbers .cat.: give class numbers"),
    "a text label": (Items([(X[0], "cat")] * 8), 'item . of source has the label "cat": give class numbers'),
    "one-hot": ((X, torch.eye(C)[Y]), "source has labels of shape .24, 3., as one-hot ones have: give y.argmax.1."),
    "one-hot items": (Items([(x, torch.eye(C)[0]) for x in X]), "item 0 of source has a label of shape .3,., as one"),
    "too large": (labels(0, 1, 3), "item 2 of source has the label 3: the classes are 0, ..., 2"),
    "a late item": (Items([*pairs(X, Y)[:-1], (X[0], 3)]), "item 23 of source has the label 3"),
    "unknown": (labels(0, -1, 2), "item 1 of source has the label -1: every sample here needs its class"),
    "unknown item": (Items([(x, -1) for x in X]), "item 0 of source has the label -1"),
    "items of x": (Items(list(X)), "item 0 of source has the label -1|no label"),
    "ignored": (labels(0, 1, -100), "item 2 of source has the label -100"),
    "NaN": (labels(0.0, float("nan")), "item 1 of source has the label nan: remove the sample, or"),
    "fractions": (labels(0.0, 0.5), "item 1 of source has the label 0.5: classes are whole numbers"),
    "strange keys": (Items([{"picture": X[0], "y": 0}] * 8), "item . of source has the keys picture, y: call"),
    "two shapes": (Items([(X[0], 0), (X[0, :2], 1)] * 4), "item . of source has the shape .., and item|item .* shape"),
    "pixels": ((torch.zeros(6, 3, 4, 4, dtype=torch.uint8), Y[:6]), "source has images of uint8 pixels: scale them"),
    "complex": ((X.to(torch.complex64), Y), "source has complex features"),
    "text features": ((np.array([["a", "b"]] * 3), Y[:3]), "source has features that are not numbers"),
    "one number a sample": ((X[:, 0], Y), "source has X of shape .24,.: give .N, F., such as X.reshape.-1, 1."),
}
del REFUSED["three arrays"]  # further parts of a tuple are left out, as further fields of an item are


@pytest.mark.parametrize("name", REFUSED)
def test_a_source_that_cannot_be_is_refused_in_one_line(name: str) -> None:
    source, message = REFUSED[name]
    with pytest.raises(UserError) as refused:
        trained(source, XT)
    assert re.match(message, str(refused.value)) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ((XT, torch.full((N,), -100)), "item 0 of target has the label -100: in a target give -1"),
        (Subset(TensorDataset(XT, torch.full((N,), -100)), [3, 4]), "item 0 of target has the label -100"),
        ((XT, np.array(["a"] * N)), "target has labels that are not numbers"),
        ((XT, torch.eye(C)[Y]), "target has labels of shape"),
        (DataLoader(TensorDataset(XT)), "target is a DataLoader"),
        (XT[:0], "target is empty"),
        (Items([(x, "a") for x in XT]), 'item .* of target has the label "a"'),
        (Items([(x, float("nan")) for x in XT]), "item .* of target has the label nan"),
    ],
)
def test_a_target_that_cannot_be_is_refused(target: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trained((X, Y), target)


def test_messages_name_the_argument() -> None:
    train: dict[str, Any] = {"trade_off": 0.0, "steps": 1, "seed": 0, "config": SMALL}
    with pytest.raises(UserError, match="item 0 of labelled_target has the label 3"):
        fit(network(), (X, Y), XT, labelled_target=(X, Y + 3), **train)
    with pytest.raises(UserError, match=r'tests\["shifted"\] has no labels'):
        fit(network(), (X, Y), XT, tests={"shifted": X}, **train)
    with pytest.raises(UserError, match="data is a DataLoader"):
        predict(network(), DataLoader(TensorDataset(X)))
    with pytest.raises(UserError, match="item 1 of data has the label 7"):
        evaluate(network(), labels(0, 7))
    with pytest.raises(UserError, match="item 1 of data has the label -100"):
        evaluate(network(), Items([(X[0], 0), (X[1], -100)]))


def test_labels_in_memory_are_checked_before_an_image_is_read() -> None:
    class Costly(Dataset):
        targets = [0, 1, 2, 5]
        reads = 0

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            self.reads += 1
            return X[index], self.targets[index]

    data = Costly()
    with pytest.raises(UserError, match="item 3 of source has the label 5"):
        as_labelled(data, name="source", num_classes=C)
    assert data.reads <= 1
    data.targets = [0, 1, 2, 2]
    as_labelled(data, name="source", num_classes=C)
    assert data.reads <= 2


def test_a_training_reads_each_item_of_a_batch_once() -> None:
    class Counted(Items):
        reads = 0

        def __getitem__(self, index: int) -> Any:
            self.reads += 1
            return super().__getitem__(index)

    source = Counted(pairs(X, Y))
    fit(network(), source, XT, trade_off=0.0, steps=4, seed=0, config=SMALL, log_mmd=False)
    # 4 batches of 8, the first sample, which settles widths, and the fixed sample that is looked at in the end.
    assert source.reads == 4 * 8 + 1 + N


def test_targets_that_the_data_set_transforms_are_not_its_labels() -> None:
    """As torchvision's `target_transform` does: letters 1..26, renumbered when they are read."""

    class Letters(Dataset):
        targets = torch.tensor([1, 2, 3])

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return X[index], int(self.targets[index]) - 1

    x, y = fetch(as_labelled(Letters(), name="source", num_classes=3), torch.arange(3))
    assert y.tolist() == [0, 1, 2]


# --- a data set is read through its own methods ----------------------------------------------------------------------


class Doubled(TensorDataset):
    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return 2 * self.tensors[0][index], self.tensors[1][index]


class DoubledAtOnce(TensorDataset):
    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, ...]]:
        return [(2 * self.tensors[0][i], self.tensors[1][i]) for i in indices]


class DoubledSubset(Subset):
    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return 2 * x, y

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class DoubledLate(DoubledSubset):
    """Its `__getitems__` knows nothing of what its `__getitem__` does: the later one counts."""

    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return x / 2 + x / 2, y


class DoubledImages(Images):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y = super().__getitem__(index)
        return 2 * x, y


def test_a_subclass_that_transforms_is_not_bypassed() -> None:
    rows = torch.tensor([3, 0, 5])
    for data in (
        Doubled(X, Y),
        DoubledAtOnce(X, Y),
        DoubledSubset(TensorDataset(X, Y), range(N)),
        Subset(Doubled(X, Y), range(N)),
        as_labelled(Doubled(X, Y), name="source"),
        as_unlabelled(DoubledSubset(TensorDataset(X, Y), range(N)), name="target"),
    ):
        x, y = fetch(data, rows)
        assert torch.equal(x, 2 * X[rows]) and torch.equal(y, Y[rows])


def test_what_is_computed_once_is_of_the_items_as_they_are_read() -> None:
    """A subclass that transforms has no fingerprint by its tensors: they are not what the network sees."""
    assert fingerprint(TensorDataset(X, Y)) is not None and fingerprint(Subset(TensorDataset(X, Y), [1])) is not None
    assert fingerprint(Doubled(X, Y)) is None and fingerprint(Subset(Doubled(X, Y), [1])) is None
    assert fingerprint(DoubledSubset(TensorDataset(X, Y), range(N))) is None


def test_the_later_of_two_methods_counts() -> None:
    class Tripled(DoubledAtOnce):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            return 3 * self.tensors[0][index], self.tensors[1][index]

    assert torch.equal(fetch(Tripled(X, Y), torch.arange(N))[0], 3 * X)


def test_a_subclass_of_images_that_transforms_is_not_bypassed() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 3, 3, 1), dtype=np.uint8)
    options: dict[str, Any] = {"normalisation": "half", "digest": ""}
    plain, doubled = (kind(pixels, [0, 1, 0, 1], ("a", "b"), **options) for kind in (Images, DoubledImages))
    rows = torch.arange(4)
    for data in (doubled, as_labelled(doubled, name="source")):
        assert torch.equal(fetch(data, rows)[0], 2 * fetch(plain, rows)[0])


def test_an_attribute_called_batch_is_the_users_own() -> None:
    class Named(Items):
        batch = 5

    class Method(Items):
        def batch(self, *_: Any) -> Any:
            raise AssertionError("not called")

    for kind in (Named, Method):
        x, y = fetch(kind(pairs(X, Y)), torch.arange(N))
        assert torch.equal(x, X) and torch.equal(y, Y)


def test_a_batched_data_set_is_read_at_once() -> None:
    class Squares(BatchedDataset):
        calls = 0

        def __len__(self) -> int:
            return 5

        def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
            self.calls += 1
            return (indices**2).float()[:, None], indices % 2

    data = Squares()
    x, y = fetch(data, torch.arange(5))
    assert data.calls == 1 and x[:, 0].tolist() == [0, 1, 4, 9, 16] and y.tolist() == [0, 1, 0, 1, 0]
    assert data[-1][0].tolist() == [16.0] and data[-1][1] == 0
    with pytest.raises(IndexError, match="sample 5 of 5"):
        data[5]


# --- predict and evaluate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_predict_takes_a_target_in_any_form(name: str) -> None:
    model = network()
    assert torch.equal(predict(model, TARGETS[name])[0].logits, predict(model, TensorDataset(XT, Y))[0].logits)


def test_evaluate_of_arrays() -> None:
    model = network()
    logits = predict(model, X)[0].logits
    found = evaluate(model, (X.numpy(), Y.numpy()))
    assert found.accuracy == pytest.approx(float((logits.argmax(1) == Y).double().mean()))
    assert found.loss == pytest.approx(float(-logits.log_softmax(1)[torch.arange(N), Y].mean()))
    assert found.count == found.labelled == N


def test_evaluate_without_labels_describes_the_predictions() -> None:
    model = network()
    found, probs = evaluate(model, X), predict(model, X)[0].logits.softmax(1)
    assert found.accuracy is None and found.loss is None and (found.count, found.labelled) == (N, 0)
    assert found.confidence == pytest.approx(float(probs.amax(1).double().mean()))
    shares = [float((probs.argmax(1) == c).double().mean()) for c in range(C)]
    assert found.shares == pytest.approx(shares) and sum(found.shares) == pytest.approx(1)


def test_evaluate_is_of_the_samples_whose_class_is_known() -> None:
    model, y = network(), Y.clone()
    y[::2] = -1
    found, of_known = evaluate(model, (X, y)), evaluate(model, (X[1::2], Y[1::2]))
    assert (found.accuracy, found.labelled, found.count) == (of_known.accuracy, N // 2, N)
    assert found.loss == pytest.approx(of_known.loss)


def test_read_only_arrays_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(network(), read_only(X))
        fetch(as_labelled(Items([(read_only(x), y) for x, y in pairs(X, Y)]), name="source"), torch.arange(3))
