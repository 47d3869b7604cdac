"""Where data sets, checkpoints and results live.

Looked for in this order: the folder named by the environment variable SNNKIT_DATA, the `data/` folder of the checkout
that holds this file, the user's cache folder. Written to the first of them.
"""

from __future__ import annotations

import os
from pathlib import Path


def data_roots() -> list[Path]:
    """The folders that may hold `cache/` (data sets), `checkpoints/` and `results/`, in the order of the search."""
    roots = []
    if named := os.environ.get("SNNKIT_DATA"):
        roots.append(Path(named).expanduser())
    checkout = Path(__file__).resolve().parent.parent / "data"
    if (checkout / "paper.yaml").is_file():
        roots.append(checkout)
    return [*roots, user_cache()]


def user_cache() -> Path:
    """The user's own cache folder for snnkit."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snnkit"


def data_root() -> Path:
    """The folder that new data sets, checkpoints and results go to: the first of `data_roots`."""
    return data_roots()[0]


def locate(name: str) -> Path:
    """`name`, a path below a data root, in the first root that has it; below the first root if none has."""
    candidates = [root / name for root in data_roots()]
    return next((path for path in candidates if path.exists()), candidates[0])


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` whole or not at all: a temporary file beside it, then a rename.

    Raises OSError with a line that names the file when the disk refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; free the disk or name another folder in SNNKIT_DATA"
        ) from error
