"""Parameter groups and learning-rate schedules."""

from trimask.optim.groups import ParameterGroups, build_optimizer
from trimask.optim.schedules import Constant, Cosine, MultiStep, Polynomial, Schedule

__all__ = ["Constant", "Cosine", "MultiStep", "ParameterGroups", "Polynomial", "Schedule", "build_optimizer"]
