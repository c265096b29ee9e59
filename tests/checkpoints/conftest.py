"""The examples' folder is importable: the shipped model is checked with the code that made it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
