"""Draw tables of docs/benchmarks.md as bars: ``python docs/pictures/ratios.py`` writes families.svg and formats.svg.

Bars are llamafw's tokens per second as a multiple of llama.cpp's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "benchmarks.md"

BAR, GAP, LEFT, TOP, SCALE, WIDTH = 13, 22, 130, 40, 62, 620  # pixels; SCALE: of a ratio of 1
TITLES = {
    "pp512": "prefill: tokens/s as a multiple of llama.cpp's",
    "pp512 int8": "prefill with activations rounded as in llama.cpp",
    "tg128": "decode",
    "tg128x8": "decode, 8 sequences",
    "tg128x16": "decode, 16 sequences",
    "tg128 @d4096": "decode after 4,096 tokens",
}
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #57606a }
.title { font-size: 12px; font-weight: 600; fill: #24292f }
.one { stroke: #cf222e; stroke-width: 1 }
.bar0 { fill: #2f6fd0 }
.bar1 { fill: #8fb4e8 }
@media (prefers-color-scheme: dark) {
text { fill: #8b949e } .title { fill: #e6edf3 } .one { stroke: #ff7b72 }
.bar0 { fill: #58a6ff } .bar1 { fill: #2b5a92 }
}
"""


@dataclass(frozen=True, slots=True)
class Bars:
    """The bars of one row of a picture."""

    label: str
    ratios: Sequence[float]
    names: Sequence[str]  # of each bar


Groups = Mapping[str, Sequence[Bars]]
"""The rows of a picture, by test."""


def table_rows(page: str, header: str) -> Iterator[list[tuple[str, str]]]:
    """Yield the rows of the table whose heading starts with ``header``: pairs of a column's heading and a cell."""
    lines = page.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(header))
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines[first + 2 :]):
        yield list(zip(_cells(lines[first]), _cells(line), strict=True))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def families(page: str) -> Groups:
    """Return the bars of the table of families: two types in each row."""
    groups: dict[str, list[Bars]] = {}
    for row in table_rows(page, "| model | test | threads |"):
        cells = dict(row)
        label = f"{cells['model']}, {cells['threads']} thread" + ("s" if cells["threads"] != "1" else "")
        ratios = [float(cell) for heading, cell in row if heading == "ratio"]
        groups.setdefault(cells["test"], []).append(Bars(label, ratios, ("Q4_0", "Q4_1")))
    return groups


def formats(page: str) -> Groups:
    """Return the bars of the table of tensor types: one per number of threads that was measured."""
    by_test: dict[str, dict[str, dict[str, float]]] = {}
    for row in table_rows(page, "| type | threads |"):
        cells = dict(row)
        name = f"{cells['threads']} thread" + ("s" if cells["threads"] != "1" else "")
        for test in cells.keys() & TITLES.keys():
            for ratio in re.findall(r"\(([\d.]+)\)", cells[test]):
                by_test.setdefault(test, {}).setdefault(cells["type"], {})[name] = float(ratio)
    return {
        test: [Bars(kind, [*ratios.values()], [*ratios]) for kind, ratios in by_test[test].items()]
        for test in TITLES
        if test in by_test
    }


def draw(groups: Groups) -> str:
    """Return an SVG picture: for each test, a group of bars per row, and a line where both programs are equal."""
    parts, y = [], TOP - 24
    bar_names = list(dict.fromkeys(name for rows in groups.values() for row in rows for name in row.names))
    for test, rows in groups.items():
        parts.append(f'<text class="title" x="{LEFT}" y="{y}">{escape(TITLES[test])}</text>')
        y += 10
        start = y
        for row in rows:
            middle = y + BAR * len(row.ratios) // 2 + 4
            parts.append(f'<text x="{LEFT - 6}" y="{middle}" text-anchor="end">{escape(row.label)}</text>')
            for name, ratio in zip(row.names, row.ratios, strict=True):
                size, number = ratio * SCALE, bar_names.index(name)
                parts.append(f'<rect class="bar{number}" x="{LEFT}" y="{y}" width="{size:.1f}" height="{BAR - 1}"/>')
                parts.append(f'<text x="{LEFT + size + 4:.1f}" y="{y + BAR - 3}">{ratio:.2f} {escape(name)}</text>')
                y += BAR
            y += GAP - BAR
        parts.append(f'<path class="one" d="M{LEFT + SCALE} {start - 4}V{y - 4}"/>')
        y += 26
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


PICTURES: Mapping[str, Callable[[str], Groups]] = {"families.svg": families, "formats.svg": formats}


def pictures() -> dict[Path, str]:
    """Return the content of the files."""
    page = PAGE.read_text(encoding="utf-8")
    return {FOLDER / name: draw(read(page)) for name, read in PICTURES.items()}


if __name__ == "__main__":
    for path, text in pictures().items():
        path.write_text(text, encoding="utf-8")
