"""What a folder is, for those who look and for those who delete."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.core.kinds import Kind, kind_of

MARKERS = {
    ".hydra/config.yaml": Kind.run,
    "session.json": Kind.run,
    "multirun.yaml": Kind.sweep,
    "sweep.json": Kind.sweep,
    "watch.json": Kind.watch,
}


@pytest.mark.parametrize(("file", "kind"), MARKERS.items())
@pytest.mark.parametrize("strict", [False, True])
def test_a_folder_is_known_by_a_file(tmp_path: Path, file: str, kind: Kind, strict: bool) -> None:
    assert kind_of(tmp_path, strict=strict) is None
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{}")
    assert kind_of(tmp_path, strict=strict) is kind


def test_a_watch_over_settings_is_a_watch(tmp_path: Path) -> None:
    for file in ("multirun.yaml", "watch.json"):
        (tmp_path / file).write_text("{}")
    assert kind_of(tmp_path) is Kind.watch


def test_what_is_deleted_is_known_for_sure(tmp_path: Path) -> None:
    """A report beside other files is shown; a folder behind a link is shown too. Neither is deleted."""
    (tmp_path / "results.json").write_text("{}")
    assert kind_of(tmp_path) is Kind.run
    assert kind_of(tmp_path, strict=True) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run/session.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert kind_of(tmp_path / "link") is Kind.run
    assert kind_of(tmp_path / "link", strict=True) is None
