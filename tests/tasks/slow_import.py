"""A module that takes CPU time to import, as those do that import a large package."""

from __future__ import annotations

import time

end = time.process_time() + 0.3
while time.process_time() < end:
    pass


def two() -> int:
    return 2
