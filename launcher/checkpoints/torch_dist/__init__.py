"""Megatron-core's distributed checkpoint format, read without running any of it."""
