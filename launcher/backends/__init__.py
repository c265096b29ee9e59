"""Backends: ways to bring up an OpenAI-compatible server, and to take it down again."""
