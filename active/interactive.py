"""ActiveLearner: query, teach, predict, score. Active learning by hand, with labels that come from anywhere.

    learner = ActiveLearner(LogisticRegression(), "hybrid", source=(Xs, ys), pool=Xt)
    ids = learner.query(20)                    # rows of Xt that are worth a label
    learner.teach(ids, labels)                 # the labels found for them; trained on when next needed
    learner.predict(X), learner.score(X, y)

Shapes: N samples of the pool; S source samples; n samples; F features; C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from active.learner import Learner
from active.learners.dan import DANLearner
from active.learners.rounds_config import RoundsConfig
from active.learners.sklearn import SklearnLearner
from active.loop import check_ids, generator_of, query_of
from active.pool import Pool
from active.strategies import resolve_strategy
from dan.data.batches import derived_seed
from dan.data.domain_pair import DomainPair
from dan.errors import UserError
from dan.evaluation.metrics import predict
from dan.models.dan import DAN
from dan.training.config import TrainConfig
from dan.training.trainer import fit


class ActiveLearner:
    """A model, a strategy, labelled source samples and a pool of unlabelled target samples, all in memory.

    model: a scikit-learn classifier; a `DAN`; or a backbone, by name or as a module, on which a DAN is built. It is
        copied, and stays as it is.
    strategy: a name of `active.STRATEGIES`, or a function (query, budget, *, generator) -> ids.
    source: (X, y): samples (S, ...), arrays or tensors, and their labels (S,), numbers or texts; or a data set.
    pool: samples (N, ...), or a data set of x or of (x, y), whose y is not read. Ids are rows of the pool.
    classes: all classes, where the source lacks some; default: those of the source, sorted.
    steps, steps_per_round, trade_off, config: of a DAN: training steps before the first query (0: the model is trained
        already) and after labels are taught, the weight of the alignment, and a `TrainConfig`; default: its defaults
        with batches of at most 32 samples.

    Training waits until it is needed: by a query, a prediction or a score after new labels. The same calls with the
    same seed give the same ids.
    Raises UserError for an unknown strategy and for samples and labels that do not fit together.
    """

    def __init__(
        self,
        model: Any,
        strategy: str | Callable[..., Any] = "hybrid",
        *,
        source: tuple[Any, Any] | Dataset[Any],
        pool: Any,
        seed: int = 0,
        classes: Sequence[Any] | None = None,
        steps: int = 300,
        steps_per_round: int = 100,
        trade_off: float = 1.0,
        config: TrainConfig | None = None,
    ) -> None:
        self.strategy, self._needs = resolve_strategy(strategy)
        self.seed = int(seed)
        x, y = _pair(source)
        self.classes = _classes(y, classes)
        self._position = {label: i for i, label in enumerate(self.classes)}
        candidates = _samples(pool)
        self.pool = Pool(range(len(candidates)), classes=self.classes)
        self._round, self._stale = 0, True
        self.learner: Learner
        if isinstance(model, (str, nn.Module)):
            options: dict[str, Any] = {"steps": steps, "steps_per_round": steps_per_round, "trade_off": trade_off}
            self._dan_learner(
                model, TensorDataset(_inputs(x), self._encoded(y)), _inputs(candidates), config, **options
            )
        elif hasattr(model, "fit"):
            self.learner = SklearnLearner(model, candidates, source=(x, y))
        else:
            raise UserError(
                f"a {type(model).__name__} cannot be trained here: give a scikit-learn classifier, a DAN, or a backbone"
            )

    def _dan_learner(
        self,
        model: str | nn.Module,
        source: TensorDataset,
        pool: Tensor,
        config: TrainConfig | None,
        *,
        steps: int,
        steps_per_round: int,
        trade_off: float,
    ) -> None:
        """Prepare the learner of a DAN; its first training waits."""
        network = self._network(model)
        if config is None:
            config = TrainConfig(batch_size=min(32, len(source), len(pool)))
        target = TensorDataset(pool, torch.full((len(pool),), -1))
        task = DomainPair(
            name="interactive",
            classes=tuple(map(str, self.classes)),
            source=source,
            source_test=None,
            target=target,
            target_test=None,
            kind="image" if pool.ndim == 4 else "vector",
            target_labelled=False,
        )
        rounds = RoundsConfig(trade_off=trade_off, steps_per_round=steps_per_round)
        device = str(next(network.parameters()).device)
        self.learner = DANLearner(task, network, rounds, seed=self.seed, config=config, device=device)
        self._first_training: Callable[[], Any] | None = None
        if steps:
            options: dict[str, Any] = {"trade_off": trade_off, "steps": steps, "config": config, "device": device}
            seed = derived_seed(self.seed, 0)
            self._first_training = lambda: fit(network, source, target, seed=seed, log_mmd=False, **options)

    def _network(self, model: str | nn.Module) -> DAN:
        """A DAN of its own. Raises UserError for one with another number of classes."""
        if not isinstance(model, DAN):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                return DAN(model if isinstance(model, str) else copy.deepcopy(model), len(self.classes))
        if model.settings["num_classes"] != len(self.classes):
            raise UserError(
                f"the model has {model.settings['num_classes']} classes, and the labels {len(self.classes)}: "
                "name all of them with classes="
            )
        return copy.deepcopy(model)

    @property
    def model(self) -> Any:
        """The trained DAN or estimator."""
        self._train()
        return getattr(self.learner, "model", None)

    def query(self, n: int = 1) -> np.ndarray:
        """Ids (n,) of the pool's samples that are worth a label most, int64, in the strategy's order.

        The same ids again until labels are taught. Raises UserError for fewer than 1 or more than are unlabelled.
        """
        n, unlabelled = int(n), len(self.pool.unlabelled_ids)
        if not 1 <= n <= unlabelled:
            raise UserError(f"a query is of 1 to {unlabelled} samples, those of the pool without a label, not of {n}")
        self._train()
        fields = dict(self.learner.query_fields(self.pool.ids, self._needs))
        fields.pop("classes", None)  # columns are positions in the classes, as the pool's labels are
        ids = self.strategy(query_of(self.pool, fields), n, generator=generator_of(self.seed, self._round))
        check_ids(self.pool, ids, n)
        return ids.numpy()

    def teach(self, ids: Iterable[int], labels: Iterable[Any]) -> None:
        """Add labels (n,) of these samples (n,), queried or not.

        Raises UserError, and adds none of them, for an id that is not of the pool, repeated or labelled already, and
        for a label that is not one of the classes.
        """
        new, given = _listed(ids), _listed(labels)
        if len(new) != len(given):
            raise UserError(f"{len(given)} labels for {len(new)} ids: give one label for each id")
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in new):
            raise UserError("ids are whole numbers, as query returns them")
        try:
            self.pool.label(new, self._encoded(given), round=self._round + 1)
        except ValueError as error:
            raise UserError(str(error)) from None
        self._stale = self._stale or bool(new)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities (n, C), float64, of samples (n, ...); the columns are `classes`."""
        self._train()
        if isinstance(self.learner, SklearnLearner):
            return self.learner.predict_proba(_samples(X)).numpy()
        x = _inputs(_samples(X))
        output = predict(self.model, TensorDataset(x, torch.zeros(len(x), dtype=torch.long)))[0]
        return output.logits.double().softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each sample (n,), named as in the source."""
        return np.asarray(self.classes)[self.predict_proba(X).argmax(1)]

    def score(self, X: Any, y: Any) -> float:
        """Accuracy in [0, 1] on samples (n, ...) with their labels (n,)."""
        targets = self._encoded(_listed(y))
        predicted = torch.from_numpy(self.predict_proba(X).argmax(1))
        if len(targets) != len(predicted):
            raise UserError(f"{len(targets)} labels for {len(predicted)} samples: give one label for each sample")
        return float((predicted == targets).double().mean())

    def _train(self) -> None:
        """Train on what was taught since the last training; before the first one, on the source and the pool."""
        if not self._stale:
            return
        if isinstance(self.learner, DANLearner) and self.learner.model is None:
            if self._first_training is not None:
                self._first_training()
            self.learner.fit(self.pool, 0)
        if isinstance(self.learner, SklearnLearner) or len(self.pool.labelled_ids):
            self._round += bool(len(self.pool.labelled_ids))
            self.learner.fit(self.pool, self._round)
        self._stale = False

    def _encoded(self, labels: Iterable[Any]) -> Tensor:
        """Positions (n,) in the classes. Raises UserError for a label that is none of them."""
        listed = _listed(labels)
        unknown = next((label for label in listed if label not in self._position), None)
        if unknown is not None:
            known = ", ".join(map(str, self.classes[:20]))
            raise UserError(f"label {unknown!r} is not one of the classes {known}: name all with classes=")
        return torch.tensor([self._position[label] for label in listed], dtype=torch.long)


def _listed(values: Any) -> list[Any]:
    """Plain values of an array, a tensor, a list, or one value."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values).reshape(-1).tolist()


def _pair(source: Any) -> tuple[np.ndarray, np.ndarray]:
    """(samples, labels) of the source as arrays. Raises UserError for anything else, and for other lengths."""
    if isinstance(source, Dataset):
        items = [source[i] for i in range(len(source))]  # type: ignore[arg-type]
        source = [item[0] for item in items], [_listed(item[1])[0] for item in items]
    if not isinstance(source, (tuple, list)) or len(source) != 2:
        raise UserError("source is a pair (X, y) of samples and labels, or a data set of (x, y)")
    x, y = _samples(source[0]), np.asarray(_listed(source[1]))
    if len(x) != len(y) or not len(y):
        raise UserError(f"source has {len(x)} samples and {len(y)} labels: give one label for each sample")
    return x, y


def _samples(data: Any) -> np.ndarray:
    """Samples (n, ...) as an array, from an array, a tensor, a list, or a data set of x or of (x, y)."""
    if isinstance(data, Dataset):
        items = [data[i] for i in range(len(data))]  # type: ignore[arg-type]
        data = [item[0] if isinstance(item, (tuple, list)) else item for item in items]
    if isinstance(data, (list, tuple)) and data and isinstance(data[0], Tensor):
        data = torch.stack(list(data))
    array = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
    if array.ndim < 1 or not len(array):
        raise UserError(f"samples are an array (n, ...) of at least one, not of shape {array.shape}")
    return array


def _inputs(samples: np.ndarray) -> Tensor:
    """Samples as a network takes them: float32. Raises UserError for what is not numeric."""
    if not np.issubdtype(samples.dtype, np.number):
        raise UserError(f"a network takes numbers, not samples of {samples.dtype}")
    return torch.as_tensor(samples, dtype=torch.float32)


def _classes(labels: np.ndarray, classes: Sequence[Any] | None) -> tuple[Any, ...]:
    """All classes as plain values, sorted where they are not given."""
    own = sorted(set(labels.tolist()))
    given = own if classes is None else _listed(classes)
    if len(set(given)) != len(given) or not set(own) <= set(given) or len(given) < 2:
        raise UserError(
            f"the source's classes are {', '.join(map(str, own[:20]))}: classes= must name them all, once each, and "
            "at least two"
        )
    return tuple(given)
