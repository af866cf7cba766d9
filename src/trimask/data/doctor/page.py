"""The report as one HTML page: inline style, pictures inside, no script, nothing from elsewhere, light and dark. Own work."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from trimask.data.doctor.examine import Section
from trimask.data.doctor.findings import SEVERITIES, Example, Finding, Where, counted, number_of
from trimask.data.doctor.report import Report, class_table
from trimask.data.files import printable

MAX_PICTURES = 6  # of one finding
MAX_CLASSES = 60  # rows of the table before the rest is folded away

_STYLE = """
:root { --paper: #fbfaf8; --card: #ffffff; --ink: #22242a; --soft: #6b6f78; --line: #e4e2dc; --error: #c22f36;
  --warning: #a86500; --note: #31709c; --good: #2b7a4b; --tint: 10%; --bar: #7d93b8; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --card: #1f2228; --ink: #e6e6e2; --soft: #9a9ea8;
  --line: #33373f; --error: #ff7b80; --warning: #f0b04a; --note: #7fb9e6; --good: #6fca94; --tint: 16%; --bar: #6a80a8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem; padding-top: 1.25rem; border-top: 2px solid var(--line);
  overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
.soft { color: var(--soft); font-size: .87rem; overflow-wrap: anywhere; }
.counts { display: flex; gap: .5rem; flex-wrap: wrap; margin: 1rem 0; }
.count { padding: .35rem .8rem; border-radius: 999px; font-weight: 600; font-size: .9rem; }
.error { --tone: var(--error); } .warning { --tone: var(--warning); } .note { --tone: var(--note); }
.good { --tone: var(--good); }
.count, .badge { color: var(--tone); background: color-mix(in srgb, var(--tone) var(--tint), transparent); }
.finding { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--tone); border-radius: 6px;
  padding: .8rem 1rem; margin: .7rem 0; }
.finding p { margin: .3rem 0; overflow-wrap: anywhere; }
.head { display: flex; gap: .6rem; align-items: baseline; flex-wrap: wrap; }
.badge { font-size: .74rem; font-weight: 700; padding: .08rem .5rem; border-radius: 4px; text-transform: uppercase;
  letter-spacing: .03em; }
.code { font: .82rem ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; color: var(--soft); }
.fix::before { content: "Fix: "; font-weight: 600; }
.pictures { display: flex; gap: .7rem; flex-wrap: wrap; margin-top: .6rem; }
figure { margin: 0; max-width: 320px; }
figure img { display: block; max-height: 132px; max-width: 100%; border-radius: 4px; background: var(--line); }
figcaption { font-size: .76rem; color: var(--soft); overflow-wrap: anywhere; max-width: 230px; line-height: 1.35; }
.places { margin: .4rem 0 0; padding-left: 1.1rem; font-size: .84rem; color: var(--soft); overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; width: 100%; }
th { text-align: left; font-weight: 600; color: var(--soft); padding: .25rem .5rem; white-space: nowrap; }
td { padding: .2rem .5rem; border-top: 1px solid var(--line); white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.chip { display: inline-block; width: .8em; height: .8em; border-radius: 3px; margin-right: .45em;
  border: 1px solid color-mix(in srgb, var(--ink) 25%, transparent); vertical-align: -1px; }
.track { width: 150px; height: 9px; border-radius: 3px; background: color-mix(in srgb, var(--bar) 18%, transparent); }
.fill { height: 100%; border-radius: 3px; background: var(--bar); min-width: 1px; }
.none { color: var(--error); }
summary { cursor: pointer; color: var(--soft); font-size: .87rem; margin: .6rem 0; }
nav a { color: var(--note); text-decoration: none; } nav a:hover { text-decoration: underline; }
nav ul { list-style: none; padding: 0; margin: .5rem 0; } nav li { padding: .12rem 0; }
"""


def page(report: Report, pictures: Mapping[tuple[int, Where], str]) -> str:
    """HTML. Args: pictures: (place of the section, example's place) -> data URL; findings between sections have the place -1."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'><meta name='color-scheme' content='light dark'>",
        f"<title>{_text(report.source)}: dataset doctor</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>Dataset doctor: {_text(report.source)}</h1>",
        f"<div class='soft'>{number_of(len(report.sections), 'data set')}, examined in {report.seconds:.1f} s</div>",
        _counts({severity: report.count(severity) for severity in SEVERITIES}),
        _contents(report),
    ]
    for place, section in enumerate(report.sections):
        parts.append(_section(place, section, pictures))
    if report.between:
        parts.append("<h2 id='between'>Between the data sets</h2>")
        parts += [_finding(finding, -1, pictures) for finding in report.between]
    if report.unrecognized:
        rows = "".join(f"<li>{_text(folder)}</li>" for folder in report.unrecognized)
        parts.append(f"<h2>Not recognized</h2><p class='soft'>No dataset class knows the layout of these folders; their files "
                     f"were looked at one by one.</p><ul class='places'>{rows}</ul>")  # fmt: skip
    parts.append("</main></body></html>")
    return "\n".join(parts)


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _counts(counts: Mapping[str, int]) -> str:
    if not any(counts.values()):
        return "<div class='counts'><span class='count good'>nothing to report</span></div>"
    chips = [
        f"<span class='count {severity}'>{number_of(counts[severity], severity)}</span>"
        for severity in SEVERITIES
        if counts[severity]
    ]
    return f"<div class='counts'>{''.join(chips)}</div>"


def _contents(report: Report) -> str:
    if len(report.sections) < 2:
        return ""
    rows = []
    for place, section in enumerate(report.sections):
        told = ", ".join(number_of(section.count(s), s) for s in SEVERITIES if section.count(s)) or "nothing to report"
        rows.append(
            f"<li><a href='#s{place}'>{_text(section.case.name)}</a> <span class='soft'>{_reader(section)}: {told}</span></li>"
        )
    return f"<nav><ul>{''.join(rows)}</ul></nav>"


def _reader(section: Section) -> str:
    return _text(section.case.reader.rpartition(".")[2] or "files only")


def _section(place: int, section: Section, pictures: Mapping[tuple[int, Where], str]) -> str:
    looked = [f"{split} {count:,}" for split, count in section.num_samples.items()]
    looked += [f"{split} is {other}" for split, other in section.case.same.items()]
    if section.num_alone:
        looked.append(number_of(section.num_alone, "file") + " of no sample")
    parts = [
        f"<h2 id='s{place}'>{_text(section.case.name)}</h2>",
        f"<div class='soft'>{_reader(section)} &middot; {_text(', '.join(looked) or 'nothing')} &middot; "
        f"{section.seconds:.1f} s{' &middot; ' + _text(section.case.folder) if section.case.folder else ''}</div>",
        _counts({severity: section.count(severity) for severity in SEVERITIES}),
        *(_finding(finding, place, pictures) for finding in section.findings),
        _classes(section),
    ]
    if section.skipped:
        rows = "".join(f"<li>{_text(check)}: {_text(reason)}</li>" for check, reason in section.skipped.items())
        parts.append(f"<div class='soft'>Not checked:<ul class='places'>{rows}</ul></div>")
    return "\n".join(parts)


def _finding(finding: Finding, place: int, pictures: Mapping[tuple[int, Where], str]) -> str:
    amount = f"{finding.count:,}" + (f" of {finding.of:,}" if finding.of else "")
    shown = [example for example in finding.examples if (place, example.where) in pictures][:MAX_PICTURES]
    figures = "".join(_figure(example, pictures[place, example.where]) for example in shown)
    rest = [example for example in finding.examples if example not in shown and (example.detail or example.where.name)]
    rows = "".join(f"<li>{_text(_caption(example))}</li>" for example in rest[: max(0, 5 - len(shown))])
    return (
        f"<div class='finding {finding.severity}'><div class='head'><span class='badge'>{finding.severity}</span>"
        f"<span class='code'>{_text(finding.code)}</span><span class='soft'>{amount}"
        f"{' &middot; ' + _text(finding.where) if finding.where else ''}</span></div>"
        f"<p>{_text(finding.what)}</p><p class='fix soft'>{_text(finding.fix)}</p>"
        + (f"<div class='pictures'>{figures}</div>" if figures else "")
        + (f"<ul class='places'>{rows}</ul>" if rows else "")
        + "</div>"
    )


def _caption(example: Example) -> str:
    split = f"{example.where.split}: " if example.where.split else ""
    return split + example.where.name + (f" \N{EN DASH} {example.detail}" if example.detail else "")


def _figure(example: Example, picture: str) -> str:
    return f"<figure><img src='{picture}' alt=''><figcaption>{_text(_caption(example))}</figcaption></figure>"


def _classes(section: Section) -> str:
    """The balance of the classes: a bar of its share of the labelled pixels for each, split by split."""
    rows = class_table(section)
    if rows is None:
        return ""
    splits = list(rows[0]["splits"])
    with_instances = any(row["splits"][split]["instances"] for row in rows for split in splits)
    head = "<th>class</th>" + "".join(
        f"<th colspan='2'>{_text(split)}: pixels</th><th class='number'>pictures</th>"
        + ("<th class='number'>instances</th>" if with_instances else "")
        for split in splits
    )
    first = splits[0]
    head += f"<th class='number' title='median frequency balancing on {_text(first)}'>weight</th>"
    largest = max(row["splits"][split]["share"] for row in rows for split in splits) or 1
    order = sorted(rows, key=lambda row: -row["splits"][first]["share"])
    lines = [_row(row, splits, with_instances, largest, first) for row in order]
    table = f"<div class='wide'><table><tr>{head}</tr>{''.join(lines[:MAX_CLASSES])}</table></div>"
    if len(lines) > MAX_CLASSES:
        rest = f"<div class='wide'><table><tr>{head}</tr>{''.join(lines[MAX_CLASSES:])}</table></div>"
        table += f"<details><summary>{counted(len(lines) - MAX_CLASSES, 'class', 'follow')}</summary>{rest}</details>"
    return f"<h3>Classes</h3>{table}"


def _row(row: Mapping[str, Any], splits: list[str], with_instances: bool, largest: float, first: str) -> str:
    cells = [f"<td><span class='chip' style='background:#{row['color']}'></span>{_text(row['name'])}</td>"]
    for split in splits:
        counts = row["splits"][split]
        width = 100 * counts["share"] / largest
        share = f"{counts['share']:.2%}" if counts["pixels"] else "none"
        cells.append(f"<td><div class='track'><div class='fill' style='width:{width:.2f}%'></div></div></td>")
        cells.append(f"<td class='number{'' if counts['pixels'] else ' none'}'>{share}</td>")
        cells.append(f"<td class='number'>{counts['pictures']:,}</td>")
        if with_instances:
            cells.append(f"<td class='number'>{counts['instances']:,}</td>")
    weight = row["splits"][first]["weight"]
    cells.append(f"<td class='number'>{'' if weight is None else f'{weight:.3g}'}</td>")
    return f"<tr>{''.join(cells)}</tr>"
