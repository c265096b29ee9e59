"""Finds what isolates a program on this machine, by trying it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from launcher.core.errors import UserError

INSIDE = Path(__file__).parent / "inside"
PLACE = "/sandbox"
"""Where the sandbox shows the folder `INSIDE`."""
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/nix/store", "/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
TMP_BYTES = 64 << 20
TRIAL_S = 60.0
ENVIRONMENT = {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""All that a program finds in its environment: numpy must not reserve memory for each core."""
LIMITS = {"cpu_s": 10, "memory_bytes": 1 << 30, "file_bytes": TMP_BYTES, "open_files": 256}

TRIAL = """
import os
assert os.getpid() == 2, "a namespace of processes"
assert not os.path.exists({marker!r}), "a private /tmp"
for path in "/", "/usr":
    assert os.statvfs(path).f_flag & os.ST_RDONLY, path + " read-only"
"""
REFUSED = """
import os, socket
for what in os.fork, socket.socket:
    try:
        what()
    except PermissionError:
        continue
    raise AssertionError(what.__name__ + " refused")
"""


@dataclass(frozen=True)
class Isolation:
    """A way to start the supervisor: ``command``, in an empty folder of its own if ``folder``."""

    name: str
    command: tuple[str, ...]
    folder: bool = False


def isolation(unsafe: bool) -> Isolation:
    """Return the best isolation that works. Raises `UserError` if none does and ``unsafe`` is not allowed."""
    found, reasons = _tried()
    if found is not None:
        return found
    if unsafe:
        return _none()
    raise UserError(
        f"tasks: programs that a model writes need a sandbox, and none works here ({'; '.join(reasons)}); install "
        "bubblewrap, allow user namespaces, or set unsafe=true of the task where nothing can be harmed"
    )


@cache
def _tried() -> tuple[Isolation | None, tuple[str, ...]]:
    reasons: list[str] = []
    for each in (_bubblewrap(), _namespaces()):
        reason = f"{each.name}: {_fault(each, TRIAL)}" if each.command else "bubblewrap: not installed"
        if reason.endswith(": "):
            return each, ()
        reasons.append(reason)
    return None, tuple(reasons)


def _fault(each: Isolation, trial: str) -> str:
    """Return why a trial program does not pass in it; empty if it does."""
    with tempfile.NamedTemporaryFile(prefix="launcher-trial-") as marker:
        job = {"code": REFUSED, "test": trial.format(marker=marker.name), **LIMITS}
        try:
            done = subprocess.run(
                each.command,
                input=json.dumps(job).encode(),
                capture_output=True,
                timeout=TRIAL_S,
                env=dict(ENVIRONMENT),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    try:
        outcome = json.loads(done.stdout)
    except ValueError:
        return (done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}").splitlines()[-1][:200]
    return "" if outcome["kind"] == "passed" else str(outcome["detail"]) or str(outcome["kind"])


def _bubblewrap() -> Isolation:
    program = shutil.which("bwrap")
    if program is None:
        return Isolation("bubblewrap", ())
    options = [
        "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL",
        "--size", str(TMP_BYTES), "--tmpfs", "/tmp",
        *_words("--ro-bind", shown()), *_words("--dev-bind", DEVICES),
        "--ro-bind", str(INSIDE), f"{PLACE}/inside", "--remount-ro", "/", "--chdir", "/tmp", "--",
    ]  # fmt: skip
    return Isolation("bubblewrap", (program, *options, *_python("supervisor", PLACE)))


def _namespaces() -> Isolation:
    layout = {"shown": [*shown(), str(INSIDE)], "devices": list(DEVICES), "tmp_bytes": TMP_BYTES}
    return Isolation("namespaces", (*_python("namespaces", str(INSIDE.parent)), json.dumps(layout)))


def _none() -> Isolation:
    return Isolation("none", _python("supervisor", str(INSIDE.parent)), folder=True)


def _words(option: str, paths: tuple[str, ...]) -> Iterator[str]:
    for path in paths:
        yield from (option, path, path)


def _python(module: str, place: str) -> tuple[str, ...]:
    """Return the command that runs a module of `INSIDE`, whose parent folder is ``place``."""
    code = f"import sys; sys.path.insert(0, {place!r}); from inside.{module} import main; del sys.path[0]; main()"
    return sys.executable, "-I", "-B", "-c", code


def shown() -> tuple[str, ...]:
    """Return what a program may read: the system's libraries, and Python with its packages."""
    paths = sysconfig.get_paths()
    python = {sys.prefix, sys.base_prefix, sys.exec_prefix, *(paths[key] for key in ("stdlib", "purelib", "platlib"))}
    found = [path for path in (*SYSTEM, *sorted(python)) if Path(path).exists()]
    return tuple(path for path in found if not any(path.startswith(f"{other}/") for other in found))
