"""Show the progress of a command on stderr.

Independent of what it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress:
    """Shows a bar per step on a terminal, and prints a line per step elsewhere.

    It costs nothing before the first step.

    Parameters
    ----------
    title : str
        Beginning of each line.
    shown : bool
        False shows nothing.
    """

    def __init__(self, title: str, shown: bool) -> None:
        self.title, self.shown = title, shown
        self._rich: RichProgress | None = None
        self._task: TaskID | None = None
        self._total: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._rich:
            self._rich.stop()

    def report_waiting(self) -> None:
        """Report that another process is downloading the same file."""
        self._print("waiting for another process that is downloading it")

    def start_step(self, name: str, n_bytes: int | None) -> None:
        """Start a step that handles ``n_bytes``; None: their number is unknown."""
        if not self.shown:
            return
        rich = self._start()
        if not rich.console.is_terminal:
            self._print(name if n_bytes is None else f"{name} {n_bytes / 1e6:.0f} MB")
        self._total = n_bytes
        self._task = rich.add_task(f"{self.title}: {name}", total=n_bytes)

    def update(self, n_bytes: int) -> None:
        """Report how many bytes of the step are done."""
        if self._rich and self._task is not None:
            self._rich.update(self._task, completed=n_bytes if self._total is None else min(n_bytes, self._total))

    def start_count(self, name: str, n: int) -> None:
        """Start a step that does ``n`` things; `advance` is called after each of them."""
        if not self.shown:
            return
        rich = self._start(counts=True)
        if not rich.console.is_terminal:
            self._print(f"{n} {name}")
        self._total = n
        self._task = rich.add_task(f"{self.title}: {name}", total=n, note="")

    def advance(self, note: str) -> None:
        """Report that one more thing is done, with the result so far."""
        if self._rich and self._task is not None:
            self._rich.update(self._task, advance=1, note=note)

    def _print(self, text: str) -> None:
        if self.shown:
            self._start().console.print(f"{self.title}: {text}", highlight=False, markup=False)

    def _start(self, *, counts: bool = False) -> RichProgress:
        if self._rich is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )
            from rich.progress import Progress as RichProgress

            console = Console(stderr=True)
            of_bytes = DownloadColumn(), TransferSpeedColumn()
            of_counts = MofNCompleteColumn(), TextColumn("{task.fields[note]}")
            self._rich = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                *(of_counts if counts else of_bytes),
                TimeRemainingColumn(),
                console=console,
                disable=not console.is_terminal,
            )
            self._rich.start()
        return self._rich
