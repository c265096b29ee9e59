import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from launcher.checkpoints.watch_record import WatchRecord
from launcher.core.errors import UserError
from launcher.core.types import Status
from launcher.report import watch
from launcher.report.sweep_schema import SettingEntry
from tests.report.report_records import HOSTILE, add_point, choice, first_right, record

TRAINING = Path("/scratch/gpt/checkpoints")


def entry(folder, step, status="ok", modified=0.0, reason=None):
    return WatchRecord(folder, f"{TRAINING}/{folder}", step, modified, "stamp", 1, status, reason)


def run(out, entries, console=None, over=True):
    watch.report(out, TRAINING, entries, over, console)
    return json.loads((out / "watch.json").read_text()), (out / "watch.html").read_text()


@pytest.fixture
def grown(tmp_path):
    """Five checkpoints: better, better by chance, missed, worse."""
    for step, right in ((100, 20), (200, 60), (300, 61), (500, 30)):
        add_point(tmp_path, f"step_{step}", ["engine=echo"], first_right(right))
    entries = [entry(f"step_{step}", step) for step in (100, 200, 300, 500)]
    return [*entries[:3], entry("step_400", 400, "missed", reason="it was removed"), entries[3]]


def test_each_checkpoint_is_compared_with_the_one_before_and_the_best_before(tmp_path, grown):
    found, page = run(tmp_path, grown)
    compared = [(item["a"], item["b"], item["against"]) for item in found["comparisons"]]
    assert compared == [
        ("step_100", "step_200", ["previous", "best"]),
        ("step_200", "step_300", ["previous", "best"]),
        ("step_300", "step_500", ["previous", "best"]),
    ]
    assert [item["p_holm"] < 0.05 for item in found["comparisons"]] == [True, False, True]
    assert re.findall(r'class="value (\w*)"', page) == ["", "better", "", "worse"]
    assert len(re.findall('class="path"', page)) == 3
    assert 'href="step_500/report.html"' in page
    assert "<h1><bdi>tiny-gpt</bdi></h1>" in page
    assert 'data-tip="step 200: 0.600, 95 %' in page
    assert "it was removed" in page


def test_the_best_before_may_be_an_earlier_one(tmp_path):
    for step, right in ((1, 80), (2, 20), (3, 30)):
        add_point(tmp_path, f"step_{step}", [], first_right(right))
    found, page = run(tmp_path, [entry(f"step_{step}", step) for step in (1, 2, 3)])
    roles = {(item["a"], item["b"]): item["against"] for item in found["comparisons"]}
    assert roles["step_1", "step_3"] == ["best"]
    assert roles["step_2", "step_3"] == ["previous"]
    assert "-0.500 vs the best before, <b>significant</b>" in page


def test_curves_share_their_axis_and_say_how_much_was_scored(tmp_path):
    """A checkpoint without a score in one metric leaves a gap there, and moves no other point."""
    add_point(tmp_path, "step_1", [], [record(number, Status.failed) for number in range(10)])
    add_point(tmp_path, "step_2", [], [*first_right(1, 2), *(record(20 + n, Status.failed) for n in range(8))])
    add_point(tmp_path, "step_3", [], [*first_right(5, 10), choice(30, True)])
    add_point(tmp_path, "step_4", [], [*first_right(6, 10), choice(30, True)])
    _, page = run(tmp_path, [entry(f"step_{n}", n, "ok" if n > 2 else "incomplete") for n in (1, 2, 3, 4)])
    at = [re.findall(r'class="value [^"]*" cx="([\d.]+)%"', curve) for curve in page.split("<figure")[1:]]
    assert len(at) == 3
    assert at[0][1:] == at[1] == at[2]
    assert page.count("2 of 10 scored") == 3, "in the table, in what the point says, and for those who cannot see it"
    assert page.count("0 of 10 scored") == 1
    assert page.count('outcome-warning">incomplete') == 2


def test_the_terminal_table_fits_and_shows_the_last(tmp_path, grown):
    file = io.StringIO()
    run(tmp_path, grown, Console(file=file, width=80))
    text = file.getvalue()
    assert max(len(line) for line in text.splitlines() if not line.startswith("report")) <= 80
    for part in ("step 100", "0.600", "+0.400*", "+0.010 ", "-0.310*", "step 400: missed: it was removed"):
        assert part in text


def test_a_score_that_never_changes_is_a_flat_curve(tmp_path):
    for step in (1, 2):
        add_point(tmp_path, f"step_{step}", [], [choice(number, True) for number in range(20)])
    _, page = run(tmp_path, [entry("step_1", 1), entry("step_2", 2)])
    assert page.count('class="path"') == 2  # acc and acc_norm


def test_without_steps_the_curve_is_over_time(tmp_path):
    for name, right in (("a", 20), ("b", 60)):
        add_point(tmp_path, name, [], first_right(right))
    _, page = run(tmp_path, [entry("a", None, modified=1e9), entry("b", None, modified=1e9 + 7200)])
    assert "Scores over time" in page
    assert ">1 h</text>" in page


def test_a_watch_that_goes_on_reloads_its_page(tmp_path):
    _, page = run(tmp_path, [entry("step_1", 1, "evaluating")], over=False)
    assert '<meta http-equiv="refresh"' in page
    assert "evaluating" in page


def test_hostile_names_stay_text(tmp_path):
    _, page = run(tmp_path, [entry("x", None, "error", reason=HOSTILE)])
    assert "<img" not in page


def test_what_an_earlier_session_left_is_read(tmp_path, grown):
    assert watch.read(tmp_path) == []
    run(tmp_path, grown)
    assert watch.read(tmp_path) == grown
    (tmp_path / "watch.json").write_text("[]")
    with pytest.raises(UserError, match="not what a watch has written"):
        watch.read(tmp_path)


def test_a_checkpoint_with_results_of_another_schema_is_refused_in_one_line(tmp_path, grown):
    (tmp_path / "step_200" / "results.json").write_text('{"schema_version": 1}')
    with pytest.raises(UserError, match=r"step_200/results\.json: schema_version is 1, expected 2; resume="):
        run(tmp_path, grown)


def test_the_curves_of_several_settings_lie_over_each_other(tmp_path):
    settings = [SettingEntry(name=str(n), overrides=[f"evaluate.temperature={n}"]) for n in (0, 1)]
    entries = []
    for step, rights in ((100, (20, 60)), (200, (60, 30))):
        for setting, right in enumerate(rights):
            add_point(tmp_path, f"step_{step}/{setting}", [], first_right(right))
            entries.append(entry(f"step_{step}/{setting}", step))
    watch.report(tmp_path, TRAINING, entries, True, None, settings)
    found, page = json.loads((tmp_path / "watch.json").read_text()), (tmp_path / "watch.html").read_text()
    assert found["settings"] == settings
    assert [(item["a"], item["b"]) for item in found["comparisons"]] == [
        ("step_100/0", "step_200/0"),
        ("step_100/1", "step_200/1"),
    ]
    assert page.count('<figure class="curve"') == 1
    assert re.findall(r'class="path (series-\d)"', page) == ["series-1", "series-2"]
    assert re.findall("[▲▼]</text>", page) == ["▲</text>", "▼</text>"]
    tips = re.findall('data-tip="([^"]*)"', page)
    assert [tip.split(":")[0] for tip in tips] == [
        f"step {step}, evaluate.temperature={n}" for n in (0, 1) for step in (100, 200)
    ]
    assert "significantly worse than the checkpoint before" in tips[3]
    with pytest.raises(UserError, match=r"this watch evaluates .*=0, evaluate.*=1, and one"):
        watch.read(tmp_path)
