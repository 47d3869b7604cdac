"""`simulate`: the only door to time."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass

import torch
from torch import nn

from snnkit import coding as codings
from snnkit.int8 import has_fast_int8
from snnkit.neurons import Presentation, Stateful, presenting
from snnkit.recompute import forgetting, run_forgetful
from snnkit.spikes import forget_layouts

PRECISIONS = (None, "auto", "fp32", "bf16", "int8")
CHUNK_BYTES = 24 * 2**20  # larger tensors cost page faults, smaller ones leave deep layers too few rows


@dataclass(frozen=True)
class Simulation:
    """What a net answered over time.

    `output` [T, B, K]: the classifier's input current (readout "membrane") or spikes (readout "spikes") at each
    step. `rates` {layer: spikes per neuron and step, mean over neurons, images and time}. `precision`: the one that was
    chosen, None if dtypes were left alone.
    """

    output: torch.Tensor
    rates: dict[str, float]
    precision: str | None = None

    def counts(self) -> torch.Tensor:
        """Evidence accumulated up to and including each step, [T, B, K]: the sum of `output` over time."""
        return self.output.cumsum(0)

    def predict(self, at: int | None = None) -> torch.Tensor:
        """The class with the most evidence after `at` steps (default: all), [B]; ties go to the lower class."""
        timesteps = len(self.output)
        at = timesteps if at is None else at
        if not 1 <= at <= timesteps:
            raise ValueError(f"at is {at}; the simulation has steps 1 to {timesteps}")
        return self.output[:at].sum(0).argmax(-1)


def simulate(
    net: nn.Module,
    images: torch.Tensor,
    timesteps: int,
    *,
    coding: str | None = "poisson",
    generator: torch.Generator | None = None,
    chunk: int | None = None,
    recompute: bool = False,
    precision: str | None = None,
    device: torch.device | str | None = None,
) -> Simulation:
    """Present `images` [B, ...] to a spiking net for `timesteps` steps, from zero state to a clean end.

    `coding` is "poisson" (values in [-1, 1], draws from `generator`), "constant", "frames" for recordings
    [B, T * C, ...] (`snnkit.coding.frames`), or None for a spike train [T, B, ...] given as `images`. The run goes in
    chunks of `chunk` steps (default: as many as keep tensors small), which bounds memory and does not change the
    result. Torch's grad mode is followed: under grad, gradients flow through all T whatever the chunk, and every step
    is remembered; with `recompute` only the states between chunks, and each chunk runs a second time when its gradient
    is due. Where a batch-norm in training mode
    needs all steps in one chunk, modules that say `forgettable = True` (the blocks of `snnkit.residual`) run twice
    instead, one by one; each is called once a pass, with one tensor. `precision`: None leaves dtypes alone;
    "fp32"; "bf16" runs convolutions and products in bfloat16; "int8" convolutions of spikes in integers (see
    `snnkit.int8`; no gradients); "auto" takes what `choose_precision` says. Membranes are float32 in all. `device`
    moves net and images there first.

    Raises ValueError or TypeError for images, timesteps, coding, chunk or precision that make no sense.
    """
    codings.check_timesteps(timesteps)
    if device is not None:
        net, images = net.to(device), images.to(device)
    encode = _encoder(coding, images, timesteps, generator)
    if images.dim() < (2 if coding is None else 1):
        wanted = "a train [T, B, ...]" if coding is None else "a batch [B, ...]"
        raise ValueError(f"images has shape {tuple(images.shape)}; give {wanted}")
    batch = images.shape[1] if coding is None else images.shape[0]
    if batch == 0:
        raise ValueError("images is an empty batch; give at least one image")
    if chunk is not None:
        codings.check_timesteps(chunk)
    whole, parts = _needs_all_steps(net), []
    if whole:
        parts = [*dict.fromkeys(_forgettable(net))] if recompute else []
        for option, given in (("chunk", chunk is not None), ("recompute", recompute and not parts)):
            if given:
                raise ValueError(f"{whole} needs all time steps at once; leave {option} out")
        chunk = timesteps
    precision = choose_precision(precision, images.device)
    layers = {name: m for name, m in net.named_modules() if isinstance(m, Stateful)}
    presentation, outputs, done = Presentation(), [], 0
    presentation.constant = coding == "constant"
    if precision == "int8":
        if torch.is_grad_enabled():
            raise ValueError("precision 'int8' has no gradients; simulate under torch.no_grad(), or use 'auto'")
        presentation.spikes_as_bytes = True
    forget_layouts()
    parts = parts if torch.is_grad_enabled() else []
    recompute = recompute and torch.is_grad_enabled() and not parts
    inner = {layer for part in parts for layer in part.modules()}
    lent = [] if recompute else [layer for layer in layers.values() if layer not in inner]
    # one context for all chunks: the weights are cast once
    with (
        presenting(lent, presentation),
        forgetting(parts, presentation),
        inference_precision(precision, images.device),
    ):
        while done < timesteps:
            length = min(chunk or _fitting_chunk(presentation, images), timesteps - done)
            presentation.open_chunk(length)
            train = encode(done, length)  # [T, B, ...]
            presentation.widest = max(presentation.widest, train[0].numel())
            folded = train.flatten(0, 1)  # [T, B, ...] -> [T*B, ...]
            if folded.dim() == 4:
                folded = folded.contiguous(memory_format=torch.channels_last)
            folded = run_forgetful(net, [*net.modules()], presentation, folded) if recompute else net(folded)
            outputs.append(folded.to(torch.promote_types(folded.dtype, torch.float32)))
            done += length
    rates = {
        layer.key or name: float(presentation.spike_counts[layer]) / presentation.neuron_counts[layer] / timesteps
        for name, layer in layers.items()
        if layer in presentation.neuron_counts
    }
    output = torch.cat(outputs).unflatten(0, (timesteps, batch))
    return Simulation(output, rates, precision)


def _fitting_chunk(presentation: Presentation, images: torch.Tensor) -> int:
    """As many steps as keep the largest tensor under CHUNK_BYTES; one step until the largest is known."""
    if not presentation.widest:
        return 1
    return max(1, CHUNK_BYTES // (presentation.widest * images.element_size()))


def _encoder(coding, images, timesteps, generator):
    """A function (first step, number of steps) -> input train [T, B, ...]."""
    if coding == "poisson":
        codings.check_intensities(images)
        return lambda start, length: codings.poisson(images, length, generator)
    if coding == "constant":
        codings.check_finite(images)
        return lambda start, length: codings.constant(images, length)
    if coding == "frames":
        train = codings.frames(images, timesteps)
        return lambda start, length: train[start : start + length]
    if coding is None:
        codings.check_finite(images)
        if len(images) != timesteps:
            raise ValueError(
                f"coding=None takes a train [T, B, ...]; it has {len(images)} steps, timesteps is {timesteps}"
            )
        return lambda start, length: images[start : start + length]
    raise ValueError(f"unknown coding {coding!r}; use 'poisson', 'constant', 'frames', or None for a train [T, B, ...]")


def choose_precision(precision: str | None, device: torch.device | str) -> str | None:
    """The precision that a request comes to on `device`.

    "auto" is "bf16" where the hardware computes it, else "fp32"; never "int8", which rounds weights to eight bits and
    has to be asked for. "int8" without integer convolutions becomes "auto", with a warning. Others stay what they are.
    Raises ValueError for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; use one of {', '.join(map(repr, PRECISIONS))}")
    fast = "bf16" if has_fast_bfloat16(device) else "fp32"
    if precision == "int8" and not has_fast_int8(device):
        warnings.warn(f"no integer convolutions on this {torch.device(device).type}; running in {fast}", stacklevel=3)
        return fast
    return fast if precision == "auto" else precision


def inference_precision(precision: str | None, device: torch.device | str):
    """A context in which convolutions and products of real numbers run in `precision` (as for `simulate`)."""
    if choose_precision(precision, device) == "bf16":
        return torch.autocast(torch.device(device).type, torch.bfloat16)
    return contextlib.nullcontext()


def has_fast_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether bfloat16 is computed in hardware on `device`, not emulated."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _forgettable(net: nn.Module) -> list[nn.Module]:
    """The outermost modules of `net` that say `forgettable = True`."""
    if getattr(net, "forgettable", False):
        return [net]
    return [part for child in net.children() for part in _forgettable(child)]


def _needs_all_steps(net: nn.Module) -> str | None:
    """What in `net` has to see all of time in one chunk, if anything does."""
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            return f"batch-norm {name} in training mode"
        if getattr(module, "needs_all_steps", False):
            return f"{name}, which averages over time,"
    return None
