"""Draw the table of families in docs/benchmarks.md: ``python docs/pictures/families.py`` writes families.svg.

Bars are llamafw's tokens per second as a multiple of llama.cpp's.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "benchmarks.md"
HEADER = "| model | test | threads |"

BAR, GAP, LEFT, TOP, SCALE, WIDTH = 13, 22, 130, 40, 62, 620  # pixels; SCALE: of a ratio of 1
TYPES = ("Q4_0", "Q4_1")
TESTS = {"pp512": "prefill: tokens/s as a multiple of llama.cpp's", "tg128": "decode"}
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #57606a }
.title { font-size: 12px; font-weight: 600; fill: #24292f }
.one { stroke: #cf222e; stroke-width: 1 }
.Q4_0 { fill: #2f6fd0 }
.Q4_1 { fill: #8fb4e8 }
@media (prefers-color-scheme: dark) {
text { fill: #8b949e } .title { fill: #e6edf3 } .one { stroke: #ff7b72 }
.Q4_0 { fill: #58a6ff } .Q4_1 { fill: #2b5a92 }
}
"""


def read_ratios(page: str) -> dict[str, list[tuple[str, list[float]]]]:
    """Return the labels and ratios of the table's rows, by test; a row has one ratio per type."""
    lines = page.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(HEADER)) + 2
    ratios: dict[str, list[tuple[str, list[float]]]] = {test: [] for test in TESTS}
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        model, test, threads, *numbers = (cell.strip() for cell in line.strip("|").split("|"))
        label = f"{model}, {threads} thread" + ("s" if threads != "1" else "")
        ratios[test].append((label, [float(number) for number in numbers[2::3]]))
    return ratios


def draw(ratios: dict[str, list[tuple[str, list[float]]]]) -> str:
    """Return an SVG picture: for each test, a group of bars per row, and a line where both programs are equal."""
    parts, y = [], TOP - 24
    for test, rows in ratios.items():
        parts.append(f'<text class="title" x="{LEFT}" y="{y}">{escape(TESTS[test])}</text>')
        y += 10
        start = y
        for label, values in rows:
            parts.append(f'<text x="{LEFT - 6}" y="{y + BAR + 4}" text-anchor="end">{escape(label)}</text>')
            for type_name, value in zip(TYPES, values, strict=True):
                parts.append(
                    f'<rect class="{type_name}" x="{LEFT}" y="{y}" width="{value * SCALE:.1f}" height="{BAR - 1}"/>'
                )
                parts.append(
                    f'<text x="{LEFT + value * SCALE + 4:.1f}" y="{y + BAR - 3}">{value:.2f} {type_name}</text>'
                )
                y += BAR
            y += GAP - BAR
        parts.append(f'<path class="one" d="M{LEFT + SCALE} {start - 4}V{y - 4}"/>')
        y += 26
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def pictures() -> dict[Path, str]:
    """Return the content of the file."""
    return {FOLDER / "families.svg": draw(read_ratios(PAGE.read_text(encoding="utf-8")))}


if __name__ == "__main__":
    for path, text in pictures().items():
        path.write_text(text, encoding="utf-8")
