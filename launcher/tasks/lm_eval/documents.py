"""Makes the requests of the documents of a task of lm-eval, and reads their answers back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.core.errors import TaskError
from launcher.core.responses import in_order
from launcher.core.types import Json, Request, Response
from launcher.tasks.lm_eval.codec import ChatCodec, CompletionsCodec, Encoded
from launcher.tasks.merged_echo import merged_tokens

PROMPTS_PER_REQUEST = 16
"""The most prompts of one request: the windows of a long document are spread over several."""


@dataclass(frozen=True)
class Style:
    """How the prompts of a run are built, with the names of lm-eval's command line."""

    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = False
    system_instruction: str = ""
    generation: Callable[[Mapping[str, Json]], dict[str, Json]] = dict
    """Returns how a text is generated, from what the task says of it."""


@dataclass(frozen=True)
class Placed:
    """One prompt of a request, and the number of the instance that it belongs to; a text to generate has no prompt."""

    instance: int
    prompt: Encoded | None = None


@dataclass(frozen=True)
class Document:
    """A document with the instances that lm-eval made for it, and what each of its ``requests`` holds."""

    doc_id: int
    doc: Any
    instances: Sequence[Any]
    requests: Sequence[Sequence[Placed]]

    @property
    def generating(self) -> Sequence[Any]:
        """The instances whose answer is a text."""
        return [each for each in self.instances if generates(each)]

    def texts(self, responses: Sequence[Response]) -> list[Response]:
        """Return the responses to requests for a text."""
        return [found for placed, found in zip(self.requests, responses, strict=True) if placed[0].prompt is None]


def generates(instance: Any) -> bool:
    return bool(instance.request_type == "generate_until")


class Documents:
    """The documents of one task in their order, as lm-eval reads them.

    lm-eval draws the few-shot examples of all prompts from one generator: a prompt is right only if those before it
    were built. So every pass over the documents begins with the seed, and leaves none out.
    """

    def __init__(self, task: Any, codec: CompletionsCodec | ChatCodec, style: Style, fewshot_seed: int) -> None:
        self._task, self._codec, self._style, self._seed = task, codec, style, fewshot_seed

    def made(self, limit: int | None) -> Iterator[tuple[Document, list[Request]]]:
        """Yield the documents with their requests, lazily."""
        self._task.set_fewshot_seed(self._seed)
        for doc_id, doc in self._task.doc_iterator(limit=limit):
            yield self._requests(doc_id, doc, instances_of(self._task, doc_id, doc, self._style, self._template))

    @property
    def _template(self) -> Any:
        return self._codec._api.apply_chat_template if self._style.apply_chat_template else None

    def _requests(self, doc_id: int, doc: Any, instances: Sequence[Any]) -> tuple[Document, list[Request]]:
        """Return a document with its requests: one for each text and repeat, and prompts that are scored together."""
        texts = [(n, repeat) for n, each in enumerate(instances) if generates(each) for repeat in _repeats(each)]
        scored = [(n, each) for n, each in enumerate(instances) if not generates(each)]
        prompts = [(n, prompt) for n, each in scored for prompt in self._codec.prompts(each)]
        chunks = [prompts[n : n + PROMPTS_PER_REQUEST] for n in range(0, len(prompts), PROMPTS_PER_REQUEST)]
        bodies = [self._codec.generation_body(instances[n], repeat) for n, repeat in texts]
        bodies += [self._codec.scoring_body([prompt for _, prompt in chunk]) for chunk in chunks]
        placed = [[Placed(n)] for n, _ in texts] + [[Placed(n, prompt) for n, prompt in chunk] for chunk in chunks]
        requests = [_request(self._codec.path, *each) for each in zip(bodies, placed, strict=True)]
        return Document(doc_id, doc, instances, placed), requests

    def answers(self, document: Document, responses: Sequence[Response]) -> list[list[Any]]:
        """Return the answers of each instance, one for each repeat; None for a text that the server did not give.

        Raises `Fault` and `NoLogprobs`.
        """
        found: list[list[Any]] = [[] for _ in document.instances]
        for placed, response in zip(document.requests, responses, strict=True):
            if placed[0].prompt is None:
                found[placed[0].instance].append(self._codec.text(response.body))
                continue
            for one, choice in zip(placed, in_order(response.body, len(placed)), strict=True):
                assert one.prompt is not None
                found[one.instance].append(self._codec.loglikelihood(choice, one.prompt))
        return [_of_repeats(*pair) for pair in zip(document.instances, found, strict=True)]


def _request(path: str, body: Mapping[str, Json], placed: Sequence[Placed]) -> Request:
    return Request(path, body, counted=tuple(one.prompt.context_tokens for one in placed if one.prompt is not None))


def _repeats(instance: Any) -> range:
    return range(instance.repeats or 1)


def _of_repeats(instance: Any, found: list[Any]) -> list[Any]:
    """Return the answers of an instance; a log-likelihood, which is the sum of its windows, is the same each time."""
    if generates(instance):
        return found
    rolling = instance.request_type == "loglikelihood_rolling"
    return [sum(total for total, _ in found) if rolling else found[0] for _ in _repeats(instance)]


def kept(document: Document, bodies: Sequence[Json]) -> Sequence[Json]:
    """Return what is stored of the answers to a document: of an echo, what is scored."""
    return [_kept(placed, body) for placed, body in zip(document.requests, bodies, strict=True)]


def _kept(placed: Sequence[Placed], body: Json) -> Json:
    prompts = [one.prompt for one in placed if one.prompt is not None]
    if not prompts:
        return body
    places = [(choice, prompts[choice["index"]].context_tokens) for choice in body["choices"]]
    return body | {"choices": [merged_tokens(choice, tokens, tops=True) for choice, tokens in places]}


def instances_of(task: Any, doc_id: int, doc: Any, style: Style, template: Any) -> list[Any]:
    """Return the instances of a document. Raises `TaskError` for one whose prompt lm-eval cannot build."""
    try:
        found = _instances_of(task, doc_id, doc, style, template)
    except TaskError:
        raise
    except Exception as error:  # templates and functions of a YAML file raise anything
        raise TaskError(_unbuilt(task, doc_id, error)) from None
    if not found:
        raise TaskError(f"document {doc_id} of lm_eval/{task.config.task} has nothing to ask; it may have no choices")
    return found


def _unbuilt(task: Any, doc_id: int, error: Exception) -> str:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    shots = task.config.num_fewshot
    if shots and shots >= (examples := len(list(task.fewshot_docs()))):
        return f"num_fewshot={shots} is too many: lm_eval/{task.config.task} has {examples} examples ({said})"
    return f"the prompt of document {doc_id} of lm_eval/{task.config.task} cannot be built ({said})"


def _instances_of(task: Any, doc_id: int, doc: Any, style: Style, template: Any) -> list[Any]:
    """Return the instances of a document, as lm-eval makes them (`Task.build_all_requests`) and scores them."""
    context = task.fewshot_context(
        doc,
        num_fewshot=task.config.num_fewshot or 0,
        system_instruction=style.system_instruction or None,
        apply_chat_template=style.apply_chat_template,
        fewshot_as_multiturn=style.fewshot_as_multiturn,
        chat_template=template,
        gen_prefix=task.doc_to_prefix(doc),
    )
    found = task.construct_requests(
        doc=doc,
        ctx=context,
        metadata=(task.config.task, doc_id, task.config.repeats),
        apply_chat_template=style.apply_chat_template,
        chat_template=template,
    )
    instances = sorted(found if isinstance(found, list) else [found], key=lambda each: each.idx)
    for each in instances:
        if generates(each):  # a class in Python may ignore its configuration
            each.arguments = (each.args[0], style.generation(each.args[1]), *each.args[2:])
    return instances


def judged(task: Any, document: Document, answers: Sequence[Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Return what lm-eval's filters and ``process_results`` make of the answers to a document, by filter."""
    for instance, found in zip(document.instances, answers, strict=True):
        instance.resps, instance.filtered_resps = list(found), {}
    results: dict[str, dict[str, Any]] = {}
    for each in task._filters:
        each.apply(list(document.instances))
        filtered = [instance.filtered_resps[each.name] for instance in document.instances]
        results[each.name] = task.process_results(document.doc, filtered)
    return results
