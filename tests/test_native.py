"""The compiled scan gives the spikes of tensor operations, bit for bit, and nothing depends on a compiler."""

import os
import shutil
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnkit import native
from snnkit.scan import Dynamics, State, scan
from snnkit.surrogate import rectangle, spike_time, triangle

a_compiler = shutil.which(os.environ.get("CXX", "c++"))
wanted = sys.platform == "linux" and a_compiler and os.environ.get("SNNKIT_NATIVE") != "0"
compiled = pytest.mark.skipif(not wanted, reason="no C++ compiler on Linux here, or SNNKIT_NATIVE=0")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A user without a compiled scan."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    yield tmp_path / "snnkit"
    native.library.cache_clear()


@compiled
def test_where_there_is_a_compiler_it_compiles():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.library() is not None


@compiled
@given(
    neurons=st.sampled_from([1, 7, 2047, 2048, 5000, 40_000]),
    steps=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    as_bytes=st.booleans(),
    leak=st.sampled_from([0.25, 0.9, 1.0]),
    reset=st.sampled_from(["zero", "subtract"]),
    surrogate=st.sampled_from([None, rectangle(0.5), rectangle(3.0), triangle(), triangle(0.7), spike_time(0.3, 0.5)]),
    own_thresholds=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=150, derandomize=True)
def test_spikes_states_and_what_is_kept_are_those_of_tensor_operations_bit_for_bit(
    neurons, steps, dtype, as_bytes, leak, reset, surrogate, own_thresholds, seed
):
    torch.manual_seed(seed)
    currents = (torch.randn(steps, 1, neurons) * 0.8 + 0.2).to(dtype)
    membrane = torch.randn(1, neurons) * 0.3
    threshold = torch.rand(neurons) + 0.5 if own_thresholds else torch.tensor(0.75)
    dynamics = Dynamics(leak, threshold, reset, surrogate)
    weights = torch.randn(steps, 1, neurons).to(dtype)
    since = torch.randint(0, 4, (1, neurons)).float()
    since = None if type(surrogate) is not spike_time else since.masked_fill(since == 0, float("inf"))

    def run():
        x, u = (tensor.clone().requires_grad_(surrogate is not None) for tensor in (currents, membrane))
        as_bytes_here = torch.uint8 if as_bytes and surrogate is None else None
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
            kept = []
            found = scan(x, State(u, since), dynamics, as_bytes_here)
        if surrogate is not None:
            ((found.spikes * weights).sum() + (found.state.membrane * 0.5).sum()).backward()
        return [found.spikes, *found.state, found.count, found.codes, *kept[:2]], [x.grad, u.grad]

    expected_library = native.library
    fast = run()
    try:
        native.library = lambda: None
        slow = run()
    finally:
        native.library = expected_library
    for a, b in zip(fast[0], slow[0], strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
    for a, b in zip(fast[1], slow[1], strict=True):  # gradients: to the last digit, a product of which may be fused
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=2**-7 if a.dtype == torch.bfloat16 else 1e-6, atol=1e-6)


@compiled
def test_other_dtypes_and_surrogates_are_left_to_tensor_operations():
    dynamics = Dynamics(1.0, torch.tensor(1.0), "zero")
    x, u = torch.zeros(2, 3), torch.zeros(3)
    assert native.serves(x, u, dynamics, torch.float32)
    assert native.serves(x, u, dynamics, torch.uint8)
    assert not native.serves(x, u, dynamics, torch.bfloat16)
    assert not native.serves(x.half(), u, dynamics, torch.float16)
    assert not native.serves(x.double(), u.double(), dynamics, torch.float64)
    assert not native.serves(x, u, dynamics._replace(threshold=torch.tensor(1.0).double()), torch.float32)
    assert not native.serves(x, u, dynamics._replace(surrogate=lambda *_: x), torch.float32)


@compiled
def test_it_is_compiled_once_a_machine(fresh, monkeypatch):
    assert native.library() is not None
    assert len(list(fresh.glob("scan-*.so"))) == 1
    native.library.cache_clear()
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert native.library() is not None
    native.library.cache_clear()
    monkeypatch.setattr(native, "_machine", lambda compiler: "another")
    with pytest.raises(pytest.fail.Exception):
        native.library()


def scanned():
    return scan(torch.ones(2, 1, 4), State(torch.zeros(1, 4)), Dynamics(1.0, torch.tensor(1.5), "zero")).spikes


@pytest.mark.parametrize(
    ("name", "value"), [("SNNKIT_NATIVE", "0"), ("CXX", "no-such-compiler")], ids=["switched off", "no compiler"]
)
@pytest.mark.filterwarnings("error")
def test_without_it_the_scan_is_the_same(name, value, fresh, monkeypatch):
    monkeypatch.setenv(name, value)
    assert native.library() is None
    assert scanned().tolist() == [[[0.0] * 4], [[1.0] * 4]]


WRITES_GARBAGE = 'for last in "$@"; do :; done; echo garbage > "$last"'


@pytest.mark.skipif(sys.platform != "linux", reason="the compilers here are shell scripts, the errors Linux's")
@pytest.mark.parametrize(
    ("compiler", "cache", "reason"),
    [
        ("exit 1", True, "returned non-zero exit status 1."),
        ("echo 'scan.cpp:1: no' >&2; echo more >&2; exit 1", True, r"scan.cpp:1: no\)"),
        (WRITES_GARBAGE, True, "file too short|invalid ELF header"),
        (WRITES_GARBAGE, False, "File exists|Not a directory"),
    ],
    ids=["a compiler that fails", "a compiler that complains", "a damaged library", "no cache"],
)
def test_where_compiling_fails_one_line_says_so_and_the_scan_is_the_same(compiler, cache, reason, fresh, monkeypatch):
    if not cache:
        fresh.write_text("not a folder")
    script = fresh.parent / "compiler"
    script.write_text(f"#!/bin/sh\n{compiler}\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.delenv("SNNKIT_NATIVE", raising=False)
    with pytest.warns(UserWarning, match=f"could not be compiled .*(?:{reason}).* SNNKIT_NATIVE=0 to do without"):
        assert native.library() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # only once
        assert scanned().tolist() == [[[0.0] * 4], [[1.0] * 4]]
