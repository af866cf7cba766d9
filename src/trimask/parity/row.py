"""One row of the proof: our network, its reference, and the comparison of the two. Source: own work."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from trimask.convert import load_released
from trimask.networks import untrained
from trimask.types import Size

TOLERANCE = 1e-4  # of fp32 logits; see `limit`
EXACT = 1e-9  # of fp64 logits
LEAST_SPREAD = 1e-3  # logits that hardly differ from each other would be equal for being constant
_ACTS_IN_TRAINING_ONLY = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.MultiheadAttention,  # whose dropout is no member
    DropPath,
)


# --- nouns ---


@dataclass(frozen=True)
class Reference:
    """Another library's network.

    Attributes:
        library: its distribution on PyPI; rows are skipped where it is not installed.
        name: what the network is called there.
        build: makes it with random weights.
        answers: (the network, normalized pictures (B, 3, H, W)) -> logits, then those of the auxiliary heads in our order. Of
            queries masks and classes, each time.
        weights: its tensors by the names that they have in released files.
        trained: all answers in training mode, where a network answers other logits then; `answers` gives no auxiliary ones.
    """

    library: str
    name: str
    build: Callable[[], nn.Module]
    answers: Callable[[Any, Tensor], Sequence[Tensor]]
    weights: Callable[[Any], Mapping[str, Tensor]] = nn.Module.state_dict
    trained: Callable[[Any, Tensor], Sequence[Tensor]] | None = None

    @property
    def version(self) -> str | None:
        """None where the library is not installed."""
        try:
            return version(self.library)
        except PackageNotFoundError:
            return None


@dataclass(frozen=True)
class Published:
    """Parameters in millions, at the precision in which they were published.

    Attributes:
        where: an id of baselines.yaml, or a paper's table.
        total: with auxiliary heads.
        inference: without.
    """

    where: str
    total: float
    inference: float | None = None

    def misfits(self, network: nn.Module) -> list[str]:
        """One sentence a number that the network does not have."""
        counts = [
            ("in all", self.total, count_parameters(network)),
            ("without auxiliary heads", self.inference, count_parameters(network, auxiliary=False)),
        ]
        return [
            f"{count / 1e6:.4f} M parameters {label}; published are {published} M ({self.where})"
            for label, published, count in counts
            if published is not None and round(count / 1e6, _decimals(published)) != published
        ]


@dataclass(frozen=True)
class Count:
    """A variant of which only the parameters are counted, on the meta device."""

    network: type[nn.Module]
    arguments: Mapping[str, Any]
    published: Published

    def misfits(self) -> list[str]:
        with torch.device("meta"):
            return self.published.misfits(untrained(self.network, self.arguments))


@dataclass(frozen=True)
class Row:
    """Our network beside a reference; the guide is in `trimask.parity`.

    Attributes:
        network, arguments: ours.
        variant: which one of the architecture: backbone, data set.
        source: key of the network's RENAMES.
        reference: theirs.
        published: parameters of this variant.
        sizes: of the pictures.
        slow: takes more than some seconds.
        inert: patterns of the reference's tensors that cannot change any answer.
        exact: largest error of fp64 logits; None where the reference does not compute in fp64 throughout.
        surplus: how many parameters ours has more than theirs where both are right, e.g. a bias that a conversion sets to 0.
    """

    network: type[nn.Module]
    arguments: Mapping[str, Any]
    variant: str = field(kw_only=True)
    source: str = field(kw_only=True)
    reference: Reference = field(kw_only=True)
    published: Published | None = field(default=None, kw_only=True)
    sizes: tuple[Size, ...] = field(default=((64, 96), (65, 97)), kw_only=True)
    slow: bool = field(default=False, kw_only=True)
    inert: tuple[str, ...] = field(default=(), kw_only=True)
    exact: float | None = field(default=EXACT, kw_only=True)
    surplus: int = field(default=0, kw_only=True)

    @property
    def architecture(self) -> str:
        return self.network.__name__

    @property
    def title(self) -> str:
        return f"{self.architecture}/{self.variant}/{self.reference.library}"

    def pair(self) -> tuple[nn.Module, nn.Module]:
        """Ours and theirs with the same random weights, in evaluation mode.

        Raises:
            ValueError: the weights of one do not fit the other.
        """
        torch.manual_seed(0)
        theirs = randomize(self.reference.build()).eval()
        ours = untrained(self.network, self.arguments).eval()
        load_released(ours, self.reference.weights(theirs), self.source)
        return ours, theirs


@dataclass
class Outcome:
    """What a comparison has found.

    Attributes:
        failures: one sentence each; none if the row holds.
        tensors: of the reference that became ours.
        error, exact_error: largest difference of a logit in fp32 and in fp64.
        perturbed_error: the same after a random tensor of the reference was changed.
        params, params_reference: numbers of parameters.
    """

    failures: list[str] = field(default_factory=list)
    tensors: int = 0
    error: float | None = None
    exact_error: float | None = None
    perturbed_error: float | None = None
    params: int = 0
    params_reference: int = 0
    seconds: float = 0.0


# --- verbs ---


def compare(row: Row) -> Outcome:
    """Everything that a row claims."""
    outcome, started = Outcome(), time.perf_counter()
    ours, theirs = row.pair()
    outcome.tensors = len(row.reference.weights(theirs))
    outcome.params, outcome.params_reference = count_parameters(ours), count_parameters(theirs)
    if outcome.params != outcome.params_reference + row.surplus:
        beyond = f" and {row.surplus} more are expected" if row.surplus else ""
        outcome.failures.append(f"{outcome.params} parameters, the reference has {outcome.params_reference}{beyond}")
    if row.published is not None:
        outcome.failures += row.published.misfits(ours)
    outcome.error = _compare_sizes(row, ours, theirs, TOLERANCE, outcome.failures)
    if row.exact is not None:
        outcome.exact_error = _compare_sizes(row, ours.double(), theirs.double(), row.exact, outcome.failures)
    outcome.perturbed_error, blind = perturbed(row, ours, theirs)
    if blind:
        outcome.failures.append(f"a change of the reference's {blind} goes unnoticed")
    outcome.seconds = time.perf_counter() - started
    return outcome


def _compare_sizes(row: Row, ours: nn.Module, theirs: nn.Module, tolerance: float, failures: list[str]) -> float:
    """The largest error; what is beyond the tolerance is added to the failures."""
    errors = [0.0]
    for size in row.sizes:
        for what, error, allowed in differences(row, ours, theirs, size, tolerance):
            errors.append(error)
            if not error <= allowed:  # also if it is not a number
                failures.append(f"{what} at {size[0]}x{size[1]} differ by {error:.1e}; allowed are {allowed:.1e}")
    return max(errors)


@torch.inference_mode()
def differences(
    row: Row, ours: nn.Module, theirs: nn.Module, size: Size, tolerance: float = TOLERANCE
) -> list[tuple[str, float, float]]:
    """(what, largest error, how much is allowed) of each answer to a random picture.

    Raises:
        ValueError: the answers differ in number or shape, or say nothing.
    """
    images = picture(size)
    expected = row.reference.answers(theirs, normalized(ours, images))
    answers = logits_of(ours.eval()(images))
    found = _differences("in evaluation", answers, expected[: len(answers)], tolerance)
    if row.reference.trained is not None:
        expected = row.reference.trained(theirs, normalized(ours, images))
    if len(expected) > len(answers):  # auxiliary heads answer in training only
        output = as_in_training(ours)(images)
        found += _differences("in training", logits_of(output), expected, tolerance)
    return found


def logits_of(output: Any) -> list[Tensor]:
    """All logits of an output: the answer first, then those of auxiliary heads or earlier layers."""
    return output.tensors()


def _differences(
    when: str, answers: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float
) -> list[tuple[str, float, float]]:
    if [answer.shape for answer in answers] != [truth.shape for truth in expected]:
        ours, theirs = ([tuple(x.shape) for x in side] for side in (answers, expected))
        raise ValueError(f"The answers {when} have the shapes {ours}, the reference's {theirs}.")
    found = []
    for number, (answer, truth) in enumerate(zip(answers, expected, strict=True)):
        label = f"{'logits' if number == 0 else f'auxiliary logits {number}'} {when}"
        if not truth.std() > LEAST_SPREAD:
            raise ValueError(f"The reference's {label} are all the same ({truth.std():.1e} apart).")
        found.append((label, float((answer - truth).abs().max()), limit(truth, tolerance)))
    return found


def limit(logits: Tensor, tolerance: float) -> float:
    """The tolerance, absolute; smaller where the logits themselves are small."""
    return tolerance * min(1.0, float(logits.abs().max()))


def perturbed(row: Row, ours: nn.Module, theirs: nn.Module, seed: int = 0) -> tuple[float, str]:
    """(error after one random tensor of the reference was changed, its name if nobody noticed). Changes `theirs`."""
    changeable = names_of_changeable(row, theirs)
    name = random.Random(f"{row.title} {seed}").choice(changeable)
    perturb(theirs, name)
    found = differences(row, ours, theirs, row.sizes[0])
    noticed = any(not error <= allowed for _, error, allowed in found)
    return max(error for _, error, _ in found), "" if noticed else name


def names_of_changeable(row: Row, theirs: nn.Module) -> list[str]:
    """The reference's learned tensors and statistics, without those that cannot matter."""
    names = [name for name, value in theirs.state_dict().items() if value.is_floating_point()]
    return [name for name in names if not any(re.search(pattern, name) for pattern in row.inert)]


@torch.no_grad()
def perturb(network: nn.Module, name: str) -> None:
    """Each element one and a half to two and a half times as large: signs, and so variances, stay valid."""
    tensor = network.state_dict()[name]
    tensor.mul_(1.5 + torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0)))


@torch.no_grad()
def randomize(network: nn.Module, seed: int = 0) -> nn.Module:
    """As after training: no running statistics of 0 and 1, and no parameter that its initialization left constant."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.named_buffers():
        if name.endswith("running_mean"):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        elif name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif name.endswith("num_batches_tracked"):
            value.fill_(3)
    for parameter in network.parameters():
        if parameter.numel() and parameter.min() == parameter.max():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def as_in_training(network: nn.Module) -> nn.Module:
    """Training mode, so that auxiliary heads answer, but without dropout and with the running statistics."""
    network.train()
    for module in network.modules():
        if isinstance(module, _ACTS_IN_TRAINING_ONLY):
            module.eval()
    return network


def picture(size: Size) -> Tensor:
    """(1, 3, H, W) uint8."""
    return torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalized(network: nn.Module, images: Tensor) -> Tensor:
    """The pictures as our network sees them behind its normalization, for a reference that has none inside."""
    owner: Any = getattr(network, "backbone", network)
    return (images.to(owner.mean.dtype) - owner.mean) / owner.std


def count_parameters(network: nn.Module, *, auxiliary: bool = True) -> int:
    """Args: auxiliary: also those of the members whose name begins with "aux"."""
    return sum(
        parameter.numel() for name, parameter in network.named_parameters() if auxiliary or not name.startswith("aux")
    )


def _decimals(number: float) -> int:
    return max(0, -int(Decimal(str(number)).as_tuple().exponent))
