"""The book's folders, its chapters and profiles, and the store of finished jobs.

A job is one chapter with one set of parameters. Its key is a hash of all that its result depends on, so a notebook
under that key in `_build/jobs` is the finished job, and a missing one is work to do.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from ci import parameters
from ci.errors import BookError

CODE = (".py", ".cpp", ".js", ".css")


@dataclass(frozen=True, eq=False)
class Job:
    """One chapter to run: the notebook's text, where its kernel starts, its values, and where the result goes."""

    chapter: str
    label: str  # the varied values, "" for a plain run
    source: str
    folder: Path
    values: dict
    output: Path
    stored: Path

    @property
    def name(self) -> str:
        """What progress and tables call it."""
        return f"{self.chapter} {self.label}".rstrip()

    @property
    def recipe(self) -> str:
        """The chapter and its values: the same before and after an edit of the code."""
        return f"{self.chapter} {json.dumps(self.values, sort_keys=True)}"


class Book:
    """A checkout: `root`/book holds the chapters and profiles, `root`/_build all that is made from them."""

    def __init__(self, root: Path):
        self.root = Path(root).resolve()
        self.sources = self.root / "book"
        self.build = self.root / "_build"
        self.chapters = {path.stem: path for path in sorted(self.sources.glob("[0-9][0-9]_*.ipynb"))}
        if not self.chapters:
            raise BookError(f"no chapter (NN_name.ipynb) in {self.sources}; run this in a whole checkout")

    def source(self, chapter: str) -> str:
        """The text of a chapter's notebook; BookError for an unknown chapter."""
        if chapter not in self.chapters:
            raise BookError(f"unknown chapter {chapter!r}{parameters.nearest(chapter, self.chapters)}")
        return self.chapters[chapter].read_text(encoding="utf-8")

    def defaults(self, chapter: str) -> dict[str, object]:
        """{name: default} of a chapter's parameters."""
        return parameters.defaults(self.source(chapter), chapter)

    def profile(self, name: str) -> dict[str, dict]:
        """{chapter: {parameter: value}} of book/profiles/NAME.yaml, every name and type checked."""
        files = {path.stem: path for path in sorted((self.sources / "profiles").glob("*.yaml"))}
        if name not in files:
            raise BookError(f"unknown profile {name!r}{parameters.nearest(name, files)}")
        where = f"profile {name} ({files[name].relative_to(self.root)})"
        try:
            content = yaml.safe_load(files[name].read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise BookError(f"{where} is no YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict) or not all(isinstance(values, dict) for values in content.values()):
            raise BookError(f"{where}: expected {{chapter: {{parameter: value}}}}, got {content!r}")
        for chapter in content:
            if chapter not in self.chapters:
                raise BookError(f"{where}: unknown chapter {chapter!r}{parameters.nearest(chapter, self.chapters)}")
        return {
            chapter: parameters.check(values, self.defaults(chapter), f"{where}: {chapter}")
            for chapter, values in content.items()
        }

    def jobs(self, wanted: list[tuple[str, str, dict, Path]]) -> list[Job]:
        """The jobs for (chapter, label, values, output), each with the place of its finished notebook.

        A job with the value `record: true` writes to data/results; its key leaves that folder out.
        """
        shared = {records: _fingerprint(self.root, results=not records) for records in (False, True)}
        jobs = []
        for chapter, label, values, output in wanted:
            self.defaults(chapter)  # refuses a parameters cell that papermill would not read
            source, recipe = self.source(chapter), json.dumps(values, sort_keys=True)
            key = _short_hash(shared[values.get("record") is True], source, recipe)
            stored = self.build / "jobs" / f"{chapter}-{_short_hash(recipe)}-{key}.ipynb"
            jobs.append(Job(chapter, label, source, self.sources, values, output, stored))
        return jobs


def label(values: dict) -> str:
    """A file name that says the values: `seed=1,timesteps=100`; a hash is added where characters had to go."""
    said = ",".join(f"{name}={value}" for name, value in values.items())
    safe = re.sub(r"[^\w=,.+-]+", "-", said)[:100]
    return safe if safe == said else f"{safe}-{_short_hash(said)}"


def keep(job: Job, notebook: str) -> None:
    """Store a finished job; older results of the same chapter and values go."""
    write_whole(job.stored, notebook)
    family = job.stored.name.rpartition("-")[0]
    for older in job.stored.parent.glob(f"{family}-*.ipynb"):
        if older != job.stored:
            older.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all; leave it alone if it holds just this text (the site then skips the page).

    Raises BookError if the disk refuses.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        if part.is_file():
            part.unlink()
        raise BookError(f"cannot write {path}: {error.strerror}; free some space or write elsewhere") from None


def require_writable(folder: Path) -> None:
    """Raise BookError if `folder` (made if missing) refuses results: better now than after the work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(b"x")
    except OSError as error:
        raise BookError(f"cannot write in {folder}: {error.strerror}; free some space or write elsewhere") from None


def _fingerprint(root: Path, results: bool) -> str:
    """Hash of what chapters depend on: the module, lock file, data (`results` or not), data sets, Python, torch."""
    data = Path(os.environ.get("SNNKIT_DATA") or root / "data").expanduser()
    code = [path for path in (root / "snnkit").rglob("*") if path.suffix in CODE]
    apart = {data / "cache"} | (set() if results else {data / "results"})
    kept = [path for path in data.rglob("*") if path.is_file() and apart.isdisjoint(path.parents)]
    digest = hashlib.sha256()
    for path in sorted([*code, *kept, *root.glob("requirements.lock")]):
        digest.update(f"{os.path.relpath(path, root)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    sets = sorted(path.name for path in (data / "cache").glob("*"))  # too large to read, but pages look for them
    installed = {
        dist.name: dist.version for dist in importlib.metadata.distributions() if dist.name.startswith("torch")
    }
    return _short_hash(digest.hexdigest(), str(sets), platform.python_version(), str(sorted(installed.items())))


def _short_hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
