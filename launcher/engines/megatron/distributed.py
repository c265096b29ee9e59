"""The process groups of megatron-core, for one process or for many, without CUDA assumptions."""

from __future__ import annotations

import importlib
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from launcher.distributed.group.transport import address_towards, listen
from launcher.engines.runtime.threads import wait_asleep
from launcher.settings.model import Parallelism

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits inside a collective: ranks load large checkpoints at different speeds. No rank idles in one."""

INTERFACES = {name: os.environ.get(name) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
"""The network interfaces that the user has chosen; they are never changed."""


def import_quietly() -> None:
    """Import megatron-core without its warnings about packages that only training on GPUs needs."""
    wait_asleep()
    with warnings.catch_warnings(), _uncompiled():
        warnings.simplefilter("ignore")
        importlib.import_module("megatron.core.models.gpt.gpt_layer_specs")


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Without a GPU, keep megatron-core from marking its fused functions for `torch.compile`.

    The marks alone load torch's compiler, which is half of the import's time, and no model here calls such a function.
    """
    import torch

    compiles = torch.compile
    if not torch.cuda.is_available():
        torch.compile = _as_it_is  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiles


def _as_it_is(function: Callable[..., Any] | None = None, **_: Any) -> Callable[..., Any]:
    return function if function is not None else _as_it_is


def initialize(parallelism: Parallelism, device: torch.device, rank: int = 0, store: Store | None = None) -> None:
    """Join the process groups of a layout, as ``rank`` of ``parallelism.world_size``.

    ``store`` is the rendezvous of the ranks; a single process needs none. A repeated call with the same layout does
    nothing; another layout in the same process replaces the old groups.
    """
    import_quietly()
    import torch.distributed as dist
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker
    from torch._C._distributed_c10d import HashStore

    if parallel_state.model_parallel_is_initialized():
        if _layout() == parallelism and dist.get_rank() == rank:
            return
        shutdown()
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        if store is None:
            use_interface_towards("127.0.0.1")
            store = HashStore()
        dist.init_process_group(backend, rank=rank, world_size=parallelism.world_size, store=store, timeout=TIMEOUT)
    parallel_state.initialize_model_parallel(
        parallelism.tensor,
        parallelism.pipeline,
        context_parallel_size=parallelism.context,
        expert_model_parallel_size=parallelism.expert,
        expert_tensor_parallel_size=parallelism.tensor // parallelism.expert,
        distributed_timeout_minutes=int(TIMEOUT.total_seconds() // 60),
    )
    # The tracker's fork() has no CUDA generator to touch when it is the inference one.
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)


def use_interface_towards(host: str) -> None:
    """Let Gloo and NCCL use the network interface towards a host, unless the user has chosen another.

    Gloo would pick the address of this host's name, which is slower and may not even be reachable.
    """
    name = _interface(address_towards(host))
    for variable, chosen in INTERFACES.items():
        if chosen is None and name is not None:
            os.environ[variable] = name


def _interface(address: str) -> str | None:
    import psutil

    for name, found in psutil.net_if_addrs().items():
        if any(each.address == address for each in found):
            return str(name)
    return None


def host_store(host: str) -> tuple[Store, int]:
    """Return the rendezvous store of the ranks and its port; it listens only at this address of the host."""
    from torch._C._distributed_c10d import TCPStore

    listening = listen(host)
    port = int(listening.getsockname()[1])
    fd = listening.detach()
    return TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=fd), port


def join_store(host: str, port: int) -> Store:
    """Return the store of another rank."""
    from torch._C._distributed_c10d import TCPStore

    return TCPStore(host, port, is_master=False)


def close_connections(host: str) -> None:
    """Close every connection to a lost host, on which a collective would otherwise wait until its timeout."""
    import psutil

    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and connection.raddr.ip == host and connection.fd >= 0:
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as same:
                same.shutdown(socket.SHUT_RDWR)


def shutdown() -> None:
    """Leave the process groups; does nothing when there are none."""
    import torch.distributed as dist
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def abort() -> None:
    """End the current collective of this process after another rank died.

    Gloo notices that itself, as its connections break. NCCL would wait on the device until `TIMEOUT`, and so would
    the destruction of its groups.
    """
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_backend() == "nccl":
        from torch.distributed.distributed_c10d import _abort_process_group

        _abort_process_group()


def leader_rank(parallelism: Parallelism) -> int:
    """Return the rank of the process that schedules: the first of the stage whose output is the logits.

    Megatron-core orders ranks tensor fastest, pipeline slowest, so that logits need no trip between stages.
    """
    return parallelism.world_size - parallelism.world_size // parallelism.pipeline


def _layout() -> Parallelism:
    from megatron.core import parallel_state

    return Parallelism(
        tensor=parallel_state.get_tensor_model_parallel_world_size(),
        pipeline=parallel_state.get_pipeline_model_parallel_world_size(),
        context=parallel_state.get_context_parallel_world_size(),
        expert=parallel_state.get_expert_model_parallel_world_size(),
    )
