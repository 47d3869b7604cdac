"""Progress: chapter, cell and time left, with a clock by hand."""

import io

import pytest

from ci.progress import Progress, duration


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def follow(expected, workers=1, stream=None):
    clock, stream = Clock(), stream or io.StringIO()
    return Progress([f"0{n}" for n in range(len(expected))], expected, workers, stream, clock), clock, stream


def test_the_last_run_tells_the_time_left():
    progress, clock, stream = follow([60.0])
    progress.cell(0, 1, 4)
    clock.now += 20
    progress.cell(0, 2, 4)
    assert stream.getvalue().splitlines() == ["00: cell 1/4, about 60 s left", "00: cell 2/4, about 40 s left"]


def test_without_a_last_run_the_cells_done_tell_it():
    progress, clock, stream = follow([None])
    progress.cell(0, 1, 4)
    clock.now += 20
    progress.cell(0, 2, 4)
    assert stream.getvalue().splitlines() == ["00: cell 1/4", "00: cell 2/4, about 60 s left"]


def test_a_run_longer_than_the_last_one_goes_by_its_cells():
    progress, clock, stream = follow([10.0])
    progress.cell(0, 1, 4)
    clock.now += 30
    progress.cell(0, 3, 4)
    assert stream.getvalue().splitlines()[-1] == "00: cell 3/4, about 30 s left"


@pytest.mark.parametrize(("workers", "left"), [(1, "5 min"), (2, "3 min"), (4, "3 min")])
def test_waiting_chapters_count_and_workers_share_them(workers, left):
    progress, _, stream = follow([60.0, 60.0, 180.0], workers)
    progress.cell(0, 1, 4)
    assert stream.getvalue() == f"00: cell 1/4, about {left} left\n"


def test_plain_lines_are_rare_and_a_result_always_shows():
    progress, clock, stream = follow([None, None])
    for cell in range(1, 101):
        progress.cell(0, cell, 100)
        clock.now += 0.1
    progress.finished(0, "00: done in 10 s")
    progress.cell(0, 100, 100)  # a late message
    assert len(stream.getvalue().splitlines()) == 3
    assert stream.getvalue().endswith("00: done in 10 s\n")


def test_a_terminal_gets_one_moving_line():
    progress, _, stream = follow([60.0, 30.0], 2, Terminal())
    progress.cell(0, 1, 4)
    progress.cell(1, 1, 9)
    assert stream.getvalue().endswith("\r\x1b[K00 cell 1/4 · 01 cell 1/9, about 60 s left")
    progress.finished(0, "00: done in 10 s")
    assert "\r\x1b[K00: done in 10 s\n" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K01 cell 1/9, about 30 s left")


def test_durations_read_well():
    said = {3.4: "3 s", 89: "89 s", 91: "2 min", 3599: "1 h 0 min", 5000: "1 h 23 min"}
    assert {seconds: duration(seconds) for seconds in said} == said
