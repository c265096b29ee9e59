"""Write the list of a server's flags, with the Python that has it: ``/opt/vllm/bin/python .ci/server_flags.py vllm``.

The list is what the parser of the installed program accepts. It goes to ``tests/backends/flags``, and tests hold the
ready-made servers of `launcher.backends` against it. No GPU is needed, and no model is loaded.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[1] / "tests" / "backends" / "flags"
TAKEN = {None: "one", 0: "flag", "?": "optional"}
"""What an option takes: nothing, a value, a value or nothing; else ``many`` values."""
TYPES = {"int": "int", "integer": "int", "float": "float"}
"""The types whose values a test can check; others have parsers of their own."""
Options = Iterator[tuple[str, dict[str, Any]]]


class Server(NamedTuple):
    """How the options of a server are read, its package, and its command."""

    options: Callable[[], Options]
    distribution: str
    command: str
    environment: Callable[[], list[str]] = list


def main(name: str, folder: Path) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    server = SERVERS[name]
    options = dict(sorted(server.options()))
    version = importlib.metadata.version(server.distribution).split("+")[0]
    head = {
        "server": name,
        "version": version,
        "source": f"what `{server.command}` accepts, by the parser in {server.distribution} {version}",
        "read": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "environment": server.environment(),
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    rows = ",\n".join(f"    {json.dumps(option)}: {json.dumps(about)}" for option, about in options.items())
    file = folder / f"{name}-{version}.json"
    file.write_text("{\n" + ",\n".join([*lines, f'  "options": {{\n{rows}\n  }}']) + "\n}\n")
    print(f"{file}: {len(options)} options")


def vllm() -> Options:
    from vllm import platforms

    if platforms.current_platform.is_unspecified():  # on a machine without a GPU
        from vllm.platforms.cpu import CpuPlatform

        platforms.current_platform = CpuPlatform()
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return of_argparse(ServeSubcommand().subparser_init(FlexibleArgumentParser().add_subparsers()))


def vllm_environment() -> list[str]:
    from vllm.envs import environment_variables

    return sorted(name for name in environment_variables if name.startswith("VLLM_"))


def sglang() -> Options:
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    return of_argparse(parser)


def llama_cpp() -> Options:
    from llama_cpp.server.cli import add_args_from_model
    from llama_cpp.server.settings import ModelSettings, ServerSettings

    parser = argparse.ArgumentParser()
    add_args_from_model(parser, ServerSettings)
    add_args_from_model(parser, ModelSettings)
    return of_argparse(parser)


def trtllm() -> Options:
    from tensorrt_llm.commands.serve import serve

    return of_click(serve)


def transformers_serve() -> Options:
    from transformers.cli.transformers import app

    return of_click(app.commands["serve"])


SERVERS = {
    "vllm": Server(vllm, "vllm", "vllm serve", vllm_environment),
    "sglang": Server(sglang, "sglang", "python -m sglang.launch_server"),
    "trtllm": Server(trtllm, "tensorrt-llm", "trtllm-serve serve"),
    "llama_cpp": Server(llama_cpp, "llama-cpp-python", "python -m llama_cpp.server"),
    "transformers_serve": Server(transformers_serve, "transformers", "transformers serve"),
}


def of_argparse(parser: Any) -> Options:
    for name, action in parser._option_string_actions.items():  # those too that its help hides
        kind, choices = getattr(action.type, "__name__", ""), [str(each) for each in action.choices or ()]
        yield name, described(TAKEN.get(action.nargs, "many"), kind, choices)


def of_click(command: Any) -> Options:
    for parameter in command.params:
        choices = [str(each) for each in getattr(parameter.type, "choices", None) or ()]
        taken = "flag" if getattr(parameter, "is_flag", False) else "one"
        for name in [*parameter.opts, *parameter.secondary_opts]:
            if name.startswith("-"):
                yield name, described(taken, parameter.type.name, choices)


def described(taken: str, kind: str, choices: list[str]) -> dict[str, Any]:
    plain = {"type": TYPES.get(kind), "choices": choices}
    return {"takes": taken} | {name: value for name, value in plain.items() if value and taken != "flag"}


if __name__ == "__main__":
    if sys.argv[1:2] == [] or sys.argv[1] not in SERVERS:
        sys.exit(f"usage: <python of the server> .ci/server_flags.py {'|'.join(SERVERS)} [FOLDER]")
    main(sys.argv[1], Path(*sys.argv[2:3]) if sys.argv[2:] else FOLDER)
