"""A progress display: a live bar on a terminal, a line for every tenth elsewhere (a CI log, a file)."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_REFRESH_S = 0.1


class Progress:
    """Counts *total* steps. `advance` is cheap enough to be called a hundred thousand times a second."""

    def __init__(self, label: str, *, total: int, file: TextIO) -> None:
        self._label, self._total, self._file = label, total, file
        self._done = 0
        self._started = time.perf_counter()
        self._next_tenth = 1
        self._shown_at = 0.0
        self._live: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "Progress":
        if self._file.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress

            self._live = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=Console(file=self._file),
                auto_refresh=False,
            )
            self._live.start()
            self._task = self._live.add_task(self._label, total=self._total, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._show(time.perf_counter())
            self._live.stop()

    @property
    def per_second(self) -> float:
        """Steps per second since the start."""
        seconds = time.perf_counter() - self._started
        return self._done / seconds if seconds > 0 else 0.0

    def advance(self) -> None:
        """One more step is done."""
        self._done += 1
        if self._live is None:
            if self._done * 10 >= self._next_tenth * self._total:
                self._next_tenth = self._done * 10 // self._total + 1
                self.say(f"{self._label}: {self._done:,} of {self._total:,} ({self.per_second:,.0f}/s)")
        elif self._done % 64 == 0:
            now = time.perf_counter()
            if now - self._shown_at >= _REFRESH_S:
                self._show(now)

    def say(self, line: str) -> None:
        """Print *line* without breaking the bar."""
        if self._live is not None:
            self._live.console.print(line, highlight=False)
        else:
            print(line, file=self._file, flush=True)

    def _show(self, now: float) -> None:
        self._shown_at = now
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=self._done, note=f"{self.per_second:,.0f}/s", refresh=True)
