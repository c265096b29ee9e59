"""Encodes requests of lm-eval as bodies of the OpenAI API, and decodes the answers, with lm-eval's own code."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.core.errors import TaskError
from launcher.core.types import Json
from launcher.tasks.endpoint_tokenizer import EndpointTokenizer
from launcher.tasks.loglikelihood import NoLogprobs, check_number, of_tokens, unmerged

UNLIMITED = 2**40
"""The ``max_length`` of lm-eval's client, at which it never cuts a prompt: too long is for the server to refuse."""


@dataclass(frozen=True)
class Encoded:
    """A prompt as token ids, the first ``context_tokens`` of which are not scored."""

    tokens: tuple[int, ...]
    context_tokens: int


class CompletionsCodec:
    """lm-eval's ``local-completions`` client, which is never asked to send.

    ``max_length`` is the number of tokens of the windows of a rolling log-likelihood.
    """

    path = "/v1/completions"

    def __init__(self, api: Any, max_length: int) -> None:
        self._api, self._max_length = api, max_length
        self._caught: list[Any] = []
        api._loglikelihood_tokens = self._catch

    def _catch(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Keep what lm-eval's client would send, in place of sending it."""
        self._caught = list(requests)
        return [(0.0, False)] * len(requests)

    def prompts(self, instance: Any) -> list[Encoded]:
        """Return the prompts of a log-likelihood; several windows for a rolling one."""
        self._api.max_length = self._max_length - 1 if instance.request_type == "loglikelihood_rolling" else UNLIMITED
        getattr(self._api, instance.request_type)([instance], disable_tqdm=True)
        return [Encoded((*context, *rest), len(context)) for _, context, rest in self._caught]

    def scoring_body(self, prompts: Sequence[Encoded]) -> dict[str, Json]:
        """Return the body of one request for the log-probabilities of prompts."""
        messages = self._api.create_message([list(prompt.tokens) for prompt in prompts])
        made: dict[str, Json] = self._api._create_payload(messages, generate=False, seed=self._api._seed)
        return made

    def generation_body(self, instance: Any, repeat: int) -> dict[str, Json]:
        """Return the body of a request for text; repeats differ in their seed."""
        context, kwargs = instance.args[0], copy.deepcopy(instance.args[1])
        ids = self._api.tok_encode(context, add_special_tokens=self._api.add_bos_token)
        made: dict[str, Json] = self._api._create_payload(
            self._api.create_message([ids]),
            generate=True,
            gen_kwargs=kwargs,
            seed=self._api._seed + repeat,
            eos=self._api.eos_string,
        )
        return made

    def text(self, body: Json) -> str | None:
        """Return the generated text of an answer, None where the server gave none."""
        found: list[str | None] = self._api.parse_generations(body)
        return found[0]

    def loglikelihood(self, choice: Mapping[str, Json], prompt: Encoded) -> tuple[float, bool]:
        """Return the sum of the log-probabilities of what is scored, and whether each token is the most likely one.

        Raises `NoLogprobs` for an answer without one log-probability per token.
        """
        choice = unmerged(choice, prompt.context_tokens)
        check_logprobs(choice, prompt)
        outputs = {"choices": [{**choice, "index": 0}]}
        total, greedy = self._api.parse_logprobs(outputs, ctxlens=[prompt.context_tokens])[0]
        return float(total), bool(greedy)


class ChatCodec:
    """The same for ``local-chat-completions``, which has no log-likelihoods."""

    path = "/v1/chat/completions"

    def __init__(self, api: Any) -> None:
        self._api = api

    def prompts(self, instance: Any) -> list[Encoded]:
        raise TaskError("chat completions have no log-likelihoods of prompts; leave out chat=true")

    def scoring_body(self, prompts: Sequence[Encoded]) -> dict[str, Json]:
        raise NotImplementedError("no prompt was made")

    def loglikelihood(self, choice: Mapping[str, Json], prompt: Encoded) -> tuple[float, bool]:
        raise NotImplementedError("no prompt was made")

    def generation_body(self, instance: Any, repeat: int) -> dict[str, Json]:
        """Return the body of a chat request; the context is the JSON of the messages."""
        messages = self._api.create_message([instance.args[0]])
        kwargs = copy.deepcopy(instance.args[1])
        made: dict[str, Json] = self._api._create_payload(
            messages, generate=True, gen_kwargs=kwargs, seed=self._api._seed + repeat
        )
        return made

    def text(self, body: Json) -> str | None:
        """Return the generated text of an answer, None where the server gave none."""
        content = body["choices"][0]["message"].get("content")
        return content if content is None else str(self._api.parse_generations(body)[0])


def check_logprobs(choice: Mapping[str, Json], prompt: Encoded) -> None:
    """Raise `NoLogprobs` unless an echo has the log-probabilities of all its tokens and of one generated token.

    lm-eval reads them by position: with fewer, its sum would be that of other tokens.
    """
    of_tokens(choice, len(prompt.tokens), prompt.context_tokens)
    logprobs = choice["logprobs"]
    check_number(logprobs, "top_logprobs", len(prompt.tokens))
    if not all(isinstance(top, Mapping) and top for top in logprobs["top_logprobs"][prompt.context_tokens : -1]):
        raise NoLogprobs("a scored token has no 'top_logprobs'")


@dataclass(frozen=True)
class ClientSettings:
    """What lm-eval's client is made with; ``tokenizer`` is a folder, or the tokenizer of the endpoint."""

    model: str
    tokenizer: str | EndpointTokenizer
    seed: int
    max_gen_toks: int
    add_bos_token: bool
    max_length: int


def completions_codec(settings: ClientSettings) -> CompletionsCodec:
    """Return a codec for text completions, whose prompts are token ids."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    remote = isinstance(settings.tokenizer, EndpointTokenizer)
    try:
        api = LocalCompletionsAPI(
            model=settings.model,
            base_url="http://unused/v1/completions",
            tokenizer_backend=None if remote else "huggingface",
            tokenizer=None if remote else settings.tokenizer,
            seed=settings.seed,
            max_gen_toks=settings.max_gen_toks,
            add_bos_token=settings.add_bos_token,
        )
    except (OSError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise TaskError(
            f"tokenizer={settings.tokenizer}: no tokenizer can be loaded from it ({said}); "
            "expected a folder with tokenizer.json, or leave it empty for the endpoint's"
        ) from None
    if remote:
        api.tokenizer, api.tokenizer_backend, api.tokenized_requests = settings.tokenizer, "remote", True
    return CompletionsCodec(api, settings.max_length)


def chat_codec(settings: ClientSettings) -> ChatCodec:
    """Return a codec for chat completions, which need no tokenizer."""
    from lm_eval.models.openai_completions import LocalChatCompletion

    api = LocalChatCompletion(
        model=settings.model,
        base_url="http://unused/v1/chat/completions",
        seed=settings.seed,
        max_gen_toks=settings.max_gen_toks,
    )
    return ChatCodec(api)
