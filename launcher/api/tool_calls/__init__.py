"""Calls of tools: the forms in which models write them, their grammars, and reading them out of an answer."""
