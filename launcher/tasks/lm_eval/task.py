"""A task of lm-evaluation-harness by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from typing import Any

from launcher.core.errors import TaskError
from launcher.core.responses import Fault, cut_by_limit
from launcher.core.types import Ask, Endpoint, Json, Request, Response, Sample, Score, Status, expanded
from launcher.settings.component import component
from launcher.settings.lm_eval import LmEvalSettings
from launcher.stats.metric import Metric
from launcher.tasks.base import Task, cluster_name
from launcher.tasks.endpoint_tokenizer import EndpointTokenizer
from launcher.tasks.lm_eval import codec, gold, index, loading, metrics
from launcher.tasks.lm_eval.documents import Document, Documents, Style, generates, instances_of, kept
from launcher.tasks.lm_eval.scoring import Scoring
from launcher.tasks.loglikelihood import NoLogprobs

PASSAGES = ("passage", "article", "context", "story", "paragraph")
"""The fields of a document that several of them may share; what each has for itself changes nothing."""
CATEGORIES = ("category", "subject")
"""The fields of a document that say what it is about."""
DEFAULT_MAX_GEN_TOKS = 256
"""The bound of a text in tokens, where neither the task nor the user gives one, as in lm-eval's client."""
DEFAULT_WINDOW = 2048
"""The window of a rolling log-likelihood, in tokens, where neither the setting nor the server says another one."""


@component("tasks/lm_eval")
class LmEval(LmEvalSettings, Task):
    """Asks a task of lm-evaluation-harness: lm-eval builds its prompts, filters and scores the answers.

    ``task`` is its name in lm-eval, or in the YAML files of the folder ``include_path``. ``overrides`` are keys of its
    YAML file with other values, as those of a group. The other keys are those of ``lm_eval.*``, for this task alone.
    ``named_by`` is written by the options ``lm_eval/<name>``: what each of them asks under this key. Two that differ
    are refused, because one would replace the other.
    """

    task: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    named_by: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.documents: dict[str, Document] = {}
        """The documents that were made, by their ids."""
        self._made: Documents | None = None
        self._scoring = Scoring(lambda: self._source)

    @property
    def metrics(self) -> Sequence[Metric]:
        return self._metrics

    @cached_property
    def _metrics(self) -> Sequence[Metric]:
        return metrics.declared(self.loaded, self._first)

    @cached_property
    def loaded(self) -> Any:
        """lm-eval's task. Raises `TaskError`."""
        if not self.task:
            raise TaskError("task is empty; expected the name of a task of lm-eval, for instance task=arc_easy")
        if len(set(self.named_by.values())) > 1:
            ways = "; ".join(f"tasks=[lm_eval/{option}] means {meant}" for option, meant in self.named_by.items())
            raise TaskError(f"asked in different ways under one key: {ways}; choose one, or rename a task of your own")
        task = loading.load(self._source)
        self._check(task)
        return task

    @cached_property
    def _source(self) -> loading.TaskSource:
        return loading.TaskSource(
            name=self.task,
            yaml_path=index.find(self.task, self.include_path),
            overrides=json.dumps(self.overrides),
            gen_kwargs=json.dumps(self.gen_kwargs),
            max_gen_toks=self.max_gen_toks,
            num_fewshot=self.num_fewshot,
            repeats=self.repeats,
        )

    def _check(self, task: Any) -> None:
        if getattr(task, "UNSAFE_CODE", False) and not self.unsafe:
            raise TaskError(
                f"lm_eval/{self.task} runs programs of the model on this machine; allow it with unsafe=true"
            )
        if self.chat and task.OUTPUT_TYPE not in ("generate_until", None):
            raise TaskError(_needs_logprobs(self.task, task.OUTPUT_TYPE))
        if self.apply_chat_template and not self.chat and not self.tokenizer:
            raise TaskError(
                "apply_chat_template needs tokenizer=<folder with a chat template>, or chat=true, "
                "with which the server applies it"
            )
        if self.tokenizer and not expanded(self.tokenizer).is_dir():
            raise TaskError(f"tokenizer={self.tokenizer} is not a folder")

    @cached_property
    def _first(self) -> Document:
        """The first document as plain text, without a tokenizer, a chat template or requests."""
        style = replace(self._style, apply_chat_template=False, fewshot_as_multiturn=False)
        self.loaded.set_fewshot_seed(self.fewshot_seed)
        doc_id, doc = next(self.loaded.doc_iterator(limit=1))
        return Document(doc_id, doc, instances_of(self.loaded, doc_id, doc, style, None), ())

    def preview(self, name: str, model: str) -> Iterator[Sample]:
        """Yield the first document, with one request for each kind that it needs."""
        instances = self._first.instances
        kinds = dict.fromkeys(each.request_type for each in instances)
        if self.chat and (scored := next((kind for kind in kinds if kind != "generate_until"), None)):
            raise TaskError(_needs_logprobs(self.task, scored))
        texts = {kind: [_text(each) for each in instances if each.request_type == kind] for kind in kinds}
        requests = [self._previewed(model, kind, found) for kind, found in texts.items()]
        yield Sample(name, str(self._first.doc_id), tuple(requests), None)

    def _previewed(self, model: str, kind: str, texts: Sequence[str]) -> Request:
        if self.chat:
            return Request(
                "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": texts[0]}]}
            )
        scoring: dict[str, Json] = {} if kind == "generate_until" else {"echo": True, "logprobs": 1, "max_tokens": 1}
        return Request("/v1/completions", {"model": model, "prompt": list(texts), **scoring})

    def prepare(self, endpoint: Endpoint) -> None:
        """Get what the prompts need of the endpoint: its tokenizer, and its context length for rolling windows."""
        self._made = Documents(self.loaded, self._codec(endpoint), self._style, self.fewshot_seed)

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        if self._made is None:
            yield from self.preview(name, model)
            return
        for document, requests in self._made.made(self.limit):
            self.documents[str(document.doc_id)] = document
            target = metrics.plain(self.loaded.doc_to_target(document.doc))
            yield Sample(
                name, str(document.doc_id), tuple(requests), target,
                cluster=_cluster(document.doc), category=_category(document.doc),
            )  # fmt: skip

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        document = self.documents[sample.id]
        try:
            answers = self.answers(document, responses)
        except (Fault, NoLogprobs) as error:
            return Score(Status.failed, reason=str(error))
        if any(answer is None for found in answers for answer in found):
            return Score(Status.refused, reason="the answer has no text")
        results = await self._scoring(document, answers)
        scores, unknown = self._scores(results)
        if texts := document.texts(responses):
            scores[metrics.TRUNCATED] = sum(map(cut_by_limit, texts)) / len(texts)
        unreachable = (gold.NOTE,) if gold.is_unreachable(self.loaded, document.doc) else ()
        return Score(Status.scored, self._prediction(document, answers), scores, notes=(*unreachable, *unknown))

    def _scores(self, results: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Json], Sequence[str]]:
        """Return the scores of the declared metrics, and a note about further ones."""
        declared = {metric.name for metric in self.metrics}
        found = {
            metrics.name_of(metric, filter_name): metrics.plain(value)
            for filter_name, values in results.items()
            for metric, value in values.items()
        }
        scores = {name: value for name, value in found.items() if name in declared}
        others = [name for name, value in found.items() if name not in declared and metrics.is_number(value)]
        note = f"the task's scoring gives {', '.join(others)}, which no metric of the task declares"
        return scores, (note,) if others else ()

    def kept(self, sample: Sample, bodies: Sequence[Json]) -> Sequence[Json]:
        return kept(self.documents[sample.id], bodies)

    def answers(self, document: Document, responses: Sequence[Response]) -> list[list[Any]]:
        """Return the answers to a document as `launcher.tasks.lm_eval.documents.Documents.answers` does."""
        assert self._made is not None
        return self._made.answers(document, responses)

    def _prediction(self, document: Document, answers: Sequence[Sequence[Any]]) -> Json:
        """Return what each filter made of the texts, or the log-likelihoods of the choices."""
        if not document.generating:
            return [metrics.plain(found[0]) for found in answers]
        return {name: metrics.plain(found) for name, found in document.generating[0].filtered_resps.items()}

    def fingerprint(self) -> Json:
        return {"lm_eval": index.version(), **loading.digest(self.loaded)}

    def shots(self) -> int:
        return self.loaded.config.num_fewshot or 0

    def size(self) -> int:
        number = len(self.loaded.eval_docs)
        return number if self.limit is None else min(number, self.limit)

    @property
    def _style(self) -> Style:
        return Style(
            apply_chat_template=self.apply_chat_template or self.chat,
            fewshot_as_multiturn=self.fewshot_as_multiturn,
            system_instruction=self.system_instruction,
            generation=lambda of_task: loading.generation_kwargs(of_task, self._source),
        )

    def _codec(self, endpoint: Endpoint) -> codec.CompletionsCodec | codec.ChatCodec:
        local = str(expanded(self.tokenizer)) if self.tokenizer else None
        rolling = any(each.request_type == "loglikelihood_rolling" for each in self._first.instances)
        settings = codec.ClientSettings(
            model=endpoint.model,
            tokenizer=local or EndpointTokenizer(endpoint, add_special_tokens=self.add_bos_token),
            seed=self.seed,
            max_gen_toks=self.max_gen_toks or DEFAULT_MAX_GEN_TOKS,
            add_bos_token=self.add_bos_token,
            max_length=self._window(endpoint) if rolling else DEFAULT_WINDOW,
        )
        return codec.chat_codec(settings) if self.chat else codec.completions_codec(settings)

    def _window(self, endpoint: Endpoint) -> int:
        return self.max_length or EndpointTokenizer(endpoint).context_length or DEFAULT_WINDOW


def _needs_logprobs(task: str, kind: str) -> str:
    return f"lm_eval/{task} needs log-likelihoods ({kind}), which chat completions do not have; set chat=false"


def _text(instance: Any) -> str:
    """Return the prompt of an instance as text, with what is scored; an instance without context is scored whole."""
    return str(instance.args[0]) if generates(instance) else "".join(map(str, instance.args[:2]))


def _cluster(document: Json) -> str | None:
    """Return the cluster of a document that has a passage, which others may share."""
    found = [document[field] for field in PASSAGES if document.get(field)] if isinstance(document, Mapping) else []
    return cluster_name(found[0]) if found else None


def _category(document: Json) -> str | None:
    """Return what a document is about, where it says so in a text."""
    found = [document.get(field) for field in CATEGORIES] if isinstance(document, Mapping) else []
    return next((text for text in found if isinstance(text, str) and text.strip()), None)
