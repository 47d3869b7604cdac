"""Hybrid conversion: a converted net as the start of training with spikes (HC)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from snnkit import models
from snnkit.neurons import LIF

SCALE = 0.7  # of the thresholds (HC's code; 0.6 to 0.8)


@torch.no_grad()
def converted_start(
    ann: models.Net,
    thresholds: Mapping[str, float],
    neuron: Callable[[], nn.Module],
    scale: float = SCALE,
    dropout: float | None = None,
) -> models.Net:
    """A spiking net with the weights of `ann`, a net of `snnkit.models.build`, whose thresholds are `scale` times those
    of a conversion ({layer: threshold}, see `snnkit.convert`), for `snnkit.train.fit` to train on.

    Lower thresholds let spikes through sooner, at the price of rates that are wrong until training mends them. `neuron`
    makes a layer, with a surrogate, as for `build`; `dropout` replaces the ANN's.

    Raises ValueError for a net or thresholds that do not fit together, and for a scale that is not above 0.
    """
    if not isinstance(ann, models.Net) or ann.config.get("relu"):
        raise ValueError("give a chain of layers from snnkit.models.build, trained as an ANN, such as build('vgg5')")
    missing = sorted(set(ann.neurons) - set(thresholds))
    if missing:
        raise ValueError(f"thresholds lack {', '.join(missing)}; convert this net first, for example by spike_norm")
    if not scale > 0:
        raise ValueError(f"scale is {scale}; it must be above 0 (HC uses {SCALE})")
    net = models.build(**ann.config | ({} if dropout is None else {"dropout": dropout}), neuron=neuron)
    net.load_state_dict(ann.state_dict(), strict=False)
    for key, layer in net.neurons.items():
        if not isinstance(layer, LIF):
            raise ValueError(f"neuron makes a {type(layer).__name__}; give a factory of snnkit.neurons.LIF or IF")
        layer.threshold.fill_(scale * thresholds[key])
    return net
