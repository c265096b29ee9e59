"""``import launcher``: runs, servers and results, in processes as users have them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import psutil
import pytest

import launcher
from launcher.core.run_folder import RunFolder
from launcher.python import tables
from tests.running import SLOW, UNVALIDATED, launch_here, living, program, wait_for

ROOT = Path(__file__).parents[2]
QUICK = ("engine=echo", "model=none", "tasks=[capitals]", "evaluate.limit=4", UNVALIDATED)
SCRIPT = """
import asyncio, json, sys
sys.path.insert(0, {root!r})
import launcher

async def main():  # a notebook's cells run inside an event loop, too
    tasks = [asyncio.to_thread(launcher.run, *{quick!r}, f"evaluate.limit={{limit}}", quiet=True) for limit in (2, 4)]
    there, here = await asyncio.gather(*tasks)
    launcher.plan(*{quick!r})  # in the loop's own thread
    print(json.dumps([here.scores, len(here.samples), len(there.samples), str(here.folder)]))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[launcher.Run]:
    with chdir(tmp_path_factory.mktemp("work")):
        yield launcher.run(*QUICK, quiet=True, adapters=[], hydra__run__dir="a folder, with=signs")


def test_the_import_is_light() -> None:
    code = "import sys, launcher; launcher.run, launcher.LauncherError; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", "import sys, launcher; print(*sys.modules)"], capture_output=True,
                          text=True, check=True, cwd=ROOT)  # fmt: skip
    assert {"hydra", "torch", "numpy", "pandas", "pydantic", "aiohttp"}.isdisjoint(done.stdout.split())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert {"torch", "transformers", "pandas"}.isdisjoint(done.stdout.split())


def test_a_run(finished: launcher.Run) -> None:
    assert finished.ok
    assert finished.folder.name == "a folder, with=signs"
    assert finished.report.is_file()
    assert set(finished.scores["capitals"]) == {"acc", "acc_norm"}
    assert finished.certificate["checks"]
    assert [record["id"] for record in finished.records] == list(finished.samples["id"])
    assert list(finished.samples["status"]) == ["scored"] * 4
    assert finished.samples["score.acc"].mean() == finished.scores["capitals"]["acc"]
    assert list(finished.metrics["total"]) == [4, 4]
    for text in (repr(finished), finished._repr_html_()):
        assert "capitals" in text
        assert "4/4" in text


def test_an_export(finished: launcher.Run, tmp_path: Path) -> None:
    assert (finished.export("csv", out=tmp_path / "out") / "csv/scores.csv").is_file()
    with pytest.raises(launcher.LauncherError, match=r"did you mean csv\?"):
        finished.export("cvs")


def test_tables_without_pandas(finished: launcher.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert [row["status"] for row in finished.samples] == ["scored"] * 4


def test_loading_and_comparing(finished: launcher.Run, tmp_path: Path) -> None:
    again = launcher.load(finished.folder)
    assert isinstance(again, launcher.Run)
    assert again.scores == finished.scores
    with pytest.raises(launcher.LauncherError, match="given twice"):
        finished.compare(again)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", finished.folder, copy], check=True)
    found = finished.compare(copy)
    assert [row["verdict"] for row in found.data["rows"]] == ["equal", "equal"]
    assert found.sentences[0] in repr(found)
    assert "acc_norm" in found._repr_html_()
    assert found.write(tmp_path / "out").is_file()
    assert list(found.rows["n"]) == [4, 4]


def test_comparing_and_loading_folders_of_several_runs(finished: launcher.Run, tmp_path: Path) -> None:
    """A race and a check of several servers are folders of runs; their pages have names of their own."""
    for name in "ab":
        subprocess.run(["cp", "-r", finished.folder, tmp_path / name], check=True)
    found = launcher.compare(tmp_path / "a", launcher.load(tmp_path / "b"), str(finished.folder))
    assert [(row["a"], row["b"]) for row in found.data["rows"]] == [("A", "B")] * 2 + [("A", "C")] * 2
    with pytest.raises(launcher.LauncherError, match="1 run given"):
        launcher.compare(finished)
    for file, kind, page in (("race.json", "Race", "comparison.html"), ("servers.json", "Check", "servers.html")):
        (tmp_path / file).write_text("{}")
        several = launcher.load(tmp_path)
        assert isinstance(several, launcher.Sweep)
        assert (list(several.runs), several.page) == (["a", "b"], tmp_path / page)
        assert repr(several).startswith(f"{kind} in {tmp_path}")
        assert [row["verdict"] for row in several.compare().data["rows"]] == ["equal", "equal"]
        (tmp_path / file).unlink()


@pytest.mark.parametrize(("made", "says"), [(None, "no such folder"), ("x", "expected the folder of a run"),
                                            (".hydra/config.yaml", "no results.json so far")])  # fmt: skip
def test_a_folder_without_results(made: str | None, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if made:
        (folder / made).parent.mkdir(parents=True)
        (folder / made).touch()
    with pytest.raises(launcher.LauncherError, match=says):
        launcher.load(folder)


def test_a_mistake_has_the_command_lines_message(tmp_path: Path) -> None:
    words = (*QUICK, "evaluate.limt=3")
    told = launch_here(tmp_path, *words)
    with chdir(tmp_path), pytest.raises(launcher.LauncherError) as caught:
        launcher.run(*words, quiet=True)
    assert told.stderr.strip() == f"launcher: {caught.value}"
    assert (caught.value.exit_code, caught.value.run) == (told.returncode, None)


def test_a_run_that_does_not_end_ok(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with chdir(tmp_path), pytest.raises(launcher.LauncherError) as caught:
        launcher.run("engine=echo", UNVALIDATED, model="/nonexistent/ckpt")
    assert "/nonexistent/ckpt" in str(caught.value)
    assert caught.value.run is not None
    assert caught.value.run.status == "error"
    assert str(caught.value) not in capfd.readouterr().err, "the exception says it"


@pytest.mark.slow
def test_a_script_in_another_folder_with_a_loop_and_a_thread(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT), quick=QUICK))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    scores, here, there, folder = json.loads(done.stdout)
    assert (here, there) == (4, 2)
    assert scores["capitals"]
    assert Path(folder).is_relative_to(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.soak)])
def test_the_run_ends_in_order_with_its_caller(number: signal.Signals, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import launcher; launcher.run(*sys.argv[1:])"
    slow = (*QUICK[:2], "tasks=[capitals]", *SLOW, "hydra.run.dir=run")
    run = RunFolder(tmp_path / "run")
    with program([sys.executable, "-c", code, *slow], tmp_path) as caller:
        wait_for(lambda: run.samples.exists() and run.samples.stat().st_size, caller, 120)
        children = psutil.Process(caller.pid).children(recursive=True)
        assert children
        os.kill(caller.pid, number)
        _, told = caller.communicate(timeout=120)
        _, left = psutil.wait_procs(children, timeout=120)
    assert not living(left)
    found = launcher.load(run.path)
    assert found.status == "interrupted"
    if number is signal.SIGINT:
        assert "KeyboardInterrupt" in told
        assert "continue with resume=" in told


def test_a_server(tmp_path: Path) -> None:
    import openai

    with chdir(tmp_path):
        endpoint = launcher.serve("engine=echo", "model=none", UNVALIDATED, quiet=True)
    with endpoint:
        client = openai.OpenAI(base_url=endpoint.url, api_key="none")
        answer = client.completions.create(model=endpoint.model, prompt="One two", max_tokens=4)
        assert answer.choices[0].text
        assert "serves" in repr(endpoint)
        assert endpoint.url in endpoint._repr_html_()
        assert RunFolder(endpoint.folder).endpoint.exists()
    assert not endpoint.is_running
    assert not RunFolder(endpoint.folder).endpoint.exists()
    assert launcher.load(endpoint.folder).status == "ok"


@pytest.mark.soak
def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    with chdir(tmp_path), pytest.raises(launcher.LauncherError, match="/nonexistent"):
        launcher.serve("engine=echo", model="/nonexistent", quiet=True)


@pytest.mark.slow
def test_a_sweep(tmp_path: Path) -> None:
    with chdir(tmp_path):
        found = launcher.sweep(*QUICK[:3], UNVALIDATED, "evaluate.limit=2,3", quiet=True)
    assert [len(run.samples) for run in found] == [2, 3]
    assert list(found.scores["ended"]) == ["ok"] * 4
    assert found.page.is_file()
    assert "evaluate.limit=3" in found._repr_html_()
    again = launcher.load(found.folder)
    assert isinstance(again, launcher.Sweep)
    assert repr(again) == repr(found)


def test_texts_in_a_notebook_are_escaped() -> None:
    page = tables.as_html("<b>", ("<i>",), [("<script>", 1)], ["a & b"])
    for text in ("<b>&lt;b&gt;", "&lt;i&gt;", "&lt;script&gt;", "a &amp; b"):
        assert text in page
