"""Fine-tuned adapters, such as LoRA, that are merged into the weights of their base model when these are read."""
