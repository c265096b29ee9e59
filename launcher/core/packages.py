"""Says which packages of an extra are not installed, and how to install them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from launcher.core.errors import UserError


def require(what: str, extra: str, packages: Sequence[str]) -> None:
    """Raise `UserError` where a package that ``what`` needs cannot be imported; nothing is imported."""
    lacking = [package for package in packages if find_spec(package) is None]
    if lacking:
        noun = "the packages" if len(lacking) > 1 else "the package"
        raise UserError(
            f"{what} needs {noun} {', '.join(lacking)}: pip install 'nemo-megatron-launcher[{extra}]'; "
            "backend=external evaluates a server that runs elsewhere"
        )
