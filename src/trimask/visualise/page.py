"""One HTML page of drawings that needs nothing else: pictures, style and script are inside it. Own work.

Each picture is a stack of three layers (`samples.Drawing`), so that the reader fades the color, switches the outlines off,
picks the samples of a class and looks at one in full size, with mouse or keys.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from trimask.visualise.samples import Drawing

JPEG_QUALITY = 88
Color = Sequence[int]  # RGB in 0..255


def page(title: str, summary: str, sections: Iterable[str], *, made_by: str = "browse", layered: bool = True) -> str:
    """The whole document. Texts are escaped here and in every function below; what they return is HTML.

    Args:
        made_by: the command, by which it knows its own pages.
        layered: whether there are figures whose color and lines can be switched off.
    """
    layers = "" if layered else " hidden"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="trimask {made_by}">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>
<style>{_STYLE}</style></head><body>
<header><h1>{escape(title)}</h1><span class="summary">{escape(summary)}</span><form>
<label title="key t switches it off and on"{layers}>truth
<input id="alpha" type="range" min="0" max="1" step="0.05" value="0.5"></label>
<label title="key o"{layers}><input id="lines" type="checkbox" checked> outlines, names, hatches</label>
<label>size <input id="size" type="range" min="100" max="640" step="20" value="260"></label>
<input id="search" type="search" placeholder="name or tag" size="14"></form></header>
<main>{"".join(sections)}</main>
<dialog><div class="stack"></div><p></p></dialog>
<script>{_SCRIPT}</script></body></html>
"""


def section(title: str, facts: Iterable[str], legend: str, cards: Iterable[str]) -> str:
    """One data set."""
    lines = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    head = f"<h2>{escape(title)}</h2><ul class='facts'>{lines}</ul>{legend}"
    return f"<section>{head}<div class='cards'>{''.join(cards)}</div></section>"


def table_section(title: str, facts: Iterable[str], above: str, head: Sequence[str], rows: Iterable[str]) -> str:
    """A section that is a table, as of `row`. Args: above: HTML; head: of the columns."""
    lines = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    table = f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<section><h2>{escape(title)}</h2><ul class='facts'>{lines}</ul>{above}{table}</section>"


def row(name: str, text: str, labels: Iterable[int], cells: Iterable[str]) -> str:
    """A line of a table that search and legend find. Args: text: to find it by, beside its name; cells: HTML."""
    found_by = escape(f"{name} {text}".lower())
    inside = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr data-name='{escape(name)}' data-labels='{_spaced(labels)}' data-text='{found_by}'>{inside}</tr>"


def chips(entries: Iterable[tuple[str, Color, str]]) -> str:
    """(class, color, number) one after the other."""
    return "".join(
        f"<span class='chip'>{_patch(color)}{escape(text)} {escape(count)}</span>" for text, color, count in entries
    )


def matrix(names: Sequence[str], shares: NDArray[np.float64], hints: Sequence[Sequence[str]]) -> str:
    """(C, C) shares in 0..1, row = truth, as a table that is the darker the larger they are; a hint a cell."""
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in names)
    lines = []
    for name, line, notes in zip(names, shares, hints, strict=True):
        cells = "".join(
            f"<td style='--share:{share:.3f}' title='{escape(note)}'>{_percent(share)}</td>"
            for share, note in zip(line, notes, strict=True)
        )
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return f"<table class='matrix'><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share >= 0.0005 else ""


def legend(entries: Iterable[tuple[int, str, Color, str]], *, hatched: bool = True) -> str:
    """Buttons (label, name, color, count) that pick the samples with a class; those without a count are folded away.

    Args: hatched: whether what the hatches mean is said as well.
    """
    present: list[str] = []
    absent: list[str] = []
    for label, name, color, count in entries:
        button = f"<button data-label='{label}'>{_patch(color)}{escape(name)}<small>{escape(count)}</small></button>"
        (present if count else absent).append(button)
    hatches = (
        "<span class='key'><i class='crowd'></i>crowd</span><span class='key'><i class='none'></i>unlabelled</span>"
        if hatched
        else ""
    )
    rest = f"<details><summary>{len(absent)} classes are in none of these samples</summary><nav>{''.join(absent)}</nav></details>"
    return f"<nav>{''.join(present)}{hatches}</nav>{rest if absent else ''}"


def card(
    name: str, facts: Iterable[str], classes: Sequence[tuple[int, str, Color, str]], figures: Sequence[str]
) -> str:
    """One sample: its name, facts, (label, class, color, count) and figures."""
    plain, labels = " · ".join(facts), _spaced(label for label, *_ in classes)
    present = chips((text, color, count) for _, text, color, count in classes)
    content = f"<div class='figures'>{''.join(figures)}</div><p>{present}</p>"
    return _article(name, plain, content, labels, "row" if len(figures) > 1 else "single")


def broken(name: str, message: str) -> str:
    """The place of a sample that could not be read."""
    return _article(name, message, "", "", "broken")


def _article(name: str, text: str, content: str, labels: str, kind: str) -> str:
    found_by = escape(f"{name} {text}".lower())
    return (
        f"<article class='{kind}' data-name='{escape(name)}' data-labels='{labels}' data-text='{found_by}'>"
        f"<h3>{escape(name)}</h3><p>{escape(text)}</p>{content}</article>"
    )


def figure(drawing: Drawing, caption: str) -> str:
    """A picture under its truth."""
    height, width = drawing.image.shape[:2]
    layers = (
        f"<img class='{kind}' loading='lazy' alt='' width='{width}' height='{height}' src='{uri}'>"
        for kind, uri in (("image", jpeg(drawing.image)), ("fill", webp(drawing.fill)), ("lines", webp(drawing.lines)))
    )
    return _figure("".join(layers), caption)


def flat_figure(picture: NDArray[np.uint8], caption: str) -> str:
    """(H, W, 3) a picture that is finished."""
    height, width = picture.shape[:2]
    return _figure(f"<img loading='lazy' alt='' width='{width}' height='{height}' src='{jpeg(picture)}'>", caption)


def _figure(images: str, caption: str) -> str:
    return f"<figure><div class='stack'>{images}</div><figcaption>{escape(caption)}</figcaption></figure>"


def jpeg(picture: NDArray[np.uint8]) -> str:
    """(H, W, 3) as a data URI."""
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return _uri("image/jpeg", cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])


def webp(picture: NDArray[np.uint8]) -> str:
    """(H, W, 4) as a data URI without loss: a tenth of what OpenCV's PNG takes for areas and lines."""
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA)
    return _uri("image/webp", cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 101])[1])  # above 100: lossless


def _uri(kind: str, encoded: NDArray[np.uint8]) -> str:
    return f"data:{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def text(plain: str) -> str:
    """Plain text as a cell of a `row`."""
    return escape(plain)


def _spaced(labels: Iterable[int]) -> str:
    return " ".join(str(label) for label in labels)


def _patch(color: Color) -> str:
    return f"<i style='background:rgb({','.join(str(int(channel)) for channel in color)})'></i>"


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #68707a; --paper: #f6f7f8; --card: #fff; --line: #d9dde2;
  --bad: #b3261e; --alpha: .5; --lines: 1; --size: 260px; font: 14px/1.45 system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --dim: #98a1ab; --paper: #15181c; --card: #1e2227;
  --line: #343a42; --bad: #ff8a80; } }
body { margin: 0; color: var(--ink); background: var(--paper); }
header { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; align-items: center; gap: 4px 18px;
  padding: 8px 20px; background: var(--card); border-bottom: 1px solid var(--line); }
h1 { font-size: 17px; margin: 0; } h2 { font-size: 16px; margin: 22px 0 4px; } h3 { font-size: 14px; margin: 0;
  overflow-wrap: anywhere; }
.summary, .facts, article p, figcaption, small { color: var(--dim); }
form { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-left: auto; align-items: center; }
label { display: flex; align-items: center; gap: 6px; } input[type=range] { width: 110px; }
main { padding: 0 20px 60px; }
.facts { margin: 0 0 8px; padding: 0; list-style: none; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 5px; margin: 6px 0 12px; align-items: center; }
button, .chip, .key { display: inline-flex; align-items: center; gap: 6px; font: inherit; color: inherit;
  border: 1px solid var(--line); border-radius: 12px; padding: 1px 10px 1px 6px; background: var(--card); }
button { cursor: pointer; } button:hover { border-color: var(--dim); }
button.on { border-color: var(--ink); box-shadow: inset 0 0 0 1px var(--ink); } details button { opacity: .6; }
details { color: var(--dim); margin: -6px 0 12px; } details summary { cursor: pointer; }
.chip { margin-right: 5px; } .key { border-style: dashed; }
i { width: 12px; height: 12px; border-radius: 3px; flex: none; }
i.crowd { background: repeating-linear-gradient(-45deg, #eee 0 3px, #777 3px 7px); }
i.none { background: repeating-linear-gradient(45deg, #ccc 0 2px, #888 2px 6px); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 14px; max-width: 100%; box-sizing: border-box; }
article.single { width: min-content; min-width: 220px; } article.row, article.broken { width: 100%; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; align-items: stretch; }
article p { margin: 2px 0 6px; } .figures + p { margin: 6px 0 0; }
article.broken { border-color: var(--bad); } article.broken p { color: var(--bad); }
.figures { display: flex; flex-wrap: wrap; gap: 10px; align-items: flex-start; }
figure { margin: 0; cursor: zoom-in; } figcaption { font-size: 12px; }
.stack { position: relative; line-height: 0; width: fit-content; }
.stack img { height: var(--size); width: auto; }
.stack .fill, .stack .lines { position: absolute; inset: 0; pointer-events: none; }
.fill { opacity: var(--alpha); image-rendering: pixelated; } .lines { opacity: var(--lines); }
[hidden] { display: none !important; }
table { border-collapse: collapse; background: var(--card); font-variant-numeric: tabular-nums; }
table + table { margin-top: 16px; } th { white-space: nowrap; }
th, td { border: 1px solid var(--line); padding: 5px 9px; text-align: left; vertical-align: top; }
td .stack img { height: calc(var(--size) / 2); } td .chip { margin-bottom: 3px; }
.matrix th span { writing-mode: vertical-rl; } .matrix td { text-align: right; padding: 3px 5px; min-width: 30px;
  background: color-mix(in srgb, var(--dim) calc(var(--share) * 70%), var(--card)); }
dialog { border: 0; padding: 12px; border-radius: 8px; background: var(--card); color: var(--ink); cursor: zoom-out;
  max-width: 98vw; max-height: 98vh; }
dialog::backdrop { background: rgb(0 0 0 / .8); } dialog p { margin: 6px 0 0; }
dialog .stack img { width: min(94vw, calc(88vh * var(--ratio, 1))); height: auto; }
"""

_SCRIPT = """
const root = document.documentElement, $ = s => document.querySelector(s), all = s => [...document.querySelectorAll(s)];
const set = (name, value) => root.style.setProperty(name, value);
const alpha = $('#alpha'), lines = $('#lines'), dialog = $('dialog');
let last = .5, shown = -1;
alpha.oninput = () => set('--alpha', alpha.value);
lines.onchange = () => set('--lines', lines.checked ? 1 : 0);
$('#size').oninput = event => set('--size', event.target.value + 'px');
$('form').onsubmit = event => event.preventDefault();
function filter() {
  const text = $('#search').value.toLowerCase();
  for (const section of all('section')) {
    const wanted = [...section.querySelectorAll('button.on')].map(button => button.dataset.label);
    for (const card of section.querySelectorAll('[data-text]')) {
      const labels = card.dataset.labels.split(' ');
      card.hidden = !wanted.every(label => labels.includes(label)) || !card.dataset.text.includes(text);
    }
  }
}
$('#search').oninput = filter;
for (const button of all('nav button')) button.onclick = () => { button.classList.toggle('on'); filter(); };
const figures = () => all('[data-text]:not([hidden]) figure');
function show(index) {
  const list = figures();
  if (!list.length) return;
  shown = (index + list.length) % list.length;
  const figure = list[shown], image = figure.querySelector('img');
  const name = figure.closest('[data-text]').dataset.name;
  dialog.querySelector('.stack').innerHTML = figure.querySelector('.stack').innerHTML;
  dialog.style.setProperty('--ratio', image.getAttribute('width') / image.getAttribute('height'));
  dialog.querySelector('p').textContent = `${name} · ${figure.querySelector('figcaption').textContent}`
    + ' · arrows: next' + ($('label').hidden ? '' : ', t: truth, o: outlines');
  if (!dialog.open) dialog.showModal();
}
for (const figure of all('figure')) figure.onclick = () => show(figures().indexOf(figure));
dialog.onclick = () => dialog.close();
document.onkeydown = event => {
  if (event.target.type === 'search' || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 't') {
    if (+alpha.value) last = alpha.value;
    alpha.value = +alpha.value ? 0 : last;
    alpha.oninput();
  } else if (event.key === 'o') { lines.checked = !lines.checked; lines.onchange(); }
  else if (dialog.open && event.key === 'ArrowRight') { event.preventDefault(); show(shown + 1); }
  else if (dialog.open && event.key === 'ArrowLeft') { event.preventDefault(); show(shown - 1); }
};
"""
