"""snnkit's time and memory against the number of steps and of images, each point in a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

from ci.bench import environment, workloads
from ci.bench.race import Lane, race
from snnkit import ledger

WORKLOAD = "W1"
STEPS = (25, 50, 100, 200, 400)
BATCHES = (8, 16, 64)  # beside the workload's own


def record(python: Path, device: str, command: str, say=print) -> dict:
    """Measure W1 in float32, spikes drawn as it goes; keep it as `bench/scaling` and return the record.

    The value is the growth of peak memory from 100 to 400 steps, in percent.
    """
    spec, start, points = workloads.WORKLOADS[WORKLOAD], time.perf_counter(), []
    weights = workloads.store(spec, environment.ROOT / "_build" / "bench")
    base = {"workload": WORKLOAD, "contestant": "snnkit", "weights": str(weights), "device": device, "coded": False}
    for timesteps, batch in [(t, spec.batch) for t in STEPS] + [(spec.timesteps, b) for b in BATCHES]:
        lane = Lane("snnkit", "fp32", {**base, "timesteps": timesteps, "batch": batch})
        race(python, [lane], 1, say=lambda line: None)
        point = {"timesteps": timesteps, "batch": batch, "seconds": lane.median, "peak_mib": lane.peak / 2**20}
        say(f"T = {timesteps}, B = {batch}: {point['seconds']:.2f} s, {point['peak_mib']:.0f} MiB", flush=True)
        points.append(point)
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
        details={"batch": spec.batch, "timesteps": spec.timesteps, "points": points},
    )
