"""A short name for weights and a text: it keeps what one run has stored apart from what another has."""

from __future__ import annotations

import hashlib

import torch


def fingerprint(told: str, tensors: dict[str, torch.Tensor]) -> str:
    """16 hexadecimal digits that change with `told`, with a name or with any bit of the tensors, of any dtype."""
    digest = hashlib.sha256(told.encode())
    for name, tensor in tensors.items():
        digest.update(name.encode() + tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
