"""Scores a sample without a run around it."""

from __future__ import annotations

import asyncio

from launcher.core.types import Request, Response, Sample, Score
from launcher.tasks.base import Task


async def no_endpoint(request: Request, endpoint: str | None = None) -> Response:
    """Refuse to ask: the scoring under test needs no further request."""
    raise AssertionError(f"the scoring sent {request.path} to {endpoint}")


def score(task: Task, sample: Sample, *responses: Response) -> Score:
    """Return the score of the responses to the sample's requests."""
    return asyncio.run(task.score(sample, responses, no_endpoint))
