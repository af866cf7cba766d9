"""From an exception to the one sentence that a user needs."""

from __future__ import annotations

import argparse
import difflib
import dis
import errno
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from trimask.types import DataError

OUT_OF_MEMORY = (
    "The device's memory does not suffice. In training, --trainer.accumulate_grad_batches=2 computes a step in two halves: "
    "data.batch_size stays the total of a step, but batch norms see half of the pictures at a time. In evaluation, lower "
    "data.eval_batch_size and model.inference.max_batch."
)
# What is wrong with the place that a user has named for reading or writing
_PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
PACKAGE = str(Path(__file__).resolve().parent)


class UsageError(ValueError):
    """The command line or a configuration file is wrong; the message says what to do."""


class OptionParser(argparse.ArgumentParser):
    """argparse that raises a UsageError where its own would print its usage and end the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}. `python -m trimask --help` shows the options.")


def at_least(least: int, what: str = "whole number") -> Callable[[str], int]:
    """A type for argparse: whole numbers from `least` on. Args: what: of which the text is none, such as "number of pictures"."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what} from {least} on")
        return int(text)

    return number


def one_sentence(error: BaseException) -> str | None:
    """What to tell the user, or None for an error that is trimask's own fault and deserves its traceback."""
    for cause in causes(error):
        if isinstance(cause, DataError | UsageError) or (isinstance(cause, ValueError) and _raised_on_purpose(cause)):
            return _without_worker_traceback(str(cause), type(cause).__name__)
    if isinstance(error, OSError) and error.filename and error.errno in _PLACES:
        return f"{error.filename}: {error.strerror}."
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of an accelerator
        return OUT_OF_MEMORY
    if type(error).__name__ in ("ArgumentError", "ParserError"):  # jsonargparse's
        return innermost(str(error))
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, about the trainer's settings
        return str(error)
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised `from`, from the outside in."""
    while error is not None:
        yield error
        error = error.__cause__


def _raised_on_purpose(error: BaseException) -> bool:
    """Whether a `raise` in trimask made the error, rather than something that trimask called or a slip such as int("x")."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    code = traceback.tb_frame.f_code
    return code.co_filename.startswith(PACKAGE) and code.co_code[traceback.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _without_worker_traceback(message: str, kind: str) -> str:
    """torch puts the worker's whole traceback into the message of what it raises again; the last line is the error."""
    if "Original Traceback" not in message:
        return message
    return message.rpartition(f"{kind}: ")[2].strip()


# --- what jsonargparse says ---

# A line that only wraps the lines below it, or an alternative that nobody has tried to give.
_WRAPPING = re.compile(
    r"Does not validate|Subtypes:|Errors:|Problem with given class_path|Given value|Expected a path but"
    r"|Expected a <class 'NoneType'>|Not a valid subclass|Subclass types expect|a class path \(|a dict with"
)
# What a branch of a callable begins with, in its own first line
_CALLABLE = re.compile("Type .* expects a function or a callable class: ")
_UNKNOWN_OPTION = re.compile(r"(?:Option '|unrecognized arguments: (?:--)?|not accept option ')([^\s'=]+)")
_UNKNOWN_NAME = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_UNKNOWN_MODULE = re.compile(r"No module named '([\w.]+)'")
_NO_CLASS_PATH = re.compile(r"dot import path string: (\S+?)\.?(?: |$)")
_WRONG_TYPE = re.compile(r"Expected an? (.+?)(?:\. Got value: (.*))?$")


class _Complaint(NamedTuple):
    """One line of the explanation, the configuration key and the class that it is about.

    The rank is (whether it is more than a wrong type, which is only one member of a union speaking; its depth: the deeper,
    the nearer to the cause).
    """

    rank: tuple[bool, int]
    key: str
    class_path: str
    text: str


def innermost(message: str, known: Iterable[str] = ()) -> str:
    """One sentence out of jsonargparse's explanation.

    It is a tree that goes from the outside in by indentation, with a branch for every member of a union; the cause is its
    deepest line that does not only wrap others.

    Args: known: the options outside any class path, for an unknown one among them.
    """
    message = _CALLABLE.sub("", message)
    complaints = list(_complaints(message))
    if not complaints:
        return message.strip()
    cause = max(complaints, key=lambda complaint: complaint.rank)
    where = f"{cause.key}: " if cause.key else ""
    if found := _UNKNOWN_OPTION.search(cause.text):
        name = found.group(1)
        options = _options(cause.class_path) if cause.key else list(known)
        roots = dict.fromkeys(option.partition(".")[0] for option in options)
        if (root := name.partition(".")[0]) not in roots:
            name, options = root, list(roots)
        return f"{where}there is no option {name!r}{nearest(name, options)}"
    if found := _UNKNOWN_NAME.search(cause.text):
        module, name = found.groups()
        return f"{where}there is no {name!r} in {module}{_nearest_in(module, name)}"
    if found := _UNKNOWN_MODULE.search(cause.text):
        return f"{where}there is no module {found.group(1)!r}{nearest(found.group(1), _siblings(found.group(1)))}"
    if found := _NO_CLASS_PATH.search(cause.text):
        return f"{where}{found.group(1)!r} is no class path; give package.module.Name."
    if _WRONG_TYPE.match(cause.text):
        return f"{where}{_wrong_type([c.text for c in complaints if c.key == cause.key], message)}"
    return f"{where}{cause.text.partition('. Got value: ')[0].rstrip('.')}."


def _complaints(message: str) -> Iterator[_Complaint]:
    keys: list[tuple[int, str]] = []
    class_path = ""
    for line in message.splitlines():
        text = line.strip(" -")
        depth = len(line) - len(line.lstrip(" -"))
        if found := re.search(r"class_path(?:=| )'([\w.]+)'", line):
            class_path = found.group(1)
        if found := re.match(r'Parser key "([^"]+)":\s*', text):
            keys = [*(key for key in keys if key[0] < depth), (depth, found.group(1))]
            text = text[found.end() :]
        if text and not _WRAPPING.match(text):
            specific = not _WRONG_TYPE.match(text)
            yield _Complaint((specific, depth), ".".join(key for _, key in keys), class_path, text)


def _wrong_type(texts: list[str], message: str) -> str:
    """What is given and what every member of the union would take."""
    found = [match for text in texts if not _NO_CLASS_PATH.search(text) and (match := _WRONG_TYPE.match(text))]
    wanted = [re.sub(r"<class '(?:[\w]+\.)*(\w+)'>|typing\.Literal|(?:\w+\.)+", r"\1", m.group(1)) for m in found]
    given = next((match.group(2) for match in found if match.group(2)), "")
    if not given and (values := re.findall(r"Given value: (.*)", message)):
        given = values[0]
    given = given.partition(". Got value: ")[0]  # a branch of a callable repeats the whole in its last line
    return f"{given!r} is given; allowed is {' or '.join(dict.fromkeys(wanted))}."


def _options(class_path: str) -> list[str]:
    """The arguments of a class, by its path."""
    module, _, name = class_path.rpartition(".")
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters) if module else []


def _nearest_in(module: str, name: str) -> str:
    """The end of a sentence about a name that a module does not have: where it is instead, or what comes near."""
    found = importlib.import_module(module)
    if module.partition(".")[0] == "trimask" and hasattr(found, "__path__"):
        inside = [f"{module}.{entry.name}" for entry in pkgutil.iter_modules(found.__path__)]
        if holders := [path for path in inside if name in vars(importlib.import_module(path))]:
            return f"; did you mean '{holders[0]}.{name}'?"
    known = _public(module)
    # A class path names a class, however near the module of this name may come
    alike = [one for one in known if one[0].isupper() == name[0].isupper()]
    return nearest(name, alike if difflib.get_close_matches(name, alike) else known)


def _public(module: str) -> list[str]:
    """The names of a module, with modules that nobody has imported yet."""
    found = importlib.import_module(module)
    modules = [entry.name for entry in pkgutil.iter_modules(getattr(found, "__path__", []))]
    return [name for name in dict.fromkeys([*dir(found), *modules]) if not name.startswith("_")]


def _siblings(module: str) -> list[str]:
    """The modules of the nearest package around a module that does not exist."""
    package, _, _ = module.rpartition(".")
    if not package:
        return []
    try:
        return [f"{package}.{entry.name}" for entry in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    except ModuleNotFoundError:
        return _siblings(package)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: what comes near, or a few that exist."""
    known = list(known)
    if near := difflib.get_close_matches(name, known, n=3, cutoff=0.6):
        swapped = [one for one in near if sorted(one) == sorted(name)]  # letters out of order are the commonest slip
        return f"; did you mean {(swapped or near)[0]!r}?"
    return f"; there are {', '.join(known)}." if 0 < len(known) <= 20 else "."
