"""What a race showed: who agreed with whom, ratios, the distance to the floor, and the record of it all."""

from __future__ import annotations

import torch

from ci.bench.race import Lane
from ci.bench.workloads import Workload
from snnkit import ledger


def summarise(workload: str, spec: Workload, lanes: list[Lane], limits: dict[str, float]) -> dict:
    """A race as plain data. Times are milliseconds an image and step; a floor is what the net's MACs alone would take
    at the rate of its fastest convolution (three times as many in training, twice in calibration)."""
    macs = _macs(spec) * {"infer": 1, "train": 3, "calibrate": 2}[spec.kind]
    floors = {precision: 1e3 * macs / rate for precision, rate in limits.items()}
    reference = lanes[0]
    rows = []
    for lane in lanes:
        row = {"contestant": lane.name, "mode": lane.mode, "failure": lane.failure}
        if not lane.failure:
            scale = 1e3 / (spec.timesteps * spec.batch)
            row |= {"ms": scale * lane.median, "spread": [scale * min(lane.seconds), scale * max(lane.seconds)]}
            precision = lane.options.get("precision", "fp32")
            row |= {
                "floors": scale * lane.median / floors[precision],
                "peak_mib": lane.peak / 2**20,
                "precision": precision,
            }
            row |= {"grown_mib": (lane.peak - lane.before) / 2**20, **_agreement(lane, reference)}
        rows.append(row)
    done = [row for row in rows if not row["failure"]]
    peers = [row for row in done if row["contestant"] != "snnkit"]
    tuned_peers = [row for row in peers if row["mode"] != "default"] or peers
    default = min((row for row in peers if row["mode"] == "default"), key=lambda row: row["ms"])
    tuned = min(peers, key=lambda row: row["ms"])
    ratios = {
        row["mode"]: {"default": row["ms"] / default["ms"], "tuned": row["ms"] / tuned["ms"],
                      "memory": row["peak_mib"] / min(peer["peak_mib"] for peer in tuned_peers)}
        for row in done if row["contestant"] == "snnkit"
    }  # fmt: skip
    return {
        "workload": workload, "title": spec.title, "timesteps": spec.timesteps, "batch": spec.batch,
        "model": spec.model, "macs": _macs(spec), "floors": floors, "rows": rows, "ratios": ratios,
        "default": default["contestant"], "tuned": f"{tuned['contestant']}, {tuned['mode']}",
    }  # fmt: skip


def _agreement(lane: Lane, reference: Lane) -> dict:
    """Whether the outputs summed over time are snnkit's in float32; how far they are off, in standard deviations, and
    their correlation: nets of spikes amplify rounding."""
    ours, theirs = torch.tensor(reference.output), torch.tensor(lane.output)
    return {
        "same": bool(torch.equal(ours, theirs)),
        "off": float((ours - theirs).abs().max() / ours.std()),
        "correlation": float(torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1]),
    }


def as_text(result: dict) -> str:
    """The table for the terminal."""
    lines = [f"{'contestant':13} {'mode':40} {'ms':>8} {'spread':>17} {'floors':>7} {'peak MiB':>9}  outputs"]
    for row in result["rows"]:
        if row["failure"]:
            lines.append(f"{row['contestant']:13} {row['mode']:40} failed: {row['failure']}")
            continue
        spread = "{:.3f} to {:.3f}".format(*row["spread"])
        agree = "the same" if row["same"] else f"off by {row['off']:.2g} (r = {row['correlation']:.3f})"
        lines.append(
            f"{row['contestant']:13} {row['mode']:40} {row['ms']:8.3f} {spread:>17} "
            f"{row['floors']:7.2f} {row['peak_mib']:9.0f}  {agree}"
        )
    for mode, ratio in result["ratios"].items():
        lines.append(
            f"snnkit {mode}: {ratio['default']:.2f} of {result['default']} by default, {ratio['tuned']:.2f} of "
            f"{result['tuned']}; {ratio['memory']:.2f} of the memory of the leanest tuned peer"
        )
    return "\n".join(lines)


def record(result: dict, command: str, rounds: int, versions: dict[str, str], seconds: float) -> None:
    """Keep a race as `bench/W...`; its value is snnkit's time in its fastest mode over that of the fastest peer."""
    best = min(result["ratios"], key=lambda mode: result["ratios"][mode]["tuned"])
    ledger.record(
        f"bench/{result['workload']}",
        round(result["ratios"][best]["tuned"], 4),
        unit="of the best peer's time",
        what=f"{result['title']}: snnkit ({best}) against {result['tuned']}",
        command=command,
        seed=0,
        count=rounds,
        seconds=seconds,
        data="seeded noise images and random weights",
        note=", ".join(f"{name} {number}" for name, number in versions.items())
        + f"; medians of {rounds} rounds in turns",
        details=result,
    )


def _macs(spec: Workload) -> int:
    """Multiply-accumulates of one image and step."""
    from torch.utils.flop_counter import FlopCounterMode

    from snnkit import models

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        models.build(spec.model, neuron=torch.nn.ReLU)(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops() // 2
