"""Which pages may call a server from a browser: CORS, as the Fetch standard has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from launcher.api.access import REQUEST_ID


def allowed(origins: Sequence[str]) -> dict[str, Any]:
    """Return the settings of Starlette's ``CORSMiddleware``. It answers a preflight, which never has a key."""
    return {
        "allow_origins": tuple(origins),
        "allow_methods": ("GET", "HEAD", "POST"),
        "allow_headers": ("*",),
        "expose_headers": (REQUEST_ID, "Retry-After"),
        "max_age": 600,
    }


def allowing(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return an app that pages from ``origins`` may call; without any, the app itself."""
    return CORSMiddleware(app, **allowed(origins)) if origins else app
