"""Show an answer in a terminal while it is written: Markdown block by block, and reasoning in dim text.

What is complete is printed once and scrolls away; only the last block, which still changes, is drawn again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

REFRESHES_PER_SECOND = 12


class PlainView:
    """Writes the answer to a stream as it comes, without the reasoning."""

    def __init__(self) -> None:
        self._ends_line = True

    def add(self, reasoning: str, text: str) -> None:
        """Write a piece of text."""
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self._ends_line = text.endswith("\n")

    def wait(self, progress: float | None) -> None:
        """Show nothing: the output may be a file."""

    def finish(self) -> None:
        """End the last line."""
        if not self._ends_line:
            sys.stdout.write("\n")
            sys.stdout.flush()


class TerminalView:
    """Shows the answer in a terminal.

    Parameters
    ----------
    console : rich.console.Console
        The terminal.
    markdown : bool
        Whether to render the answer as Markdown; otherwise it is shown as it is.
    """

    def __init__(self, console: Console, *, markdown: bool = True) -> None:
        from rich.live import Live
        from rich.spinner import Spinner

        self._console = console
        self._markdown = markdown
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()
        self._spinner = Spinner("dots" if console.encoding.startswith("utf") else "line", style="dim")
        self._kind = ""  # "reasoning" or "text"
        self._tail = ""  # the block that is not complete yet
        self._is_first = True  # no block has been printed
        self._next_refresh = 0.0

    def add(self, reasoning: str, text: str) -> None:
        """Take in a piece of reasoning and a piece of text, and draw if it is time to."""
        if reasoning:
            self._add("reasoning", reasoning)
        if text:
            self._add("text", text)
        self._refresh()

    def wait(self, progress: float | None) -> None:
        """Show that the model is busy, and how much of the prompt it has read."""
        if self._kind:
            self._refresh()
            return
        share = "" if progress is None or progress >= 1 else f" {progress:.0%}"
        self._spinner.update(text=f"[dim]reading{share}[/]")
        self._live.update(self._spinner, refresh=True)

    def finish(self) -> None:
        """Print what is left, and stop drawing."""
        self._print_blocks(self._tail)
        self._tail = ""
        self._live.stop()

    def _add(self, kind: str, text: str) -> None:
        if kind != self._kind:
            self._print_blocks(self._tail)
            self._kind, self._tail = kind, ""
        self._tail += text
        complete = self._complete_length(self._tail)
        if complete:
            blocks, self._tail = self._tail[:complete], self._tail[complete:]
            self._print_blocks(blocks)

    def _complete_length(self, text: str) -> int:
        if self._kind == "text" and self._markdown:
            return complete_blocks(text)
        return text.rfind("\n") + 1

    def _print_blocks(self, text: str) -> None:
        """Print text that does not change any more above what is drawn."""
        if not text.strip() and (self._is_first or self._kind == "text"):
            return
        from rich.text import Text

        self._live.update(Text(""), refresh=False)
        if self._kind == "text" and self._markdown and not self._is_first:
            self._console.print()
        self._console.print(self._render(text))
        self._is_first = False

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._next_refresh:
            return
        self._next_refresh = now + 1 / REFRESHES_PER_SECOND
        self._live.update(_LastLines(self._render(self._tail)) if self._tail.strip() else "")
        self._live.refresh()

    def _render(self, text: str) -> RenderableType:
        from rich.markdown import Markdown
        from rich.text import Text

        if self._kind == "reasoning":
            return Text(text.removesuffix("\n"), style="dim italic")
        if not self._markdown:
            return Text(text.removesuffix("\n"))
        markdown = Markdown("", hyperlinks=False)
        markdown.parsed = _parser().parse(text)
        return markdown


class _LastLines:
    """Shows the last lines of a renderable, as many as fit into the terminal."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        lines = console.render_lines(self._renderable, options.update(height=None), pad=False)
        for i, line in enumerate(lines[-max(console.height - 1, 1) :]):
            if i:
                yield Segment.line()
            yield from line


def complete_blocks(text: str) -> int:
    """Return the length of the start of a Markdown text whose blocks do not change when text is added.

    That is everything before the last top-level block: a paragraph, list, table, code block and so on.
    """
    starts = [
        token.map[0] for token in _parser().parse(text) if token.level == 0 and token.map is not None
    ]  # a closing token has no map
    if len(starts) < 2:
        return 0
    lines = text.split("\n")
    return sum(len(line) + 1 for line in lines[: starts[-1]])


@cache
def _parser() -> MarkdownIt:
    """Return a parser that keeps HTML as text; rich would leave it out."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")


View = PlainView | TerminalView
ViewFactory = Callable[[], View]
