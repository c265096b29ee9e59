"""Runs the commands of a tutorial as its reader would: all its ``bash`` blocks, in one shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```bash\n(?P<code>.*?)^```", re.M | re.S)


def follow(
    page: str, folder: Path, stand_ins: Mapping[str, str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the page's commands in ``folder``, with words replaced that stand for what the reader has."""
    script = "\n".join(BLOCK.findall((ROOT / "docs" / "tutorials" / page).read_text()))
    for written, here in stand_ins.items():
        assert written in script, f"{page} no longer has {written}"
        script = script.replace(written, here)
    env = {**(environment or os.environ), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, cwd=folder, env=env, timeout=600
    )
