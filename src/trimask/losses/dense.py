"""The criterion for `DenseOutput`: weighted terms over the valid pixels of upsampled logits, strip by strip.

Source: own. The plain way upsamples the logits to the picture's size and keeps them, their log-softmax and their
gradients: gigabytes at 150 classes. Here the picture is walked in strips of rows inside one autograd function: each
strip is upsampled in fp32, measured, differentiated down to the small logits and forgotten. Values and gradients are
those of the plain way.

A loss that is a function of sums over pixels fits: `measure` gives the numbers of each pixel, the criterion sums
them over the *valid* pixels of all strips, and `combine` makes a scalar of the sums. A new loss is a subclass of
`DenseTerm` in a new file; it never handles ignored pixels, strips or precision.

Deviations: gradients flow to the logits only, so a term has no trainable parameters; no second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trimask.decode.strips import Rows, RowUpsampling, best_layout, over_channels, row_strips, strip_bytes
from trimask.losses.class_weights import ClassFrequencies
from trimask.outputs import DenseOutput
from trimask.types import ClassSpec, Target


@dataclass(frozen=True)
class Strip:
    """Some rows of the whole batch at the picture's resolution. What is asked for is computed once.

    Attributes:
        source: (B, C, s, w) the small logits that the rows are made of, at least fp32.
        upsampling: makes them (B, C, r, W).
        small_labels: (B, r, W) in a small integer type; 0 where the pixel is ignored.
        rows: (start, stop) within the picture.
    """

    source: Tensor
    upsampling: RowUpsampling
    small_labels: Tensor
    rows: Rows

    @cached_property
    def logits(self) -> Tensor:
        """(B, C, r, W) upsampled, at least fp32."""
        return self.upsampling(self.source, self.rows)

    @cached_property
    def labels(self) -> Tensor:
        """(B, r, W) int64; 0 where the pixel is ignored."""
        return self.small_labels.long()

    @cached_property
    def log_probabilities(self) -> Tensor:
        """(B, C, r, W) log-softmax with C >= 2: one logit z becomes the two classes' logits [0, z]."""
        if self.logits.shape[1] > 1:
            return over_channels(torch.log_softmax, self.logits)
        return torch.cat([torch.zeros_like(self.logits), self.logits], dim=1).log_softmax(dim=1)

    @cached_property
    def true_log_probability(self) -> Tensor:
        """(B, 1, r, W) log-softmax of each pixel's true class."""
        num_channels = self.source.shape[1]
        if num_channels > 2:
            # On a CPU this gather takes two thirds of the time of `F.nll_loss(reduction="none")`, backward included.
            return over_channels(lambda maps, dim: maps.gather(dim, self.labels.unsqueeze(dim)), self.log_probabilities)
        if num_channels == 1:
            return F.logsigmoid(self.margin)
        sign = self.small_labels[:, None].to(self.source.dtype).mul_(2).sub_(1)
        # Of two classes only the lead of one over the other matters, and a difference may be upsampled as well.
        first, second = self.source.unbind(1)  # slices would give zero-filled gradients of both channels
        return F.logsigmoid(sign * self.upsampling((second - first)[:, None], self.rows))

    @cached_property
    def probabilities(self) -> Tensor:
        """(B, C, r, W): softmax over the classes, or the sigmoid of one logit."""
        return self.logits.sigmoid() if self.logits.shape[1] == 1 else over_channels(torch.softmax, self.logits)

    @cached_property
    def truth(self) -> Tensor:
        """(B, C, r, W) 0 or 1: the labels one-hot; with one logit the foreground, class 1."""
        if self.logits.shape[1] == 1:
            return self.small_labels[:, None].to(self.logits.dtype)
        return torch.zeros_like(self.logits).scatter_(1, self.labels[:, None], 1.0)

    @cached_property
    def margin(self) -> Tensor:
        """(B, C, r, W) logits, negated where the channel is not the truth: the sigmoid is the probability to be right."""
        return self.logits * self.truth.mul(2).sub_(1)

    def crop(self, picture_map: Tensor) -> Tensor:
        """This strip's rows of a (..., H, W) map."""
        return picture_map[..., slice(*self.rows), :]


class Look:
    """What a term may know before the strips are measured. Ignored pixels cannot be seen through it.

    Attributes:
        num_channels: C of the logits, 1 where one logit stands for two classes.
        shape: (B, H, W) of the truth, ignored pixels too.
        num_valid: () float, the number of valid pixels, at least 1 so that it can be divided by.
    """

    def __init__(self, walk: _Walk, logits: Tensor) -> None:
        self._walk, self._logits = walk, logits
        self.num_channels = logits.shape[1]
        self.shape = walk.labels.shape
        self.num_valid = walk.valid.count_nonzero().clamp(min=1).to(walk.dtype)

    @cached_property
    def labels(self) -> Tensor:
        """(B, H, W) int64; 0 where the pixel is ignored, so use `total` and `pixels` to count."""
        return self._walk.labels.long()

    @cached_property
    def counts(self) -> Tensor:
        """(B,) int64, the valid pixels of each picture."""
        return self._walk.valid.flatten(1).sum(dim=1)

    def total(self, picture_map: Tensor) -> Tensor:
        """() sum of a (B, H, W) map over the valid pixels."""
        return torch.where(self._walk.valid, picture_map, 0).sum()

    def pixels(self, function: Callable[[Strip], Tensor]) -> Tensor:
        """(K, N) values at the N valid pixels, picture after picture, of a function strip -> (B, K, r, W).

        All strips are walked without gradient, and K full-size maps are held for a moment.
        """
        maps = torch.cat([function(strip) for strip in self._walk.strips(self._logits)], dim=2)  # (B, K, H, W)
        return maps.movedim(1, 0)[:, self._walk.valid]

    def spread(self, values: Tensor) -> Tensor:
        """The inverse of `pixels`: (K, N) -> (B, K, H, W) with zeros at ignored pixels."""
        valid = self._walk.valid
        maps = values.new_zeros(len(values), *valid.shape)
        maps[:, valid] = values
        return maps.movedim(0, 1)


class DenseTerm(nn.Module):
    """One loss on dense logits. A subclass says what to measure at a pixel; the rest has defaults.

    Args:
        weight: factor on the value, not negative.
        name: key of the value in the criterion's answer.
    """

    linear: ClassVar[bool] = True  # `combine` is linear in the sums: saves a walk over the strips
    compares_channels: ClassVar[bool] = (
        False  # most of the time goes into a softmax: faster where channels are innermost
    )

    def __init__(self, *, weight: float = 1.0, name: str) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"The weight of the loss term {name!r} must not be negative; got {weight}.")
        self.weight = weight
        self.name = name

    def extra_repr(self) -> str:
        return f"weight={self.weight}, name={self.name!r}"

    def check(self, num_channels: int) -> None:
        """Raise `ValueError` if the term's settings do not fit this many channels (1 stands for two classes)."""

    @property
    def needs_frequencies(self) -> bool:
        """Whether `learn_frequencies` has to be called before the first batch."""
        return False

    def learn_frequencies(self, frequencies: ClassFrequencies) -> Mapping[str, list[float]]:
        """Told before training how often each class occurs. Answers what was made of it, for the log: (C,) numbers by name."""
        return {}

    def focus(self, look: Look) -> Any:
        """What the other two methods need to know of the whole batch; by default the number of valid pixels."""
        return look.num_valid

    def measure(self, strip: Strip, focus: Any) -> Tensor | tuple[Tensor, ...]:
        """(B, K, r, W): the K numbers of each pixel that are to be summed; ignored pixels may get any finite number.

        Several maps need not be joined: their channels count as one after the other.
        """
        raise NotImplementedError

    def combine(self, sums: Tensor, focus: Any) -> Tensor:
        """(B, K) sums over the valid pixels of each picture -> () loss; by default the mean over valid pixels."""
        return sums.sum() / focus


class DenseCriterion(nn.Module):
    """Scores a `DenseOutput`: the weighted value of every term under its name, auxiliary heads together under `aux`.

    With no valid pixel every value is exactly 0 and so is the gradient.

    Args:
        terms: the losses on the main logits; their names differ.
        aux_weight: factor on the sum over auxiliary heads.
        aux_terms: the losses on every auxiliary head; by default `terms`.
        ignore_index: label of segments that count as unlabelled; not a class. By default that of the data.
        strip_bytes: size of one strip of upsampled logits in bytes; by default what suits the device.
    """

    def __init__(
        self,
        terms: list[DenseTerm],
        *,
        aux_weight: float = 0.4,
        aux_terms: list[DenseTerm] | None = None,
        ignore_index: int | None = None,
        strip_bytes: int | None = None,
    ) -> None:
        super().__init__()
        names = [term.name for term in terms]
        if not terms or len(set(names)) < len(names) or "aux" in names:
            raise ValueError(
                f"A criterion needs at least one term, and every term a name of its own other than 'aux'; got {names}. "
                "Set `name` on the terms."
            )
        self.terms = nn.ModuleList(terms)
        self.aux_terms = self.terms if aux_terms is None else nn.ModuleList(aux_terms)
        self.aux_weight = aux_weight
        self.ignore_index = 255 if ignore_index is None else ignore_index
        self._follows_data = ignore_index is None
        self.strip_bytes = strip_bytes

    def forward(self, output: DenseOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The loss is the sum of the answer.

        Raises:
            ValueError: a target's class or a term's settings do not fit the number of channels.
        """
        self._check(output.logits.shape[1], targets)
        labels, valid = small_labels(targets, max(2, output.logits.shape[1]), self.ignore_index)

        def score(logits: Tensor, terms: nn.ModuleList) -> Tensor:
            walk = _Walk(logits, labels, valid, output.align_corners, terms, self.strip_bytes)
            if torch.is_grad_enabled() and logits.requires_grad:
                return _StripLoss.apply(logits, walk)
            return walk.values(logits)

        values = score(output.logits, self.terms)
        answer = {str(term.name): value for term, value in zip(self.terms, values.unbind(), strict=True)}
        if output.aux:
            heads = [score(logits, self.aux_terms).sum() for logits in output.aux]
            answer["aux"] = self.aux_weight * torch.stack(heads).sum()
        return answer

    def set_question(self, question: str, classes: ClassSpec) -> None:
        """Told once by the task: what it asks for, of which classes."""
        if self._follows_data:
            self.ignore_index = classes.ignore_index

    @property
    def needs_frequencies(self) -> bool:
        """Whether a term makes something of how often the classes occur, so that `learn_frequencies` has to be called."""
        return any(term.needs_frequencies for term in self._all_terms())

    def learn_frequencies(self, frequencies: ClassFrequencies) -> dict[str, list[float]]:
        """Tells every term, before the first batch, how often each class occurs in the training data.

        Returns:
            what was made of it, for the log: (C,) numbers by what they are.
        """
        return {
            f"{'aux ' if term not in set(self.terms) else ''}{term.name}: {what}": numbers
            for term in self._all_terms()
            if term.needs_frequencies
            for what, numbers in term.learn_frequencies(frequencies).items()
        }

    def _all_terms(self) -> list[DenseTerm]:
        """Each once; auxiliary heads may share those of the main logits."""
        return list(dict.fromkeys([*self.terms, *self.aux_terms]))

    def _check(self, num_channels: int, targets: Sequence[Target]) -> None:
        num_classes = max(2, num_channels)
        if 0 <= self.ignore_index < num_classes:
            raise ValueError(
                f"ignore_index {self.ignore_index} is one of the network's {num_classes} classes; use e.g. -1."
            )
        for term in self._all_terms():
            term.check(num_channels)
        for target in targets:
            # Reading labels back from another device would stall its queue; there torch's own assertion stops the run.
            labels = target.labels[target.labels != self.ignore_index] if target.labels.is_cpu else target.labels[:0]
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
                raise ValueError(
                    f"A target has labels {int(labels.min())}..{int(labels.max())}, but the network has the classes "
                    f"0..{num_classes - 1}; build it with the number of classes of the data."
                )


def small_labels(targets: Sequence[Target], num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """`Target.semantic` of pictures of one size in the smallest type, by one look-up: a fifth of its time on a CPU.

    Returns:
        labels (B, H, W) uint8, or int32 where there are many classes; 0 where ignored. And valid (B, H, W) bool.
    """
    ignored, dtype = num_classes, torch.uint8 if num_classes < 254 else torch.int32
    tables, tops = [], []
    for target in targets:
        known = target.labels.clamp(max=num_classes + 1)  # what is too large stays so in few bits
        known = known.masked_fill(target.labels == ignore_index, ignored).to(dtype)
        tables.append(torch.cat([known.new_tensor([ignored]), known]))
        top = target.segments[0]
        for layer in target.segments[1:]:
            top = torch.where(layer > 0, layer, top)
        tops.append(top)
    starts = accumulate((len(table) for table in tables[:-1]), initial=0)
    index = torch.stack(tops).int()
    for start, row in zip(starts, index, strict=True):
        row += start
    labels = torch.cat(tables).index_select(0, index.flatten()).view_as(index)
    valid = labels != ignored
    return labels.masked_fill_(~valid, 0), valid


class _Walk:
    """The walk over the strips of one head: measures terms, sums over valid pixels, differentiates."""

    def __init__(
        self,
        logits: Tensor,
        labels: Tensor,
        valid: Tensor,
        align_corners: bool,
        terms: nn.ModuleList,
        budget: int | None,
    ) -> None:
        self.labels, self.valid = labels, valid
        self.terms: tuple[DenseTerm, ...] = tuple(terms)  # type: ignore[arg-type]  # a ModuleList forgets the class
        self.dtype = torch.promote_types(logits.dtype, torch.float32)
        height, width = labels.shape[1:]
        self.upsampling = RowUpsampling(logits, (height, width), align_corners)
        compared = any(term.compares_channels for term in self.terms)
        self.layout = best_layout(logits) if compared else torch.contiguous_format
        bytes_per_row = logits.shape[0] * logits.shape[1] * width * self.dtype.itemsize
        if budget is None:
            # Other strips than one are walked twice where a term is not linear.
            budget = strip_bytes(logits.device) * (1 if all(term.linear for term in self.terms) else 4)
        self.rows = list(row_strips(height, bytes_per_row, budget))

    def values(self, logits: Tensor) -> Tensor:
        """(T,) weighted value of each term."""
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            focuses = self._focuses(logits)
            return self._combine(self._totals(logits, self.terms, focuses), focuses)

    def values_and_gradient(self, logits: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """(T,) weighted values, and the (B, C, h, w) gradient of their sum weighted with `upstream` (T,)."""
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            focuses = self._focuses(logits)
            curved = [term for term in self.terms if not term.linear]
            # The slope of a linear term is the same everywhere, and a single strip has the totals by itself.
            known = self._totals(logits, curved, focuses) if len(self.rows) > 1 else {}
            gradient = torch.zeros_like(logits, dtype=self.dtype, memory_format=self.layout)
            totals: Sums = {}
            for rows in self.rows:
                with torch.enable_grad():
                    source = self.source(logits, rows).requires_grad_()
                    sums = self._sums(self.strip(source, rows), self.terms, focuses)
                slopes = [
                    factor * term.weight * _slope(term, known.get(term, sums[term]), focuses[term])
                    for term, factor in zip(self.terms, upstream.unbind(), strict=True)
                ]
                (part,) = torch.autograd.grad(list(sums.values()), source, slopes)
                gradient[:, :, self.upsampling.source(rows)] += part
                _add(totals, sums)
            return self._combine(totals, focuses), gradient

    def source(self, logits: Tensor, rows: Rows) -> Tensor:
        """The small logits that these rows of the picture are made of, in the precision of the loss."""
        source = logits.detach()[:, :, self.upsampling.source(rows)].to(self.dtype)
        return source.contiguous(memory_format=self.layout)

    def strip(self, source: Tensor, rows: Rows) -> Strip:
        return Strip(source, self.upsampling, self.labels[:, slice(*rows)], rows)

    def strips(self, logits: Tensor) -> Iterator[Strip]:
        for rows in self.rows:
            yield self.strip(self.source(logits, rows), rows)

    def _focuses(self, logits: Tensor) -> dict[DenseTerm, Any]:
        look = Look(self, logits)
        return {term: term.focus(look) for term in self.terms}

    def _totals(self, logits: Tensor, terms: Sequence[DenseTerm], focuses: dict[DenseTerm, Any]) -> Sums:
        totals: Sums = {}
        if terms:
            for strip in self.strips(logits):
                _add(totals, self._sums(strip, terms, focuses))
        return totals

    def _sums(self, strip: Strip, terms: Sequence[DenseTerm], focuses: dict[DenseTerm, Any]) -> Sums:
        """The one place where pixels are added up, and therefore where ignored ones are left out."""
        # A product takes a CPU less than half the time of `torch.where`, backward included.
        valid = strip.crop(self.valid)[:, None].to(self.dtype)  # (B, 1, r, W) of 0 and 1
        sums: Sums = {}
        for term in terms:
            measured = term.measure(strip, focuses[term])
            maps = (measured,) if isinstance(measured, Tensor) else measured
            sums[term] = torch.cat([(valid * picture_map).sum(dim=(2, 3)) for picture_map in maps], dim=1)
        return sums

    def _combine(self, totals: Sums, focuses: dict[DenseTerm, Any]) -> Tensor:
        return torch.stack([term.weight * term.combine(totals[term], focuses[term]) for term in self.terms])


Sums = dict[DenseTerm, Tensor]  # (B, K) a term


def _add(totals: Sums, sums: Sums) -> None:
    for term, value in sums.items():
        totals[term] = totals[term] + value.detach() if term in totals else value.detach()


def _slope(term: DenseTerm, sums: Tensor, focus: Any) -> Tensor:
    """(B, K) d combine / d sums at the given sums."""
    with torch.enable_grad():
        point = sums.detach().requires_grad_()
        (slope,) = torch.autograd.grad(term.combine(point, focus), point)
    return slope


class _StripLoss(torch.autograd.Function):
    """(B, C, h, w) logits -> (T,) weighted values; the gradient is made on the way forward, as small as the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, walk: _Walk) -> Tensor:
        ones = torch.ones(len(walk.terms), dtype=walk.dtype, device=logits.device)
        values, gradient = walk.values_and_gradient(logits, ones)
        ctx.walk = walk
        ctx.save_for_backward(logits, gradient)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        logits, gradient = ctx.saved_tensors
        if len(upstream) == 1 or bool((upstream == upstream[0]).all()):  # the loss is their plain sum: the usual case
            return (gradient * upstream[0]).to(logits.dtype), None
        _, gradient = ctx.walk.values_and_gradient(logits, upstream)
        return gradient.to(logits.dtype), None
