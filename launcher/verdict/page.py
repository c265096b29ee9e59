"""``comparison.json`` and ``comparison.html``: a comparison as files."""

from __future__ import annotations

from pathlib import Path

from launcher.core.files import replace
from launcher.core.run_folder import RunFolder
from launcher.report import page, results
from launcher.verdict.schema import ComparisonFile


def write(found: ComparisonFile, folder: Path) -> Path:
    """Write both files into a folder, which is made where it is missing; return the path of the page."""
    target = RunFolder(folder)
    replace(target.comparison, results.encode(found, indent=2) + "\n")
    return replace(target.comparison_page, page.render("comparison.html.j2", {"found": found}))
