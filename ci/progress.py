"""Say which chapter is at which cell and how much time is left: a moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass

PLAIN_EVERY = 5  # seconds between plain lines about one job


@dataclass
class _Run:
    name: str
    expected: float | None  # seconds of the last run
    started: float | None = None
    cell: int = 0
    cells: int = 0
    last_line: float = 0.0

    def left(self, now: float) -> float | None:
        """Seconds left: by the last run while that lasts, then by the cells done; None if nothing is known."""
        if self.started is None:
            return self.expected
        elapsed = now - self.started
        if self.expected and elapsed < self.expected:
            return self.expected - elapsed
        return elapsed * (self.cells - self.cell + 1) / (self.cell - 1) if self.cell > 1 else None


class Progress:
    """Follows jobs 0, 1, ... named `names`; `expected` are the seconds each took last time (or None)."""

    def __init__(self, names: list[str], expected: list[float | None], workers: int, stream=None, clock=time.monotonic):
        self.runs = dict(enumerate(map(_Run, names, expected)))
        self.workers = workers
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.clock = clock
        self.lock = threading.RLock()

    def cell(self, job: int, cell: int, cells: int) -> None:
        """Job `job` starts its code cell `cell` of `cells`."""
        with self.lock:
            if (run := self.runs.get(job)) is None:
                return
            now = self.clock()
            if cell == 1:
                run.started = now
            run.cell, run.cells = cell, cells
            if not self.live and (cell == 1 or now - run.last_line >= PLAIN_EVERY):
                run.last_line = now
                self._print(f"{run.name}: cell {cell}/{cells}{self._left()}")
        self.redraw()

    def finished(self, job: int, line: str) -> None:
        """Job `job` is over; `line` says how."""
        with self.lock:
            del self.runs[job]
            self._print(line)
        self.redraw()

    def redraw(self) -> None:
        """Refresh the moving line."""
        with self.lock:
            if self.live:
                active = [f"{run.name} cell {run.cell}/{run.cells}" for run in self.runs.values() if run.started]
                text = " · ".join(active)[:100] + self._left() if active else ""
                self.stream.write(f"\r\x1b[K{text}")
                self.stream.flush()

    def _left(self) -> str:
        """', about 3 min left': the longest job, or all of them over the workers."""
        left = [run.left(self.clock()) for run in self.runs.values()]
        known = [seconds for seconds in left if seconds is not None]
        if not known:
            return ""
        total = sum(known) * len(left) / len(known)  # a job without history counts as the mean of the others
        return f", about {duration(max(*known, total / self.workers))} left"

    def _print(self, line: str) -> None:
        print(f"\r\x1b[K{line}" if self.live else line, file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """'42 s', '3 min', '1 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
