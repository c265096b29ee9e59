"""The sentences at the end of a sweep."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from launcher.report import results
from launcher.report.compare import Answers, reading_once
from launcher.verdict import sweep
from tests.report.report_records import add_point, failed_report
from tests.verdict.run_folders import answered, run_folder


def printed(folder: Path) -> str:
    console = Console(width=80, record=True, quiet=False)
    sweep.show(folder, console)
    return " ".join(console.export_text().split())


def point(folder: Path, name: str, right: int, **how) -> None:
    records = answered(set(range(right)))
    add_point(folder, name, [f"evaluate.seed={name}"], records)
    run_folder(folder / name, records, **how)


def test_each_point_is_held_against_the_first(tmp_path: Path) -> None:
    point(tmp_path, "0", 40)
    point(tmp_path, "1", 60, evaluate={"seed": 1})
    add_point(tmp_path, "2", ["evaluate.seed=2"], rep=failed_report())
    point(tmp_path, "3", 40)
    text = printed(tmp_path)
    assert "addition exact_match point 1 is better than point 0 by 0.200 ± 0.080" in text
    assert "point 0 and point 3 score the same in each of 100 questions" in text
    assert f"launcher compare {tmp_path} --force" in text.replace("\n", "")


def test_only_a_sweep_of_what_is_not_comparable_needs_force(tmp_path: Path) -> None:
    point(tmp_path, "0", 40)
    point(tmp_path, "1", 60)
    assert f"launcher compare {tmp_path}" in (text := printed(tmp_path).replace("\n", ""))
    assert "--force" not in text


def test_one_point_with_answers_has_no_verdict(tmp_path: Path) -> None:
    point(tmp_path, "0", 40)
    add_point(tmp_path, "1", ["evaluate.seed=1"], rep=failed_report())
    assert printed(tmp_path) == ""


def test_a_file_is_read_once_for_the_same_metrics(tmp_path):
    folder = run_folder(tmp_path / "a", answered({1, 2}, 5))
    tasks = results.read(folder)["tasks"]
    with reading_once():
        first = Answers.read(folder, tasks)
        assert Answers.read(folder, tasks) is first
        folder.joinpath("samples.jsonl").open("a").close()
        assert Answers.read(folder, {}) is not first
    assert Answers.read(folder, tasks) is not first
