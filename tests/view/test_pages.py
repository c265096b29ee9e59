"""The pages as a client without scripts sees them: who may see them, and what they say."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from launcher.core.reading import GpuReading, ProcessReading, Reading
from launcher.core.run_folder import RunFolder
from launcher.view.serve import served
from tests.view import folders


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60, trust_env=False) as made:
        yield made


def page(client: httpx.Client, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_only_who_has_the_token_and_asks_this_machine_sees_anything(client, tmp_path):
    folders.finished(tmp_path / "a")
    with served([tmp_path], 0) as address:
        assert address.startswith("http://127.0.0.1:")
        token = address.rstrip("/").rpartition("/")[2]
        assert client.get(address).status_code == 200
        for path in ("/", "/x/", f"/{token}x/", f"/{token[:-1]}/", "/0/a/", "/../", "//"):
            answer = client.get(httpx.URL(address).copy_with(raw_path=path.encode()))
            assert answer.status_code == 404
            assert token not in answer.text
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "@127.0.0.1.example"):
            assert client.get(address, headers={"Host": host}).status_code in (400, 403)
        for host in ("localhost:1234", "[::1]:80", "127.0.0.1"):
            assert client.get(address, headers={"Host": host}).status_code == 200
        assert client.post(address).status_code == 405


def test_a_page_has_a_policy_and_no_address_leaves_it(client, tmp_path):
    folders.finished(tmp_path)
    with served([tmp_path], 0) as address:
        answer = client.get(address, follow_redirects=True)
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "default-src &#39;none&#39;" in answer.text
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", answer.text)
        report = client.get(f"{address}0/report.html")
        assert report.headers["Content-Security-Policy"].startswith("sandbox allow-scripts")


OUTSIDE = ["0/../../etc/", "0/%2e%2e/", "0/a/../", "0/.hydra/", "1/a/", "0/link/", "x/a/", "0//a/", "0/a%00/"]


def test_nothing_outside_of_the_folders_is_shown(client, tmp_path):
    folders.finished(tmp_path / "in" / "a")
    folders.finished(tmp_path / "out")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    with served([tmp_path / "in"], 0) as address:
        prefix = httpx.URL(address).raw_path
        for path in OUTSIDE:
            assert client.get(httpx.URL(address).copy_with(raw_path=prefix + path.encode())).status_code == 404, path
        for file in ("results.json", "samples.jsonl", "stage.json", ".hydra/overrides.yaml"):
            assert client.get(f"{address}0/a/{file}").status_code == 404, file


def test_a_finished_run_says_how_it_ended(client, tmp_path):
    folders.certified(folders.finished(tmp_path, status="invalid", reason="the endpoint failed"), text="stop_string")
    RunFolder(tmp_path).server_log.write_text("first\n" * 5000 + "the last line\x1b[31m\n")
    with served([tmp_path], 0) as address:
        text = page(client, f"{address}0/")
    assert "<strong>invalid</strong>" in text
    assert "the endpoint failed" in text
    assert "98 scored, 2 truncated of 100" in text
    assert "<dt>time to first token p50</dt><dd>20 ms</dd>" in text
    assert "token answers" not in text
    assert "stop_string" in text
    assert "not valid" in text
    assert "the last line[31m" in text
    assert text.count("first\n") < 100
    assert 'href="report.html"' in text


def test_a_running_run_says_where_it_is_and_what_the_server_does(client, tmp_path):
    folders.running(tmp_path)
    readings = [
        Reading(
            time=1e9 + n,
            state="live",
            ready=True,
            latency_s=0.01 * n,
            in_flight=7,
            queued=1,
            tokens_per_s=100.0 * n,
            error_rate=0.25,
            canary_s=0.5,
            processes=(ProcessReading("rank 1", 4711, False, 512, "ended"),),
            gpus=(GpuReading(0, 40_000, 93, 80_000),),
            events=("rank 1 has ended",) if n == 2 else (),
            health={"replicas": [{"id": "r1", "pid": 9, "node": "n1", "state": "live", "requests": 3}]},
        ).line()
        for n in range(4)
    ]
    RunFolder(tmp_path).health.write_text("\n".join(readings) + '\n{"damaged')
    with served([tmp_path], 0) as address:
        text = page(client, f"{address}0/")
    assert "<strong>running</strong>" in text
    assert "evaluate · 30 of 120 samples" in text
    assert "15.0 s left" in text
    assert "30 scored of 120" in text
    for shown in ("rank 1 has ended", "4711", "40,000 of 80,000 MiB", "93 %", "25.0 %", "500 ms", "r1", "<polyline"):
        assert shown in text


def test_a_server_that_only_serves_has_no_scores_and_no_progress(client, tmp_path):
    folders.running(tmp_path, step="serving")
    stage = json.loads(RunFolder(tmp_path).stage.read_text())
    RunFolder(tmp_path).stage.write_text(json.dumps(stage | {"tasks": {}, "total": None, "done": None}))
    with served([tmp_path], 0) as address:
        text = page(client, f"{address}0/")
    assert "<b>serving</b>" in text
    assert "<h2>Scores" not in text
    assert 'role="progressbar"' not in text


@pytest.mark.parametrize(("age_s", "status"), [(0, "running"), (1000, "lost")])
def test_a_run_that_was_killed_is_lost(client, tmp_path, age_s, status):
    folders.running(tmp_path, age_s=age_s)
    with served([tmp_path], 0) as address:
        assert f"<strong>{status}</strong>" in page(client, f"{address}0/")


def test_a_damaged_file_hides_no_other(client, tmp_path):
    folders.finished(tmp_path)
    for file in (RunFolder(tmp_path).stage, RunFolder(tmp_path).certificate, RunFolder(tmp_path).journal):
        file.write_text("[1, {")
    with served([tmp_path], 0) as address:
        assert "<strong>ok</strong>" in page(client, f"{address}0/")
    RunFolder(tmp_path).results.write_text('{"status": "ok", "tasks": {"t": 3}}')
    with served([tmp_path.parent], 0) as address:
        assert "cannot be read" in page(client, f"{address}0/{tmp_path.name}/")
        assert "it cannot be read" in page(client, f"{address}?words={tmp_path.name}")


def test_the_index_filters_sorts_and_turns_pages(client, tmp_path):
    for number in range(105):
        folders.running(tmp_path / "many" / f"run{number:03d}", age_s=1000)
    folders.finished(tmp_path / "2026-01-01" / "10-00-00", model="llama", value=0.25)
    folders.finished(tmp_path / "2026-01-02" / "10-00-00", model="qwen", value=0.75, status="incomplete")
    folders.swept(tmp_path / "grid")
    with served([tmp_path, tmp_path / "missing"], 0) as address:
        text = page(client, address)
        assert "108 runs, page 1 of 2" in text
        assert "page=1" in text
        rest = page(client, f"{address}?page=1")
        assert len(re.findall(r'<th scope="row"', text)) + len(re.findall(r'<th scope="row"', rest)) == 108
        found = page(client, f"{address}?words=qwen")
        assert "2026-01-02/10-00-00" in found
        assert "1 run<" in found
        assert "1 run<" in page(client, f"{address}?status=running&words=grid")
        by_score = page(client, f"{address}?order=score&words=10-00-00")
        assert by_score.index("qwen") < by_score.index("llama")
        assert "No run matches" in page(client, f"{address}?words=nothing")
        for odd in ("?page=99999999999999", "?page=-1", "?order=x", "?status=%3Cscript%3E", "?words=%00"):
            assert "<h1>Runs</h1>" in page(client, address + odd)


def test_an_empty_folder_says_so(client, tmp_path):
    with served([tmp_path / "outputs", tmp_path / "multirun"], 0) as address:
        assert "There is no run in" in page(client, address)


def test_a_sweep_shows_its_grid_while_it_goes_on(client, tmp_path):
    folders.swept(tmp_path / "sweep")
    with served([tmp_path], 0) as address:
        text = page(client, f"{address}0/sweep/")
        assert "<strong>2 of 3</strong>" in text
        assert "evaluate.limit" in text
        assert "<b>0.200</b>" in text
        assert "evaluate 25 %" in text
        assert "30 scored of 120" in page(client, f"{address}0/sweep/2/")


def test_a_watch_shows_its_curves_and_the_checkpoint_of_now(client, tmp_path):
    folders.watched(tmp_path)
    with served([tmp_path], 0) as address:
        text = page(client, f"{address}0/")
        assert "2 of 3 checkpoints" in text
        assert 'class="curve"' in text
        assert "0.333 vs the one before, may be chance" in text
        assert '<a href="step_900/"><bdi>step_900</bdi></a>' in text
        assert "30 scored of 120" in page(client, f"{address}0/step_900/")
        assert client.get(f"{address}0/step_100/report.html").status_code == 200


@pytest.mark.parametrize(("status", "says"), [("ok", "3 checkpoints<"), ("incomplete", "3 checkpoints, 1 ok<")])
def test_the_index_says_of_a_watch_what_its_page_says(status, says, client, tmp_path):
    folders.finished(tmp_path / "r", status="error")
    folders.watched(tmp_path / "w")
    RunFolder(tmp_path / "w" / "step_900").stage.unlink()
    file = RunFolder(tmp_path / "w").watch
    found = json.loads(file.read_text())
    found["points"][0]["status"] = status
    file.write_text(json.dumps(found))
    with served([tmp_path], 0) as address:
        text = page(client, f"{address}?words=watch")
    assert f'outcome-{status}">{status}' in text
    assert says in text


def test_runs_are_compared_by_the_verdict(client, tmp_path):
    for name in "ab":
        folders.finished(tmp_path / name)
    with served([tmp_path], 0) as address:
        text = page(client, f"{address}compare?run=0/a/&run=0/b/")
        assert "There is no verdict" in text  # these have no samples
        assert "samples" in text
        assert "expected two or more" in page(client, f"{address}compare?run=0/a/&run=0/../../x/")


def test_events_bring_what_has_changed(client, tmp_path):
    folders.running(tmp_path, done=30)
    with served([tmp_path], 0) as address, client.stream("GET", f"{address}0/events") as stream:
        lines = (line.removeprefix("data: ") for line in stream.iter_lines() if line.startswith("data: "))
        first = json.loads(next(lines))
        assert "30 of 120" in first["head"]
        assert "about" in first
        folders.running(tmp_path, done=60)
        told = next(parts for parts in map(json.loads, lines) if "60 of 120" in parts.get("head", ""))
        assert "about" not in told
        folders.finished(tmp_path)
        RunFolder(tmp_path).stage.unlink()
        assert next(parts for parts in map(json.loads, lines) if "<strong>ok" in parts.get("head", ""))


def test_a_run_of_many_tasks_has_a_bounded_page(client, tmp_path):
    folders.running(tmp_path)
    found = json.loads(RunFolder(tmp_path).stage.read_text())
    found["tasks"] = {f"task{n}": found["tasks"]["addition"] for n in range(3000)}
    RunFolder(tmp_path).stage.write_text(json.dumps(found))
    with served([tmp_path], 0) as address:
        text = page(client, f"{address}0/")
    assert len(text) < 500_000
    assert "2,800 further rows" in text


def test_a_folder_that_goes_away_ends_nothing(client, tmp_path):
    folders.finished(tmp_path / "a")
    with served([tmp_path], 0) as address:
        assert "a" in page(client, f"{address}0/a/")
        shutil.rmtree(tmp_path / "a")
        assert client.get(f"{address}0/a/").status_code == 404
        assert "There is no run" in page(client, address)


def test_hostile_texts_stay_texts(client, tmp_path):
    bad = folders.HOSTILE
    folders.certified(folders.finished(tmp_path / "a", model=bad, reason=bad), text=bad)
    RunFolder(tmp_path / "a").server_log.write_text(f"{bad}\n")
    folders.running(tmp_path / "b&<b>", task=bad)
    with served([tmp_path], 0) as address:
        for text in (page(client, address), page(client, f"{address}0/a/"), page(client, f"{address}0/b&%3Cb%3E/")):
            assert "<img" not in text
            assert "window.hit=1</script>" not in text
            assert "49" not in re.findall(r"[^\d.](49)[^\d]", text)


def test_the_folder_of_a_run_is_named_in_its_page(tmp_path: Path, client) -> None:
    folders.finished(tmp_path)
    with served([tmp_path], 0) as address:
        assert str(tmp_path) in page(client, f"{address}0/")
