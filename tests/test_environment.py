"""One list of dependencies (pyproject.toml), one lock, the same versions for conda; and what ci/setup.py refuses."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ci import setup

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = {
    canonicalize_name(one.name): one for one in map(Requirement, sum(EXTRAS.values(), start=PROJECT["dependencies"]))
}
LOCK = (ROOT / "requirements.lock").read_text()
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
CONDA_PYTHON = CONDA[0].removeprefix("python=")
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = ("linux", "darwin", "win32")


def locked(python, system="linux"):
    """{name: version} that the lock gives a Python on a system."""
    place = {"python_version": python, "python_full_version": f"{python}.7", "sys_platform": system}
    lines = (Requirement(line) for line in LOCK.splitlines() if re.match(r"\w", line))
    here = [one for one in lines if one.marker is None or one.marker.evaluate(place)]
    assert len(here) == len({one.name for one in here})
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in here}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_lock_pins_every_direct_dependency_on_every_system(python, system):
    pins = locked(python, system)
    wrong = {name: pins.get(name) for name, one in DIRECT.items() if not one.specifier.contains(pins.get(name, "0"))}
    assert not wrong


def test_the_oldest_python_is_the_same_everywhere():
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert CONDA_PYTHON in PYTHONS


def test_conda_users_get_the_locked_versions_of_just_the_direct_dependencies():
    options, named = [], {}
    for line in CONDA[-1]["pip"]:
        if line.startswith("--"):
            options.append(line)
        else:
            name, version = line.split("==")
            named[canonicalize_name(name)] = version
    assert options == ["--constraint requirements.lock", "--editable ."]
    pins = locked(CONDA_PYTHON)
    assert named == {name: pins[name] for name in DIRECT}


def test_without_torch_the_lock_keeps_all_the_rest():
    gone = set(LOCK.splitlines()) - set(setup.without_torch(LOCK).splitlines())
    names = {re.split("==", line)[0] for line in gone}
    assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu13", "cuda-toolkit"} <= names
    assert all(re.match("torch|triton|nvidia-|cuda-", name) for name in names)


def test_setup_refuses_an_old_python(monkeypatch):
    monkeypatch.setattr(setup.sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit, match=r"is Python 3\.10; 3\.11 or newer is needed: make PYTHON=python3\.12"):
        setup.main()


def test_setup_refuses_an_unknown_torch(monkeypatch):
    monkeypatch.setenv("TORCH", "sytem")
    with pytest.raises(SystemExit, match="TORCH=sytem is unknown; give TORCH=system"):
        setup.main()


def test_system_torch_must_be_there_and_new_enough(tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setattr(setup.sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(
        SystemExit, match=r"cannot import torch and torchvision \(ModuleNotFoundError: .*\); install it"
    ):
        setup.require_torch()

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "torchvision.py").touch()
    (tmp_path / "torch.py").write_text("__version__ = '2.9.1+cpu'")
    with pytest.raises(SystemExit, match=r"has torch 2\.9\.1\+cpu, 2\.11 or newer is needed"):
        setup.require_torch()
    (tmp_path / "torch.py").write_text("__version__ = '2.11.0'")
    setup.require_torch()


def test_a_complete_environment_is_left_alone(tmp_path, monkeypatch):
    commands = []
    monkeypatch.delenv("TORCH", raising=False)
    monkeypatch.setattr(setup, "VENV", tmp_path)
    monkeypatch.setattr(setup, "call", lambda *command: commands.append(list(map(str, command))))
    setup.main()
    assert [command[1:3] for command in commands] == [["-m", "venv"], ["-m", "pip"], ["-m", "pip"]]
    setup.main()
    assert len(commands) == 3
    (tmp_path / "ready").unlink()  # as if interrupted
    setup.main()
    assert len(commands) == 6
