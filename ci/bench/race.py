"""Interleaved timing: every contestant in a process of its own, one of them running at a time, in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from ci.bench.environment import ROOT


@dataclass
class Lane:
    """One contestant in one mode: `options` go to `ci.bench.worker`; the rest is measured."""

    name: str
    mode: str
    options: dict
    seconds: list[float] = field(default_factory=list)
    peak: int = 0  # bytes, of the whole process
    before: int = 0  # bytes, before the first run
    output: list | None = None
    gradient: list | None = None
    failure: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class _Worker:
    def __init__(self, python: Path, lane: Lane):
        command = [python, "-W", "ignore", "-m", "ci.bench.worker", json.dumps(lane.options)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise ChildProcessError(self.process.stderr.read().strip().rpartition("\n")[2] or "it ended without a word")
        return json.loads(line)

    def ask(self, request: str) -> dict:
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def race(python: Path, lanes: list[Lane], rounds: int, say=print) -> None:
    """Fill in `seconds`, `peak` and `output` of every lane: a first run for the outputs, then `rounds` timed in turns.

    A lane whose process fails keeps its one-line `failure` and leaves the race.
    """
    workers: dict[int, _Worker] = {}
    try:
        for index, lane in enumerate(lanes):  # they set up side by side
            workers[index] = _Worker(python, lane)
        for turn in range(rounds + 1):
            for index, lane in enumerate(lanes):
                if lane.failure:
                    continue
                try:
                    if turn == 0:
                        workers[index].answer()
                    found = workers[index].ask("run" if turn else "check")
                except (ChildProcessError, BrokenPipeError) as error:
                    lane.failure = str(error)
                    say(f"  {lane.name} ({lane.mode}) failed: {lane.failure}")
                    continue
                lane.peak, lane.before = found["peak"], found["before"]
                if turn == 0:
                    lane.output, lane.gradient = found["output"], found["gradient"]
                else:
                    lane.seconds.append(found["seconds"])
            say(f"  round {turn} of {rounds}")
    finally:
        for worker in workers.values():
            worker.close()
