"""Asks samples at the run's endpoint, and at those beside it that tasks may name while they score."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass

from launcher.core.types import Handler, Pause, Sample
from launcher.evaluate.ask import SampleResult, ask
from launcher.evaluate.breaker import CircuitBreaker
from launcher.evaluate.exchange import Symptom
from launcher.evaluate.second_endpoint import Connection
from launcher.settings.evaluate import Evaluate
from launcher.tasks.base import Task


@dataclass(frozen=True)
class Asker:
    """The endpoints of an evaluation: ``handler`` is that of the run's own, behind ``breaker``."""

    handler: Handler
    breaker: CircuitBreaker
    others: Mapping[str, Connection]
    tasks: Mapping[str, Task]
    settings: Evaluate

    async def ask(self, sample: Sample) -> SampleResult:
        """Ask and score a sample. Raises nothing but cancellation and `AdapterStop`."""
        return await ask(
            self.handler,
            sample,
            self.tasks[sample.task],
            accept_missing_finish=self.settings.accept_missing_finish,
            score_timeout_s=self.settings.score_timeout_s,
            store_prompt_logprobs=self.settings.store_prompt_logprobs,
            others=self.others,
        )

    async def away(self, result: SampleResult) -> bool:
        """Find out whether the server was away, or is, when a request of the sample failed."""
        if result.symptom is Symptom.none:
            return False
        return await self.breaker.outage(result.path, result.began) or result.symptom is Symptom.outage

    @property
    def guards(self) -> list[Callable[[], Coroutine[None, None, None]]]:
        """What runs beside the samples, and raises `ServerGone` once a server is given up."""
        return [self.breaker.guard, *(other.guard for other in self.others.values())]

    @property
    def pauses(self) -> list[Pause]:
        """The pauses of all endpoints."""
        return [*self.breaker.pauses, *(pause for other in self.others.values() for pause in other.pauses)]
