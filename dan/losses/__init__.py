"""What makes features forget their domain: one term beside the cross-entropy, a function of the two batches' outputs.

    L = CE(source) + trade_off * sum of the terms of the method

A method is a module that is called with what the network says of the source batch and of the target batch, and gives
its terms by name; what it learns or remembers (a discriminator, a bandwidth, kernel weights) is in its state dict, so
checkpoints keep it. Anything callable like that will do in its place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dan.errors import UserError, nearest
from dan.losses.adversarial import ConditionalAdversary, DomainAdversary
from dan.losses.composed import ComposedLoss, parse_multiples, split_methods
from dan.losses.coral import Coral
from dan.losses.jan import JointAlignment
from dan.losses.mcc import ClassConfusion
from dan.losses.mk_mmd import Alignment, alignment, comparable
from dan.losses.mme import MinimaxEntropy
from dan.models.dan import DAN, Output

__all__ = [
    "METHODS",
    "Alignment",
    "Method",
    "DomainLoss",
    "alignment",
    "build_loss",
    "check_method",
    "comparable",
    "fewest_samples",
]

DomainLoss = Callable[[Output, Output], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Method:
    """One way to adapt: what it is in a line, how it is built from (network, layers to align, options), and its source.

    takes: the options of `build_loss` that it has a use for. fewest: samples a batch needs of each domain.
    """

    line: str
    build: Callable[..., Any]
    source: str
    takes: frozenset[str] = frozenset()
    fewest: int = 1


def _dan(model: DAN, align: Sequence[str], **options: Any) -> Alignment:
    return Alignment(align, **options)


def _ddc(model: DAN, align: Sequence[str], **options: Any) -> Alignment:
    """One layer, the last hidden one unless another is named, under one kernel."""
    return Alignment([_last_hidden(align)], num_kernels=1, **options)


def _last_hidden(align: Sequence[str]) -> str:
    """The last of the layers that is not the logits, or the logits where there is no other."""
    return [*[name for name in align if name != "output"][-1:], "output"][0]


def _jan(model: DAN, align: Sequence[str], **options: Any) -> JointAlignment:
    return JointAlignment(align, **options)


def _deep_coral(model: DAN, align: Sequence[str], **options: Any) -> Coral:
    return Coral(align, **options)


def _dann(model: DAN, align: Sequence[str], **options: Any) -> DomainAdversary:
    return DomainAdversary(_last_hidden(align), **options)


def _cdan(model: DAN, align: Sequence[str], **options: Any) -> ConditionalAdversary:
    return ConditionalAdversary(_last_hidden(align), **options)


def _cdan_e(model: DAN, align: Sequence[str], **options: Any) -> ConditionalAdversary:
    return ConditionalAdversary(_last_hidden(align), entropy_weighted=True, **options)


def _mcc(model: DAN, align: Sequence[str], **options: Any) -> ClassConfusion:
    """No layer is aligned: the target's logits alone."""
    return ClassConfusion(**options)


def _mme(model: DAN, align: Sequence[str], **options: Any) -> MinimaxEntropy:
    """No layer is aligned: the classifier is the last layer, the features are what it is fed."""
    if not len(model.hidden):
        raise UserError("the method mme needs a hidden layer before the logits: --layers 64, or another width")
    return MinimaxEntropy(model.output, f"hidden{len(model.hidden)}")


_KERNEL = frozenset({"estimator", "bandwidth", "bandwidth_decay", "output_space"})
METHODS: dict[str, Method] = {
    "dan": Method(
        "MK-MMD on every aligned layer",
        _dan,
        "Long et al., ICML 2015",
        _KERNEL | {"num_kernels", "bandwidth_ratio", "kernel_weights", "kernel_weights_every"},
        2,
    ),
    "ddc": Method("MMD with one kernel on one layer", _ddc, "Tzeng et al., arXiv 1412.3474", _KERNEL, 2),
    "jan": Method(
        "MMD of the aligned layers' joint distribution",
        _jan,
        "Long et al., ICML 2017",
        _KERNEL | {"num_kernels", "bandwidth_ratio"},
        2,
    ),
    "deep_coral": Method(
        "equal covariances on every aligned layer", _deep_coral, "Sun & Saenko, ECCV 2016 workshops", fewest=2
    ),
    "dann": Method(
        "a domain discriminator on one layer, behind a gradient reversal",
        _dann,
        "Ganin & Lempitsky, ICML 2015",
        frozenset({"discriminator_width"}),
    ),
    "cdan": Method(
        "a domain discriminator on features by class probabilities",
        _cdan,
        "Long et al., NeurIPS 2018",
        frozenset({"discriminator_width"}),
    ),
    "cdan_e": Method(
        "CDAN in which sure predictions weigh more",
        _cdan_e,
        "Long et al., NeurIPS 2018",
        frozenset({"discriminator_width"}),
    ),
    "mcc": Method(
        "minimum class confusion of the target's predictions",
        _mcc,
        "Jin et al., ECCV 2020",
        frozenset({"temperature"}),
    ),
    "mme": Method(
        "minimax entropy of the target's predictions: the classifier climbs it, the features descend it",
        _mme,
        "Saito et al., ICCV 2019",
    ),
}


def check_method(method: str) -> tuple[str, ...]:
    """The methods of a name such as "dan" or "dan+mcc". Raises UserError for an unknown or repeated one."""
    parts = split_methods(method)
    for name in parts:
        if name not in METHODS:
            raise UserError(f'unknown method "{name}"{nearest(name, METHODS)}: one of {", ".join(METHODS)}')
    return parts


def fewest_samples(method: str) -> int:
    """Samples a batch that the method, or the neediest of a composition, needs of each domain."""
    return max(METHODS[name].fewest for name in check_method(method))


def build_loss(method: str, model: DAN, align: Sequence[str], **options: Any) -> Any:
    """The module of METHODS with that name, or the sum of several, as "dan+mcc", for that network.

    options: those of the methods, by name; what a method has no use for is left out. method_multiples: of a
    composition, the multiples of the trade-off, as ("mcc=0.5",).
    Raises UserError for an unknown name, and for multiples of methods that are not composed.
    """
    parts = check_method(method)
    multiples = parse_multiples(tuple(options.get("method_multiples", ())), parts)

    def build(name: str) -> Any:
        entry = METHODS[name]
        return entry.build(model, align, **{key: value for key, value in options.items() if key in entry.takes})

    if len(parts) == 1 and not multiples:
        return build(parts[0])
    return ComposedLoss({name: build(name) for name in parts}, multiples)
