"""What a report is about: the model and its checkpoint, and the command that repeats the run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Report

DIGEST = 12
"""The digits of a checkpoint's fingerprint that the head of a page shows."""


UNNAMED = "model"
"""``model.name`` where none was given."""


def title(name: str, path: str) -> str:
    """Return the name of a model; that of its checkpoint's folder where it was given none."""
    return Path(path).name or name if name == UNNAMED and "//" not in path else name


def facts(report: Report) -> list[tuple[str, str]]:
    """Return what is known of the model that was served, as pairs of a name and a text."""
    return [(name, text) for name, text in _facts(report) if text]


def command(report: Report, folder: Path) -> str:
    """Return the command line that repeats the run; empty where its overrides are not known."""
    overrides = report.run.get("overrides")
    if not isinstance(overrides, list | tuple):
        return ""
    flags = [f"--config-dir={found}"] if (found := _config_dir(folder)) else []
    words = [word for word in map(str, overrides) if not word.startswith("resume=")]
    return shlex.join(["launcher", *flags, *words])


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    engine, config = report.engine, report.run.get("config")
    model = config.get("model") if isinstance(config, Mapping) else None
    yield "Parameters", parameters(engine.get("parameters"))
    yield "Type", _text(engine.get("dtype"))
    yield "Layers", _count(engine.get("layers"))
    yield "Experts", _count(engine.get("experts"))
    yield "Context", f"{_count(engine.get('context_length'))} tokens" if engine.get("context_length") else ""
    yield "Checkpoint", _text(model.get("path")) if isinstance(model, Mapping) else ""
    yield "Layout", _text(engine.get("checkpoint_layout")).replace("_", " ")
    kind, _, digest = _text(report.run.get("checkpoint")).partition(":")
    yield "Fingerprint", f"{kind}:{digest[:DIGEST]}" if digest else kind
    yield "Software", " ".join(filter(None, (_text(engine.get("software")), _text(engine.get("version")))))


def parameters(count: Json) -> str:
    """Write a number of parameters as people say it: ``625 thousand``, ``8.03 billion``."""
    if not isinstance(count, int | float) or isinstance(count, bool) or not 0 < count < 1e18:
        return ""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count:.0f}"


def _count(value: Json) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value > 0 else ""


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _config_dir(folder: Path) -> str:
    """Return the folder of option files that the run was made with."""
    try:
        found = yaml.safe_load(RunFolder(folder).hydra_config.read_text(encoding="utf-8"))
        sources = found["hydra"]["runtime"]["config_sources"]
        return next((str(each["path"]) for each in sources if each["provider"] == "command-line"), "")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""
