"""Make `.venv` with the locked dependencies and snnkit; do nothing if it is there and complete.

The Makefile runs this with the Python that `.venv` shall have. TORCH=system takes a torch and torchvision which that
Python already has in place of the locked 5 GB. Interrupted at any point, it can simply be run again.
Only the standard library, in syntax that an older Python still reads, so that it can say that it is too old.
"""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OLDEST_TORCH = (2, 11)
SHARED = "include-system-site-packages = true"
OF_TORCH = re.compile(r"(torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+)==")


def main():
    """Leave a complete `.venv`, or end with one line that says why not."""
    if sys.version_info < (3, 11):  # noqa: UP036 (an older Python has to read this)
        sys.exit(f"{sys.executable} is Python {_python()}; 3.11 or newer is needed: make PYTHON=python3.12 ...")
    stamp = VENV / "ready"
    made_of = stamp.read_text(encoding="utf-8") if stamp.is_file() else ""
    torch = os.environ.get("TORCH") or ("system" if SHARED in _settings() else "locked")
    if torch not in ("system", "locked"):
        sys.exit(f"TORCH={torch} is unknown; give TORCH=system, or TORCH=locked for the version in requirements.lock")
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[tool.ruff", 1)[0]
    wanted = f"torch: {torch}\npython: {_python()}\n{project}{lock}"
    if made_of == wanted:
        return

    stamp.unlink(missing_ok=True)
    if torch == "system":
        require_torch()
        lock = without_torch(lock)
    print(f"Setting up .venv: some minutes{', 5 GB' if torch == 'locked' else ''}", flush=True)
    create(torch == "system")
    (VENV / "requirements.txt").write_text(lock, encoding="utf-8")
    pip = [VENV / "bin/python", "-m", "pip", "--disable-pip-version-check", "install"]
    call(*pip, "-r", VENV / "requirements.txt")
    call(*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    part = VENV / "ready.part"
    part.write_text(wanted, encoding="utf-8")
    os.replace(part, stamp)


def without_torch(lock):
    """The lock file's text without torch, torchvision and the packages that only they need."""
    return "".join(line for line in lock.splitlines(True) if not OF_TORCH.match(line))


def require_torch():
    """End with one line unless this Python imports torchvision and a torch that is new enough."""
    asked = "import torch, torchvision; print(torch.__version__)"
    answer = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    way_out = "install it there, name another Python in PYTHON, or leave TORCH=system out"
    if answer.returncode:
        reason = answer.stderr.strip().rpartition("\n")[2]
        sys.exit(f"TORCH=system: {sys.executable} cannot import torch and torchvision ({reason}); {way_out}")
    version = answer.stdout.split()[-1]
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        sys.exit(f"TORCH=system: {sys.executable} has torch {version}, {oldest} or newer is needed; {way_out}")


def create(shared):
    """Make the bare virtual environment, anew if it is of another Python, of the other kind of torch, or broken."""
    same = f"version = {_python()}." in _settings() and (SHARED in _settings()) == shared
    options = ["--system-site-packages"] * shared + ["--clear"] * (not same or not _runs(VENV / "bin/python"))
    own = VENV in Path(sys.executable).parents
    call(os.path.realpath(sys.executable) if own else sys.executable, "-m", "venv", *options, VENV)
    if shared and not own and sys.prefix != sys.base_prefix:  # its torch lives in a virtual environment of its own
        library = VENV / "lib" / f"python{_python()}" / "site-packages"
        (library / "torch_of_another.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")


def call(*command):
    """Run a command; end with one line if it fails."""
    if subprocess.run([str(part) for part in command], check=False).returncode:
        sys.exit(f"setting up .venv failed (see above) at: {' '.join(map(str, command[:5]))} ...; then run this again")


def _settings():
    path = VENV / "pyvenv.cfg"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _runs(python):
    try:
        return subprocess.run([str(python), "-c", ""], check=False).returncode == 0
    except OSError:
        return False


def _python():
    return "{}.{}".format(*sys.version_info[:2])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again")
