"""``ray start --block``; the end of standard input stops it with all its processes."""

from __future__ import annotations

import os
import sys
import threading

from launcher.core import processes


def main() -> None:
    """Join the Ray that the command line names; the token is in the environment."""
    from ray.scripts.scripts import start

    threading.Thread(target=_exit_with_parent, name="lifeline", daemon=True).start()
    start.main(["--block", "--disable-usage-stats", *sys.argv[1:]], standalone_mode=False)


def _exit_with_parent() -> None:
    while os.read(0, 1):
        pass
    processes.kill_session(os.getsid(0))
    os._exit(0)


if __name__ == "__main__":
    main()
