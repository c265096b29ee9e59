"""Makes the requests of the documents of a task of lm-eval, and reads their answers back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Placed:
    """One prompt of a request, and the number of the instance that it belongs to."""

    instance: int
    prompt: Encoded


@dataclass(frozen=True)
class Document:
    """A document with the instances that lm-eval made for it.

    ``requests`` hold for each request the prompts in it; one for text generation is empty.
    """

    doc_id: int
    doc: Any
    instances: Sequence[Any]
    requests: Sequence[Sequence[Placed]]

    @property
    def repeats(self) -> int:
        """How often each text is generated."""
        return self.instances[0].repeats or 1

    @property
    def generates(self) -> bool:
        return bool(self.instances[0].request_type == "generate_until")


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
        document = Document(doc_id, doc, instances, ())
        if document.generates:
            bodies = [self._codec.generation_body(instances[0], repeat) for repeat in range(document.repeats)]
            return replace(document, requests=[[]] * len(bodies)), [Request(self._codec.path, body) for body in bodies]
        assert isinstance(self._codec, CompletionsCodec) or self._codec.prompts(instances[0])
        placed = [Placed(n, prompt) for n, instance in enumerate(instances) for prompt in self._codec.prompts(instance)]
        chunks = [placed[n : n + PROMPTS_PER_REQUEST] for n in range(0, len(placed), PROMPTS_PER_REQUEST)]
        bodies = [self._codec.scoring_body([one.prompt for one in chunk]) for chunk in chunks]  # type: ignore[union-attr]
        return replace(document, requests=chunks), [Request(self._codec.path, body) for body in bodies]

    def answers(self, document: Document, responses: Sequence[Response]) -> list[list[Any]]:
        """Return the answers of each instance, one for each repeat; None for a text that the server did not give.

        Raises `Fault` and `NoLogprobs`.
        """
        if document.generates:
            return [[self._codec.text(response.body) for response in responses]]
        assert isinstance(self._codec, CompletionsCodec)
        found: list[list[tuple[float, bool]]] = [[] for _ in document.instances]
        for placed, response in zip(document.requests, responses, strict=True):
            for one, choice in zip(placed, in_order(response.body, len(placed)), strict=True):
                found[one.instance].append(self._codec.loglikelihood(choice, one.prompt))
        rolling = document.instances[0].request_type == "loglikelihood_rolling"
        answers = [sum(total for total, _ in windows) if rolling else windows[0] for windows in found]
        return [[answer] * document.repeats for answer in answers]


def kept(document: Document, bodies: Sequence[Json]) -> Sequence[Json]:
    """Return what is stored of the answers to a document: of an echo, what is scored."""
    if document.generates:
        return bodies
    return [body | {"choices": _kept(placed, body)} for placed, body in zip(document.requests, bodies, strict=True)]


def _kept(placed: Sequence[Placed], body: Json) -> list[Json]:
    places = [(choice, placed[choice["index"]].prompt.context_tokens) for choice in body["choices"]]
    return [merged_tokens(choice, context_tokens, tops=True) for choice, context_tokens in places]


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
    """Return the instances of a document, as `lm_eval.api.task.Task.build_all_requests` makes them."""
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
    return list(found) if isinstance(found, list) else [found]


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
