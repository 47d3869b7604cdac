"""`python -m ci.bench`: race snnkit against its peers and keep the results in `data/results/bench`."""

from __future__ import annotations

import argparse
import shlex
import sys
import time

import torch

from ci.bench import accuracy, environment, exchange, operations, report, scaling, workloads
from ci.bench.floor import rate
from ci.bench.race import Lane, race
from ci.bench.workloads import WORKLOADS
from snnkit.int8 import has_fast_int8
from snnkit.simulation import has_fast_bfloat16

PEERS = ("spikingjelly", "snntorch", "norse", "sinabs")
QUICK_PEERS = ("spikingjelly", "norse")
PARTS = (*WORKLOADS, "scaling", "operations", "accuracy", "exchange")


def lanes(workload: str, precisions: list[str], base: dict, quick: bool = False) -> list[Lane]:
    """Everybody in every mode. Default: float32, a step at a time (sinabs, batch-norm: all steps), channels first.
    Tuned: channels last, a few steps at a time (in training all, or one), memory kept, in every precision that is fast
    here. snnkit keeps memory too; beside that, once as it is without a compiler and once without keeping memory. Quick:
    the two fastest peers, tuned in the fastest float precision."""
    spec, found = WORKLOADS[workload], []
    base, floats = base | {"keep": True}, _floats(precisions)
    for precision in precisions:
        if precision != "int8" or spec.kind == "infer":
            found.append(Lane("snnkit", precision, {**base, "contestant": "snnkit", "precision": precision}))
    best = {**base, "contestant": "snnkit", "precision": floats[-1]}
    if not quick and base["device"] == "cpu":
        found.append(Lane("snnkit", f"{floats[-1]}, no compiler", {**best, "native": False}))
        found.append(Lane("snnkit", f"{floats[-1]}, memory not kept", {**best, "keep": False}))
    if spec.kind == "calibrate":
        default = {**base, "contestant": "naive", "keep": False}
        tuned = {**base, "contestant": "naive", "precision": floats[-1], "channels_last": True}
        mode = f"tuned: {floats[-1]}, channels-last"
        return [*found, Lane("a plain loop", "default", default), Lane("a plain loop", mode, tuned)]
    for peer in QUICK_PEERS if quick else PEERS:
        style = "multi" if peer == "sinabs" or spec.normalised else "single"
        found.append(Lane(peer, "default", {**base, "contestant": peer, "style": style, "keep": False}))
        for precision in floats[-1:] if quick else floats:
            for style in _tuned_styles(spec, peer, precision == floats[-1] and not quick):
                options = {"contestant": peer, "style": style, "precision": precision, "channels_last": True}
                if style == "multi" and spec.kind == "infer":
                    options["chunk"] = 2  # tensors of a few megabytes, as snnkit's own
                found.append(Lane(peer, f"tuned: {precision}, channels-last, {style}-step", base | options))
    return found


def _floats(precisions: list[str]) -> list[str]:
    return [precision for precision in precisions if precision != "int8"]


def _tuned_styles(spec: workloads.Workload, peer: str, both: bool) -> tuple[str, ...]:
    """Several steps at a time, or one, or a race of `both` where it is not clear which is faster."""
    if spec.kind != "train" or spec.normalised:
        return ("multi",)
    if peer == "sinabs":  # under autograd its own loop over time takes six times as long
        return ("single",)
    return ("single", "multi") if both else ("multi",)


def run(workload: str, precisions: list[str], rounds: int, options: argparse.Namespace, command: str) -> None:
    """One workload: the floors, the race, the table, the record."""
    start, python = time.perf_counter(), environment.ensure()
    spec = WORKLOADS[workload].smaller() if options.quick else WORKLOADS[workload]
    print(f"{workload}: {spec.title}, T = {spec.timesteps}, B = {spec.batch}", flush=True)
    weights = workloads.store(spec, environment.ROOT / "_build" / "bench")
    base = {"workload": workload, "weights": str(weights), "quick": options.quick, "device": options.device}
    runners = lanes(workload, precisions, base, options.quick)
    used = {lane.options.get("precision", "fp32") for lane in runners}
    limits = {precision: rate(spec.model, precision, options.device) for precision in precisions if precision in used}
    race(python, runners, rounds, say=lambda line: print(line, flush=True))
    result = report.summarise(workload, spec, runners, limits)
    print(report.as_text(result), flush=True)
    if not options.quick:
        report.record(result, command, rounds, environment.versions(python), time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, a round, no records: 3 minutes")
    parser.add_argument("--rounds", type=int, help="timed rounds (default 5, quick 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, where times are absolute (default cpu)")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part only; can be repeated")
    options = parser.parse_args()
    rounds, parts = options.rounds or (1 if options.quick else 5), options.only or PARTS
    if rounds < 1:
        parser.error(f"--rounds is {rounds}; give at least 1")
    if options.device not in ("cpu", "cuda"):
        parser.error(f"--device is {options.device!r}; give cpu or cuda")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU; leave the option out")
    torch.set_num_threads(workloads.THREADS)
    precisions = ["fp32"] + ["bf16"] * has_fast_bfloat16(options.device) + ["int8"] * has_fast_int8(options.device)
    print(f"precisions that are fast here: {', '.join(precisions)}", flush=True)
    command = "make bench" + (f" BENCH='{shlex.join(sys.argv[1:])}'" if sys.argv[1:] else "")
    for workload in WORKLOADS:
        if workload in parts:
            run(workload, precisions, rounds, options, command)
    if "scaling" in parts and not options.quick:
        scaling.record(environment.ensure(), options.device, _floats(precisions)[-1], command)
    if "operations" in parts and not options.quick:
        for name, nanoseconds in operations.record(precisions, command).items():
            print(f"{name:40} {nanoseconds:6.3f} ns", flush=True)
    on_images = {
        "accuracy": lambda: accuracy.record(accuracy.study(precisions, images=1000, timesteps=100), command),
        "exchange": lambda: print("{value} {unit}: {what}".format(**exchange.record(environment.ensure(), command))),
    }
    for part in [name for name in on_images if name in parts and not options.quick]:
        try:
            on_images[part]()
        except FileNotFoundError as error:
            print(f"{part}: left out, because the images are not there ({error})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
