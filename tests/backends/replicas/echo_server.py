"""The evaluations' server, started as vLLM is: ``echo_server.py CHECKPOINT --port PORT ...``.

With ``--refuse`` among its arguments it does not start.
"""

from __future__ import annotations

import asyncio
import sys

from tests.evaluate import evaluation_server

if __name__ == "__main__":
    if "--refuse" in sys.argv:
        sys.exit("no place for weights")
    asyncio.run(evaluation_server._main(int(sys.argv[sys.argv.index("--port") + 1])))
