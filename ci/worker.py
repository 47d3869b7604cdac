"""What a Dask worker does with one job: a notebook's text and parameters in, the executed notebook's text out.

Nothing here knows the checkout: a worker needs papermill and snnkit, but no file of the book. The module is sent to
the workers by value (see executor.py), so it imports nothing from its neighbours.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

# for kernels: glibc keeps what they free, as with snnkit.keep_memory; chapters take up to half as long
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


def execute(source: str, parameters: dict, folder: str, job: int, topic: str) -> dict:
    """Run the notebook text `source`; its kernel starts in `folder` if the worker has such a folder.

    As each code cell starts, {"job", "cell", "cells"} is logged under `topic` (cells counted from 1).
    Returns {"notebook": text or None, "seconds", "failure"}; a failure is None, {"cell", "cells", "source",
    "traceback"} or {"disk": line}.
    """
    import papermill
    from distributed import get_worker

    worker, began = get_worker(), time.perf_counter()
    os.environ.update({name: value for name, value in KEEP_MEMORY.items() if name not in os.environ})
    runnable = [cell for cell in json.loads(source)["cells"] if cell["cell_type"] == "code" and cell["source"]]
    place = {"cell": 0, "cells": len(runnable) + bool(parameters)}  # papermill adds a cell with the parameters

    def report(cell, cell_index):
        place.update(cell=place["cell"] + 1, source=cell.source)
        worker.log_event(topic, {"job": job, "cell": place["cell"], "cells": place["cells"]})

    try:
        with tempfile.TemporaryDirectory(dir=worker.local_directory) as scratch:
            unrun, made = Path(scratch, "unrun.json"), Path(scratch, "made.json")
            unrun.write_text(source, encoding="utf-8")
            failure = None
            try:
                papermill.execute_notebook(
                    unrun,
                    made,
                    parameters,
                    kernel_name="python3",
                    language="python",
                    start_timeout=300,
                    progress_bar=False,
                    on_cell_execute=report,
                    record_timing=False,
                    extra_arguments=["--log-level=CRITICAL"],
                    resources={"metadata": {"path": folder if Path(folder).is_dir() else scratch}},
                )
            except papermill.PapermillExecutionError as error:
                failure = {**place, "source": error.source, "traceback": "\n".join(error.traceback)}
            except RuntimeError as error:  # the kernel itself died, which papermill does not record in the notebook
                failure = {"source": "", **place, "traceback": f"{error} (killed, or out of memory?)"}
            notebook = made if made.is_file() else unrun
            text = _without_timestamps(notebook.read_text(encoding="utf-8"))
    except OSError as error:
        text, failure = None, {"disk": f"{error.filename or 'its notebook'}: {error.strerror or error}"}
    return {"notebook": text, "failure": failure, "seconds": time.perf_counter() - began}


def _without_timestamps(text: str) -> str:
    """The notebook without papermill's times and paths, so that equal runs give equal files."""
    notebook = json.loads(text)
    record = notebook["metadata"].pop("papermill", {})
    notebook["metadata"]["papermill"] = {"parameters": record.get("parameters", {})}
    for cell in notebook["cells"]:
        cell["metadata"].pop("papermill", None)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
