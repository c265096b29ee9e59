"""The perplexity of a text equals that of lm-eval's client, and that of a plain forward pass."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
from lm_eval.models.openai_completions import LocalCompletionsAPI

from launcher.core.types import Endpoint, Record
from launcher.engines.megatron.engine import Megatron
from launcher.settings.evaluate import Evaluate
from launcher.settings.model import Model
from launcher.tasks.perplexity import Perplexity, count_words
from tests.engines import deployments
from tests.engines.huggingface.huggingface_models import HOST
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Watch
from tests.tasks.lm_eval.conftest import ROOT

TEXTS = {
    "a.txt": "".join(f"{n}+{n}={2 * n} and the café is at {n} rue de l'Été,\r\n\tsaid she. " for n in range(20)),
    "b.txt": "short",
    "c.txt": " begins and ends with white space \n" * 8,
}


def by_lm_eval(server: Endpoint, max_length: int) -> list[float]:
    """Return the log-likelihood of each text as lm-eval's client gets it."""
    client = LocalCompletionsAPI(
        model=server.model, base_url=f"{server.url}/completions", tokenizer_backend="remote", max_length=max_length
    )
    client.max_length = max_length - 1
    asked = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in TEXTS.values()]
    return client.loglikelihood_rolling(asked, disable_tqdm=True)


async def by_us(server: Endpoint, folder: Path, **settings: object) -> tuple[dict[str, float], list[Record]]:
    texts = folder / "texts"
    texts.mkdir(exist_ok=True)
    for name, text in TEXTS.items():
        (texts / name).write_bytes(text.encode())
    watch = Watch()
    task = Perplexity(path=str(texts), **settings)  # type: ignore[arg-type]
    found = await evaluate(server, {"t": task}, [], Evaluate(concurrency=4), folder / "run", None, watch)
    assert found.tasks["t"].coverage["scored"] == found.tasks["t"].coverage["total"] == len(watch.records)
    return {name: metric.value for name, metric in found.tasks["t"].metrics.items()}, watch.records


@pytest.mark.slow
@pytest.mark.parametrize("max_length", [256, 40])
async def test_it_is_that_of_lm_eval_to_the_last_digit(server: Endpoint, tmp_path: Path, max_length: int) -> None:
    ours, records = await by_us(server, tmp_path, max_length=max_length)
    assert len(records) > 3
    theirs = await asyncio.to_thread(by_lm_eval, server, max_length)
    words = [count_words(text) for text in TEXTS.values()]
    sizes = [len(text.encode()) for text in TEXTS.values()]
    assert ours["word_perplexity"] == weighted_perplexity(list(zip(theirs, words, strict=True)))
    assert ours["byte_perplexity"] == weighted_perplexity(list(zip(theirs, sizes, strict=True)))
    assert ours["bits_per_byte"] == bits_per_byte(list(zip(theirs, sizes, strict=True)))


@pytest.mark.slow
async def test_it_is_that_of_a_plain_forward_pass_over_each_window(server: Endpoint, tmp_path: Path) -> None:
    ours, records = await by_us(server, tmp_path, max_length=64, stride=20)
    tiny = Model(path=str(ROOT / "launcher" / "assets" / "tiny"))
    total, tokens = 0.0, 0
    with deployments.load(Megatron(), tiny, HOST) as runner:
        for record in records:
            prompt, context = record.requests[0]["body"]["prompt"], record.target["context"]
            direct = runner.reference(prompt)[context - 1 :]
            assert record.prediction["loglikelihood"] == pytest.approx(sum(direct), abs=1e-3)
            total, tokens = total + sum(direct), tokens + len(direct)
        whole = [tuple(runner.tokenizer.encode(text)) for text in TEXTS.values()]
    assert tokens == sum(map(len, whole)), "each token is scored once"
    assert ours["token_perplexity"] == pytest.approx(math.exp(-total / tokens), rel=1e-5)
