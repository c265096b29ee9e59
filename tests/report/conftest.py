"""The sweep that several tests look at."""

import pytest

from tests.report.report_records import add_point, failed_report, first_right


@pytest.fixture
def folder(tmp_path):
    """Three points of which the last is clearly the best, one that failed, one that died."""
    root = tmp_path / "multirun"
    add_point(root, "0", ["adapters=[]", "engine=echo", "t=0.0"], first_right(40))
    add_point(root, "1", ["adapters=[reasoning]", "engine=echo", "t=0.0"], first_right(42))
    add_point(root, "2", ["adapters=[reasoning]", "engine=echo", "t=0.5"], first_right(80))
    add_point(root, "10", ["adapters=[x]", "engine=echo", "t=0.0"], rep=failed_report())
    add_point(root, "11", ["adapters=[y]", "engine=echo", "t=0.0"])
    (root / "multirun.yaml").write_text("hydra: {}")
    (root / "notes").mkdir()
    return root
