"""The metrics of a run's health, and the dashboard that shows them."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from launcher.api.metrics import Metrics
from launcher.core import health_metrics
from launcher.core.reading import GpuReading, ProcessReading, Reading, readings, summary, summary_of_run
from launcher.proxy.metrics import Counters, create
from tests.api.runners import Scripted

DASHBOARD = Path(__file__).parents[2] / "examples" / "grafana.json"
READING = Reading(
    time=0.0,
    state="live",
    ready=True,
    latency_s=0.01,
    canary_s=0.2,
    in_flight=3,
    queued=1,
    tokens_per_s=12.5,
    error_rate=0.25,
    processes=(ProcessReading('rank "1"\n\\', 17, alive=True, memory_mib=5, state="running", cpu_percent=40),),
    gpus=(GpuReading(0, 100, 7, 200),),
    events=("rank 1 has ended",),
    events_total=1,
)


def written(folder: Path, *given: Reading) -> Path:
    path = folder / "health.jsonl"
    path.write_text("".join(f"{reading.line()}\n" for reading in given))
    return path


def samples(text: bytes) -> dict[str, float]:
    return {s.name: s.value for family in text_string_to_metric_families(text.decode()) for s in family.samples}


def test_every_metric_has_a_value_and_its_labels_survive(tmp_path: Path) -> None:
    written(tmp_path, replace(READING, time=time.time()))
    text = health_metrics.text(tmp_path)
    assert set(samples(text)) == set(health_metrics.GAUGES)
    assert samples(text)["launcher_health_process_memory_bytes"] == 5 * 2**20
    labels = [s.labels for f in text_string_to_metric_families(text.decode()) for s in f.samples if s.labels]
    assert {"process": 'rank "1"\n\\', "pid": "17"} in labels


def test_what_is_not_known_is_left_out_and_an_old_reading_says_nothing(tmp_path: Path) -> None:
    assert health_metrics.text(tmp_path) == b""
    written(tmp_path, READING)
    assert health_metrics.text(tmp_path) == b"", "a monitor that hangs must not look healthy"
    written(tmp_path, replace(READING, time=time.time(), queued=None))
    assert "launcher_health_queued" not in samples(health_metrics.text(tmp_path))


def test_a_torn_line_is_no_reading_and_the_events_of_all_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path, *(replace(READING, time=float(n), events=(f"event {n}",)) for n in range(250)))
    with path.open("a") as file:
        file.write('{"time": 5, "sta')
    assert len(list(readings(path.read_bytes().splitlines()))) == 250
    found = summary(path)
    assert (found["readings"], len(found["events"]), found["left_out"]) == (250, 200, 50)
    assert [found["events"][at]["event"] for at in (0, -1)] == ["event 0", "event 249"]
    assert summary(tmp_path / "nowhere") == {}


def test_events_of_the_judge_are_among_those_of_the_run_once(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    written(tmp_path, replace(READING, time=1.0), replace(READING, time=3.0, events=("the evaluation goes on",)))
    assert summary_of_run(tmp_path) == summary(tmp_path / "health.jsonl")
    written(tmp_path / "judge", replace(READING, time=2.0, events=("rank 1 has ended", "the server is away")))
    found = summary_of_run(tmp_path)
    said = ["rank 1 has ended", "the judge: the server is away", "the evaluation goes on"]
    assert [each["event"] for each in found["events"]] == said
    assert (found["readings"], found["left_out"]) == (2, 0)


def test_the_dashboard_names_only_metrics_that_are_exported(tmp_path: Path) -> None:
    written(tmp_path, replace(READING, time=time.time()))
    metrics = Metrics(Scripted([]))
    metrics.on_response("/v1/completions", 200, 0.1)
    metrics.first_token(0.1)
    exported = samples(metrics.text()).keys() | samples(health_metrics.text(tmp_path)).keys()
    counters = Counters(create(1), 1)
    counters.finished(200, 0.1, 1)
    exported |= samples(counters.text("run")).keys()
    counters.close()
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for expression in asked for name in re.findall(r"launcher_\w+", expression)}
    assert len(named) > 20
    assert named <= exported
    assert set(health_metrics.GAUGES) - named <= {"launcher_health_reading_time_seconds"}
