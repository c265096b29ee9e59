"""Ready-made servers: what a server cannot get, its conversion, its start and its failures."""

from __future__ import annotations

import json
import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.backends.server_program import SETTINGS
from launcher.backends.server_version import installed_version, located
from launcher.backends.sglang import SGLang
from launcher.backends.vllm import VLLM
from launcher.checkpoints.export import model as exporting
from launcher.core.errors import ServerError, UserError
from launcher.distributed.allocation import Allocation
from launcher.settings.model import Dtype, Model, Parallelism, ToolCallParser
from tests.backends.presets import CPU, GPU, PRESETS, TINY, deployment, flags, planned
from tests.checkpoints.test_gguf import written
from tests.running import launch_here


@pytest.mark.parametrize(
    ("name", "settings", "served", "key"),
    [
        ("llama_cpp", {}, {"parallelism": Parallelism(tensor=2)}, "parallelism.tensor=2"),
        ("llama_cpp", {"memory_fraction": 0.5}, {}, "backend.memory_fraction=0.5"),
        ("llama_cpp", {}, {"dtype": Dtype.bf16}, "optimizations.dtype=bfloat16"),
        ("transformers_serve", {}, {"context_length": 64}, "model.context_length=64"),
        ("transformers_serve", {"data_parallel": 2}, {}, "backend.data_parallel=2"),
        ("trtllm", {"data_parallel": 2}, {}, "backend.data_parallel=2"),
        ("vllm", {}, {"parallelism": Parallelism(context=2)}, "parallelism.context=2"),
        ("sglang", {}, {"parallelism": Parallelism(context=2)}, "parallelism.context=2"),
        ("sglang", {}, {"tool_call_parser": ToolCallParser.hermes}, "model.tool_call_parser=hermes"),
        ("sglang", {"max_logprobs": 5}, {}, "backend.max_logprobs=5"),
    ],
)
def test_no_setting_is_lost(
    name: str, settings: dict[str, Any], served: dict[str, Any], key: str, tmp_path: Path
) -> None:
    path = str(written(tmp_path / "model.gguf")) if name == "llama_cpp" else TINY
    with pytest.raises(UserError, match=re.escape(f"{key}: backend={name} has no flag for it")):
        planned(PRESETS[name](**settings), deployment(tmp_path, path, **served))


def test_prefix_caching_can_be_turned_off(tmp_path: Path) -> None:
    for preset, flag in ((VLLM(), "--no-enable-prefix-caching"), (SGLang(), "--disable-radix-cache")):
        served = deployment(tmp_path)
        served.optimizations.prefix_caching = False
        assert flag in planned(preset, served)["command"]


def test_a_folder_of_hugging_face_is_served_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "own"}')
    own = VLLM(arguments="--load-format dummy")
    plan = planned(own, deployment(tmp_path, str(tmp_path), tokenizer="other"), GPU)
    assert plan["command"][2] == str(tmp_path)
    assert flags(plan["command"], "--tokenizer", "--dtype") == {"--tokenizer": "other", "--dtype": "auto"}
    assert "conversion" not in plan


def test_the_name_of_a_model_on_a_hub_is_passed_on(tmp_path: Path) -> None:
    assert "meta/llama" in planned(VLLM(), deployment(tmp_path, "meta/llama"))["command"]
    with pytest.raises(UserError, match=r"model.path=/no/such/folder: no such file or folder"):
        planned(VLLM(), deployment(tmp_path, "/no/such/folder"))


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_flag_has_a_setting(name: str) -> None:
    server = PRESETS[name].server
    assert set(server.flags) <= set(SETTINGS)
    assert server.install


def test_a_plan_says_what_is_missing_and_shows_the_command(tmp_path: Path) -> None:
    done = launch_here(
        tmp_path, "mode=plan", "backend=vllm", f"backend.cache={tmp_path}", "backend.program=no-vllm serve"
    )
    assert done.returncode == 0, done.stderr
    backend = yaml.safe_load(done.stdout)["backend"]
    assert backend["command"][:2] == ["no-vllm", "serve"]
    assert backend["missing"] == (
        "backend=vllm: the program 'no-vllm serve' is not here; pip install vllm, in an environment of its own, or set "
        "backend.program to where it is"
    )


def test_a_missing_program_is_one_line(tmp_path: Path) -> None:
    preset = VLLM(program="no-vllm serve", cache=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"'no-vllm serve' is not here; pip install vllm"):
        preset.serve(deployment(tmp_path), CPU).__enter__()
    assert not (tmp_path / "cache").exists()


def test_the_version_is_that_of_the_programs_environment(tmp_path: Path) -> None:
    script = tmp_path / "served"
    script.write_text(f"#!{sys.executable}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert (
        installed_version([str(script)], "hydra-core") == "1.3.8" == installed_version([sys.executable], "hydra-core")
    )
    assert installed_version([str(script)], "no-such-package") is None
    assert installed_version(["/bin/sh"], "hydra-core") is None
    assert located(["python", "-m", "x"]) == [sys.executable, "-m", "x"]


STUB = f"""#!{sys.executable}
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
port = int(sys.argv[sys.argv.index("--port") + 1])
print(json.dumps([sys.argv[1:], os.environ["VLLM_NO_USAGE_STATS"]]), flush=True)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({{"data": [{{"id": sys.argv[sys.argv.index("--served-model-name") + 1]}}]}}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def stub(folder: Path, text: str) -> str:
    script = folder / "server"
    script.write_text(text)
    script.chmod(0o755)
    return str(script)


def test_a_server_gets_a_converted_checkpoint_and_says_what_it_is(tmp_path: Path) -> None:
    preset = VLLM(program=stub(tmp_path, STUB), cache=str(tmp_path / "cache"), start_timeout_s=120)
    served = deployment(tmp_path, context_length=64)
    with preset.serve(served, CPU) as endpoint:
        assert (endpoint.model, endpoint.backend, endpoint.engine) == ("tiny", "vllm", "vllm")
        facts = {"engine": "vllm", "dtype": "fp32", "context_length": 64, "converted_from": "megatron_bridge"}
        assert endpoint.facts == facts
    printed = json.loads((tmp_path / "server.log").read_text().splitlines()[0])["event"]
    words, quiet = json.loads(printed)
    assert quiet == "1"
    assert exporting.opened(Model(path=words[0])).layout == "huggingface"
    assert preset.plan(served, CPU)["conversion"]["state"] == "there already"


def test_the_type_is_stated_only_where_it_is_known(tmp_path: Path) -> None:
    served = deployment(tmp_path)

    def facts(arguments: str, allocation: Allocation) -> tuple[Any, Any]:
        preset = VLLM(arguments=arguments, cache=str(tmp_path / "cache"))
        found = preset._facts(served, preset._source(served, allocation), allocation)
        return found.get("dtype"), found.get("precision")

    assert facts("--seed 1", CPU) == ("fp32", None)
    assert facts("--dtype=bfloat16", CPU) == (None, None)
    assert facts("--kv-cache-dtype fp8", GPU) == (None, None)
    assert facts("", GPU) == ("bf16", None)
    served.optimizations.dtype = Dtype.fp32
    assert facts("", GPU) == ("fp32", "tf32")  # kernels may multiply fp32 so


LOG = """(APIServer pid=1) INFO 11-30 12:00:00 [api_server.py:100] starting
(EngineCore_DP0 pid=2) ERROR 11-30 12:00:01 [core.py:936] EngineCore failed to start.
(EngineCore_DP0 pid=2) ERROR 11-30 12:00:01 [core.py:936] Traceback (most recent call last):
(APIServer pid=1) Traceback (most recent call last):
(EngineCore_DP0 pid=2) ERROR 11-30 12:00:01 [core.py:936]   File "core.py", line 927, in run_engine_core
(APIServer pid=1)   File "/bin/vllm", line 8, in <module>
(EngineCore_DP0 pid=2) ERROR 11-30 12:00:01 [core.py:936] ValueError: No available memory for the cache blocks.
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def test_a_failed_start_quotes_the_cause(tmp_path: Path) -> None:
    program = f"#!/bin/sh\ncat {tmp_path / 'said'}\nexit 1\n"
    (tmp_path / "said").write_text(LOG)
    preset = VLLM(program=stub(tmp_path, program), cache=str(tmp_path / "cache"))
    with pytest.raises(ServerError) as told:
        preset.serve(deployment(tmp_path), CPU).__enter__()
    assert re.fullmatch(
        r"backend=vllm: the server ended: \S+ exited with 1: ValueError: No available memory for the cache blocks\.; "
        r"see \S+server\.log",
        str(told.value),
    )
