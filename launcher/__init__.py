"""A Hydra-configured launcher that serves a checkpoint, validates the endpoint and evaluates it."""

__version__ = "0.1.0"
