"""snnkit: a thin PyTorch module for deep spiking neural networks. Time lives only inside neurons."""

from snnkit.memory import keep_memory
from snnkit.simulation import Simulation, simulate

__all__ = ["Simulation", "keep_memory", "simulate"]
