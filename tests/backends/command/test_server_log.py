"""Causes of a server's end, from logs as vLLM 0.32 wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.backends.command.server_log import ServerLog

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
        ("vllm: error: unrecognized arguments: --no-such-flag\n", None),
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
