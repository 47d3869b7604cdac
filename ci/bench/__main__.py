"""`python -m ci.bench`: race snnkit against its peers and keep the results in `data/results/bench`."""

from __future__ import annotations

import argparse
import shlex
import sys
import time

import torch

from ci.bench import environment, report
from ci.bench.race import Lane, ask_once, race
from ci.bench.workloads import WORKLOADS
from snnkit.int8 import has_fast_int8
from snnkit.simulation import has_fast_bfloat16

BATCHES = (8, 16, 64)  # beside the workload's own
PEERS = ("spikingjelly", "snntorch", "norse", "sinabs")


def lanes(workload: str, precisions: list[str], quick: bool, device: str) -> list[Lane]:
    """Everybody in every mode. Default: float32, a step at a time (sinabs: all steps), channels first. Tuned: channels
    last, a step or a few at a time, in every precision that the machine is fast at."""
    base = {"workload": workload, "quick": quick, "device": device}
    spec = WORKLOADS[workload]
    found = []
    for precision in precisions:
        if precision != "int8" or spec.kind == "infer":
            found.append(Lane("snnkit", precision, {**base, "contestant": "snnkit", "precision": precision}))
    for peer in PEERS:
        style = "multi" if peer == "sinabs" or spec.normalised else "single"
        found.append(Lane(peer, "default", {**base, "contestant": peer, "style": style}))
        for precision in precisions:
            if precision != "int8":
                for style in ("multi",) if spec.normalised else ("single", "multi"):
                    options = {
                        **base,
                        "contestant": peer,
                        "style": style,
                        "precision": precision,
                        "channels_last": True,
                    }
                    if style == "multi" and spec.kind == "infer":
                        options["chunk"] = 2  # tensors of a few megabytes, as snnkit's own
                    found.append(Lane(peer, f"tuned: {precision}, channels-last, {style}-step", options))
    return found


def _multiples(timesteps: int) -> list[int]:
    return [timesteps // 4, timesteps // 2, timesteps, 2 * timesteps, 4 * timesteps]


def scaling(python, workload: str, points: list[tuple[int, int]], device: str) -> list[dict]:
    """snnkit alone, in a process a point (time steps, images): seconds of the second run, and peak memory in MiB."""
    found = []
    for timesteps, batch in points:
        options = {
            "workload": workload,
            "contestant": "snnkit",
            "timesteps": timesteps,
            "batch": batch,
            "device": device,
        }
        lane = Lane("snnkit", "fp32", options)
        race(python, [lane], 1, say=lambda line: None)
        found.append({"timesteps": timesteps, "batch": batch, "seconds": lane.median, "peak_mib": lane.peak / 2**20})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, 2 rounds: under 3 minutes")
    parser.add_argument("--rounds", type=int, help="timed rounds (default 5, quick 2)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, where times are absolute (default cpu)")
    parser.add_argument(
        "--only", choices=sorted(WORKLOADS), action="append", help="this workload only; can be repeated"
    )
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 5)
    if rounds < 1:
        parser.error(f"--rounds is {rounds}; give at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU; leave the option out")
    python = environment.ensure()
    precisions = ["fp32"] + ["bf16"] * has_fast_bfloat16(options.device) + ["int8"] * has_fast_int8(options.device)
    print(f"precisions this machine is fast at: {', '.join(precisions)}", flush=True)
    command = "make bench" + (f" BENCH='{shlex.join(sys.argv[1:])}'" if sys.argv[1:] else "")
    for workload in options.only or sorted(WORKLOADS):
        start = time.perf_counter()
        spec = WORKLOADS[workload].smaller() if options.quick else WORKLOADS[workload]
        print(f"{workload}: {spec.title}, T = {spec.timesteps}, B = {spec.batch}", flush=True)
        base = {"workload": workload, "quick": options.quick, "device": options.device}
        limits = {p: ask_once(python, {**base, "contestant": "floor", "precision": p})["rate"] for p in precisions}
        runners = lanes(workload, precisions, options.quick, options.device)
        race(python, runners, rounds, say=lambda line: print(line, flush=True))
        alone = None
        if spec.kind == "infer":
            points = [(t, spec.batch) for t in _multiples(spec.timesteps)] + [(spec.timesteps, b) for b in BATCHES]
            alone = scaling(python, workload, points, options.device)
        result = report.summarise(workload, spec, runners, limits, alone)
        print(report.as_text(result), flush=True)
        if not options.quick:
            report.record(result, command, rounds, environment.versions(python), time.perf_counter() - start)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
