"""What the doctor says: findings, each with what, where, how many, the fix and a few examples. Own work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
MAX_EXAMPLES = 8  # that a finding keeps; tables and pages show fewer


@dataclass(frozen=True, slots=True)
class Where:
    """A sample, or a file that belongs to no sample.

    Attributes:
        split: of the sample; "" for a file alone.
        index: of the sample in its split; -1 for a file alone.
        name: of the sample, or the path of the file.
        files: of the sample: the picture first, then its annotation; or the file alone.
    """

    split: str
    index: int
    name: str
    files: tuple[str, ...] = ()


class Example(NamedTuple):
    """One place where a finding shows, and what was seen there."""

    where: Where
    detail: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with, or worth knowing about, a data set.

    Attributes:
        code: "<check>/<kind>"; stable, for programs that read the JSON.
        severity: "error" (training would fail or learn the wrong thing), "warning" (look at it) or "note" (know it).
        what: one or two sentences.
        fix: what to do about it.
        count: how many samples, files, objects, ... it concerns; `of` how many there are, if that says something.
        where: splits, a folder, or an annotation file.
        examples: some of them.
        numbers: plain data for programs: histograms, ids, shares.
    """

    code: str
    severity: Severity
    what: str
    fix: str
    count: int
    of: int | None = None
    where: str = ""
    examples: tuple[Example, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data; the schema is described in `report`."""
        plain = asdict(self)
        plain["examples"] = [
            {"split": e.where.split, "name": e.where.name, "files": list(e.where.files), "detail": e.detail}
            for e in self.examples
        ]
        return plain


class Kind(NamedTuple):
    """What can be wrong with an entry of an annotation file; `what` is a sentence without its number, as `agreeing` takes it."""

    severity: Severity
    what: str
    fix: str


class Gathered:
    """Occurrences of one thing: their number in all and by split, and the first few as examples. Memory stays small."""

    def __init__(self) -> None:
        self.count = 0
        self.by_split: dict[str, int] = {}
        self.examples: list[Example] = []

    def __bool__(self) -> bool:
        return self.count > 0

    def add(self, where: Where, detail: str = "", *, times: int = 1) -> None:
        self.count += times
        self.by_split[where.split] = self.by_split.get(where.split, 0) + times
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(Example(where, detail))

    @property
    def splits(self) -> str:
        return split_names(self.by_split)

    def finding(self, code: str, severity: Severity, what: str, fix: str, **rest: Any) -> Finding:
        """The occurrences as a finding; `rest` are further fields of it."""
        fields: dict[str, Any] = {"where": self.splits, "examples": tuple(self.examples), "count": self.count} | rest
        return Finding(code, severity, what, fix, **fields)


def problem_findings(
    check: str, file: str, problems: Mapping[str, Gathered], kinds: Mapping[str, Kind], *, of: int | None
) -> Iterator[Finding]:
    """A finding for each kind of problem that the entries of an annotation file have.

    Args: problems: for every kind; of: how many entries there are.
    """
    for kind, (severity, what, fix) in kinds.items():
        if found := problems[kind]:
            first = f" The first: {found.examples[0].detail}." if found.examples[0].detail else ""
            words = f"{file}: {agreeing(found.count, what)}.{first}"
            yield found.finding(f"{check}/{kind}", severity, words, fix, of=of, where=file)


def split_names(splits: Iterable[str]) -> str:
    """For `Finding.where`: the splits in their usual order."""
    order = {"train": 0, "val": 1, "test": 2, "all": 3, "": 9}
    return ", ".join(
        name or "files of no sample" for name in sorted(splits, key=lambda name: (order.get(name, 5), name))
    )


def number_of(count: int, noun: str) -> str:
    """1 picture, 2 pictures, 3 classes, 4 boxes."""
    if count == 1:
        return f"{count:,} {noun}"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}{'es' if noun.endswith(('s', 'x', 'ch')) else 's'}"


_VERBS = {"are": "is", "have": "has", "carry": "carries", "do": "does"}


def counted(count: int, noun: str, verb: str) -> str:
    """1 picture is, 2 pictures are. The verb is given in the plural."""
    return f"{number_of(count, noun)} {_VERBS.get(verb, verb + 's') if count == 1 else verb}"


def agreeing(count: int, sentence: str) -> str:
    """ "polygon(s) have no area" -> "1 polygon has no area", "2 polygons have no area"."""
    noun, _, rest = sentence.partition("(s) ")
    verb, _, rest = rest.partition(" ")
    if verb in ("cannot", "of", "without", "shared"):
        return f"{number_of(count, noun)} {verb} {rest}"
    return f"{counted(count, noun, verb)} {rest}"


def share(part: float, whole: float) -> str:
    """A share in per cent, never rounded to 0 or 100 where it is not."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "under 0.1 %"
    return f"{percent:.1f} %" if percent < 10 or 99 < percent < 100 else f"{percent:.0f} %"


def some(items: Iterable[Any], limit: int = 8) -> str:
    """The first few, and how many more."""
    listed = [str(item) for item in items]
    more = f" and {len(listed) - limit:,} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
