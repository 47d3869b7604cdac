"""One contestant in a process of its own: sets up, then runs once for every line "run" that it reads.

`python -m ci.bench.worker '{"workload": "W1", "contestant": "snnkit", "precision": "fp32", ...}'` answers every run
with a line of JSON: seconds, and the process's peak memory in bytes; "check" answers with the outputs too. Training
takes gigabytes, and many processes take turns: after a run its memory goes back to the system. So that a process has
the memory that it would have in the middle of a training, it first runs once untimed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from ci.bench import contestants, naive, workloads
from ci.bench.floor import wait
from snnkit import convert, memory, models, neurons, simulate
from snnkit.simulation import inference_precision
from snnkit.surrogate import rectangle


class Runner:
    """A workload as one contestant runs it, with the weights of a file; the other arguments say in which mode."""

    def __init__(self, workload, contestant, weights, precision="fp32", style="multi", channels_last=False, chunk=None,
                 timesteps=None, batch=None, coded=True, quick=False, device="cpu", keep=False):  # fmt: skip
        self.workload = workloads.WORKLOADS[workload].smaller() if quick else workloads.WORKLOADS[workload]
        if keep:
            memory.keep_memory()
        if batch:
            self.workload = replace(self.workload, batch=batch)
        self.precision, self.style, self.device, self.ours = precision, style, device, contestant == "snnkit"
        self.timesteps = timesteps or self.workload.timesteps
        self.chunk = chunk or (self.timesteps if style == "multi" else 1)
        batch, leak, threshold = self.workload.batch, self.workload.leak, self.workload.threshold
        if self.workload.kind == "calibrate":
            make = None
        elif self.ours:
            surrogate = rectangle() if self.workload.kind == "train" else None
            make = lambda: neurons.LIF(leak, threshold, "zero", surrogate)  # noqa: E731
        else:
            make = lambda: contestants.PEERS[contestant](leak, threshold, style, batch)  # noqa: E731
        net = models.build(self.workload.model, neuron=make)
        net.load_state_dict(load_file(weights), strict=False)
        self.net = net.to(
            device, memory_format=torch.channels_last if channels_last or self.ours else torch.contiguous_format
        )
        self.input, self.coded = workloads.images(self.workload), coded
        if coded:  # the same spikes for everybody; else snnkit draws them as it goes
            self.input = workloads.input_train(self.workload)[: self.timesteps]
        self.input = self.input.to(device)
        self.labels = torch.arange(batch, device=device) % 10
        self.channels_last = channels_last
        if self.workload.kind == "train":  # else spare the seconds that importing optimisers takes
            self.optimizer = torch.optim.SGD(self.net.parameters(), 0.0)

    def run(self) -> torch.Tensor:
        """The outputs [T, B, 10] of one presentation; in training, after a backward pass and an optimiser's step."""
        if self.workload.kind == "calibrate":
            return self._calibrate()
        if self.workload.kind == "infer":
            self.net.eval()
            with torch.no_grad():
                return self._forward()
        self.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        output = self._forward()
        F.cross_entropy(output.float().mean(0), self.labels).backward()
        self.optimizer.step()
        contestants.reset(self.net)  # what a peer remembers holds its whole graph
        return output.detach()

    def _calibrate(self) -> torch.Tensor:
        """Spike-Norm's thresholds [1, 1, layers]."""
        images, generator = workloads.images(self.workload), torch.Generator().manual_seed(2)
        if self.ours:
            found = convert.spike_norm(self.net, images, self.timesteps, generator=generator, precision=self.precision)
            return torch.tensor([[list(found.values())]])
        with inference_precision(self.precision, images.device):
            return torch.tensor([[naive.spike_norm(self.net, images, self.timesteps, generator)]])

    def _forward(self) -> torch.Tensor:
        if self.ours:
            coding = None if self.coded else "poisson"
            return simulate(self.net, self.input, self.timesteps, coding=coding, precision=self.precision).output
        contestants.reset(self.net)
        outputs = []
        with inference_precision(self.precision, self.device):
            for chunk in self.input.split(self.chunk):
                x = chunk.flatten(0, 1)
                if self.channels_last:
                    x = x.contiguous(memory_format=torch.channels_last)
                outputs.append(self.net(x).unflatten(0, (len(chunk), -1)))
        return torch.cat(outputs)


def main() -> None:
    torch.set_num_threads(workloads.THREADS)
    options = json.loads(sys.argv[1])
    if not options.pop("native", True):
        os.environ["SNNKIT_NATIVE"] = "0"
    runner = Runner(**options)
    before = _peak(runner.device)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        if runner.workload.kind == "train" and line.strip() != "check":
            runner.run()
        start = time.perf_counter()
        output = runner.run()
        wait(runner.device)
        answer = {"seconds": time.perf_counter() - start, "peak": _peak(runner.device), "before": before}
        if line.strip() == "check":
            gradient = next(runner.net.parameters()).grad
            answer["output"] = output.float().sum(0).tolist()
            answer["gradient"] = None if gradient is None else gradient.flatten()[:256].tolist()
        del output
        if runner.workload.kind == "train":
            memory.give_back_memory()
        print(json.dumps(answer), flush=True)


def _peak(device: str) -> int:
    """Peak memory in bytes: on a GPU what torch took there, else this process's."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else memory.peak()


if __name__ == "__main__":
    main()
