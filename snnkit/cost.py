"""What a run will cost, said before it starts: MACs x steps x images over the rate measured here and now."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from snnkit.neurons import LIF
from snnkit.simulation import choose_precision, inference_precision, simulate


@dataclass(frozen=True)
class Estimate:
    """Cost of a run: `macs` per image and step, `presentations` image-steps in all, `rate` in MAC/s in `precision`."""

    macs: int
    presentations: int
    rate: float
    precision: str | None = None

    @property
    def seconds(self) -> float:
        return self.macs * self.presentations / self.rate

    def __str__(self) -> str:
        inside = f" in {self.precision}" if self.precision else ""
        return (
            f"{self.macs / 1e6:,.1f} M MAC x {self.presentations:,} image-steps at {self.rate / 1e9:,.0f} GMAC/s"
            f"{inside}: about {duration(self.seconds)}"
        )


def duration(seconds: float) -> str:
    """Seconds as people say them: "42 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def estimate(net: nn.Module, images: torch.Tensor, presentations: int, precision: str | None = None) -> Estimate:
    """Estimate `presentations` image-steps of `net` by timing it on `images` [B, ...].

    An ANN takes one step an image; one training step counts as three (forward, and twice that backward).
    `precision` as for `simulate`; the estimate says what it came to. The net is left as it was: it is timed in eval
    mode, so no running statistics change and no random numbers are drawn.
    """
    spiking = any(isinstance(module, LIF) for module in net.modules())
    steps = 2 if spiking else 1

    images = images.to(memory_format=torch.channels_last) if images.dim() == 4 else images

    def run(batch, precision):
        if spiking:
            simulate(net, batch, steps, coding="constant", precision=precision)
        else:
            with inference_precision(precision, batch.device):
                net(batch)

    with torch.no_grad(), _eval_mode(net):
        counter = FlopCounterMode(display=False)
        with counter, torch.enable_grad():  # every convolution as it is defined, not in the layout that is fast
            run(images[:1], None)
        macs = counter.get_total_flops() // 2 // steps
        run(images, precision)  # warm up
        start = time.perf_counter()
        run(images, precision)
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
    rate = macs * steps * len(images) / elapsed
    return Estimate(macs, presentations, rate, choose_precision(precision, images.device))


@contextlib.contextmanager
def _eval_mode(net: nn.Module):
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
