"""A Hydra-configured launcher that serves a checkpoint, validates the endpoint and evaluates it.

``import launcher`` gives Python what the command line does: `run`, `sweep`, `plan`, `serve`, `load` and `compare`.
Nothing heavy is imported before one of them is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.python.comparison import Comparison
    from launcher.python.endpoint import Endpoint
    from launcher.python.errors import LauncherError
    from launcher.python.run import Run
    from launcher.python.start import compare, load, plan, run, serve, sweep
    from launcher.python.sweep import Sweep

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Endpoint",
    "LauncherError",
    "Run",
    "Sweep",
    "__version__",
    "compare",
    "load",
    "plan",
    "run",
    "serve",
    "sweep",
]

_MODULES = {
    "Comparison": "comparison",
    "Endpoint": "endpoint",
    "LauncherError": "errors",
    "Run": "run",
    "Sweep": "sweep",
    **dict.fromkeys(("compare", "load", "plan", "run", "serve", "sweep"), "start"),
}
"""The module of `launcher.python` that each public name comes from."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'launcher' has no attribute '{name}'")
    return getattr(import_module(f"launcher.python.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
