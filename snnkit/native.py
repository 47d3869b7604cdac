"""The scan over time compiled for this machine (`scan.cpp`), where it has a C++ compiler; nothing needs it.

The first scan on a machine compiles it (half a second) into the user's cache folder. Without a compiler, or with
SNNKIT_NATIVE=0 in the environment, `snnkit.scan` does the same with tensor operations, several times slower; so it
does where a compiler fails, and then says so once. The code runs on the OpenMP threads that torch has started, not on
threads of its own.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch

from snnkit import paths
from snnkit.surrogate import rectangle, spike_time, triangle

SURROGATES = (type(None), rectangle, triangle, spike_time)  # as `Surrogate` of scan.cpp numbers them
LONGEST = 2**16  # steps without a spike: from then on the compiled scan gives a neuron no gradient by spike times
SOURCE = Path(__file__).with_name("scan.cpp")
COMPILE = ["-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-fopenmp", "-std=c++17", "-c"]
LINK = ["-shared"]  # without OpenMP's own library: its symbols are those that torch has loaded


class _Neuron(ctypes.Structure):
    """`Neuron` of scan.cpp."""

    _fields_ = [
        ("surrogate", ctypes.c_int),
        *((name, ctypes.c_float) for name in ("leak", "window", "height")),
        *((name, ctypes.c_void_p) for name in ("thresholds", "slopes")),
        ("longest", ctypes.c_long),
        *((name, ctypes.c_int) for name in ("own_thresholds", "to_zero")),
    ]


def serves(currents: torch.Tensor, membrane: torch.Tensor, dynamics, dtype: torch.dtype) -> bool:
    """Whether `forward` has code for these tensors and neurons, and this machine has the library."""
    return (
        currents.is_cpu
        and membrane.dtype == dynamics.threshold.dtype == torch.float32
        and currents.dtype in (torch.float32, torch.bfloat16)
        and dtype in (currents.dtype, torch.uint8)
        and type(dynamics.surrogate) in SURROGATES
        and library() is not None
    )


def forward(currents, membrane, since_spike, dynamics, dtype):
    """Scan currents [T, N] from `membrane` and `since_spike` [N] (None if the surrogate does not read it), which become
    those after: (spikes, what `backward` reads of them, their number)."""
    currents, surrogate, kept = currents.contiguous(), dynamics.surrogate, None
    spikes = torch.empty_like(currents, dtype=dtype)
    if surrogate is not None:
        kept = torch.empty_like(currents, dtype=torch.int8 if hasattr(surrogate, "window") else torch.float32)
    name = f"forward_{_name(currents)}_{_name(spikes)}"
    tensors = currents, membrane, since_spike, spikes, kept
    return spikes, kept, _call(name, tensors, dynamics, returns=ctypes.c_double)


def backward(of_spikes, of_membrane, kept, spikes, dynamics):
    """The gradient of the currents [T, N]; `of_membrane` [N], that of the membrane, moves from behind to before.

    `spikes` [T, N] are None where `kept` holds them too.
    """
    of_spikes = of_spikes.contiguous()
    of_currents = torch.empty_like(of_spikes)
    tensors = of_spikes, of_membrane, kept.contiguous(), None if spikes is None else spikes.contiguous(), of_currents
    _call(f"backward_{_name(of_spikes)}", tensors, dynamics, returns=None)
    return of_currents


@functools.lru_cache(8)
def _slopes(surrogate: spike_time) -> torch.Tensor:
    """The surrogate's value by the steps since the latest spike, [LONGEST]."""
    return surrogate(None, None, torch.arange(LONGEST, dtype=torch.float32))


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _call(name: str, tensors, dynamics, returns):
    function, surrogate = getattr(library(), name), dynamics.surrogate
    function.restype = returns
    threshold = dynamics.threshold.contiguous()
    slopes = _slopes(surrogate) if type(surrogate) is spike_time else torch.empty(0)
    neuron = _Neuron(
        SURROGATES.index(type(surrogate)),
        dynamics.leak,
        getattr(surrogate, "window", 0.0),
        getattr(surrogate, "height", getattr(surrogate, "gamma", 0.0)),
        threshold.data_ptr(),
        slopes.data_ptr(),
        len(slopes),
        threshold.numel() > 1,
        dynamics.reset == "zero",
    )
    places = (None if x is None else ctypes.c_void_p(x.data_ptr()) for x in tensors)
    sizes = (ctypes.c_long(size) for size in tensors[0].shape)
    return function(*sizes, *places, ctypes.byref(neuron), torch.get_num_threads())


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled scan; None without a compiler, where SNNKIT_NATIVE=0, and, with a warning, where it fails."""
    compiler = find_compiler()
    if os.environ.get("SNNKIT_NATIVE") == "0" or compiler is None:
        return None
    cache = paths.user_cache() / f"scan-{_machine(compiler)}.so"
    try:
        if not cache.is_file():
            _compile(compiler, cache)
        return ctypes.CDLL(str(cache))
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().partition("\n")[0]
        warnings.warn(
            f"the scan over time could not be compiled ({reason}): neurons run in tensor operations, several times "
            "slower; mend the compiler, name another in CXX, or set SNNKIT_NATIVE=0 to do without",
            stacklevel=2,
        )
        return None


def find_compiler() -> str | None:
    """The C++ compiler that CXX names, else c++; None where there is none."""
    return shutil.which(os.environ.get("CXX", "c++"))


def _machine(compiler: str) -> str:
    """A hash of all that the compiled code depends on."""
    parts = (SOURCE.read_text(), compiler, *COMPILE, repr(torch.cpu.get_capabilities()), torch.__version__)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _compile(compiler: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        built, linked = Path(folder, "scan.o"), Path(folder, "scan.so")
        for command in ([*COMPILE, str(SOURCE), "-o", str(built)], [*LINK, str(built), "-o", str(linked)]):
            subprocess.run([compiler, *command], check=True, capture_output=True, text=True, timeout=60)
        paths.write_atomically(target, linked.read_bytes())
