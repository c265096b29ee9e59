"""Engines: a model that turns token ids into token events."""
