"""Checks that the server answers and serves the model."""

from __future__ import annotations

from launcher.validate.check import Capability, CheckContext, CheckDefinition, Failure, Family, NotApplicable


async def ready(context: CheckContext) -> str:
    """``/ready`` of a built-in server confirms that the weights are loaded and a token was generated."""
    if not context.endpoint.is_builtin:
        raise NotApplicable("a server of another program need not have /ready")
    response = await context.ask.get("/ready")
    if not response.ok:
        raise Failure(f"/ready answered HTTP {response.status}: {str(response.body)[:200]}")
    return "weights loaded, a token produced"


async def model_listed(context: CheckContext) -> str:
    response = await context.ask.get("/v1/models")
    if not response.ok:
        raise Failure(f"/v1/models answered HTTP {response.status}")
    names = [entry["id"] for entry in response.body["data"]]
    if context.endpoint.model not in names:
        raise Failure(f"/v1/models lists {', '.join(names) or 'nothing'}, not {context.endpoint.model}")
    return f"{context.endpoint.model} is served"


CHECKS = (
    CheckDefinition(
        "ready",
        "ready",
        Capability.serving,
        ready,
        Family.serving,
        expected="the weights are loaded and a real token was produced (a server of the launcher)",
        effect="every sample fails",
        remedy="read the server's log; give backend.start_timeout_s more time",
    ),
    CheckDefinition(
        "model_listed",
        "model listed",
        Capability.serving,
        model_listed,
        Family.identity,
        expected="`/v1/models` lists the model",
        effect="the scores are those of another model",
        remedy="backend.model, or the server's own name of the model",
    ),
)
