"""``transformers serve``: its flags, and a converted checkpoint behind it."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from launcher.backends.server_version import located
from launcher.backends.transformers_serve import TransformersServe
from launcher.core.http import fetch, parsed
from tests.backends.presets import CPU, assert_flags, deployment

JSON = {"Content-Type": "application/json"}


def test_settings_become_flags(tmp_path: Path) -> None:
    assert_flags(TransformersServe(), deployment(tmp_path), {"--dtype": "bfloat16"})


@pytest.mark.soak
def test_transformers_serve_has_these_flags() -> None:
    program = located(["transformers"])
    shown = subprocess.run(
        [*program, "serve", "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}
    ).stdout
    for flag in TransformersServe.server.flags.values():
        name = getattr(flag, "name", "")
        assert name in shown, f"transformers serve has no {name}"


def test_a_converted_checkpoint_is_served(tmp_path: Path) -> None:
    """The shipped model knows this capital, behind this server as in the launcher's own engines."""
    preset = TransformersServe(cache=str(tmp_path / "cache"), start_timeout_s=300)
    with preset.serve(deployment(tmp_path), CPU) as endpoint:
        body = {"model": endpoint.model, "prompt": "the capital of france is ", "max_tokens": 6, "temperature": 0}
        data = json.dumps(body).encode()
        answer = fetch("POST", f"{endpoint.url}/completions", timeout_s=120, data=data, headers=JSON)
        assert answer.status == 200, answer.body
        assert parsed(answer.body)["choices"][0]["text"].startswith("paris")
        assert (endpoint.facts["engine"], endpoint.facts["dtype"]) == ("transformers", "fp32")
        assert endpoint.facts["version"] == version("transformers")
