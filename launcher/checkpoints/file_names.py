"""Names of files that several modules look for in a folder."""

from __future__ import annotations

ADAPTER = "adapter_config.json"
"""The settings of an adapter of Hugging Face's library ``peft``."""

CONVERSION = "conversion.json"
"""The record that a conversion leaves beside the weights that it wrote."""
