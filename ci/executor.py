"""The one executor: building, running and sweeping are lists of jobs, run by papermill on Dask.

Workers are local processes by default, or any Dask cluster by its scheduler's address. A worker only computes; the
notebook comes back to this process, which stores it whole. So the death of a worker costs one repetition, the death of
this process the jobs at hand, and neither leaves half a notebook. Kernels end with their worker, local workers with
this process (ipykernel and Dask watch their parents).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ci import worker
from ci.errors import BookError
from ci.jobs import Job, keep, require_writable, write_whole
from ci.progress import Progress, duration

WORKER_DEATHS = 2  # repetitions of a job whose worker died


@dataclass(frozen=True)
class Outcome:
    """How a job went: `status` is "cached", "run" or "failed"; `seconds` is what it took when it ran."""

    job: Job
    status: str
    seconds: float | None


def run_jobs(jobs: list[Job], build: Path, workers: int | None, scheduler: str | None, force: bool) -> list[Outcome]:
    """Run the jobs that are not yet done, put every result at its job's output, and return the outcomes in order.

    `workers`: local processes (None: as many as jobs, at most one a core). `force`: repeat finished jobs as well.
    A failing chapter is reported and the others go on. Raises BookError if the disk or the scheduler refuses.
    """
    for folder in {build / "jobs", *(job.output.parent for job in jobs)}:
        require_writable(folder)
    history = _History(build / "jobs" / "durations.json")
    outcomes, todo = {}, []
    for job in jobs:
        if job.stored.is_file() and not force:
            write_whole(job.output, job.stored.read_text(encoding="utf-8"))
            outcomes[job] = Outcome(job, "cached", history.seconds(job))
        else:
            todo.append(job)
    if todo:
        with _connect(build, len(todo), workers, scheduler) as client:
            count = sum(client.nthreads().values())
            print(f"{len(todo)} to run, {len(outcomes)} already done; {count} worker{'s'[: count > 1]}", flush=True)
            for outcome in _run_on(client, todo, build, history, count):
                outcomes[outcome.job] = outcome
    return [outcomes[job] for job in jobs]


def _run_on(client, jobs: list[Job], build: Path, history: _History, count: int) -> Iterator[Outcome]:
    from distributed import wait

    progress = Progress([job.name for job in jobs], [history.seconds(job) for job in jobs], count)
    topic = f"book-{uuid.uuid4().hex}"
    client.subscribe_topic(topic, lambda event: progress.cell(*(event[1][part] for part in ("job", "cell", "cells"))))

    def execute(*details):  # local, so that Dask pickles it by value and workers elsewhere need no copy of ci/
        return worker.execute(*details)

    futures = {
        client.submit(execute, job.source, job.values, str(job.folder), number, topic, pure=False): number
        for number, job in enumerate(jobs)
    }
    while futures:
        with contextlib.suppress(TimeoutError):
            wait(list(futures), timeout=1, return_when="FIRST_COMPLETED")
        for future in [future for future in futures if future.done()]:
            number = futures.pop(future)
            outcome, report = _settle(jobs[number], future, build, history)
            progress.finished(number, report)
            yield outcome
        progress.redraw()


def _settle(job: Job, future, build: Path, history: _History) -> tuple[Outcome, str]:
    """Store what a finished future brought; returns the outcome and the lines that tell it."""
    from distributed import KilledWorker

    failed = build / "failed" / f"{job.chapter}{'-' * bool(job.label)}{job.label}.ipynb"
    if error := future.exception():
        what = f"{type(error).__name__}: {error}"
        if isinstance(error, KilledWorker):
            what = f"its worker died {WORKER_DEATHS + 1} times (killed, or out of memory?)"
        return Outcome(job, "failed", None), f"{job.name}: failed: {what}"
    result = future.result()
    failure, seconds = result["failure"], result["seconds"]
    if failure is None:
        keep(job, result["notebook"])
        write_whole(job.output, result["notebook"])
        failed.unlink(missing_ok=True)
        history.note(job, seconds)
        return Outcome(job, "run", seconds), f"{job.name}: done in {duration(seconds)}"
    if "disk" in failure:
        raise BookError(f"{job.name}: a worker cannot write {failure['disk']}; free some space and run this again")
    write_whole(failed, result["notebook"])
    source = "\n".join(f"    {line}" for line in failure["source"].splitlines())
    report = f"""{job.name}: failed at code cell {failure["cell"]} of {failure["cells"]}:
{source}
{_plain(failure["traceback"])}
{job.name}: as far as it came: {failed}"""
    return Outcome(job, "failed", seconds), report


@contextlib.contextmanager
def _connect(build: Path, todo: int, workers: int | None, scheduler: str | None):
    """A Dask client of the cluster at `scheduler`, or of local processes that share the cores."""
    import cloudpickle
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    cloudpickle.register_pickle_by_value(worker)
    with contextlib.ExitStack() as stack:
        if scheduler:
            try:
                client = stack.enter_context(Client(scheduler, timeout=10))
                client.wait_for_workers(1, timeout=60)
            except (OSError, ValueError, TimeoutError) as error:
                raise BookError(f"no Dask cluster with workers at {scheduler!r} ({error}); check the address") from None
        else:
            workers = min(todo, workers or CPU_COUNT)
            threads = max(1, CPU_COUNT // workers)
            limits = {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
            stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": WORKER_DEATHS}))
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                dashboard_address=None,
                local_directory=build / "dask",
                silence_logs=logging.CRITICAL,
                env=limits,
                preload=["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],  # Ctrl-C is for this process
            )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        yield client


class _History:
    """Seconds that jobs took, by their recipe and by their chapter: what the time left is estimated from."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def seconds(self, job: Job) -> float | None:
        return self.known.get(job.recipe, self.known.get(job.chapter))

    def note(self, job: Job, seconds: float) -> None:
        self.known |= {job.recipe: round(seconds, 1), job.chapter: round(seconds, 1)}
        write_whole(self.path, json.dumps(self.known, indent=1))


def _plain(text: str) -> str:
    """Without terminal colours: the traceback may go to a log."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
