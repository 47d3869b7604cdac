"""Run the book headlessly: `build` all of it into a site, `run` one chapter, `sweep` one chapter over lists of values.

    python ci/book.py build --profile cifar10 --jobs 2
    python ci/book.py run 01_rate_coding -p timesteps=200 -p reset=subtract
    python ci/book.py sweep 01_rate_coding -p timesteps=50,100,200 -p seed=[0,1,2]

What is finished is not run again; an interrupted command can simply be repeated.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not ci/, whose site.py would hide Python's own

from ci import executor, parameters  # noqa: E402
from ci.errors import BookError  # noqa: E402
from ci.jobs import Book, label  # noqa: E402


def build(book: Book, options: argparse.Namespace) -> int:
    """Every chapter with the profile, then the site."""
    profile = book.profile(options.profile)
    source = book.build / "site-src"
    jobs = book.jobs([(name, "", profile.get(name, {}), source / f"{name}.ipynb") for name in book.chapters])
    if options.site:
        from ci import site

        site.prepare(source)
    outcomes = _execute(jobs, book, options)
    for outcome in outcomes:
        if outcome.status == "failed":  # an older result must not pass for this one
            outcome.job.output.unlink(missing_ok=True)
    if failed := [outcome.job.name for outcome in outcomes if outcome.status == "failed"]:
        print(f"the site is not built, because of {', '.join(failed)}")
        return 1
    if options.site:
        site.build_site(source, book.build / "html")
        print(book.build / "html")
    return 0


def run(book: Book, options: argparse.Namespace) -> int:
    """One chapter with the profile and single values."""
    return _vary(book, options, parameters.single)


def sweep(book: Book, options: argparse.Namespace) -> int:
    """One chapter with the profile and every combination of the lists of values."""
    return _vary(book, options, parameters.combinations)


def _vary(book: Book, options: argparse.Namespace, read) -> int:
    chapter = options.chapter
    points = read(options.parameters, book.defaults(chapter), chapter)
    base = book.profile(options.profile).get(chapter, {})
    folder = book.build / "runs" / chapter
    wanted = []
    for varied in points:
        output = options.output or folder / f"{label({'profile': options.profile} | varied)}.ipynb"
        wanted.append((chapter, label(varied) if len(points) > 1 else "", base | varied, output))
    outcomes = _execute(book.jobs(wanted), book, options)
    for outcome in outcomes:
        if outcome.status != "failed":
            print(outcome.job.output)
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _execute(jobs: list, book: Book, options: argparse.Namespace) -> list[executor.Outcome]:
    """Run the jobs and print the table of their durations."""
    outcomes = executor.run_jobs(jobs, book.build, options.jobs, options.scheduler, options.force)
    width = max(len(outcome.job.name) for outcome in outcomes)
    print(f"\n{'chapter':{width}}  seconds")
    for outcome in outcomes:
        seconds = "" if outcome.seconds is None else f"{outcome.seconds:.1f}"
        print(f"{outcome.job.name:{width}}  {seconds:>7}  {outcome.status}")
    print(flush=True)
    return outcomes


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of jobs; give 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    profile = os.environ.get("PROFILE") or "quick"
    common.add_argument("--profile", default=profile, help=f"quick, cifar10, paper, ... (now {profile}; or PROFILE)")
    jobs = os.environ.get("JOBS") or None
    common.add_argument("--jobs", type=_positive, default=jobs, metavar="N", help="local worker processes (or JOBS)")
    common.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler to use instead of local processes")
    common.add_argument("--force", action="store_true", help="run finished jobs again")
    common.add_argument("--root", type=Path, default=ROOT, help="the checkout with book/, snnkit/ and data/")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (build, run, sweep):
        sub = commands.add_parser(command.__name__, parents=[common], help=command.__doc__)
        sub.set_defaults(command=command, output=None)
        if command is build:
            sub.add_argument("--no-site", dest="site", action="store_false", help="only execute the chapters")
            continue
        values = "name=value" if command is run else "name=v1,v2"
        sub.add_argument("chapter", help="such as 01_rate_coding")
        sub.add_argument("-p", dest="parameters", metavar=values, action="append", default=[], help="repeatable")
        if command is run:
            sub.add_argument("--output", type=Path, help="where the executed notebook goes")
    return parser


def main() -> int:
    """Exit status: 0 all is well, 1 a chapter failed, 2 refused before anything ran, 130 interrupted."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return options.command(Book(options.root), options)
    except BookError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; finished chapters are kept, run the same command again", file=sys.stderr, flush=True)
        os._exit(130)  # workers and kernels notice, and end


if __name__ == "__main__":
    sys.exit(main())
