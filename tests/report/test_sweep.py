import io
import json
import re

import pytest
from rich.console import Console

from launcher.report import results, sweep
from tests.report.report_records import add_point, first_right


def test_the_files_are_written_and_say_the_same(folder):
    found = sweep.write(folder)
    assert json.loads((folder / "sweep.json").read_text()) == json.loads(results.encode(found))
    text = (folder / "sweep.html").read_text()
    assert 'href="2/report.html"' in text
    assert 'href="11/report.html"' not in text
    assert "<small>best</small>" in text
    assert "the point ended without results.json" in text
    assert not re.search(r"(src|href)=\"(?!\d+/report\.html)", text)


def test_hostile_overrides_stay_text(tmp_path):
    add_point(tmp_path, "a b&c", ["x=<img src=y onerror=z>", "y=1"], first_right(3, 5))
    add_point(tmp_path, "d", ["x=2", "y=1"], first_right(3, 5))
    sweep.write(tmp_path)
    text = (tmp_path / "sweep.html").read_text()
    assert "<img" not in text
    assert 'href="a%20b%26c/report.html"' in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_table_fits(folder, width):
    file = io.StringIO()
    found = sweep.report(folder, Console(file=file, width=width))
    assert json.loads((folder / "sweep.json").read_text()) == found
    text = file.getvalue()
    assert max(len(line) for line in text.splitlines() if not line.startswith("report")) <= width
    for part in ("addition", "exact_match", "0.800 ±", "best", "worse", "[reasoning]", "engine=echo", "missing",
                 "significantly better than every other point"):  # fmt: skip
        assert part in text
    assert f"report  {folder / 'sweep.html'}\n" in text
