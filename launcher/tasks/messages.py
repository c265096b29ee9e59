"""The messages of a chat."""

from __future__ import annotations

from launcher.core.types import Json


def system(*parts: str) -> list[Json]:
    """Return the system message, with a blank line between its parts; none if all are empty."""
    content = "\n\n".join(part for part in parts if part)
    return [{"role": "system", "content": content}] if content else []


def user(content: str) -> Json:
    return {"role": "user", "content": content}


def assistant(content: str) -> Json:
    return {"role": "assistant", "content": content}
