"""The Triton of PyTriton's wheel, installed in a folder with the one model that it serves."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

MODEL = "generate"
LIBRARY = "libtriton_python.so"
TMP_TEMPLATE, REPLACEMENT = b"/tmp/python_env_", b"./python_env____"
"""The template of a folder that the Python backend leaves behind when it is killed, and its replacement in the copy of
the library: a folder below Triton's working directory. Triton has no option for it."""
SOURCES = Path(__file__).parent
INPUTS = {
    "tokens": ("INT32", (-1,)),
    "text": ("BYTES", (1,)),
    "sampling": ("BYTES", (1,)),
    "batch": ("UINT8", (-1,)),
}
OUTPUTS = {
    "tokens": ("INT32", (-1,)),
    "text": ("BYTES", (1,)),
    "finish": ("BYTES", (1,)),
    "feed": ("UINT8", (-1,)),
    "logprobs": ("FP64", (-1,)),
    "top_tokens": ("INT32", (-1, -1)),
    "top_logprobs": ("FP64", (-1, -1)),
    "prompt_logprobs": ("FP64", (-1,)),
    "prompt_top_tokens": ("INT32", (-1, -1)),
    "prompt_top_logprobs": ("FP64", (-1, -1)),
}
"""Type and shape of the model's tensors, as documented in docs/pytriton.md."""


def program(folder: Path) -> Path:
    """Return where `install` puts tritonserver."""
    return folder / "tritonserver" / "bin" / "tritonserver"


def backends(folder: Path) -> Path:
    return folder / "tritonserver" / "backends"


def models(folder: Path) -> Path:
    return folder / "models"


def install(folder: Path, engine: Path) -> None:
    """Install Triton in ``folder``, which must not exist, with a model that connects to the socket ``engine``."""
    bundled, python = _bundled(), backends(folder) / "python"
    for each in (program(folder).parent, python, models(folder) / MODEL / "1"):
        each.mkdir(parents=True)
    program(folder).symlink_to(bundled / "bin" / "tritonserver")
    stub = "triton_python_backend_stub"
    (python / stub).symlink_to(bundled / "python_backend_stubs" / _version() / stub)
    utilities = "triton_python_backend_utils.py"
    (python / utilities).symlink_to(bundled / "backends" / "python" / utilities)
    library = (bundled / "backends" / "python" / LIBRARY).read_bytes()
    (python / LIBRARY).write_bytes(library.replace(TMP_TEMPLATE, REPLACEMENT))
    _write_model(models(folder) / MODEL, engine)


def _write_model(folder: Path, engine: Path) -> None:
    shutil.copy(SOURCES / "proxy.py", folder / "1" / "model.py")
    shutil.copy(SOURCES / "frames.py", folder / "1" / "frames.py")
    (folder / "config.pbtxt").write_text(_configuration(engine))


def _configuration(engine: Path) -> str:
    """Return Triton's ModelConfig in the text form of protobuf: decoupled, without Triton's own batching."""
    inputs = [_tensor("input", name, *kind, optional=True) for name, kind in INPUTS.items()]
    outputs = [_tensor("output", name, *kind) for name, kind in OUTPUTS.items()]
    return "\n".join(
        (
            f'name: "{MODEL}"\nbackend: "python"\nmax_batch_size: 0',
            *inputs,
            *outputs,
            "model_transaction_policy { decoupled: true }",
            "instance_group [{ kind: KIND_CPU, count: 1 }]",
            f'parameters {{ key: "engine", value: {{ string_value: "{engine}" }} }}',
        )
    )


def _tensor(field: str, name: str, kind: str, shape: tuple[int, ...], *, optional: bool = False) -> str:
    kind = "STRING" if kind == "BYTES" else kind
    rest = ", optional: true" if optional else ""
    return f'{field} [{{ name: "{name}", data_type: TYPE_{kind}, dims: {list(shape)}{rest} }}]'


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of Triton.

    Its Python stub must load this interpreter's libpython and packages; it crashes with another libpython of the
    system. Its temporary files must be in ``folder``, because it leaves them behind when it is killed.
    """
    libraries = (str(sysconfig.get_config_var("LIBDIR")), os.fspath(_bundled().parents[1] / "nvidia_pytriton.libs"))
    return os.environ | {
        "LD_LIBRARY_PATH": ":".join(filter(None, (*libraries, os.environ.get("LD_LIBRARY_PATH")))),
        "PATH": f"{sys.exec_prefix}/bin:{os.environ.get('PATH', os.defpath)}",
        "TMPDIR": os.fspath(folder),
    }


def missing_requirement() -> str | None:
    """Return the requirement of Triton that this Python does not meet, or None."""
    if find_spec("pytriton") is None:
        return "nvidia-pytriton is not installed: pip install 'nemo-megatron-launcher[pytriton]'"
    stubs = _bundled() / "python_backend_stubs"
    if not (stubs / _version()).is_dir():
        known = ", ".join(sorted(path.name for path in stubs.iterdir()))
        return f"nvidia-pytriton has no stub for Python {_version()}; it has them for {known}"
    return None


def _bundled() -> Path:
    """Return the folder of Triton in PyTriton's wheel, without importing that."""
    found = find_spec("pytriton")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "tritonserver"


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
