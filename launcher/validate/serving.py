"""The check that a server of the launcher is ready."""

from __future__ import annotations

from launcher.validate.check import Capability, CheckContext, CheckDefinition, Failure, Family, NotApplicable, said


async def ready(context: CheckContext) -> str:
    """``/ready`` of a built-in server confirms that the weights are loaded and a token was generated."""
    if not context.endpoint.is_builtin:
        raise NotApplicable("a server of another program need not have /ready")
    response = await context.ask.get("/ready")
    if not response.ok:
        raise Failure(f"/ready answered HTTP {response.status}: {said(response.body)}")
    return "weights loaded, a token produced"


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
        base=True,
    ),
)
