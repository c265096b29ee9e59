"""Fields of OpenAI's and vLLM's requests that this API does not implement, and their values without effect.

OpenAI's are those of its package for Python (``completion_create_params.py``); vLLM's are those of its
``CompletionRequest`` and ``ChatCompletionRequest``, as guidellm, lm-eval and others send them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from launcher.core.types import Json

EITHER = (False, True)


@dataclass(frozen=True)
class Fields:
    """How an object treats fields outside its schema. ``null`` always means absent.

    A field of ``ignored`` cannot change an answer with any value. ``neutral`` maps each field that could change it to
    the values without effect; any other value is refused.
    """

    ignored: frozenset[str] = frozenset()
    neutral: Mapping[str, tuple[Json, ...]] = field(default_factory=dict)

    def has_no_effect(self, name: str, value: Json) -> bool:
        if value is None or name in self.ignored:
            return True
        return any(same(value, allowed) for allowed in self.neutral.get(name, ()))


def same(one: Json, other: Json) -> bool:
    """Return whether two JSON values are equal: ``true`` is not 1, and a ``null`` in an object means absent."""
    if isinstance(one, dict) and isinstance(other, dict):
        one, other = ({k: v for k, v in each.items() if v is not None} for each in (one, other))
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


SAMPLED = Fields(
    ignored=frozenset({
        # OpenAI
        "metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier",
        "service_tier", "store", "user",
        # vLLM and SGLang
        "cache_salt", "priority", "request_id", "rid",
    }),
    neutral={
        # OpenAI
        "audio": (), "function_call": ("none", "auto"), "functions": ([],), "modalities": (["text"],),
        "moderation": (), "parallel_tool_calls": EITHER, "prediction": (), "reasoning_effort": (),
        "suffix": ("",), "tool_choice": ("none", "auto"), "tools": ([],),
        "verbosity": ("medium",), "web_search_options": (),
        # vLLM
        "add_generation_prompt": (True,), "allowed_token_ids": (), "bad_words": ([],), "chat_template": (),
        "chat_template_kwargs": ({},), "continue_final_message": (False,), "detokenize": (True,), "documents": ([],),
        "guided_choice": (), "guided_decoding_backend": (), "guided_grammar": (), "guided_json": (),
        "guided_regex": (), "guided_whitespace_pattern": (), "include_reasoning": (True,),
        "include_stop_str_in_output": (False,), "kv_transfer_params": ({},), "length_penalty": (1,),
        "logits_processors": ([],), "logprob_token_ids": ([],), "media_io_kwargs": ({},), "min_p": (0,),
        "min_tokens": (0,), "mm_processor_kwargs": ({},), "prompt_embeds": ([],), "prompt_logprobs": (),
        "repetition_penalty": (1,), "return_token_ids": (False,), "return_tokens_as_token_ids": (False,),
        "skip_special_tokens": (True,), "spaces_between_special_tokens": EITHER, "stop_token_ids": ([],),
        "truncate_prompt_tokens": (), "use_beam_search": (False,), "vllm_xargs": ({},),
        # SGLang and TGI
        "ebnf": (), "lora_path": (), "no_stop_trim": (False,), "regex": (), "return_hidden_states": (False,),
        "typical_p": (1,), "watermark": (False,),
        # of the other of the two routes
        "add_special_tokens": (False,), "echo": (False,), "top_logprobs": (0,),
    },
)  # fmt: skip
"""Those of completions and chats. ``{}`` is not neutral where a server acts on it, as for ``web_search_options`` and
``guided_json``."""

STREAM_OPTIONS = Fields(neutral={"include_obfuscation": (False,)})

MESSAGE = Fields(
    ignored=frozenset({"cache_control"}),
    neutral={
        "annotations": ([],), "audio": (), "function_call": (), "reasoning": ("",), "refusal": ("",),
    },
)  # fmt: skip
"""Those of a message: OpenAI's packages copy an answer into the next request with them."""

PART = Fields(ignored=frozenset({"cache_control", "prompt_cache_breakpoint"}), neutral={"annotations": ([],)})
"""Those of a part of a message's content."""

TOKENIZE = Fields(ignored=frozenset({"cache_salt"}), neutral={
    "add_generation_prompt": (True,), "chat_template": (), "chat_template_kwargs": ({},), "mm_processor_kwargs": ({},),
    "continue_final_message": (False,), "documents": ([],),
})  # fmt: skip
