"""Parameter groups and learning-rate schedules."""

from trimask.optim.groups import ParameterGroups, build_optimizer
from trimask.optim.schedules import Constant, Cosine, MultiStep, Polynomial, Schedule, TwoStagePolynomial

__all__ = [
    "Constant",
    "Cosine",
    "MultiStep",
    "ParameterGroups",
    "Polynomial",
    "Schedule",
    "TwoStagePolynomial",
    "build_optimizer",
]
