"""Learning rate schedules as fractions of the run: another batch size or number of epochs needs no other settings.

Sources: the polynomial schedule of DeepLab (Chen et al. 2017, arXiv 1706.05587) with the floor of mmengine's
`PolyParamScheduler`; cosine annealing (Loshchilov & Hutter 2017, arXiv 1608.03983); linear warm-up (Goyal et al. 2017,
arXiv 1706.02677); the two stages of EoMT (tue-mps/eomt, `TwoStageWarmupPolySchedule`, MIT).
Deviations: the warm-up scales the schedule instead of delaying it, as in mmsegmentation 0.x and in LinearLR + PolyLR
from step 0: after the warm-up the factor is that of a run without one. `floor` is a fraction of each group's base
rate; mmengine's absolute `eta_min` is `floor_rate`. Past the end of the run the last factor stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A warm-up, then a constant rate. The base of the other schedules.

    Attributes:
        warmup: share of the run, 0..1, over which the factor of the warm-up rises linearly to 1.
        warmup_start: the warm-up's factor at the first step, above 0.
    """

    warmup: float = 0.0
    warmup_start: float = 0.001

    def __post_init__(self) -> None:
        _require("warmup", self.warmup, 0, 1)
        _require("warmup_start", self.warmup_start, 0, 1)

    def decay(self, progress: float) -> float:
        """The factor without warm-up at `progress`, 0..1, of the run."""
        return 1.0

    def factor(self, step: int, total_steps: int) -> float:
        """What every base rate is multiplied with at `step` (0 is the first) of `total_steps`."""
        decay = self.decay(min(step / total_steps, 1.0))
        warmup_steps = self.warmup * total_steps
        if step >= warmup_steps:
            return decay
        return decay * (self.warmup_start + (1 - self.warmup_start) * step / warmup_steps)

    def build(self, optimizer: Optimizer, total_steps: int) -> LambdaLR:
        """A scheduler to be stepped once after every step of the optimizer."""
        if total_steps < 1:
            raise ValueError(f"A schedule needs a run of at least one step; got {total_steps}.")
        return LambdaLR(optimizer, lambda step: self.factor(step, total_steps))


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The base rate all the way, after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class Polynomial(Schedule):
    """(1 - floor) * (1 - progress)^power + floor.

    Attributes:
        power: 0.9 in the DeepLab and mmsegmentation recipes, 1 (linear) in those of transformers.
        floor: the last factor, 0..1.
        floor_rate: instead, the last learning rate, the same for groups of any base rate. A warm-up may lie below it.
    """

    power: float = 0.9
    floor: float = 0.0
    floor_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("power", self.power, 0, math.inf)
        _require("floor", self.floor, 0, 1)
        _require("floor_rate", self.floor_rate, 0, math.inf)
        if self.floor and self.floor_rate:
            raise ValueError("`floor` and `floor_rate` contradict each other; give one of them.")

    def build(self, optimizer: Optimizer, total_steps: int) -> LambdaLR:
        if not self.floor_rate:
            return super().build(optimizer, total_steps)
        rates = [group["lr"] for group in optimizer.param_groups]
        if min(rates) < self.floor_rate:
            raise ValueError(
                f"`floor_rate` {self.floor_rate} lies above a learning rate that is to fall: {min(rates)}."
            )
        own = [replace(self, floor=self.floor_rate / rate, floor_rate=0.0) for rate in rates]
        return LambdaLR(optimizer, [partial(schedule.factor, total_steps=total_steps) for schedule in own])

    def decay(self, progress: float) -> float:
        return float((1 - self.floor) * (1 - progress) ** self.power + self.floor)


@dataclass(frozen=True, kw_only=True)
class TwoStagePolynomial(Polynomial):
    """New parts learn first: while they warm up, from 0, the pretrained backbone rests, which then warms up itself. The
    polynomial of each begins where its warm-up ends. Which group is which, their names say; see `ParameterGroups`.

    Attributes:
        backbone_warmup: share of the run, 0..1, over which the backbone's rate rises, behind `warmup`.
    """

    backbone_warmup: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("backbone_warmup", self.backbone_warmup, 0, 1 - self.warmup)
        if self.floor_rate:
            raise ValueError("`floor_rate` is not for schedules in two stages; give `floor`.")

    def build(self, optimizer: Optimizer, total_steps: int) -> LambdaLR:
        names = [group.get("name", "") for group in optimizer.param_groups]
        if not any(name.startswith("backbone") for name in names):
            raise ValueError(
                f"A schedule in two stages needs a backbone that learns; the parts are {', '.join(names)}."
            )
        factors = {True: self.backbone_factor, False: self.factor}
        return LambdaLR(optimizer, [partial(factors[n.startswith("backbone")], total_steps=total_steps) for n in names])

    def factor(self, step: int, total_steps: int) -> float:
        return self._after(0.0, self.warmup, step / total_steps)

    def backbone_factor(self, step: int, total_steps: int) -> float:
        """What the base rates of the backbone are multiplied with."""
        return self._after(self.warmup, self.backbone_warmup, step / total_steps)

    def _after(self, rest: float, warmup: float, progress: float) -> float:
        """0 while it rests, then a warm-up, then the polynomial over what remains of the run."""
        if progress < rest + warmup:
            return max(progress - rest, 0.0) / warmup if warmup else 0.0
        begin = rest + warmup
        return self.decay(min((progress - begin) / (1 - begin), 1.0) if begin < 1 else 1.0)


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """(1 - floor) * (1 + cos(pi * progress)) / 2 + floor.

    Attributes:
        floor: the last factor, 0..1.
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("floor", self.floor, 0, 1)

    def decay(self, progress: float) -> float:
        return (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2 + self.floor


@dataclass(frozen=True, kw_only=True)
class MultiStep(Schedule):
    """Multiplied with `gamma` at each milestone.

    Attributes:
        milestones: shares of the run, 0..1.
        gamma: 0..1.
    """

    milestones: Sequence[float] = (0.9, 0.95)  # Mask2Former's and Detectron2's long COCO recipes
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("gamma", self.gamma, 0, 1)
        for milestone in self.milestones:
            _require("milestones", milestone, 0, 1)

    def decay(self, progress: float) -> float:
        return self.gamma ** sum(progress >= milestone for milestone in self.milestones)


def _require(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"`{name}` of a schedule must lie in {low}..{high}; got {value}.")
