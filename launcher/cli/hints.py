"""What works instead of an option or a key that does not exist: where a key belongs, what a name means elsewhere."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

from launcher.backends.preset import Preset
from launcher.cli.options import groups, options_of
from launcher.core.errors import TaskError
from launcher.pipeline.config import Run
from launcher.settings.component import COMPONENTS

ELSEWHERE = {
    "engine": {
        "hf": "engine=huggingface",
        "transformers": "engine=huggingface",
        "nemo": "engine=megatron",
        "mcore": "engine=megatron",
        "megatron_core": "engine=megatron",
        **{name: f"backend={name}" for name in ("vllm", "sglang", "nim", "trtllm", "llama_cpp")},
    },
    "backend": {
        "triton": "backend=pytriton",
        "embedded": "backend=inline",
        "local": "backend=inline",
        "url": "backend=external backend.url=<url>",
        "openai": "backend=external backend.url=<url>",
        "llama.cpp": "backend=llama_cpp",
        "tensorrt_llm": "backend=trtllm",
    },
    "adapters": {"cache": "adapters=[caching]", "logging": "adapters=[request_log,response_log]"},
    "mode": {"compare": "launcher compare RUN RUN", "gate": "launcher gate RUN --policy FILE", "eval": "mode=run"},
    "tasks": {
        "lm_eval": "tasks=[lm_eval/<name>]; launcher tasks lm_eval WORD searches the names",
        "lm-eval": "tasks=[lm_eval/<name>]; launcher tasks lm_eval WORD searches the names",
        "inspect": "tasks=[harness/inspect]",
        "harness": "tasks=[harness/<name>]; launcher tasks harness lists the names",
    },
    "parallelism": {"tp2": "parallelism=tensor2", "pp2": "parallelism=pipeline2"},
}
"""Names that other programs have for an option of a group, and what chooses it here."""
KEYS_ELSEWHERE = {
    "harness": "write tasks=[harness/<name>]",
    "slurm": "write cluster=slurm",
    "cluster.time": "write cluster.timeout_min=<minutes>",
    "cluster.mem": "write cluster.mem_gb=<GiB>",
    "cluster.gpus": "write cluster.gpus_per_node=<GPUs of a node>",
}
"""Keys that other programs have, and what is written here."""
LISTED = ("adapters.", "tasks.")
"""Groups whose keys stand below the name of an option."""
MOST = 3
"""The most keys that a hint names."""


def for_option(group: str, option: str) -> str:
    """Return what chooses what ``<group>=<option>`` seems to mean; empty where nothing is known."""
    if hint := ELSEWHERE.get(group, {}).get(option.lower(), ""):
        return hint
    if f"{group}." in LISTED and len(names := option.split()) > 1:
        return f"{group}=[{','.join(names)}]"
    return f"tasks=[lm_eval/{option}]" if group == "tasks" and _is_of_lm_eval(option) else ""


def _is_of_lm_eval(name: str) -> bool:
    """Tell whether lm-eval is installed and has a task, group or tag of this name."""
    from launcher.tasks.lm_eval import index

    try:
        found = index.read()
    except TaskError:
        return False
    return name in found.tasks or name in found.groups or name in found.tags


def for_word(word: str) -> str:
    """Return the settings that a word without a sign seems to mean: an option of a group, or a checkpoint."""
    holders = [group for group in groups() if "/" not in group and word in options_of(group)]
    found = [f"{group}=[{word}]" if f"{group}." in LISTED else f"{group}={word}" for group in holders]
    hint = for_option("tasks", word)
    found += [hint] if hint.startswith("tasks=") else []
    if (not found and "/" in word) or Path(word).is_dir():
        found.append(_checkpoint(word))
    return f"did you mean {' or '.join(found[:MOST])}?" if found else ""


def for_override(override: str) -> str:
    """Return what chooses a model that is given by its path, which Hydra's grammar cannot read."""
    key, _, value = override.partition("=")
    return _checkpoint(value) if key == "model" and "/" in value else ""


def for_model(group: str, option: str, options: Sequence[str]) -> str:
    """Say that ``model=`` has no such option, and what chooses the model: its path, or one of the options."""
    path = model_path(group, option)
    if "/" in path or Path(path).exists():
        return f"no such option; write {_checkpoint(path)}"
    close = difflib.get_close_matches(path, options, n=1)
    guess = f" (did you mean {close[0]}?)" if close else ""
    listed = ", ".join(options)
    return f"no such option{guess}; expected one of {listed}, or for a checkpoint {_checkpoint('<folder>')}"


def model_path(group: str, option: str) -> str:
    """Return the value of ``model=``, of which Hydra takes all but the last part for a group."""
    return option if group == "model" else f"{group.removeprefix('model/')}/{option}"


def _checkpoint(path: str) -> str:
    return f"model=checkpoint {shlex.quote(f'model.path={path}') if ' ' in path else f'model.path={path}'}"


def for_key(full_key: str, chosen: Sequence[str]) -> str:
    """Return where a key that does not exist belongs: to another option of its group, or below another key.

    ``chosen`` are the keys that stand beside it: in a list of components, the names of the chosen ones.
    """
    head, _, name = full_key.rpartition(".")
    if full_key in KEYS_ELSEWHERE:
        return KEYS_ELSEWHERE[full_key]
    owners = [path for path, kind in COMPONENTS.items() if path.startswith(f"{head}/") and name in _names(kind)]
    if f"{head}." in LISTED and owners:
        return f"it is a key of one of them: {' or '.join(f'{head}.{each}.{name}' for each in list(chosen)[:MOST])}"
    if head and owners:
        owners.sort(key=lambda path: issubclass(COMPONENTS[path], Preset))
        others = " and others" if len(owners) > MOST else ""
        return f"{name} is a key of {' and '.join(path.replace('/', '=') for path in owners[:MOST])}{others}"
    found = [key for key in _keys(Run, "") if key.rpartition(".")[2] == name and not key.startswith(LISTED)]
    found.sort(key=lambda key: (key.startswith("convert."), not key.startswith("evaluate.")))
    return (
        f"did you mean {' or '.join(found[:MOST])}?" if found and head != "backend" and f"{head}." not in LISTED else ""
    )


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)} if is_dataclass(kind) else set()


def _keys(kind: type, prefix: str) -> Iterator[str]:
    """Yield the full keys of a settings class and of those below it; for a group, those of all of its options."""
    hints = get_type_hints(kind)
    for name in (field.name for field in fields(kind)):
        yield f"{prefix}{name}"
        options = [] if prefix else [option for path, option in COMPONENTS.items() if path.startswith(f"{name}/")]
        inner = next((part for part in (hints[name], *get_args(hints[name])) if is_dataclass(part)), None)
        if options:
            yield from dict.fromkeys(f"{name}.{key}" for option in options for key in sorted(_names(option)))
        elif isinstance(inner, type):
            yield from _keys(inner, f"{prefix}{name}.")
