import json
import math
from dataclasses import replace
from enum import Enum
from pathlib import Path

import jsonschema
import pytest

from launcher.core.errors import UserError
from launcher.core.types import Check, MetricResult, Pause, Status, TaskResult
from launcher.report import checks as texts
from launcher.report import results
from tests.report.report_records import CHECKS, HOSTILE, choice, failed_report, mixed, record, report, task_results

SCHEMA = json.loads(results.SCHEMA.read_text())
NOTHING = MetricResult(math.nan, math.nan, math.nan, math.nan, 0, 0.0, 1.0)
ALL_FAILED = {**dict.fromkeys((status.value for status in Status), 0), "failed": 2, "not_asked": 0, "total": 2}

REPORTS = {
    "mixed": report([*mixed(200), choice(0, True), choice(1, False)]),
    "one sample": report([record(1)]),
    "categories": report(
        tasks={"a": replace(next(iter(task_results(mixed(20)).values())), categories=task_results(mixed(9)))}
    ),
    "nothing scored": report(
        status="incomplete",
        tasks={"a": TaskResult({"acc": NOTHING}, ALL_FAILED)},
    ),
    "failed": failed_report(),
    "interrupted in a pause": report(
        status="interrupted",
        tasks=task_results(mixed(10), unreached=90),
        pauses=[Pause("2026-01-31T12:00:00.000+00:00", 12.5, HOSTILE)],
    ),
    "invalid": report(status="invalid", checks=(*CHECKS, Check("echo", False, HOSTILE, 1.0)), reason=HOSTILE),
}


@pytest.mark.parametrize("name", REPORTS)
def test_what_is_written_fits_the_schema_and_is_read_back(name, tmp_path):
    path = results.write(REPORTS[name], tmp_path)
    found = results.read(tmp_path)
    jsonschema.validate(found, SCHEMA)
    assert found == results.to_json(REPORTS[name])
    assert [file.name for file in tmp_path.iterdir()] == [path.name] == ["results.json"]


def test_pauses_and_samples_that_were_not_asked_are_written():
    found = results.to_json(REPORTS["interrupted in a pause"])
    assert found["tasks"]["addition"]["coverage"]["not_asked"] == 90
    [pause] = found["pauses"]
    assert (pause["start"], pause["seconds"]) == ("2026-01-31T12:00:00.000+00:00", 12.5)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_api_key_is_never_written(tmp_path):
    text = results.write(report(mixed(3)), tmp_path).read_text()
    assert "sk-secret" not in text
    assert json.loads(text)["endpoint"] == {
        "url": "http://127.0.0.1:8123/v1",
        "model": "tiny-gpt",
        "backend": "inline",
        "engine": "megatron",
    }


def test_numbers_that_are_not_finite_become_null():
    found = results.to_json(REPORTS["nothing scored"])["tasks"]["a"]["metrics"]["acc"]
    assert found == {
        "value": None, "stderr": None, "ci_low": None, "ci_high": None, "n": 0, "low": 0.0, "high": 1.0,
        "direction": "higher", "interval": "none", "aggregation": "mean", "range": [0.0, 1.0],
    }  # fmt: skip


def test_the_certificate_is_counted():
    checks = (
        *CHECKS,
        Check("echo", False, "no", id="echo_aligned"),
        Check("n", None, "no", id="choices", warned=True),
        Check("stop", None, "left out by validate.skip", id="stop", left_out=True),
        Check("chat", None, "no task of this run needs it", id="chat", unneeded=True),
    )
    found = results.certificate(checks)
    assert found == {
        "ok": False,
        "passed": 3,
        "failed": 1,
        "warnings": 1,
        "not_applicable": 2,
        "not_needed": 1,
        "left_out": 1,
        "failed_checks": [{"id": "echo_aligned", "name": "echo"}],
        "warned_checks": [{"id": "choices", "name": "n"}],
        "left_out_checks": [{"id": "stop", "name": "stop"}],
    }
    counted = "3 passed, 1 failed, 1 warned, 1 not applicable, 1 not needed by these tasks, 1 left out by you"
    assert texts.counted(found) == counted
    assert results.certificate(()) is None


def test_plain_keeps_only_what_json_knows():
    colour = Enum("colour", {"red": "r"})
    value = {colour.red: (1, {2.5}), None: Path("a/b"), "x": [True, math.inf, colour.red]}
    assert results.plain(value) == {"r": [1, [2.5]], "None": "a/b", "x": [True, None, "r"]}


@pytest.mark.parametrize(
    ("text", "written"), [("a\ud83d", "a\ufffd"), ("\ude00b", "\ufffdb"), ("\ud83d\ude00", "😀"), ("שלום", "שלום")]
)
def test_text_is_made_well_formed(text, written):
    assert results.encode({"x": text}) == f'{{"x": "{written}"}}'


def test_it_makes_the_folder(tmp_path):
    assert results.write(report(), tmp_path / "a" / "b").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("{", "not valid JSON"),
        ("[]", "schema_version is None, expected 2"),
        ('{"schema_version": 99}', "schema_version is 99, expected 2"),
    ],
)
def test_read_refuses_what_it_cannot_read(text, message, tmp_path):
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        results.read(tmp_path)
    assert str(tmp_path / "results.json") in str(caught.value)
    assert "\n" not in str(caught.value)
