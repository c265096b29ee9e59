import pytest

from launcher.core.errors import UserError
from launcher.core.types import GroupResult
from launcher.report import sweep_table
from tests.report.report_records import add_point, choice, first_right, record, report, task_results


def test_the_points_are_gathered_in_natural_order(folder):
    found = sweep_table.collect(folder)["points"]
    assert [point["folder"] for point in found] == ["0", "1", "2", "10", "11"]
    assert [point["status"] for point in found] == ["ok", "ok", "ok", "error", "missing"]
    assert found[0]["overrides"] == ["adapters=[]", "engine=echo", "t=0.0"]
    assert found[0]["tasks"]["addition"]["metrics"]["exact_match"]["value"] == 0.4
    assert found[0]["timings"]["evaluate"] == 7.4
    assert found[3]["reason"].startswith("model.path")
    assert found[4]["reason"] == "the point ended without results.json"


def test_the_points_are_compared_in_pairs(folder):
    found = {(item["a"], item["b"]): item for item in sweep_table.collect(folder)["comparisons"]}
    assert list(found) == [("0", "1"), ("0", "2"), ("1", "2")]
    assert found["0", "1"]["p"] == 0.5
    assert found["0", "2"]["difference"] == 0.4
    assert found["0", "2"]["p_holm"] < 0.05


def test_only_overrides_that_differ_are_columns(folder):
    layout = sweep_table.table(sweep_table.collect(folder))
    assert layout.overrides == ["adapters", "t"]
    assert layout.common == ["engine=echo"]
    assert layout.metrics == [("addition", "exact_match")]
    assert [overrides for _, overrides, _ in layout.rows][2] == {"adapters": "[reasoning]", "t": "0.5"}


def test_the_best_is_marked_if_it_beats_every_other_point(folder):
    cells = [cells[0] for _, _, cells in sweep_table.table(sweep_table.collect(folder)).rows]
    assert [(cell.best, cell.worse) for cell in cells[:3]] == [(False, True), (False, True), (True, False)]
    assert cells[3:] == [None, None]


def test_nothing_is_marked_best_if_it_may_be_chance(tmp_path):
    add_point(tmp_path, "0", ["a=1"], first_right(40))
    add_point(tmp_path, "1", ["a=2"], first_right(79))
    add_point(tmp_path, "2", ["a=3"], first_right(80))
    cells = [cells[0] for _, _, cells in sweep_table.table(sweep_table.collect(tmp_path)).rows]
    assert [(cell.best, cell.worse) for cell in cells] == [(False, True), (False, False), (False, False)]


def test_less_is_better_for_a_loss(tmp_path):
    for name, base in (("0", 1.0), ("1", 2.0)):
        rows = [record(number, scores={"perplexity": base + number % 7 / 100 * base}) for number in range(50)]
        add_point(tmp_path, name, [f"a={name}"], rows)
    cells = [cells[0] for _, _, cells in sweep_table.table(sweep_table.collect(tmp_path)).rows]
    assert [(cell.best, cell.worse) for cell in cells] == [(True, False), (False, True)]


def test_a_single_point_is_never_the_best(tmp_path):
    add_point(tmp_path, "0", ["a=1"], first_right(99))
    ((_, _, (cell,)),) = sweep_table.table(sweep_table.collect(tmp_path)).rows
    assert not cell.best


def test_points_may_have_different_tasks(tmp_path):
    add_point(tmp_path, "0", ["tasks=[facts]"], [choice(number, True) for number in range(5)])
    add_point(
        tmp_path, "1", ["tasks=[addition,facts]"], [*first_right(3, 5), *(choice(number, True) for number in range(5))]
    )
    layout = sweep_table.table(sweep_table.collect(tmp_path))
    assert layout.metrics == [("facts", "acc"), ("facts", "acc_norm"), ("addition", "exact_match")]
    assert layout.rows[0][2][2] is None


def test_nested_points_are_found(tmp_path):
    add_point(tmp_path, "engine=echo/lr=1", ["engine=echo"], first_right(1, 2))
    assert sweep_table.collect(tmp_path)["points"][0]["folder"] == "engine=echo/lr=1"


def test_a_damaged_point_says_what_is_wrong(folder):
    (folder / "1" / "results.json").write_text("{")
    point = sweep_table.collect(folder)["points"][1]
    assert point["status"] == "missing"
    assert "not valid JSON" in (point["reason"] or "")


def test_a_point_whose_job_is_not_over_has_no_result_so_far(folder):
    for name in ("11", "10"):
        (folder / name / "slurm").mkdir()
        (folder / name / "slurm" / "job.json").write_text("{}")
        (folder / name / "results.json").unlink(missing_ok=True)
    (folder / "10" / "slurm" / "outcome.json").write_text("{}")
    reasons = {point["folder"]: point["reason"] for point in sweep_table.collect(folder)["points"]}
    assert reasons["11"] == f"no results.json so far; for its job: launcher status {folder / '11'}"
    assert reasons["10"] == "the point ended without results.json"


def test_a_folder_that_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run and no sweep"):
        sweep_table.collect(tmp_path)


def test_a_group_is_shown_instead_of_its_members(tmp_path):
    for name in ("0", "1"):
        tasks = task_results([*first_right(3, 5), choice(0, True)])
        groups = {"both": GroupResult(("addition",), "size", (), tasks["addition"])}
        add_point(tmp_path, name, [f"a={name}"], first_right(3, 5), report(tasks=tasks, groups=groups))
    collected = sweep_table.collect(tmp_path)
    assert [list(point["groups"]) for point in collected["points"]] == [["both"], ["both"]]
    layout = sweep_table.table(collected)
    assert layout.metrics == [("both", "exact_match"), ("facts", "acc"), ("facts", "acc_norm")]
    assert [cells[0].value for _, _, cells in layout.rows] == [0.6, 0.6]
