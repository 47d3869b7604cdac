"""Whether a net that snnkit wrote as NIR gives the same answers in an independent simulator that reads NIR.

`python -m ci.bench.exchange NET.nir TRAIN.safetensors` is that simulator: spikingjelly, in `.venv-bench`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from snnkit import checkpoint, coding, convert, data, evaluate, exchange, ledger, simulate

NET, IMAGES, TIMESTEPS, CALIBRATION = "vgg9-cifar10", 50, 100, 32


def record(python: Path, command: str) -> dict:
    """Compare and keep it as `exchange/spikingjelly`; its value is the share of equal output spike counts, in percent.

    The net fires at its output. Raises FileNotFoundError without the images.
    """
    start, stored = time.perf_counter(), checkpoint.load(NET)
    training = data.load("cifar10", "train", limit=CALIBRATION, mean=stored.mean)
    test = data.load("cifar10", "test", limit=IMAGES, mean=stored.mean)
    spiking = convert.to_spiking(stored.net, training.images, "data", readout="spikes")
    train = coding.poisson(test.images, TIMESTEPS, torch.Generator().manual_seed(0))
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        exchange.to_nir(spiking, test.images[:1], Path(folder, "net.nir"))
        save_file({"train": train}, Path(folder, "train.safetensors"))
        ours = simulate(spiking, train, TIMESTEPS, coding=None).counts()[-1]
        again = simulate(exchange.from_nir(Path(folder, "net.nir")), train, TIMESTEPS, coding=None).counts()[-1]
        arguments = [python, "-W", "ignore", "-m", "ci.bench.exchange", *(f"{folder}/{name}" for name in
                     ("net.nir", "train.safetensors"))]  # fmt: skip
        answer = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    theirs = torch.tensor(json.loads(answer.splitlines()[-1]))
    same = theirs == ours
    low, high = evaluate.interval(same.flatten())
    return ledger.record(
        "exchange/spikingjelly",
        round(100 * float(same.double().mean()), 2),
        unit="% of output counts",
        what=f"{NET} as an SNN, written as NIR: spikingjelly's output counts after {TIMESTEPS} steps that equal ours",
        interval=(round(100 * low, 2), round(100 * high, 2)),
        command=command,
        seed=0,
        count=same.numel(),
        seconds=time.perf_counter() - start,
        data=test.describe(),
        details={
            "largest_difference": int((theirs - ours).abs().max()),
            "spikes": int(ours.sum()),
            "same_answers": float((theirs.argmax(-1) == ours.argmax(-1)).double().mean()),
            "read_back_by_snnkit_same": float((again == ours).double().mean()),
        },
    )


def main() -> None:
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    torch.set_num_threads(2)
    net, state = import_from_nir(sys.argv[1], dt=1.0), None
    train, total = load_file(sys.argv[2])["train"], 0
    with torch.no_grad():
        for step in train:
            spikes, state = net(step, state)
            total = total + spikes
    print(json.dumps(total.tolist()))


if __name__ == "__main__":
    main()
