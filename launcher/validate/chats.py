"""Checks of what becomes of messages: template, system message, turns, parts, and the begin of the sequence."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.core.types import Json, Severity
from launcher.validate.check import (
    Capability,
    CheckContext,
    CheckDefinition,
    Doubt,
    Failure,
    Family,
    NotApplicable,
    counts_of,
    text_of,
)
from launcher.validate.routes import CHAT, COMPLETIONS

USER = "7+5="
PLAIN = "Read this code."
CODE = " if (a < b && c > 'd') {\r\n\te = \"f\";\r\n}  // <g>&amp;\r\n\tdone"
"""Characters that a chat may escape, or white space that it may change."""
SYSTEM = "Always answer with the word PURPLE and nothing else, in capital letters."
LONG_SYSTEM = " ".join([SYSTEM] * 3)
TURNS = (
    {"role": "user", "content": "Remember the number 5309 for me."},
    {"role": "assistant", "content": "I will remember that."},
    {"role": "user", "content": USER},
)
SAID = "It is a number with four digits, and I will say it."
FEW = 4
"""The least number of tokens of each of these texts."""


async def template_applied(context: CheckContext) -> str:
    """The prompt of a chat must be what the server's own template makes of the messages."""
    chat = await _prompt_tokens(context, [{"role": "user", "content": USER}])
    rendered = await _tokenize(context, {"messages": [{"role": "user", "content": USER}]})
    if rendered is not None:
        if len(rendered) != chat:
            raise Failure(f"the chat has {chat} prompt tokens, its template makes {len(rendered)} of the messages")
        return f"{chat} tokens, as /tokenize makes of the messages"
    bare = await COMPLETIONS.attempt(context, USER, max_tokens=1)
    if not bare.ok:
        raise NotApplicable("the server has neither /tokenize nor completions to compare with")
    if chat <= counts_of(bare.body)["prompt_tokens"]:
        raise Doubt(f"a chat has {chat} prompt tokens, no more than the bare text: is there a template?")
    return f"the template adds {chat - counts_of(bare.body)['prompt_tokens']} tokens"


async def system_message(context: CheckContext) -> str:
    """A system message must be part of the prompt, where it may replace one of the template's own."""
    user = {"role": "user", "content": USER}
    without = await _prompt_tokens(context, [user])
    adds = await _prompt_tokens(context, [{"role": "system", "content": SYSTEM}, user]) - without
    long = await CHAT.attempt(context, "", messages=[{"role": "system", "content": LONG_SYSTEM}, user], max_tokens=1)
    long_adds = counts_of(long.body)["prompt_tokens"] - without if long.ok else None
    is_longer = long_adds is not None and long_adds >= adds + FEW
    if adds < FEW and not is_longer:
        raise Failure(f"a system message of {len(SYSTEM.split())} words adds {adds} prompt tokens")
    if long_adds is not None and not is_longer:
        raise Failure(f"a system message adds {adds} prompt tokens, and three times as long {long_adds}")
    return f"it adds {adds} prompt tokens" if adds >= FEW else "it replaces the template's own"


async def turns_kept(context: CheckContext) -> str:
    """Earlier turns of a conversation must be part of the prompt."""
    last = await _prompt_tokens(context, TURNS[-1:])
    every = await _prompt_tokens(context, TURNS)
    first = await _prompt_tokens(context, [TURNS[0]])
    if every < last + 2 * FEW or every < first + FEW:
        raise Failure(f"3 messages have {every} prompt tokens, the last alone has {last}")
    said = {"role": "assistant", "content": f"{TURNS[1]['content']} {SAID}"}
    more = await _prompt_tokens(context, [TURNS[0], said, TURNS[2]])
    if more < every + FEW:
        raise Failure(f"{len(SAID.split())} more words of the assistant add {more - every} prompt tokens")
    return f"{len(TURNS)} messages have {every} prompt tokens, the last alone {last}"


async def content_parts(context: CheckContext) -> str:
    """Content as a list of parts must mean the same as a text."""
    text, parts = USER, [{"type": "text", "text": USER}]
    one, other = [await CHAT.ask(context, "", messages=[_user(content)]) for content in (text, parts)]
    counts = [counts_of(body)["prompt_tokens"] for body in (one, other)]
    if counts[0] != counts[1]:
        raise Failure(f"a text has {counts[0]} prompt tokens, as a part {counts[1]}")
    if text_of(one) != text_of(other) and text_of(one) != text_of(await CHAT.ask(context, "", messages=[_user(parts)])):
        raise Failure(f"a text gave {text_of(one)!r}, as a part {text_of(other)!r}")
    several = [{"type": "text", "text": piece} for piece in (TURNS[0]["content"], USER)]
    both = await _prompt_tokens(context, [_user(several)])
    alone = await _prompt_tokens(context, [TURNS[0]])
    if both <= alone or both < counts[0] + FEW:
        raise Failure(f"two parts have {both} prompt tokens, the first alone has {alone}, the second {counts[0]}")
    return "parts mean the same as a text"


async def code_kept(context: CheckContext) -> str:
    """A chat must add as many tokens for a text as a completion: it escapes nothing, and changes no white space."""
    grown = []
    for route in (COMPLETIONS, CHAT):
        bodies = [await route.attempt(context, text, max_tokens=1) for text in (PLAIN, PLAIN + CODE)]
        if not all(body.ok for body in bodies):
            raise NotApplicable("the server has no completions to compare with")
        one, other = [counts_of(body.body)["prompt_tokens"] for body in bodies]
        grown.append(other - one)
    if abs(grown[1] - grown[0]) > 1:
        raise Failure(f"{CODE!r} adds {grown[0]} tokens to a completion and {grown[1]} to a chat")
    return f"code adds {grown[1]} tokens, as to a completion"


async def bos_once(context: CheckContext) -> str:
    """The begin-of-sequence token must not be doubled, as happens where template and tokenizer both add it."""
    plain = await _tokenize(context, {"prompt": "a"})
    bare = await _tokenize(context, {"prompt": "a", "add_special_tokens": False})
    chat = await _tokenize(context, {"messages": [_user(USER)]})
    if plain is None or bare is None or chat is None:
        raise NotApplicable("not measured: the server has no /tokenize for messages")
    if len(plain) == len(bare) or plain[0] == bare[0]:
        return "the tokenizer adds no begin of a sequence"
    if chat[:2] == plain[:1] * 2:
        raise Failure(f"the prompt of a chat begins with the token {plain[0]} twice")
    return f"the prompt of a chat begins with the tokens {chat[:2]}"


def _user(content: Json) -> dict[str, Json]:
    return {"role": "user", "content": content}


async def _prompt_tokens(context: CheckContext, messages: Sequence[Json]) -> int:
    body = await CHAT.ask(context, "", messages=list(messages), max_tokens=1)
    return counts_of(body)["prompt_tokens"]


async def _tokenize(context: CheckContext, body: dict[str, Json]) -> list[int] | None:
    """Return the tokens by ``/tokenize``, which vLLM and the launcher have; None without it."""
    response = await context.ask.post("/tokenize", {"model": context.endpoint.model, **body})
    found = response.body.get("tokens") if response.ok and isinstance(response.body, dict) else None
    return found if isinstance(found, list) else None


OTHER = "the model is asked another question than the task's: scores are too low"
CHECKS = (
    CheckDefinition(
        "chat_template",
        "chat template",
        Capability.chat,
        template_applied,
        Family.chat,
        expected="the prompt of a chat is what the template makes of the messages",
        effect=OTHER,
        remedy="the server's chat template; tasks over completions for a base model",
        after="chat",
    ),
    CheckDefinition(
        "system_message",
        "system message",
        Capability.system,
        system_message,
        Family.chat,
        expected="a system message is part of the prompt",
        effect="instructions of the task are lost",
        remedy="adapters=[consolidate_system], which puts it into the user's message",
        after="chat",
    ),
    CheckDefinition(
        "turns_kept",
        "turns kept",
        Capability.chat,
        turns_kept,
        Family.chat,
        expected="earlier turns of a conversation are part of the prompt",
        effect="few-shot examples over chat are lost",
        remedy="few-shot examples in one message; another server",
        after="chat",
    ),
    CheckDefinition(
        "content_parts",
        "content parts",
        Capability.parts,
        content_parts,
        Family.chat,
        expected="content as a list of parts means the same as a text",
        effect=OTHER,
        remedy="content as a text",
        after="chat",
    ),
    CheckDefinition(
        "chat_code_kept",
        "chat code kept",
        Capability.chat,
        code_kept,
        Family.chat,
        expected="a chat escapes no character of a message and changes no white space within it",
        effect="questions with code, tables or markup are asked in another form",
        remedy="the server's chat template or gateway; tasks over completions",
        severity=Severity.warning,
        after="chat",
    ),
    CheckDefinition(
        "chat_bos_once",
        "chat BOS once",
        Capability.chat,
        bos_once,
        Family.chat,
        expected="the begin-of-sequence token is not doubled",
        effect="the model sees a sequence that it was not trained on: scores are a little too low",
        remedy="the server's chat template, or its tokenizer's add_bos_token",
        after="chat",
    ),
)
