"""GGUF files: header, keys, weights."""
