"""Causes of a server's end, from logs as servers wrote them; ``start_failures.yaml`` has those of public issues."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from launcher.backends.command.server_log import ServerLog
from tests.backends.presets import PRESETS

FAILURES = yaml.safe_load(Path(__file__).with_name("start_failures.yaml").read_text())
LINK = "    For further information visit https://errors.pydantic.dev/2.14/v/value_error\n"
INPUT = "[type=value_error, input_value=ArgsKwargs((), {'model_co... 'shutdown_timeout': 0}), input_type=ArgsKwargs]"
CONTEXT = f"""(APIServer pid=7) WARNING 11-30 16:39:26 [utils.py:255] like `OSError: [Errno 24] Too many open files`
Traceback (most recent call last):
  File "/bin/vllm", line 6, in <module>
    sys.exit(main())
             ^^^^^^
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (100000) is greater than the derived max_model_len (256). {INPUT}
{LINK}"""
TOKENIZER = """Traceback (most recent call last):
  File "/lib/transformers/tokenization_utils_tokenizers.py", line 412, in __init__
    raise ValueError(
ValueError: Couldn't instantiate the backend tokenizer from one of:
(1) a `tokenizers` library serialization file,
(2) a slow tokenizer instance to convert or
(3) an equivalent slow tokenizer class to instantiate and convert.
/lib/resource_tracker.py:254: UserWarning: leaked semaphore objects
"""
PROCESSES = """(EngineCore pid=2) ERROR 11-30 12:00:01 [core.py:936] Traceback (most recent call last):
(APIServer pid=1) Traceback (most recent call last):
(EngineCore pid=2) ERROR 11-30 12:00:01 [core.py:936]   File "core.py", line 927, in run_engine_core
(APIServer pid=1)   File "/bin/vllm", line 8, in <module>
(EngineCore pid=2) ERROR 11-30 12:00:01 [core.py:936] ValueError: Available memory (20 GiB) is less than requested.
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
(EngineCore pid=2) INFO 11-30 12:00:02 [core.py:990] Shutting down.
"""
REPLICAS = "".join(f"(replica 2) {line}\n" for line in PROCESSES.splitlines())


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            CONTEXT,
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig Value error, "
            "User-specified max_model_len (100000) is greater than the derived max_model_len (256).",
        ),
        (
            TOKENIZER,
            "ValueError: Couldn't instantiate the backend tokenizer from one of: (1) a `tokenizers` library "
            "serialization file, (2) a slow tokenizer instance to convert or (3) an equivalent slow tokenizer class to "
            "instantiate and convert.",
        ),
        (PROCESSES, "ValueError: Available memory (20 GiB) is less than requested."),
        (REPLICAS, "ValueError: Available memory (20 GiB) is less than requested."),
        (
            "INFO: loading\nvllm: error: unrecognized arguments: --no-such-flag\n",
            "vllm: error: unrecognized arguments: --no-such-flag",
        ),
        ("INFO: loading\nweights are 3 of 4\n", None),
    ],
)
def test_the_cause_is_a_whole_message(text: str, cause: str | None, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(text)
    assert ServerLog(log).cause() == cause


def test_the_last_line_is_shown_without_what_a_logger_puts_before_it(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(f"(APIServer pid=7) WARNING 11-30 16:39:26 [utils.py:255] Found {'x' * 300}\n\n")
    assert ServerLog(log).last_line() == f"Found {'x' * 194}"


@pytest.mark.parametrize(
    "help",
    ["Run 'docker run --help' for more information", "See 'docker run --help'.", "Try 'serve --help' for help."],
)
def test_a_line_that_only_says_how_to_get_help_is_not_the_last_word(help: str, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(f"docker: Cannot connect to the Docker daemon.\n\n{help}\n")
    assert ServerLog(log).last_line() == "docker: Cannot connect to the Docker daemon."
    log.write_text(f"{help}\n")
    assert ServerLog(log).last_line() == help


@pytest.mark.parametrize("failure", FAILURES, ids=[f"{each['server']}: {each['what']}" for each in FAILURES])
def test_a_failed_start_is_quoted_by_its_cause(failure: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(failure["log"])
    assert ServerLog(log).cause() == failure["cause"]


def test_every_ready_made_server_has_a_failure_with_a_source() -> None:
    assert {each["server"] for each in FAILURES} == set(PRESETS)
    assert all(each["source"].startswith("github.com/") or "started here" in each["source"] for each in FAILURES)


WAITS = """(EngineCore_DP0 pid=2) Traceback (most recent call last):
(EngineCore_DP0 pid=2)   File "multiproc_executor.py", line 889, in wait_for_ready
(EngineCore_DP0 pid=2) Exception: WorkerProc initialization failed. See stack trace for root cause.
(Worker_TP1 pid=3) ERROR 11-30 12:00:01 [multiproc_executor.py:750] Traceback (most recent call last):
(Worker_TP1 pid=3) ERROR 11-30 12:00:01 [multiproc_executor.py:750]   File "gpu_worker.py", line 225, in init_device
(Worker_TP1 pid=3) ERROR 11-30 12:00:01 [multiproc_executor.py:750] ValueError: Free memory is less than desired.
"""


def test_an_exception_that_points_to_another_one_comes_last_in_any_order(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(WAITS)
    assert ServerLog(log).cause() == "ValueError: Free memory is less than desired."
    first = "".join(WAITS.splitlines(keepends=True)[:3])
    log.write_text("(Worker_TP1 pid=3) ERROR 11-30 12:00:01 [worker.py:75] NCCL found no GPU\n" + first)
    assert ServerLog(log).cause() == "NCCL found no GPU"
    log.write_text(first)
    assert str(ServerLog(log).cause()).startswith("Exception: WorkerProc initialization failed")


def test_errors_of_requests_are_no_cause_once_the_server_has_served(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("ERROR 11-30 12:00:01 [serving.py:75] bad request\nKilled\n")
    assert ServerLog(log).cause() == "bad request"
    assert ServerLog(log).cause(recent=True) is None
    assert ServerLog(log).last_line() == "Killed"


def test_a_traceback_of_an_actor_ends_with_its_own_exception(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(
        "(RayWorkerWrapper pid=7, ip=10.0.0.2) INFO 11-30 12:00:01 [loader.py:1] loading\n"
        "Traceback (most recent call last):\n"
        "ray.exceptions.RayTaskError(ValueError): ray::RayWorkerWrapper.execute_method() (pid=7, ip=10.0.0.2)\n"
        '  File "worker_base.py", line 1, in execute_method\n'
        "ValueError: no space for the weights\n"
    )
    assert ServerLog(log).cause() == "ValueError: no space for the weights"
