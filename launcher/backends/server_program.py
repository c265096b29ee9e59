"""What is known of another program's server: how it takes each setting, what it reads, and where that is documented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from launcher.core.types import Json

SETTINGS: Mapping[str, str] = {
    "checkpoint": "model.path",
    "tokenizer": "model.tokenizer",
    "model": "model.name",
    "context_length": "model.context_length",
    "tool_calls": "model.tool_call_parser",
    "tensor": "parallelism.tensor",
    "pipeline": "parallelism.pipeline",
    "context": "parallelism.context",
    "expert": "parallelism.expert",
    "dtype": "optimizations.dtype",
    "prefix_caching": "optimizations.prefix_caching",
    "data_parallel": "backend.data_parallel",
    "memory_fraction": "backend.memory_fraction",
    "max_logprobs": "backend.max_logprobs",
    "host": "backend.host",
    "port": "backend.port",
}
"""The settings that a server may take, each with its key."""


@dataclass(frozen=True)
class Switch:
    """A setting that is on or off; an empty text is what the program does by itself."""

    on: str = ""
    off: str = ""

    def words(self, value: Json) -> list[str]:
        return [flag for flag in (self.on if value else self.off,) if flag]

    def __str__(self) -> str:
        return " / ".join(flag for flag in (self.on, self.off) if flag)


@dataclass(frozen=True)
class Option:
    """A flag with a value behind it; without a name, the value stands alone. ``with_`` is a switch that it needs."""

    name: str = ""
    with_: str = ""

    def words(self, value: Json) -> list[str]:
        return [*(word for word in (self.with_, self.name) if word), str(value)]

    def __str__(self) -> str:
        return " ".join(word for word in (self.with_, self.name) if word) or "(an argument)"


@dataclass(frozen=True)
class ServerProgram:
    """A server's program.

    ``flags`` are in the order of the command, by the names in `SETTINGS`. ``always`` is what makes its defaults
    neutral, ``on_gpu`` what it takes to compute there, and ``environment`` what keeps it from reporting its use.
    ``tried`` is the version that ran here. ``install`` brings it, ``distribution`` is its package. Some servers do not
    answer ``ready_path`` while they compute. ``note`` is what its users should know. Tests hold the flags against a
    list of each server's own, with version and source.
    ``longer_context`` is the variable that lets a server take a longer context than the model's.
    """

    name: str
    program: str
    flags: Mapping[str, Option | Switch]
    install: str
    tried: str = "never: only its command is tested"
    distribution: str | None = None
    ready_path: str = "/v1/models"
    answers_while_busy: bool = True
    reads: str = "huggingface"
    always: tuple[str, ...] = ()
    on_gpu: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    longer_context: str = ""

    def words(self, values: Mapping[str, Json]) -> list[str]:
        """Return the arguments for these values; None is one that is not set."""
        found = [flag.words(values[name]) for name, flag in self.flags.items() if values[name] is not None]
        return [*(word for words in found for word in words), *self.always]

    def lost(self, values: Mapping[str, Json]) -> list[str]:
        """Return the names of values that are set, and that the program has no flag for."""
        return [name for name, value in values.items() if value is not None and name not in self.flags]
