"""Answers in the shapes that servers give, each with the request that it answers."""

from __future__ import annotations

from launcher.core.types import Json, Request

CONTEXT = "Question: où est le café?\nAnswer:"
CHOICES = (" à Zürich 東京", " no")


def completion(**body: Json) -> Request:
    return Request("/v1/completions", {"model": "m", "prompt": "2+2=", "max_tokens": 8, "temperature": 0, **body})


def chat(**body: Json) -> Request:
    messages = [{"role": "user", "content": "2+2="}]
    return Request("/v1/chat/completions", {"model": "m", "messages": messages, "max_tokens": 8, **body})


def likelihoods(*prompts: str) -> Request:
    body = {"prompt": list(prompts), "max_tokens": 1, "logprobs": 1, "echo": True}
    return completion(**body)


def scores(number: int, first: float = -0.5) -> list[float | None]:
    return [None, *(first - 0.37 * (i * 7 % 11) for i in range(1, number))]


def listed(tokens: list[str], text: str, offsets: list[int], index: int = 0) -> Json:
    """A choice with the lists of completions, as most servers make them; the last token is the generated one."""
    values = scores(len(tokens), -0.5 - index)
    tops = [
        None if value is None else {token: value, "other": value - 1.0}
        for token, value in zip(tokens, values, strict=True)
    ]
    tops[-1] = {tokens[-1]: values[-1] or 0.0}
    logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": "length"}


def words(text: str) -> list[str]:
    """Cut a text before its spaces, as byte-level tokenizers do."""
    return [word for word in text.replace(" ", "\0 ").split("\0") if word]


def joined(tokens: list[str]) -> list[int]:
    return [sum(map(len, tokens[:i])) for i in range(len(tokens))]


def names(text: str) -> tuple[list[str], list[int]]:
    """One token per byte, named in OpenAI's way where it is no character, and the offset of its character."""
    tokens, offsets = [], []
    for i, character in enumerate(text):
        data = character.encode()
        tokens += [character] if len(data) == 1 else [f"bytes:\\x{byte:02x}" for byte in data]
        offsets += [i] * len(data)
    return tokens, offsets


def ours(*prompts: str) -> Json:
    made = []
    for i, prompt in enumerate(prompts):
        tokens, offsets = names(prompt + "!")
        made.append(listed(tokens, prompt + "!", offsets, i))
    return answered("text_completion", made)


def openai_like(*prompts: str) -> Json:
    made = [listed([*words(p), "!"], p + "!", joined([*words(p), "!"]), i) for i, p in enumerate(prompts)]
    return answered("text_completion", made, system_fingerprint="fp_1") | {"model": "m-2024-08-06"}


def vllm_like(*prompts: str) -> Json:
    """The first token is in the lists and not in the text, and offsets are those of the tokens in a row."""
    made = []
    for i, prompt in enumerate(prompts):
        tokens = ["<|begin_of_text|>", *words(prompt), "!"]
        made.append(listed(tokens, prompt + "!", joined(tokens), i) | {"stop_reason": None, "prompt_logprobs": None})
    return answered("text_completion", made, service_tier=None, kv_transfer_params=None)


def vllm_with_parts_of_characters(*prompts: str) -> Json:
    """A token of a part of a character is shown as U+FFFD."""
    made = []
    for i, prompt in enumerate(prompts):
        tokens = []
        for character in prompt:
            size = len(character.encode())
            tokens += [character] if size == 1 else ["\ufffd"] * size
        tokens.append("!")
        made.append(listed(tokens, prompt + "!", joined(tokens), i))
    return answered("text_completion", made)


def vllm_with_whole_characters(*prompts: str) -> Json:
    """The last token of a character has all of it, those before are empty."""
    made = []
    for i, prompt in enumerate(prompts):
        tokens = []
        for character in prompt:
            tokens += [""] * (len(character.encode()) - 1) + [character]
        tokens.append("!")
        made.append(listed(tokens, prompt + "!", joined(tokens), i))
    return answered("text_completion", made)


def sentencepiece_like(*prompts: str) -> Json:
    """Tokens are decoded one by one, and lose the space that they begin with."""
    made = []
    for i, prompt in enumerate(prompts):
        tokens = ["<s>", *(word.removeprefix(" ") for word in words(prompt)), "!"]
        made.append(listed(tokens, prompt + "!", joined(tokens), i))
    return answered("text_completion", made)


def pieces_like(*prompts: str) -> Json:
    """Tokens are SentencePiece's own pieces: U+2581 for a space, one before the text, and bytes as <0x..>."""
    made = []
    for i, prompt in enumerate(prompts):
        tokens, offsets = ["<s>"], [0]
        for place, character in enumerate(prompt):
            named = [f"<0x{byte:02X}>" for byte in character.encode()] if not character.isascii() else [character]
            tokens += ["\u2581" + named[0] if place == 0 else named[0].replace(" ", "\u2581"), *named[1:]]
            offsets += [place] * len(named)
        made.append(listed([*tokens, "!"], prompt + "!", [*offsets, len(prompt)], i))
    return answered("text_completion", made)


def sglang_like(*prompts: str) -> Json:
    """No offsets are counted; a token that is impossible has the least float as llama.cpp writes it."""
    made = []
    for i, prompt in enumerate(prompts):
        tokens = [*words(prompt), "!"]
        choice = listed(tokens, prompt + "!", [-1] * len(tokens), i)
        choice["logprobs"]["top_logprobs"][1]["impossible"] = -3.4028234663852886e38
        made.append(choice)
    return answered("text_completion", made)


ECHOES = {
    function.__name__: function
    for function in (
        ours, openai_like, vllm_like, vllm_with_parts_of_characters, vllm_with_whole_characters, sentencepiece_like,
        pieces_like, sglang_like,
    )
}  # fmt: skip


def answered(kind: str, choices: list[Json], **more: Json) -> Json:
    usage = {"prompt_tokens": 12, "completion_tokens": len(choices), "total_tokens": 12 + len(choices)}
    return {"id": "x-1", "object": kind, "created": 1, "model": "m", "choices": choices, "usage": usage, **more}


def said(text: str, index: int = 0, finish: str = "stop", **more: Json) -> Json:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish, **more}


def told(text: Json, index: int = 0, finish: str = "stop", **more: Json) -> Json:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish, **more}


def entry(token: str, value: float) -> Json:
    return {"token": token, "logprob": value, "bytes": list(token.encode())}


CONTENT = {"content": [entry("4", -0.01) | {"top_logprobs": [entry("4", -0.01), entry("5", -5.0)]}], "refusal": None}
GENERATED = {
    "ours": (completion(), answered("text_completion", [said("4")])),
    "ours, several": (completion(n=2), answered("text_completion", [said("5", 1), said("4", 0)])),
    "ours, chat": (chat(logprobs=True), answered("chat.completion", [told("4") | {"logprobs": CONTENT}])),
    "openai": (
        chat(model="gpt-4o"),
        answered("chat.completion", [told("4") | {"message": {"role": "assistant", "content": "4", "annotations": []}}])
        | {"model": "gpt-4o-2024-08-06", "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10,
           "completion_tokens_details": {"reasoning_tokens": 0}}},
    ),
    "openai, tools": (chat(), answered("chat.completion", [told(None, finish="tool_calls")])),
    "vllm": (
        completion(logprobs=1),
        answered(
            "text_completion",
            [said("4") | {"stop_reason": None, "logprobs": {"text_offset": [0, 1], "token_logprobs": [-0.1, -0.2],
             "tokens": ["4", "<|im_end|>"], "top_logprobs": [{"4": -0.1}, {"<|im_end|>": -0.2}]}}],
        ),
    ),
    "vllm, reasoning": (
        chat(), answered("chat.completion", [told("4") | {"message": {"role": "assistant", "content": "4",
                "reasoning_content": "hm", "tool_calls": []}}], prompt_logprobs=None),
    ),
    "llama.cpp": (
        chat(),
        answered("chat.completion", [told("4")], timings={"predicted_n": 3, "predicted_per_second": 81.2},
                 __verbose={"content": "4"}, system_fingerprint="b4500-x"),
    ),
    "llama.cpp, completion": (
        completion(logprobs=1),
        answered("text_completion", [said("4") | {"logprobs": {"content": [entry("4", -0.1) | {"id": 3,
                 "top_logprobs": [entry("4", -0.1) | {"id": 3}]}]}}]),
    ),
    "sglang": (
        completion(logprobs=1),
        answered("text_completion", [said("4") | {"matched_stop": 2, "logprobs": {"tokens": ["4"],
                 "token_logprobs": [-0.1], "top_logprobs": [{"4": -0.1}], "text_offset": [-1]}}]),
    ),
    "ollama": (chat(), answered("chat.completion", [told("4")]) | {"model": "m:latest"}),
}  # fmt: skip
