"""The tokenizers and chat templates of checkpoints."""
