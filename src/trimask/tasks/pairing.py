"""Whether a criterion scores what a network answers, from what their `forward` say in their annotations; before any training."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from torch import nn


def require_scored(network: nn.Module, criterion: Any) -> None:
    """Nothing is known of a network or a criterion without annotations, so nothing is refused. `nn.Identity` stands for none, in
    a task that only answers.

    Raises:
        ValueError: the criterion scores another kind of output, or is no criterion.
    """
    if isinstance(criterion, nn.Identity):
        return
    score = getattr(type(criterion), "forward", None)
    if score is nn.Module.forward:
        raise ValueError(
            f"`criterion` is {type(criterion).__name__}, which has no forward(output, targets) -> {{name: scalar}}. "
            "If it is a loss of pixels, list it in the `terms` of trimask.losses.DenseCriterion."
        )
    answers, scored = _classes(_hints(type(network).forward).get("return")), _first_argument(score)
    if answers and scored and not any(issubclass(a, s) or issubclass(s, a) for a in answers for s in scored):
        raise ValueError(
            f"`criterion` {type(criterion).__name__} scores {_listed(scored)}; {type(network).__name__} answers "
            f"{_listed(answers)}. Give the criterion that belongs to the network's kind of output, see trimask.losses."
        )


def _first_argument(function: Callable[..., Any] | None) -> list[type]:
    parameters = list(inspect.signature(function).parameters) if function is not None else []
    return _classes(_hints(function).get(parameters[1])) if len(parameters) > 1 else []


def _hints(function: Callable[..., Any] | None) -> dict[str, Any]:
    """The annotations of a function; none if they name what is imported for a type checker alone."""
    try:
        return typing.get_type_hints(function) if function is not None else {}
    except NameError:
        return {}


def _classes(hint: Any) -> list[type]:
    """Those that a hint allows; none if it does not say, or names a protocol."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    says = all(isinstance(one, type) and not getattr(one, "_is_protocol", False) for one in members)
    return list(members) if says else []


def _listed(classes: list[type]) -> str:
    return " or ".join(one.__name__ for one in classes)
