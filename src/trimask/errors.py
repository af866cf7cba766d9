"""From an exception to the one sentence that a user needs."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable

from trimask.types import DataError


class UsageError(ValueError):
    """The command line or a configuration file is wrong; the message says what to do."""


def one_sentence(error: BaseException) -> str | None:
    """What to tell the user, or None for an error that is trimask's own fault and deserves its traceback."""
    if isinstance(error, KeyboardInterrupt):
        return None
    for cause in _causes(error):
        if isinstance(cause, DataError | UsageError):
            return _without_worker_traceback(str(cause), type(cause).__name__)
    if type(error).__name__ in ("ArgumentError", "ParserError"):
        return innermost(str(error))
    if isinstance(error, ValueError | FileNotFoundError | NotADirectoryError | PermissionError):
        return _without_worker_traceback(str(error), type(error).__name__) if _meant_for_users(error) else None
    return None


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _meant_for_users(error: BaseException) -> bool:
    """Whether the error was raised by trimask itself rather than somewhere below it."""
    traceback = error.__traceback__
    last = None
    while traceback is not None:
        last, traceback = traceback, traceback.tb_next
    return last is None or "/trimask/" in last.tb_frame.f_code.co_filename.replace("\\", "/")


def _without_worker_traceback(message: str, kind: str) -> str:
    """torch puts the worker's whole traceback into the message of what it raises again; the last line is the error."""
    if "Original Traceback" not in message:
        return message
    return message.rpartition(f"{kind}: ")[2].strip()


# What jsonargparse wraps around a cause.
_WRAPPING = re.compile(
    r"^(Parser key|Does not validate|Subtypes:|Errors:|Problem with given class_path|Given value|Expected a <class 'NoneType'>)"
)


def innermost(message: str) -> str:
    """One sentence out of jsonargparse's explanation, which goes from the outside in, once for every type of a union.

    The cause is the deepest line that does not only wrap others; where it is an unknown name, the nearest known one is added.
    """
    causes: list[tuple[int, str, str, str]] = []
    keys: list[tuple[int, str]] = []
    class_path = ""
    for line in message.splitlines():
        text = line.strip(" -\t")
        depth = len(line) - len(line.lstrip(" -\t"))
        if found := re.search(r"class_path(?:=| )'([\w.]+)'", line):
            class_path = found.group(1)
        if found := re.match(r"Parser key \"([^\"]+)\"", text):
            keys = [*(key for key in keys if key[0] < depth), (depth, found.group(1))]
        text = re.sub(r"^Parser key \"[^\"]+\":\s*", "", text)
        if text and not _WRAPPING.match(text):
            causes.append((depth, ".".join(key for _, key in keys), text, class_path))
    if not causes:
        return message.strip()
    _, where, text, class_path = max(causes, key=lambda cause: cause[0])
    text = re.sub(r"^Type typing\.\S+ expects .*?: ", "", text.partition(" Got value: Namespace")[0])
    if unknown := re.search(
        r"Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.]+)|Key '([\w.]+)'", text
    ):
        name = next(group for group in unknown.groups() if group)
        return f"{where or 'command line'}: there is no option {name!r}{nearest(name.split('.')[0], _options(class_path))}."
    return f"{where}: {text}" if where else text


def _options(class_path: str) -> list[str]:
    """The arguments of a class, by its path."""
    module, _, name = class_path.rpartition(".")
    if not module:
        return []
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean x?", or what there is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}"
    return f"; there are {', '.join(known)}" if known else ""
