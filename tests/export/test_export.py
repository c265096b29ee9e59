"""What is exported is read back with the other programs' own readers, with samples of every kind."""

from __future__ import annotations

import csv
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from launcher.core.errors import UserError
from launcher.core.types import Status
from launcher.export import formats, inspect_log, rows
from launcher.export.source import Source, sources
from launcher.report.schema import TaskEntry
from tests.report.report_records import choice, hostile, record, write_samples
from tests.running import UNVALIDATED, launch_here
from tests.verdict.run_folders import run_folder

HUGE = 10**40
ODD = 'ünï 漢字 \U0001f600 \x00\x1b[31m a,b "quoted"\nsecond line | `code` ]]> =1+1 \ud83d'
LOST = (Status.truncated, Status.refused, Status.unparsed, Status.failed)


def odd_records() -> list[Any]:
    """A scored sample of each kind of value, and one of each status without a score."""
    scored = [
        record(0, prediction=ODD, target=ODD, id=ODD),
        record(1, scores={"exact_match": 0.0, "f1": 0.123456789012345678}),
        record(2, scores={"exact_match": 1.0, "count": HUGE, "parts": [1, None, {"a": "b"}], "nothing": math.nan}),
        record(3, repeat=1),
        choice(4, True),
    ]
    lost = [record(10 + place, status, prediction=None, scores={}, reason=f"why {ODD}")
            for place, status in enumerate(LOST)]  # fmt: skip
    return [*scored, *lost, *hostile()]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    odd = odd_records()
    plain = [replace(each, scores={"exact_match": 1.0}) if "exact_match" in each.scores else each for each in odd]
    folder = run_folder(tmp_path / "run", plain, status="incomplete", reason=f"coverage {ODD}")
    write_samples(folder, odd)
    return folder


def written(folder: Path, name: str, out: Path) -> list[Path]:
    found, missing = sources(folder)
    assert not missing
    return [path for _, path in formats.write(found, [name], out)]


def every_id(folder: Path) -> list[str]:
    return [rows.text(each.id) for each in Source(folder, "run").records()]


def test_csv(run: Path, tmp_path: Path) -> None:
    scores, samples = written(run, "csv", tmp_path / "out")
    csv.field_size_limit(10_000_000)
    with samples.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["id"] for row in found] == every_id(run)
    assert found[0]["prediction"] == rows.text(ODD)
    assert found[2]["score.count"] == str(HUGE)
    assert json.loads(found[2]["score.parts"]) == [1, None, {"a": "b"}]
    for status in LOST:
        (row,) = [row for row in found if row["status"] == status.value and row["id"].startswith("1")]
        assert row["reason"] == rows.text(f"why {ODD}")
        assert not any(value for name, value in row.items() if name.startswith("score."))
    with scores.open(newline="", encoding="utf-8") as file:
        (row, *_) = csv.DictReader(file)
    assert (row["status"], row["stderr"] != "") == ("incomplete", True)
    assert int(row["total"]) > int(row["scored"])


def test_parquet(run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    scores, samples = written(run, "parquet", tmp_path / "out")
    found = parquet.read_table(samples).to_pylist()
    assert [row["id"] for row in found] == every_id(run)
    assert found[1]["score.f1"] == 0.123456789012345678
    assert found[2]["score.count"] == str(HUGE), "a float would not hold it"
    assert found[3]["repeat"] == 1
    assert {row["status"] for row in found} == {status.value for status in Status}
    assert all(row["score.exact_match"] is None for row in found if row["status"] != "scored")
    assert parquet.read_table(scores).to_pylist()[0]["value"] is not None


def test_markdown(run: Path, tmp_path: Path) -> None:
    (path,) = written(run, "markdown", tmp_path / "out")
    text = path.read_text(encoding="utf-8")
    assert "incomplete" in text
    assert "failed" in text
    assert "<script>" not in text
    assert "\x1b" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    columns = {line.replace("\\|", "").count("|") for line in lines}
    assert len(columns) == 1, "no text adds a cell"


def test_junit(run: Path, tmp_path: Path) -> None:
    (path,) = written(run, "junit", tmp_path / "out")
    root = ElementTree.parse(path).getroot()
    cases = root.findall(".//testcase")
    assert len(cases) == len(every_id(run)) + 1
    lost = sum(each.status is not Status.scored for each in Source(run, "run").records())
    assert sum(int(suite.attrib["errors"]) for suite in root) == lost
    assert root[0].find("testcase/failure").attrib["message"].startswith("incomplete")


def test_lm_eval(run: Path, tmp_path: Path) -> None:
    results, *samples = written(run, "lm-eval", tmp_path / "out")
    found = json.loads(results.read_text(encoding="utf-8"))
    assert found["launcher"]["status"] == "incomplete"
    for name, entry in Source(run, "run").results["tasks"].items():
        assert found["n-samples"][name]["effective"] == entry["coverage"]["scored"]
        assert found["n-samples"][name]["original"] == entry["coverage"]["total"]
        for metric, one in entry["metrics"].items():
            assert found["results"][name][f"{metric},none"] == one["value"]
            stderr = found["results"][name][f"{metric}_stderr,none"]
            assert stderr == ("N/A" if one["stderr"] is None else one["stderr"])
    lines = [json.loads(line) for path in samples for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert sorted(line["doc"]["id"] for line in lines) == sorted(every_id(run))
    assert all(line["metrics"] == [] for line in lines if line["status"] != "scored")
    assert all(line[name] is None or line[name] == line[name] for line in lines for name in line["metrics"])
    utils = pytest.importorskip("lm_eval.utils")
    assert "exact_match" in utils.make_table(found)
    names = [str(path) for path in (results, *samples)]
    assert utils.get_results_filenames(names) == names[:1]
    assert utils.get_sample_results_filenames(names) == names[1:]
    assert {utils.get_file_task_name(Path(name).name) for name in names[1:]} == set(found["configs"])


def test_inspect(run: Path, tmp_path: Path) -> None:
    log = pytest.importorskip("inspect_ai.log")
    paths = written(run, "inspect", tmp_path / "out")
    logs = [log.read_eval_log(str(path)) for path in paths]
    assert {each.status for each in logs} == {"error"}
    samples = [sample for each in logs for sample in each.samples]
    assert sorted(sample.metadata["id"] for sample in samples) == sorted(every_id(run))
    for sample in samples:
        lost = sample.metadata["status"] != "scored"
        assert bool(sample.error) is lost
        assert not (lost and sample.scores)
    (count,) = [sample.scores["count"].value for sample in samples if sample.scores and "count" in sample.scores]
    assert int(count) == HUGE
    entry = Source(run, "run").results["tasks"][logs[0].eval.task]
    made = {score.name: score.metrics for score in logs[0].results.scores}
    for metric, one in entry["metrics"].items():
        assert made[metric]["mean"].value == one["value"]
        stderr = made[metric]["stderr"].value
        assert stderr == one["stderr"] or (math.isnan(stderr) and one["stderr"] is None)


def test_inspect_calls_no_number_of_all_samples_a_mean() -> None:
    pytest.importorskip("inspect_ai.log")
    figures = {"value": 19.4, "stderr": 0.8, "ci_low": 18.0, "ci_high": 21.0, "n": 5}
    names = {}
    for kind in ("mean", "items", "corpus"):
        entry = {"metrics": {"m": {**figures, "aggregation": kind}}, "coverage": {"total": 5, "scored": 5}}
        (score,) = inspect_log._scores(cast(TaskEntry, entry))
        names[kind] = next(name for name, metric in score.metrics.items() if metric.value == 19.4)
    assert names == {"mean": "mean", "items": "mean", "corpus": "value"}


def test_mlflow(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    written(run, "mlflow", tmp_path / "out")
    client = tracking.MlflowClient((tmp_path / "out/mlflow/mlruns").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("launcher").experiment_id])
    assert found.info.status == "FAILED"
    assert found.data.tags["status"] == "incomplete"
    for name, entry in Source(run, "run").results["tasks"].items():
        assert found.data.metrics[f"{name}/failed"] == entry["coverage"].get("failed", 0)
        for metric, one in entry["metrics"].items():
            assert found.data.metrics[f"{name}/{metric}"] == one["value"]
            key = f"{name}/{metric}_stderr"
            assert found.data.metrics.get(key) == one["stderr"]
            assert (key in found.data.tags["unknown"]) is (one["stderr"] is None)
    assert {each.path for each in client.list_artifacts(found.info.run_id)} >= {"results.json", "samples.csv"}


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a W&B file: LevelDB's log format, behind a header of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the only, or the last, part of a record
            yield whole
            whole = b""


@pytest.mark.slow
def test_wandb(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.delenv("WANDB_MODE", raising=False)
    written(run, "wandb", tmp_path / "out")
    (file,) = (tmp_path / "out/wandb").rglob("*.wandb")
    found: dict[str, Any] = {}
    for data in wandb_records(file.read_bytes()):
        one = wandb_internal_pb2.Record()
        one.ParseFromString(data)
        found |= {each.key or ".".join(each.nested_key): json.loads(each.value_json) for each in one.summary.update}
    assert found["status"] == "incomplete"
    for name, entry in Source(run, "run").results["tasks"].items():
        for metric, one in entry["metrics"].items():
            assert found[f"{name}/{metric}"] == pytest.approx(one["value"])
    tables = {
        path.name.split("_")[0]: json.loads(path.read_text()) for path in (tmp_path / "out").rglob("*.table.json")
    }
    columns = tables["samples"]["columns"]
    assert [row[columns.index("id")] for row in tables["samples"]["data"]] == every_id(run)


def test_a_sweep_and_a_point_without_results(tmp_path: Path) -> None:
    for name in ("0", "1"):
        run_folder(tmp_path / "sweep" / name, [record(1)])
        (tmp_path / "sweep" / name / ".hydra").mkdir()
        (tmp_path / "sweep" / name / ".hydra/overrides.yaml").write_text("[]")
    (tmp_path / "sweep/2/.hydra").mkdir(parents=True)
    (tmp_path / "sweep/2/.hydra/overrides.yaml").write_text("[]")
    done = launch_here(tmp_path, "export", "sweep", "--to", "csv,markdown")
    assert done.returncode == 1
    assert "not exported: 2: the point ended without results.json" in done.stderr
    assert (tmp_path / "sweep/export/csv/1/scores.csv").is_file()
    assert (tmp_path / "sweep/export/markdown/0/results.md").is_file()


@pytest.mark.parametrize(("words", "says"), [
    (("nowhere", "--to", "csv"), "nowhere: no such folder"),
    ((".", "--to", "csv"), "expected the folder of a finished run"),
    ((".", "--to", "cvs"), "did you mean csv?"),
    ((".", "--to", ","), "--to is empty"),
])  # fmt: skip
def test_mistakes(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = launch_here(tmp_path, "export", *words)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(UserError, match=r"needs the package mlflow: pip install 'nemo-megatron-launcher\[mlflow\]'"):
        formats.check(["mlflow"], "export")


def test_a_run_exports_by_itself_and_a_failing_export_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "run/export").mkdir(parents=True)
    (tmp_path / "run/export/markdown").write_text("in the way of a folder")
    words = ("engine=echo", "model=none", "tasks=[capitals]", "evaluate.limit=2", UNVALIDATED, "hydra.run.dir=run")
    done = launch_here(tmp_path, *words, "export=[markdown,csv]")
    assert done.returncode == 0, done.stderr
    assert "export=markdown: " in done.stderr
    assert (tmp_path / "run/export/csv/samples.csv").is_file()
    assert json.loads((tmp_path / "run/results.json").read_text())["status"] == "ok"
    refused = launch_here(tmp_path, *words, "export=[cvs]")
    assert refused.returncode == 1
    assert "export=cvs: no such format (did you mean csv?)" in refused.stderr


def test_a_run_that_failed(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [], status="error", reason="the disk is full", tasks={}, endpoint=None)
    for name in ("markdown", "junit"):
        assert "the disk is full" in "".join(path.read_text() for path in written(folder, name, tmp_path / "o"))
    for name in ("csv", "lm-eval", "parquet", "inspect"):
        with pytest.raises(UserError, match=rf"export {name}: .*no task was evaluated \(the disk is full\); junit, "):
            written(folder, name, tmp_path / "o")
        assert not (tmp_path / "o" / name).exists(), "empty tables passed for results"


def test_a_run_that_failed_before_it_asked_exports_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    words = ("engine=megatron", "model.path=empty", "tasks=[capitals]", UNVALIDATED, "hydra.run.dir=run")
    done = launch_here(tmp_path, *words, "export=[csv,markdown]")
    assert done.returncode == 1
    assert "export=csv" not in done.stderr
    assert not (tmp_path / "run/export/csv").exists()
    assert "not a checkpoint" in (tmp_path / "run/export/markdown/results.md").read_text()
    asked = launch_here(tmp_path, "export", "run", "--to", "csv")
    assert asked.returncode == 1
    assert "no task was evaluated" in asked.stderr


@pytest.mark.parametrize("name", ["csv", "inspect", "lm-eval", "parquet"])
def test_a_check_has_nothing_for_a_format_of_samples(name: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [], status="ok", tasks={})
    with pytest.raises(UserError, match=rf"export {name}: .*no task was evaluated; junit, markdown, mlflow, wandb say"):
        written(folder, name, tmp_path / "o")
    assert not (tmp_path / "o").exists()
    assert written(folder, "junit", tmp_path / "o")


def test_a_run_that_goes_on_has_no_results_so_far(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text("[]")
    with pytest.raises(UserError, match="so far: the run has not ended"):
        sources(tmp_path)
