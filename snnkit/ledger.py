"""Numbers with a birth certificate: every measured result is a JSON file that says how it came about.

Ids look like paths (`SN/table1/cifar10-vgg16/spike-norm`); the papers' own numbers stand under the same ids in
`data/paper.yaml`, so that ours and theirs can be laid side by side.
"""

from __future__ import annotations

import datetime
import difflib
import json
import os
import platform
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
import yaml

from snnkit.paths import data_root, data_roots, locate, write_atomically

ID = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")


def _commit() -> str | None:
    """The checkout's commit, with a plus sign when snnkit's files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments):
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", "ledger.py")  # a copy inside somebody else's repository has no commit
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


COMMIT = _commit()  # now, when the code is loaded: a long run may end after the next commit


def record(
    id: str,
    value: float,
    *,
    unit: str,
    what: str,
    command: str,
    seed: int,
    count: int,
    seconds: float,
    interval: tuple[float, float] | None = None,
    data: str | None = None,
    note: str | None = None,
    details: dict | None = None,
    folder: str | Path | None = None,
) -> dict:
    """Write a measured `value` under `id` and return the record.

    `what` names what was measured in words, `command` repeats it, `count` is the number of images (or samples),
    `interval` (low, high) the 95 % interval, `seconds` the duration, `details` anything else worth keeping (curves).
    Commit (of the code that is loaded, not of a later one), versions, machine and date are added. Goes to `results/`
    under `snnkit.paths.data_root()`, or `folder`.

    Raises ValueError for an id that is no path of words or a value that is no number, OSError when the disk refuses.
    """
    if not ID.fullmatch(id):
        raise ValueError(f"ledger id {id!r} must be words joined by '/', like SN/table1/cifar10-vgg16/spike-norm")
    if not np.isfinite(value):
        raise ValueError(f"the value of {id} is {value}; only finite numbers are recorded")
    entry = {
        "id": id, "value": value, "unit": unit, "what": what, "interval": interval, "count": count, "seed": seed,
        "data": data, "note": note, "command": command, "seconds": round(seconds, 1), "commit": COMMIT,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "machine": machine(), "versions": _versions(),
        "details": details,
    }  # fmt: skip
    results = Path(folder) if folder is not None else data_root() / "results"
    write_atomically(results / f"{id}.json", json.dumps(entry, indent=1, default=_plain) + "\n")
    return entry


def load(id: str, folder: str | Path | None = None) -> dict:
    """The record stored under `id`. Raises FileNotFoundError that names ids like it."""
    file = _file(id, folder)
    if not file.is_file():
        near = difflib.get_close_matches(id, ids(folder), n=4, cutoff=0.4)
        raise FileNotFoundError(
            f"no result {id!r} at {file}; "
            + (f"near it are {', '.join(near)}" if near else "snnkit.ledger.ids() lists what there is")
        )
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); measure it again or restore it") from error


def ids(folder: str | Path | None = None) -> list[str]:
    """The ids of all stored results."""
    folders = [root / "results" for root in data_roots()] if folder is None else [Path(folder)]
    return sorted({file.relative_to(f).with_suffix("").as_posix() for f in folders for file in f.rglob("*.json")})


def paper() -> dict[str, dict]:
    """The papers' numbers, {id: {value, unit, what, source}}."""
    return yaml.safe_load(locate("paper.yaml").read_text())


def compare(ids: list[str], folder: str | Path | None = None) -> pd.DataFrame:
    """Ours beside the paper's, a row an id; a number that nobody measured or printed is empty.

    Raises KeyError for an id that neither the paper nor our results know.
    """
    printed, rows = paper(), []
    for id in ids:
        measured = load(id, folder) if _file(id, folder).is_file() else None
        theirs = printed.get(id)
        if measured is None and theirs is None:
            raise KeyError(f"{id!r} is neither in data/paper.yaml nor among the stored results")
        low, high = (measured or {}).get("interval") or (None, None)
        rows.append(
            {
                "id": id,
                "paper": theirs["what"] if theirs else "",
                "paper's": theirs["value"] if theirs else np.nan,
                "ours": measured["value"] if measured else np.nan,
                "95 % interval": f"{low:.2f} to {high:.2f}" if low is not None else "",
                "unit": (measured or theirs)["unit"],
                "what we measured": measured["what"] if measured else "not run",
                "images": measured["count"] if measured else np.nan,
                "data": measured["data"] if measured else "",
            }
        )
    return pd.DataFrame(rows).set_index("id")


def machine() -> str:
    """The machine in words: processor, cores, and the GPU if there is one."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (found := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())):
        model = found[1]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores{gpu}"


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__}


def _plain(value):
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a record cannot hold a {type(value).__name__}")


def _file(id: str, folder: str | Path | None) -> Path:
    return locate(f"results/{id}.json") if folder is None else Path(folder) / f"{id}.json"
