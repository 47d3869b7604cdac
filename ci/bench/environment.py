"""`.venv-bench`: the peers at the versions of `peers.txt`, on top of the torch of `.venv`."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv-bench"
PEERS = Path(__file__).with_name("peers.txt")


def ensure() -> Path:
    """Make `.venv-bench` unless it is there and complete; returns its Python. Interrupted, it can simply run again."""
    python, stamp = VENV / "bin/python", VENV / "ready"
    library = sysconfig.get_path("purelib")
    wanted = f"{sys.version}\n{library}\n{PEERS.read_text()}"
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print("setting up .venv-bench", flush=True)
    stamp.unlink(missing_ok=True)
    own = os.path.realpath(sys.executable)
    try:
        subprocess.run([own, "-m", "venv", "--clear", VENV], check=True)
        subprocess.run(
            [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "-r", PEERS],
            check=True,
        )
    except subprocess.CalledProcessError as error:
        sys.exit(f"setting up .venv-bench failed (see above): {error}; then run this again")
    site = VENV / "lib" / "python{}.{}".format(*sys.version_info[:2]) / "site-packages"
    (site / "torch_of_the_project.pth").write_text(f"{library}\n{ROOT}\n")
    stamp.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    """{package: version} of the peers, as installed."""
    names = [line.split("==")[0] for line in PEERS.read_text().splitlines() if line and not line.startswith("#")][:4]
    code = "import sys, importlib.metadata as m; print(*(m.version(n) for n in sys.argv[1:]))"
    answer = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    return dict(zip(names, answer.stdout.split(), strict=True))
