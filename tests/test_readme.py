"""The README's snippet runs, its files exist, and its commands are those of the Makefile."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_snippet_converts_and_simulates_a_network_of_ones_own():
    names = {}
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], names)
    assert names["result"].predict().shape == (8,)
    assert names["result"].output.shape == (200, 8, 10)


def test_the_files_it_points_to_exist():
    linked = [address for address in re.findall(r"\]\(([^)]+)\)", README) if "://" not in address]
    assert linked
    assert [address for address in linked if not (ROOT / address).exists()] == []


def test_its_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    used = {word for block in re.findall(r"`{1,3}([^`]+)`", README) for word in re.findall(r"\bmake (\w+)", block)}
    assert used >= {"book", "test"}
    assert used <= set(targets)
