"""Show on stderr how far a long task has come. It knows nothing of the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress:
    """A bar per step on a terminal, a line per step elsewhere; nothing if not ``shown``. Free until the first step."""

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

    def waiting(self) -> None:
        """Say that another process does the same."""
        self._line("waiting for another process that fetches it")

    def step(self, what: str, n_bytes: int | None) -> None:
        """Begin a step of ``n_bytes``, or of nobody knows how many."""
        if not self.shown:
            return
        rich = self._start()
        if not rich.console.is_terminal:
            self._line(what if n_bytes is None else f"{what} {n_bytes / 1e6:.0f} MB")
        self._total = n_bytes
        self._task = rich.add_task(f"{self.title}: {what}", total=n_bytes)

    def reach(self, n_bytes: int) -> None:
        """Say how many bytes of the step are done."""
        if self._rich and self._task is not None:
            self._rich.update(self._task, completed=n_bytes if self._total is None else min(n_bytes, self._total))

    def _line(self, what: str) -> None:
        if self.shown:
            self._start().console.print(f"{self.title}: {what}", highlight=False, markup=False)

    def _start(self) -> RichProgress:
        if self._rich is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
            from rich.progress import Progress as RichProgress

            console = Console(stderr=True)
            self._rich = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=console,
                disable=not console.is_terminal,
            )
            self._rich.start()
        return self._rich
