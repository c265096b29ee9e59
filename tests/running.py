"""Programs that run while a test looks at what they do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float) -> None:
    """Wait until something is so, for ``seconds`` at most; fail with what the process said if it ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)
