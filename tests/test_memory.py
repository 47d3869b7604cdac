"""Memory that is kept costs no pages when it is taken again; and what is taken at most."""

import os
import subprocess
import sys

import pytest
import torch

from snnkit import memory

here = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
glibc = pytest.mark.skipif(not here, reason="this Python was not built on glibc")

FAULTS = """
import resource, torch
from snnkit import memory
kept = memory.keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(5 * 2**20) for _ in range(10)]  # 20 MiB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(), faults()
third = faults()
memory.give_back_memory()
print(third, faults(), kept)
"""


@glibc
def test_kept_memory_is_taken_again_without_page_faults_until_it_is_given_back():
    pages = 10 * 20 * 2**20 // 4096
    answer = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    third, after, kept = answer.stdout.split()
    assert kept == "True"
    assert int(third) < pages / 4  # at times a block finds no room
    assert int(after) > pages / 2


def test_another_c_library_leaves_everything_as_it_is(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))  # as on macOS and Windows
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("looked for it"))
    assert not memory.keep_memory()
    assert not memory.give_back_memory()


def test_the_peak_of_a_call_is_that_of_a_process_of_its_own():
    small, large = (memory.peak_of(torch.ones, 2**power) for power in (1, 26))
    assert large - small == pytest.approx(2**28, rel=0.1)  # float32
    with pytest.raises(TypeError):
        memory.peak_of(torch.ones, "many")
