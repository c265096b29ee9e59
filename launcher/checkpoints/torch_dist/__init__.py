"""Megatron-core's distributed checkpoint format, read without running any code of it."""
