"""The Megatron engine: megatron-core's GPTModel with our own cache and batching, on CPU or GPU."""

from launcher.engines.megatron.engine import Megatron

__all__ = ["Megatron"]
