"""The base of ready-made servers: another program, started with the flags that the settings stand for."""

from __future__ import annotations

import os
import shlex
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from launcher.backends.balancer import Routing
from launcher.backends.base import Backend, check_optimizations, check_world_size
from launcher.backends.command.process import ManagedProcess, free_port, managed_process
from launcher.backends.endpoint import ANY_PORT, api_key, planned_url, root_url
from launcher.backends.listing import Listing
from launcher.backends.replicas import folder, shares
from launcher.backends.replicas.config import LOOPBACK, ReplicasConfig
from launcher.backends.served_checkpoint import ServedCheckpoint, served_checkpoint
from launcher.backends.served_sizes import check_context, check_split
from launcher.backends.server_program import SETTINGS, ServerProgram
from launcher.backends.server_version import found_program, installed_version, located
from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.core.files import cache_folder
from launcher.core.ranges import Count, Fraction, Port, Seconds
from launcher.core.redaction import reveal
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, Json
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.settings.component import name_of
from launcher.settings.model import Dtype, Parallelism

REQUEST_TIMEOUT_S = 30.0
DRIVER_S = 20.0
"""How much longer than a replica the process that runs them may take to end."""
TORCH = {Dtype.fp32: "float32", Dtype.bf16: "bfloat16", Dtype.fp16: "float16", Dtype.auto: "auto"}
OTHER_TYPES = {"--dtype", "--quantization", "-q", "--kv-cache-dtype", "--kv_cache_dtype"}
"""Arguments by which a server computes, or keeps keys and values, in a type that is not known here."""
TELEMETRY = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@dataclass
class Preset(Backend, ABC):
    """The settings that all ready-made servers share.

    ``program`` starts the server, such as ``/opt/vllm/bin/vllm serve``; null: as it is installed. ``arguments`` are
    further ones, split as a shell does. ``data_parallel`` is how often one server has the model, where it can.
    ``memory_fraction`` is the share of GPU memory. ``max_logprobs``: how many log-probabilities a request may ask for.
    ``cache`` is where converted checkpoints are kept.

    ``replicas`` is the number of servers on this machine, which share its GPUs; HAProxy balances between them.
    ``routing`` is ``least_outstanding`` or ``prefix``: requests with the same beginning go to the same one. A server
    that ends, or is silent for ``probe_timeout_s``, is replaced. So is one that has requests, but sends nothing for
    ``stall_timeout_s`` and then generates no token (null: no limit).

    The server listens at ``host`` and ``port`` (0: any free one). It must be ready within ``start_timeout_s``, and gets
    ``stop_timeout_s`` to end. ``model`` is the name that it lists, where that is not `model.name`. ``api_key_env``
    names the environment variable of the key to send. ``environment`` is added to the launcher's own, and
    ``environment_env`` gives variables the values of other variables, which the launcher never writes.
    """

    runs_engine: ClassVar[bool] = False
    identity_fields: ClassVar[frozenset[str]] = frozenset(
        {"program", "arguments", "replicas", "data_parallel", "memory_fraction", "max_logprobs", "model", "environment"}
    )
    server: ClassVar[ServerProgram]

    program: str | None = None
    arguments: str = ""
    data_parallel: Count = 1
    replicas: Count = 1
    routing: Routing = Routing.least_outstanding
    probe_timeout_s: Seconds = 10.0
    stall_timeout_s: Seconds | None = 600.0
    memory_fraction: Fraction | None = None
    max_logprobs: Count | None = None
    cache: str | None = None
    host: str = "127.0.0.1"
    port: Port = 0
    api_key_env: str | None = None
    model: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    environment_env: dict[str, str] = field(default_factory=dict)
    start_timeout_s: Seconds = 1800.0
    stop_timeout_s: Seconds = 30.0

    @property
    def checkpoints(self) -> bool:
        return True

    @property
    def maximum_replicas(self) -> int:
        return self.replicas * self.data_parallel

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        self._check(deployment, allocation)
        api_key(self.api_key_env)
        self._environment()
        source = self._source(deployment, allocation)
        source.check_tokenizer()
        command = self.command(deployment, source, self._inner_port or self.port or ANY_PORT, allocation.gpus)
        variables = self._variables(deployment, allocation)
        return {
            "server": planned_url(self.host, self.port),
            "command": command,
            **({"replicas": [dict(each) for each in variables], "routing": self.routing.value} if variables else {}),
            "environment": dict(self._neutral()) | self.environment,
            **source.facts(),
            "dtype": "the server's choice" if source.dtype is Dtype.auto else source.dtype.value,
            **({} if self._installed() else {"missing": self._missing()}),
        }

    def command(self, deployment: Deployment, source: ServedCheckpoint, port: int | str, gpus: int = 0) -> list[str]:
        """Return the words of the command. Raises `UserError` for a setting that the server would not get."""
        values = self._values(deployment, source, port)
        self._refuse_lost(values)
        words = [*self.server.words(values), *(self.server.on_gpu if gpus else ())]
        return [*self._program(), *words, *self._split("arguments", self.arguments)]

    def _refuse_lost(self, values: Mapping[str, Json]) -> None:
        for name in self.server.lost(values):
            raise UserError(
                f"{SETTINGS[name]}={values[name]}: {self._key} has no flag for it; "
                "leave it out, take another backend, or give the server's own flags in backend.arguments"
            )

    @contextmanager
    def serve(self, deployment: Deployment, allocation: Allocation) -> Iterator[Endpoint]:
        self._check(deployment, allocation)
        if not self._installed():
            raise UserError(self._missing())
        source = self._source(deployment, allocation)
        source.convert(lambda line: to_stderr(f"serve: convert: {line}"))
        key, port = api_key(self.api_key_env), free_port(self.host, self.port)
        root = root_url(self.host, port)
        with self._process(deployment, allocation, source, port) as process:
            process.wait(root + self.server.ready_path, key, self.start_timeout_s)
            listing = Listing(f"{self._key}: {root}/v1", f"{root}/v1", key, self.api_key_env, REQUEST_TIMEOUT_S)
            yield Endpoint(
                listing.url,
                listing.choose(self.model),
                name_of(self),
                self.server.name,
                key,
                is_builtin=False,
                exit_reason=process.exit_reason,
                facts=self._facts(deployment, source, allocation),
                uuid_ids=listing.takes_only_uuids(),
            )

    @contextmanager
    def _process(
        self, deployment: Deployment, allocation: Allocation, source: ServedCheckpoint, port: int
    ) -> Iterator[ManagedProcess]:
        """Start the server, or the process that runs the replicas."""
        environment, log = self._environment(), RunFolder(deployment.folder).server_log
        command = self.command(deployment, source, self._inner_port or port, allocation.gpus)
        variables, stop_s = self._variables(deployment, allocation), self.stop_timeout_s
        if not variables:
            with managed_process(command, environment, log, stop_s, self._key) as process:
                yield process
            return
        with folder.created() as private:
            config = self._replicas_config(command, variables, port, private, log)
            with managed_process(config.driver(), environment, log, stop_s + DRIVER_S, self._key) as process:
                yield process

    def _replicas_config(
        self, command: list[str], variables: Sequence[Mapping[str, str]], port: int, private: Path, log: Path
    ) -> ReplicasConfig:
        return ReplicasConfig(
            command=tuple(command),
            variables=tuple(variables),
            host=self.host,
            port=port,
            ready_path=self.server.ready_path,
            answers_while_busy=self.server.answers_while_busy,
            routing=self.routing,
            start_timeout_s=self.start_timeout_s,
            stop_timeout_s=self.stop_timeout_s,
            probe_timeout_s=self.probe_timeout_s,
            stall_timeout_s=self.stall_timeout_s,
            key_env=self.api_key_env,
            folder=str(private),
            log=str(log),
        )

    @property
    def _inner_port(self) -> str | None:
        """The port in the command of a replica, which gets one when it starts."""
        return ANY_PORT if self.replicas > 1 else None

    def _variables(self, deployment: Deployment, allocation: Allocation) -> list[dict[str, str]]:
        """Return what each replica gets in its environment; nothing without replicas. Raises `UserError`."""
        ranks = self._ranks(deployment.parallelism) * self.data_parallel
        return shares.of_machine(self.replicas, ranks, allocation, os.environ, self._cpu_variables)

    def _ranks(self, parallelism: Parallelism) -> int:
        """Return how many GPUs one model takes."""
        return parallelism.tensor * parallelism.pipeline * parallelism.context

    def _cpu_variables(self, cpus: int) -> dict[str, str]:
        """Return what makes a replica compute with so many CPUs."""
        taken = os.environ | self.environment
        return {name: value for name, value in {"OMP_NUM_THREADS": str(cpus)}.items() if name not in taken}

    @property
    def _key(self) -> str:
        return f"backend={name_of(self)}"

    def _check(self, deployment: Deployment, allocation: Allocation) -> None:
        check_world_size(deployment.parallelism, allocation)
        check_optimizations(deployment.optimizations, frozenset({"dtype", "prefix_caching"}))

    def _source(self, deployment: Deployment, allocation: Allocation) -> ServedCheckpoint:
        cache = Path(self.cache) if self.cache else cache_folder() / "converted"
        device = "cuda" if allocation.gpus else "cpu"
        arguments = self._split("arguments", self.arguments)
        source = served_checkpoint(deployment, self.server, cache, device, self._key, arguments)
        if "tensor" in self.server.flags:
            check_split(source.sizes, deployment.parallelism)
        self._check_context(deployment.model.context_length, source)
        return source

    def _check_context(self, asked: int | None, source: ServedCheckpoint) -> None:
        """Raise `UserError` for a context that the server would refuse, or cut. llama.cpp takes any."""
        longer = self.server.longer_context
        allowed = longer and (os.environ | self.environment).get(longer) not in (None, "", "0")
        if "context_length" in self.server.flags and self.server.reads != "gguf" and not allowed:
            check_context(asked, source.sizes.context_length, source.model.path, longer)

    def _values(self, deployment: Deployment, source: ServedCheckpoint, port: int | str) -> dict[str, Json]:
        """Return the value of each setting; None is one that is not set, and costs no flag."""
        model, parallelism = deployment.model, deployment.parallelism
        sizes = {name: getattr(parallelism, name) for name in ("tensor", "pipeline", "context", "expert")}
        return {
            "checkpoint": source.path,
            "tokenizer": None if source.conversion else model.tokenizer,
            "model": model.name if "model" in self.server.flags else None,
            "context_length": model.context_length,
            "tool_calls": model.tool_call_parser.asked,
            **{name: size if size > 1 else None for name, size in sizes.items()},
            "data_parallel": self.data_parallel if self.data_parallel > 1 else None,
            "dtype": self._dtype(deployment, source),
            "prefix_caching": self._prefix_caching(deployment),
            "memory_fraction": self.memory_fraction,
            "max_logprobs": self.max_logprobs,
            "host": self.host if self.replicas == 1 else LOOPBACK,
            "port": port,
        }

    def _dtype(self, deployment: Deployment, source: ServedCheckpoint) -> str | None:
        """Return the type by its name in torch; a server without a flag computes in that of the weights."""
        if "dtype" in self.server.flags:
            return TORCH[source.dtype]
        asked = deployment.optimizations.dtype
        return None if asked is Dtype.auto or source.conversion else TORCH[asked]

    def _prefix_caching(self, deployment: Deployment) -> bool | None:
        asked = deployment.optimizations.prefix_caching
        return asked if "prefix_caching" in self.server.flags or not asked else None

    def _facts(self, deployment: Deployment, source: ServedCheckpoint, allocation: Allocation) -> dict[str, Json]:
        """Return what is known of the server without asking it."""
        words = {word.partition("=")[0] for word in self._split("arguments", self.arguments)}
        dtype = Dtype.auto if words & OTHER_TYPES else source.dtype
        found = {
            "engine": self.server.name,
            "version": installed_version(self._program(), self.server.distribution),
            "dtype": dtype.value if dtype is not Dtype.auto else None,
            "precision": "tf32" if dtype is Dtype.fp32 and allocation.gpus else None,
            "context_length": deployment.model.context_length,
            "converted_from": source.converted_from,
            "replicas": self.replicas if self.replicas > 1 else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _program(self) -> list[str]:
        return located(self._split("program", self.program or self.server.program))

    def _split(self, setting: str, text: str) -> list[str]:
        try:
            return shlex.split(text)
        except ValueError as error:
            raise UserError(f"backend.{setting}={text}: {error}; must be words as in a shell") from None

    def _installed(self) -> bool:
        return found_program(self._program()) is not None

    def _missing(self) -> str:
        return (
            f"{self._key}: the program '{' '.join(self._program()[:3])}' is not here; {self.server.install}, or set "
            "backend.program to where it is"
        )

    def _neutral(self) -> Mapping[str, str]:
        return TELEMETRY | dict(self.server.environment)

    def _environment(self) -> dict[str, str]:
        secret = {name: reveal(of, f"backend.environment_env.{name}") for name, of in self.environment_env.items()}
        return os.environ | dict(self._neutral()) | self.environment | secret
