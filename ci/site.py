"""Build the static site: static files and executed notebooks in, HTML out.

`prepare` fills a source folder with everything but the chapters, which the executor puts there executed;
`build_site` turns that folder into HTML with Jupyter Book, warnings counting as errors.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from ci import api, results
from ci.errors import BookError

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "_config.yml"
BUILT_WITH = ("jupyter-book", "sphinx", "myst-nb", "myst-parser", "sphinx-book-theme", "pydata-sphinx-theme")


class SiteError(BookError):
    """The site could not be built; the message says which page and why."""


def prepare(source: Path, root: Path = ROOT) -> None:
    """Bring everything of the site but the chapters into `source`: static files, API pages, the page of results.

    Files that have not changed are left alone, so that Jupyter Book need not read them again; files that are
    no longer part of the book are removed, with the notebooks of chapters that are gone.
    """
    book = root / "book"
    files = {
        path.relative_to(book): path.read_bytes()
        for path in sorted(book.rglob("*"))
        if path.is_file() and path.suffix != ".ipynb" and not _is_scratch(path.relative_to(book))
    }
    generated = {**api.pages(root / "snnkit"), "results.md": results.page()}
    files |= {Path(name): text.encode() for name, text in generated.items()}
    for name, content in files.items():
        target = source / name
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for path in list(source.rglob("*")):
        name = path.relative_to(source)
        known = name in files or (path.suffix == ".ipynb" and (book / name).is_file())
        if path.is_file() and not known and not _is_scratch(name):
            path.unlink()


def build_site(source: Path, output: Path) -> Path:
    """Build the site of `source` and put it at `output` (a folder, replaced as a whole); returns `output`.

    Only pages that have changed are built again, unless the configuration, an asset, the list of pages or the
    tools have changed. A site that was there stays until the new one is complete.

    Raises SiteError with Jupyter Book's warnings and errors.
    """
    source, output = source.resolve(), output.resolve()
    work = output.parent / f"{output.name}.work"
    stamp, state = work / "stamp", _state(source)
    if not stamp.is_file() or stamp.read_text() != state:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)  # after a failure, everything is read again: Sphinx warns about a page only once
    _run_jupyter_book(source, work)
    fresh, old = output.with_name(f"{output.name}.new"), output.with_name(f"{output.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(work / "_build" / "html", fresh)
    (fresh / ".nojekyll").touch()
    if output.exists():
        output.rename(old)
    fresh.rename(output)
    shutil.rmtree(old, ignore_errors=True)
    stamp.write_text(state)
    return output


def _run_jupyter_book(source: Path, work: Path) -> None:
    jupyter_book = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", jupyter_book, "build", "-q", "-W", "--keep-going"]
    command += ["--config", str(CONFIG), "--path-output", str(work), str(source)]
    log = work / "build.log"
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd=ROOT)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", run.stdout).replace(f"{source}/", "").splitlines()
    log.write_text("\n".join(lines) + "\n")
    if run.returncode == 0:
        return
    told = [line for line in lines if re.search("WARNING|ERROR|CRITICAL", line)]
    what = "\n".join(dict.fromkeys(told or lines[-20:]))
    raise SiteError(f"the site was not built; the whole log is in {log}\n{what}")


def _state(source: Path) -> str:
    """A hash of what calls for a build from scratch: configuration, assets, list of pages, versions of the tools."""
    digest = hashlib.sha256("\n".join(f"{name} {version(name)}" for name in BUILT_WITH).encode())
    pages = sorted(path for path in source.rglob("*") if path.is_file() and not _is_scratch(path.relative_to(source)))
    for path in [CONFIG, Path(__file__), *pages]:
        name = path.relative_to(source) if path.is_relative_to(source) else Path(path.name)
        digest.update(f"\n{name}\n".encode())
        if path.suffix not in (".md", ".ipynb"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_scratch(name: Path) -> bool:
    """Hidden files and caches: never part of the book."""
    return any(part.startswith(".") or part in ("__pycache__", "_build") for part in name.parts)
