"""Checks of who answers: the model, one instance of it, and what the server says of itself."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.core.types import Json, Severity
from launcher.validate.check import (
    Capability,
    CheckContext,
    CheckDefinition,
    Doubt,
    Failure,
    Family,
    Measurement,
    NotApplicable,
)
from launcher.validate.exchange import together
from launcher.validate.facts import server_facts
from launcher.validate.routes import Route, on_both

ANOTHER = "-which-is-not-served"
"""Makes the name of a model that no server has."""


async def model_listed(context: CheckContext) -> str:
    response = await context.ask.get("/v1/models")
    if not response.ok:
        raise Failure(f"/v1/models answered HTTP {response.status}")
    names = [entry["id"] for entry in response.body["data"]]
    if context.endpoint.model not in names:
        raise Failure(f"/v1/models lists {', '.join(names) or 'nothing'}, not {context.endpoint.model}")
    return f"{context.endpoint.model} is served"


async def facts(context: CheckContext) -> Measurement:
    """Record what the server says of itself."""
    if context.endpoint.is_builtin:
        raise NotApplicable("a server of the launcher describes itself at /engine, in the results")
    found = await server_facts(context.ask.get, context.endpoint.model, context.endpoint.facts)
    said = ", ".join(f"{name} {value}" for name, value in found.items())
    return Measurement(said or "the server says nothing of itself", found)


async def answered_by(context: CheckContext, route: Route) -> str:
    """The model in an answer must be the one that was asked."""
    body = await route.ask(context, context.settings.prompt, max_tokens=1)
    odd = next((note for note in context.notes if note.startswith("answered by the model")), None)
    if odd is not None:
        raise (Failure if context.endpoint.is_builtin else Doubt)(odd)
    return f"answered by {body.get('model', 'a model without a name')}"


async def one_instance(context: CheckContext, route: Route) -> str:
    """Answers that differ must have different ids, and come from one configuration of the server."""
    prompts = (context.settings.prompt, "another text", context.settings.prompt)
    bodies = await together([route.ask(context, prompt, max_tokens=2) for prompt in prompts])
    ids = [body.get("id") for body in bodies]
    if len(set(map(str, ids))) < len(ids) and ids[0] is not None:
        raise Failure(f"{len(ids)} answers have the ids {', '.join(map(str, ids))}: one is not its request's own")
    prints = {str(body.get("system_fingerprint")) for body in bodies}
    if len(prints) > 1:
        raise Failure(f"answers come from several configurations: system_fingerprint is {', '.join(sorted(prints))}")
    return f"{len(ids)} answers with ids of their own"


async def unknown_model(context: CheckContext, route: Route) -> str:
    """A model that is not served must be refused."""
    body = route.body("a", max_tokens=1) | {"model": context.endpoint.model + ANOTHER}
    response = await context.attempt(route.path, body)
    if response.ok:
        shown = _name(response.body)
        raise Failure(f"a request for the model '{body['model']}', which is not served, is answered by {shown}")
    return f"refused with HTTP {response.status}"


def _name(body: Json) -> str:
    return str(body.get("model")) if isinstance(body, Mapping) else "some model"


CHECKS = (
    CheckDefinition(
        "model_listed",
        "model listed",
        Capability.serving,
        model_listed,
        Family.identity,
        expected="`/v1/models` lists the model",
        effect="the scores are those of another model",
        remedy="backend.model, or the server's own name of the model",
        base=True,
    ),
    CheckDefinition(
        "server_facts",
        "server facts",
        Capability.serving,
        facts,
        Family.identity,
        expected="the server's software, version, type and context, as far as it says them",
        effect="none",
        remedy="nothing",
        severity=Severity.info,
        base=True,
    ),
)
LATER = (
    *on_both(
        "answered_by",
        "answered by",
        answered_by,
        Family.identity,
        "an answer names the model that was asked",
        "the scores are those of another model",
        "backend.model, or the server's list of models",
    ),
    *on_both(
        "one_instance",
        "one instance",
        one_instance,
        Family.identity,
        "each answer has an id of its own, and all have one `system_fingerprint`",
        "answers of other requests, or of differently configured servers, are mixed",
        "the balancer or cache in front of the server",
        Severity.warning,
    ),
    *on_both(
        "unknown_model",
        "unknown model",
        unknown_model,
        Family.identity,
        "a model that is not served is refused",
        "a mistyped name is scored as if it were the model",
        "backend.model: compare it with what the server was started with",
        Severity.warning,
    ),
)
"""These generate, and come after the checks that an answer has a sound form."""
