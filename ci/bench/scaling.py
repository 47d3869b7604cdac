"""snnkit's time and memory against the number of steps and of images, each point in a process of its own.

Besides W1, Spike-Norm at the size at which one would use it: W2 with FULL steps.
"""

from __future__ import annotations

import time
from pathlib import Path

from ci.bench import environment, workloads
from ci.bench.race import Lane, race
from snnkit import ledger

WORKLOAD = "W1"
STEPS = (25, 50, 100, 200, 400)
BATCHES = (8, 16, 64)  # beside the workload's own
FULL = 500


def record(python: Path, device: str, precision: str, command: str, say=print) -> dict:
    """Measure W1 in float32, spikes drawn as it goes, and W2 in `precision`; keep them as `bench/scaling`.

    The value is the growth of peak memory from 100 to 400 steps, in percent.
    """
    spec, start, points = workloads.WORKLOADS[WORKLOAD], time.perf_counter(), []
    weights = workloads.store(spec, environment.ROOT / "_build" / "bench")
    base = {"workload": WORKLOAD, "contestant": "snnkit", "weights": str(weights), "device": device, "coded": False}
    for timesteps, batch in [(t, spec.batch) for t in STEPS] + [(spec.timesteps, b) for b in BATCHES]:
        points.append(_point(python, {**base, "timesteps": timesteps, "batch": batch}, say))
    whole = workloads.WORKLOADS["W2"]
    weights = workloads.store(whole, environment.ROOT / "_build" / "bench")
    base |= {"workload": "W2", "weights": str(weights), "precision": precision, "keep": True}
    calibration = _point(python, {**base, "timesteps": FULL, "batch": whole.batch}, say)
    peaks = {point["timesteps"]: point["peak_mib"] for point in points if point["batch"] == spec.batch}
    return ledger.record(
        "bench/scaling",
        round(100 * (peaks[400] / peaks[100] - 1), 2),
        unit="% more memory",
        what=f"{spec.title}: peak memory of snnkit at T = 400 over that at T = 100, {spec.batch} images, float32",
        command=command,
        seed=0,
        count=1,
        seconds=time.perf_counter() - start,
        data="seeded noise images and random weights",
        details={"batch": spec.batch, "timesteps": spec.timesteps, "points": points, "calibration": calibration},
    )


def _point(python: Path, options: dict, say) -> dict:
    """One process: a first run, then a timed one."""
    lane = Lane("snnkit", options.get("precision", "fp32"), options)
    race(python, [lane], 1, say=lambda line: None)
    point = {"timesteps": options["timesteps"], "batch": options["batch"], "precision": lane.mode}
    point |= {"seconds": lane.median, "peak_mib": lane.peak / 2**20, "grown_mib": (lane.peak - lane.before) / 2**20}
    say("{timesteps} steps, {batch} images: {seconds:.2f} s, {peak_mib:.0f} MiB".format(**point), flush=True)
    return point
