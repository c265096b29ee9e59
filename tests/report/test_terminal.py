import io

import pytest
from rich.console import Console

from launcher.core.console import printable
from launcher.core.types import Check, Pause, Status, TaskResult
from launcher.report import page
from launcher.report.results import to_json
from launcher.report.terminal import print_report, print_sweep, print_watch
from tests.report.report_records import CHECKS, choice, failed_report, mixed, record, report, task_results


def printed(rep, folder, width=80, **settings):
    file = io.StringIO()
    print_report(rep, folder, Console(file=file, width=width, **settings))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_summary_fits(width, tmp_path):
    records = [*mixed(400), choice(0, True), choice(1, False), record(1, task="a_rather_long_name_of_a_task")]
    text = printed(report(records), tmp_path, width)
    table = text[: text.index("report  ")]
    assert max(len(line) for line in table.splitlines()) <= width
    for part in ("exact_match", "95 % CI", "374/400", "11 unparsed", "3 failed", "bounds [", "±",
                 "812.4 generated tokens/s", "41.27 requests/s", "p50 148 ms", "serve 1.9 s",
                 "3 passed, 1 not applicable"):  # fmt: skip
        assert part in text
    assert f"report  {tmp_path / 'report.html'}\n" in text
    assert "\x1b" not in text


def test_what_is_complete_needs_no_bounds(tmp_path):
    text = printed(report([record(1), record(2)]), tmp_path)
    assert "2/2" in text
    assert "bounds" not in text


def test_colour_is_for_terminals(tmp_path):
    text = printed(report(mixed(100)), tmp_path, force_terminal=True, color_system="standard")
    assert "\x1b[33m" in text


def test_a_run_that_failed_says_why(tmp_path):
    text = printed(failed_report(), tmp_path)
    assert "error  The run failed\nmodel.path: [bold]no[/bold] such folder: 'chekpoints/tiny'\n" in text
    assert "task" not in text


def test_answers_without_token_counts_are_mentioned(tmp_path):
    text = printed(report(throughput={"generated_tokens_per_s": 5.0, "without_usage": 1}), tmp_path)
    assert "speed   5 generated tokens/s, 1 answer without token counts" in text


def test_failed_checks_are_named(tmp_path):
    checks = (*CHECKS, Check("echo", False, "log-probabilities of 3 tokens for 4"))
    text = printed(report(status="invalid", checks=checks), tmp_path)
    assert "failed check echo: log-probabilities of 3 tokens for 4" in text
    assert "3 passed, 1 failed, 1 not applicable" in text


def test_a_task_without_scores_is_listed(tmp_path):
    text = printed(report([record(1, Status.failed)]), tmp_path)
    assert "addition" in text
    assert "0/1" in text
    assert "1 failed" in text


def test_the_most_common_reason_of_each_loss_is_said(tmp_path):
    coverage = {"scored": 1, "refused": 4, "failed": 1, "total": 6}
    reasons = {"refused": {"too long": 3, "no": 1}, "failed": {"no connection": 1}}
    text = printed(report(tasks={"t": TaskResult({}, coverage, reasons)}), tmp_path)
    assert "\nt refused (3 of 4): too long\n" in text
    assert "\nt failed: no connection\n" in text


def test_notes_are_shown_with_their_number(tmp_path):
    notes = {"answered by the model '[red]\x1b[31m', requested was 'm'": 7}
    rep = report(tasks={"t": TaskResult({}, {"scored": 7, "total": 7}, notes=notes)})
    assert "\nt note (7 answers): answered by the model '[red][31m', requested was 'm'\n" in printed(rep, tmp_path)
    assert to_json(rep)["tasks"]["t"]["notes"] == notes
    assert "note, 7 times: answered by the model" in page.write(rep, tmp_path).read_text()


def test_what_was_not_reached_is_called_out(tmp_path):
    text = printed(report(status="interrupted", tasks=task_results([record(1)], unreached=9)), tmp_path)
    assert "9 not asked" in text
    assert "paused" not in text


def test_pauses_are_summed_up(tmp_path):
    pauses = [Pause("then", 12.5, "the server restarts (first)"), Pause("then", 60.0, "it is \x1b[31mred")]
    text = printed(report([record(1)], pauses=pauses), tmp_path)
    assert "paused  2 times, 1 min 12 s in all; last: it is [31mred" in text


def test_text_from_outside_cannot_steer_the_terminal(tmp_path):
    text = printed(report(reason="a\x1b[2Jb\u202ec\td\x07"), tmp_path)
    assert "a[2Jbc d" in text
    assert printable("line\nשלום 👍") == "line\nשלום 👍"


def test_a_console_without_unicode_gets_ascii(tmp_path):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_report(report([record(1), record(2)]), tmp_path, Console(file=file, width=80))
    file.seek(0)
    assert "+/-" in file.read()


def sweep_of(points):
    return {"schema_version": 1, "points": points, "comparisons": []}


def point(name, overrides, tasks=None, status="ok", reason=None):
    return {
        "folder": name, "overrides": overrides, "status": status, "reason": reason, "tasks": tasks or {}, "timings": {}
    }  # fmt: skip


def test_a_sweep_without_scores_is_printed(tmp_path):
    file = io.StringIO()
    collected = sweep_of(
        [point("0", ["a=1"], status="error", reason="no [red]GPU"), point("1", ["a=2"], status="missing")]
    )
    print_sweep(collected, tmp_path, Console(file=file, width=80))
    text = file.getvalue()
    assert "No point scored a sample." in text
    assert "point 0 (a=1): error: no [red]GPU" in text
    assert "point 1 (a=2): missing: -" in text
    assert str(tmp_path / "sweep.html") in text


def measured(name):
    metric = {"value": 0.5, "stderr": 0.05, "direction": "higher"}
    coverage = {"scored": 20, "total": 20}
    return {"arc_easy": {"metrics": {"acc": metric, "acc_norm": metric}, "coverage": coverage}}


@pytest.mark.parametrize("width", [44, 60, 80, 120])
def test_points_and_checkpoints_keep_their_names_and_numbers_whole_on_any_terminal(width, tmp_path):
    points = [point(name, [f"model.path={name}"], measured(name)) for name in ("step_1000", "step_2000")]
    file = io.StringIO()
    console = Console(file=file, width=width)
    print_sweep(sweep_of(points), tmp_path, console)
    print_watch(sweep_of([{**each, "name": each["folder"]} for each in points]), tmp_path, console)
    tables = file.getvalue()
    for name in ("step_1000", "step_2000"):
        assert tables.count(f"path={name}") + tables.count(f" {name} ") >= 2
    assert tables.count("0.500 ± 0.050") == 8
    assert tables.count("20/20") in (4, 6, 8)
