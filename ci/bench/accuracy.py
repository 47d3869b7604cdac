"""What each precision does to the answers of a trained net on real images."""

from __future__ import annotations

import time

import torch

from snnkit import checkpoint, convert, data, evaluate, ledger, simulate
from snnkit.cost import estimate

NET, RECORD = "vgg9-cifar10", "02_spike_norm/vgg9-cifar10/spike-norm-zero"  # its thresholds, measured in floating point


@torch.no_grad()
def study(precisions: list[str], images: int, timesteps: int, batch: int = 20, say=print) -> dict:
    """Every precision on the same images and input spikes; the first one is the reference of the others.

    Returns, by precision: accuracy with its interval, the share of images answered as the reference does, the change of
    each layer's spikes in percent, and milliseconds an image and step. Raises FileNotFoundError without the images.
    """
    shipped = checkpoint.load(NET)
    test = data.load("cifar10", "test", mean=shipped.mean, limit=images)
    net = convert.to_spiking(shipped.net, thresholds=ledger.load(RECORD)["details"]["thresholds"])
    found, reference = {}, None
    for precision in precisions:
        say(f"{precision}: {estimate(net, test.batch(slice(0, batch)), images * timesteps, precision)}")
        generator, answers, spikes, start = torch.Generator().manual_seed(0), [], {}, time.perf_counter()
        for index in torch.arange(len(test)).split(batch):
            result = simulate(net, test.batch(index), timesteps, generator=generator, precision=precision)
            answers.append(result.predict())
            for layer, rate in result.rates.items():
                spikes[layer] = spikes.get(layer, 0.0) + rate * len(index) / len(test)
        seconds, answers = time.perf_counter() - start, torch.cat(answers)
        reference = reference or (answers, spikes)
        correct = answers == test.labels
        found[precision] = {
            "accuracy": 100 * correct.double().mean().item(),
            "interval": [100 * bound for bound in evaluate.interval(correct)],
            "agreement": 100 * (answers == reference[0]).double().mean().item(),
            "drift": {layer: 100 * (rate / reference[1][layer] - 1) for layer, rate in spikes.items()},
            "ms": 1e3 * seconds / images / timesteps,
            "seconds": seconds,
        }
        say(f"  {found[precision]['accuracy']:.1f} % correct, {found[precision]['agreement']:.1f} % as the first")
    return {"data": test.describe(), "timesteps": timesteps, "precisions": found}


def record(result: dict, command: str) -> None:
    """Keep the study as `bench/accuracy`; its value is the lowest agreement with the reference."""
    precisions = result["precisions"]
    reference, *others = precisions
    worst = min(others or [reference], key=lambda name: precisions[name]["agreement"])
    ledger.record(
        "bench/accuracy",
        precisions[worst]["agreement"],
        unit="% of the answers",
        what=f"{NET} as an SNN, T = {result['timesteps']}: {worst} answers as {reference} does",
        command=command,
        seed=0,
        count=int(result["data"].rsplit(" ", 2)[1]),
        seconds=sum(entry["seconds"] for entry in precisions.values()),
        data=result["data"],
        note=f"thresholds of {RECORD}; the same input spikes in every precision",
        details=result,
    )
