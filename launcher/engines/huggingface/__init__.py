"""The Hugging Face engine: any causal language model of transformers with our own cache and batching."""

from launcher.engines.huggingface.engine import HuggingFace

__all__ = ["HuggingFace"]
