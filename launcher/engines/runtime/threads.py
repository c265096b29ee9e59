"""How the threads of torch wait for each other between two operations."""

from __future__ import annotations

import os


def wait_asleep() -> None:
    """Let idle threads sleep instead of spin, unless ``OMP_WAIT_POLICY`` says otherwise; called before torch loads.

    A step has hundreds of operations with Python in between. Threads that spin then take the core from the client,
    the proxy and each other: on two busy cores a step took 25 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
