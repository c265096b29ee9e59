"""``servers.json`` and ``servers.html``: servers side by side, as files."""

from __future__ import annotations

import os
from pathlib import Path

from launcher.core.files import replace
from launcher.core.run_folder import RunFolder
from launcher.report import load_curves, page, results
from launcher.verdict.servers import speed
from launcher.verdict.servers.schema import ServersFile


def write(found: ServersFile, folder: Path) -> Path:
    """Write both files into a folder; return the path of the page."""
    target = RunFolder(folder)
    replace(target.servers, results.encode(found, indent=2) + "\n")
    loads = {one["label"]: one["load"] for one in found["servers"] if one["load"] is not None}
    values = {
        "found": found,
        "speed": speed,
        "curves": load_curves.curves(loads),
        "levels": sorted({level["in_flight"] for load in loads.values() for level in load["levels"]}),
        "reports": {one["label"]: _report(Path(one["folder"]), folder) for one in found["servers"]},
        "ratio_at": {(e["figure"], e["in_flight"], e["a"], e["b"]): e for e in found["ratios"]},
    }
    return replace(target.servers_page, page.render("servers.html.j2", values))


def _report(run: Path, folder: Path) -> str:
    """Return where the report of a run is, as seen from the page; empty where there is none."""
    report = RunFolder(run).report
    return os.path.relpath(report, folder) if report.exists() else ""
