"""The executor on toy chapters, with real papermill, Dask and kernels: no work is lost, no file half-written."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ci.errors import BookError
from ci.jobs import write_whole

CLI = [sys.executable, str(Path(__file__).parent.parent / "ci" / "book.py")]
LIMIT = 120  # seconds for one command; they take a few
COUNT = "import os, sys, time\nopen('runs.txt', 'a').write(f'{os.getpid()} {os.getppid()}\\n')"  # kernel and worker
STALL_ONCE = f"{COUNT}\nif len(open('runs.txt').readlines()) == 1:\n    time.sleep(300)"


class ToyBook:
    """A checkout with toy chapters: {stem: code cells}, the first cell being the parameters."""

    def __init__(self, root, **chapters):
        self.root, self.started = root, None
        (root / "book" / "profiles").mkdir(parents=True)
        self.profile("quick", "{}")
        for stem, cells in chapters.items():
            self.chapter(stem[1:], *cells)

    def chapter(self, stem, *cells):
        made = [{"cell_type": "markdown", "metadata": {}, "source": "# Toy", "id": "title"}]
        for number, code in enumerate(cells):
            tags = ["parameters"] if number == 0 else []
            cell = {"cell_type": "code", "metadata": {"tags": tags}, "source": code, "id": f"cell{number}"}
            made.append({**cell, "outputs": [], "execution_count": None})
        content = {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (self.root / "book" / f"{stem}.ipynb").write_text(json.dumps(content))

    def profile(self, name, text):
        (self.root / "book" / "profiles" / f"{name}.yaml").write_text(text)

    def command(self, *words):
        words = ("build", "--no-site", *words[1:]) if words[0] == "build" else words
        return [*CLI, *words, "--root", str(self.root)]

    def __call__(self, *words, **options):
        environment = {name: value for name, value in os.environ.items() if name not in ("PROFILE", "JOBS")}
        options = {"capture_output": True, "text": True, "timeout": LIMIT, "env": environment} | options
        return subprocess.run(self.command(*words), check=False, **options)

    def start(self, *words):
        self.started = subprocess.Popen(
            self.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it in the background
        )
        return self.started

    def runs(self):
        """(kernel pid, worker pid) of every time a counting chapter began."""
        try:
            lines = (self.root / "book" / "runs.txt").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [tuple(map(int, line.split())) for line in lines]

    def notebooks(self, folder="."):
        """{path below _build: what its cells printed} of every notebook there; each has to be whole."""
        build = self.root / "_build"
        return {str(path.relative_to(build)): printed(path) for path in sorted((build / folder).rglob("*.ipynb"))}


@pytest.fixture
def toy(tmp_path):
    made = []
    yield lambda **chapters: made.append(ToyBook(tmp_path, **chapters)) or made[-1]
    for book in made:
        if book.started and book.started.poll() is None:
            book.started.kill()


def printed(path):
    cells = json.loads(path.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join("".join(output.get("text", "")) for output in outputs)


def wait_until(true, what):
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_what_is_finished_is_not_run_again(toy):
    book = toy(_01_a=["n = 2", "print(n, 'steps')", COUNT], _02_b=["s = 'x'", "print(s * 3)"])
    book.profile("long", "01_a: {n: 50}")
    first = book("build")
    assert first.returncode == 0, first.stderr
    site = {"site-src/01_a.ipynb": "2 steps\n", "site-src/02_b.ipynb": "xxx\n"}
    assert book.notebooks("site-src") == site
    assert "01_a: cell 1/3" in first.stdout
    assert [line.split()[::2] for line in first.stdout.splitlines()[-3:-1]] == [["01_a", "run"], ["02_b", "run"]]
    touched = {path: path.stat().st_mtime_ns for path in (book.root / "_build" / "site-src").iterdir()}

    (book.root / "_build" / "site-src" / "02_b.ipynb").unlink()
    again = book("build")
    assert again.stdout.count("cached") == 2
    assert len(book.runs()) == 1
    assert book.notebooks("site-src") == site
    kept = book.root / "_build" / "site-src" / "01_a.ipynb"
    assert kept.stat().st_mtime_ns == touched[kept]  # the site need not read it again
    assert "cached" in book("run", "01_a").stdout  # build and run are one executor

    assert book("run", "01_a", "--profile", "long").returncode == 0
    assert book.notebooks("runs")["runs/01_a/profile=long.ipynb"] == "50 steps\n"
    assert book("run", "01_a", "--force").stdout.count("cached") == 0
    assert len(book.runs()) == 3


@pytest.mark.parametrize(
    "edited",
    [
        "snnkit/neurons.py",
        "snnkit/explorers/neuron.js",
        "requirements.lock",
        "data/results/a.json",
        "data/checkpoints/a.bin",
    ],
)
def test_a_change_of_code_or_data_makes_a_new_job(toy, edited):
    from ci.jobs import Book

    book = toy(_01_a=["n = 2"])
    path = book.root / edited
    path.parent.mkdir(parents=True, exist_ok=True)

    def stored():
        return Book(book.root).jobs([("01_a", "", {}, book.root / "out.ipynb")])[0].stored.name

    seen = [stored()]
    for content in ("one", "two"):
        path.write_text(content)
        seen.append(stored())
    book.chapter("01_a", "n = 3")
    seen.append(stored())
    assert len(set(seen)) == 4
    path.write_text("one")
    book.chapter("01_a", "n = 2")
    assert stored() == seen[1]


def test_a_failing_cell_is_shown_and_the_other_chapters_finish(toy):
    book = toy(_01_a=["n = 0", "print('before')", "inverse = 1 / n"], _02_b=["n = 2", "print(n)"])
    (book.root / "_build" / "site-src").mkdir(parents=True)
    (book.root / "_build" / "site-src" / "01_a.ipynb").write_text("an older result")
    result = book("build")
    assert result.returncode == 1
    assert "01_a: failed at code cell 3 of 3:\n    inverse = 1 / n\n" in result.stdout
    assert "ZeroDivisionError: division by zero" in result.stdout
    assert "\x1b" not in result.stdout
    assert "the site is not built, because of 01_a" in result.stdout
    assert book.notebooks("site-src") == {"site-src/02_b.ipynb": "2\n"}
    kept = book.root / "_build" / "failed" / "01_a.ipynb"
    assert f"as far as it came: {kept}" in result.stdout
    assert printed(kept) == "before\n"


def test_a_kernel_that_dies_is_a_failure_with_a_name(toy):
    result = toy(_01_a=["n = 0", "import os\nos.kill(os.getpid(), 9)"])("run", "01_a")
    assert result.returncode == 1
    assert "01_a: failed at code cell 2 of 2:\n    import os" in result.stdout
    assert "Kernel died (killed, or out of memory?)" in result.stdout


def test_a_sweep_runs_every_combination_on_any_dask_cluster(toy, tmp_path):
    book = toy(_01_a=["n = 1\nreset = 'zero'\nscale = 1.0", "print(n * scale, reset)"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = elsewhere / "scheduler.json"
    scheduler = ["dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard", "--scheduler-file"]
    worker = ["dask_worker", "--no-dashboard", "--nthreads", "1", "--scheduler-file"]
    quiet = {"cwd": elsewhere, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    cluster = [
        subprocess.Popen([sys.executable, "-m", f"distributed.cli.{module}", *options, place], **quiet)
        for module, *options in (scheduler, worker)
    ]
    try:
        wait_until(lambda: place.is_file() and place.stat().st_size, "the scheduler")
        address = json.loads(place.read_text())["address"]
        result = book("sweep", "01_a", "-p", "n=1,2", "-p", "reset=[zero, a/b]", "--scheduler", address)
    finally:
        for process in cluster:
            process.terminate()
            process.wait(timeout=LIMIT)
    assert result.returncode == 0, result.stderr
    outputs = book.notebooks("runs")
    assert sorted(outputs.values()) == ["1.0 a/b\n", "1.0 zero\n", "2.0 a/b\n", "2.0 zero\n"]
    assert outputs["runs/01_a/profile=quick,n=2,reset=zero.ipynb"] == "2.0 zero\n"
    assert all(str(book.root / "_build" / path) in result.stdout for path in outputs)


def test_the_cores_are_shared_among_the_workers(toy):
    book = toy(_01_a=["n = 1", "import os\nprint(os.environ['OMP_NUM_THREADS'])"])
    book("run", "01_a", "--jobs", "1")
    from dask.system import CPU_COUNT

    assert book.notebooks("runs") == {"runs/01_a/profile=quick.ipynb": f"{CPU_COUNT}\n"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "01_a", "-p", "step=3"], "01_a: unknown parameter 'step'; did you mean 'steps'? Allowed: steps"),
        (["sweep", "01_a", "-p", "steps=1,b"], "01_a: steps = 'b' is no int; its default is 2"),
        (["run", "01_b"], "unknown chapter '01_b'; did you mean '01_a'? Allowed: 01_a, 02_hidden"),
        (["build", "--profile", "quik"], "unknown profile 'quik'; did you mean 'quick'? Allowed: broken, quick, wrong"),
        (["build", "--profile", "wrong"], "profile wrong (book/profiles/wrong.yaml): 01_a: unknown parameter 'stp'"),
        (["build", "--profile", "broken"], "profile broken (book/profiles/broken.yaml): unknown chapter '09_z'"),
        (["build"], "02_hidden: parameters cell, line 1: 'seed = 0' shares its line with another statement"),
        (["run", "01_a", "--jobs", "0"], "'0' is no number of jobs; give 1 or more"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(toy, words, says):
    book = toy(_01_a=["steps = 2", COUNT], _02_hidden=["T = 8; seed = 0"])
    book.profile("wrong", "01_a: {stp: 3}")
    book.profile("broken", "09_z: {}")
    result = book(*words)
    assert result.returncode == 2
    assert says in result.stderr
    assert not (book.root / "_build").exists()
    assert book.runs() == []


def test_kill_9_of_a_worker_costs_one_repetition(toy):
    book = toy(_01_a=["n = 1", STALL_ONCE, "print('whole')"])
    executor = book.start("build")
    wait_until(book.runs, "the first attempt")
    ((kernel, worker),) = book.runs()
    os.kill(worker, signal.SIGKILL)
    output, _ = executor.communicate(timeout=LIMIT)
    assert executor.returncode == 0, output
    assert len(book.runs()) == 2
    assert book.notebooks("site-src") == {"site-src/01_a.ipynb": "whole\n"}
    wait_until(lambda: not alive(kernel), "the kernel of the dead worker to end")


def test_a_job_that_records_results_is_not_repeated_because_of_them(toy):
    save = "import pathlib\npathlib.Path('../data/results').mkdir(parents=True)\nopen('../data/results/a.json', 'w')"
    book = toy(_01_a=["record = False", save], _02_b=["n = 1"])
    assert book("run", "01_a", "-p", "record=true").returncode == 0
    assert "cached" in book("run", "01_a", "-p", "record=true").stdout


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGINT])
def test_death_of_the_executor_loses_no_finished_job_and_leaves_no_half_notebook(toy, death):
    book = toy(
        _01_a=["n = 1", "open('done.txt', 'a').write('x')", "print('first')"],
        _02_b=["n = 1", "print('second')", STALL_ONCE],
    )
    executor = book.start("build", "--jobs", "2")
    first = book.root / "_build" / "site-src" / "01_a.ipynb"
    wait_until(lambda: book.runs() and first.is_file(), "the first chapter's result, the second one's start")
    if death == signal.SIGKILL:
        executor.kill()
    else:
        os.killpg(executor.pid, death)  # as a terminal does
    output, _ = executor.communicate(timeout=LIMIT)
    assert executor.returncode == (-9 if death == signal.SIGKILL else 130)
    assert "Traceback" not in output
    for pid in book.runs()[0]:
        wait_until(lambda pid=pid: not alive(pid), "kernel and worker to end")
    found = book.notebooks()
    assert [path.split("/")[0] for path in found] == ["jobs", "site-src"]
    assert set(found.values()) == {"first\n"}

    result = book("build")
    assert result.returncode == 0, result.stderr
    assert (book.root / "book" / "done.txt").read_text() == "x"
    assert book.notebooks("site-src") == {"site-src/01_a.ipynb": "first\n", "site-src/02_b.ipynb": "second\n"}


@pytest.mark.parametrize("place", ["_build", "elsewhere"])
def test_a_disk_that_refuses_results_is_told_in_one_line_before_the_work(toy, place):
    book = toy(_01_a=["n = 1", COUNT])
    (book.root / place).write_text("a file where a folder should be")
    result = book("run", "01_a", "--output", str(book.root / "elsewhere" / "a.ipynb"))
    assert result.returncode == 2
    assert result.stderr.startswith(f"cannot write in {book.root / place}")
    assert len(result.stderr.splitlines()) == 1
    assert book.runs() == []


def small_files_only():
    """Writing more than 100 kB to a file fails, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_disk_that_fills_up_is_told_in_one_line(toy, tmp_path):
    book = toy(_01_a=["n = 1", "print('x' * 500_000)"])
    environment = os.environ | {"IPYTHONDIR": str(tmp_path / "ipython")}
    result = book("run", "01_a", preexec_fn=small_files_only, env=environment)
    assert result.returncode == 2
    assert "01_a: a worker cannot write" in result.stderr
    assert "File too large; free some space and run this again" in result.stderr
    assert "Traceback" not in result.stderr
    assert book.notebooks() == {}


def test_a_refused_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.ipynb"
    write_whole(path, "old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(BookError, match=r"cannot write .*a\.ipynb: File too large; free some space"):
            write_whole(path, "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
