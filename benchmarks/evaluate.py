"""Compare the cost of our evaluation with that of lm-evaluation-harness's client ``local-completions`` at batch 1.

    python benchmarks/evaluate.py [--rounds 3] [--sizes 200 1000] [--inspect PYTHON] [--memory] [--ours PYTHON]

A process of its own answers every request at once, on loopback. Both clients keep 64 requests in flight and write every
sample. What counts is the user and system time of the client's process. A run of each size shows the fixed cost and
that of 1,000 samples. The clients take turns, in alternating order. Each figure is the median over the rounds, and so
is each ratio, of figures within one round. ``--inspect`` names the Python of an environment with inspect_ai, which
has no log-likelihoods. ``--memory`` prints the peak memory and the size of the report instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import uvloop
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from launcher.validate.certificate import CHECKS  # noqa: E402

IN_FLIGHT = 64
KINDS = ("generation", "multiple_choice")
SHOWN = {"generation": "generation", "multiple_choice": "four-choice log-likelihood"}
MEMORY_SIZES = (500, 2_000, 8_000)
TOKEN = re.compile(r"\s?\S+|\s+")
QUESTION = "Which of these words comes in the sentence at place {n}, counted from its beginning and without " * 2


@dataclass(frozen=True)
class Cost:
    """What one process took: seconds of CPU, MiB at its peak, and MB of its report."""

    cpu_s: float
    peak_mib: float
    report_mb: float


class Mock(asyncio.Protocol):
    """Answers each request at once; a request ends with its body."""

    def connection_made(self, transport: Any) -> None:
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end]
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._data) < size:
                return
            body, self._data = self._data[end + 4 : size], self._data[size:]
            self._transport.write(answered(head.split(b" ", 2)[1], body))


def answered(path: bytes, body: bytes) -> bytes:
    """Return an HTTP answer: the only model, or that to a request."""
    found = answer(json.loads(body), b"chat" in path) if body else {"object": "list", "data": [{"id": "mock"}]}
    data = json.dumps(found).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)


def answer(body: dict[str, Any], chat: bool) -> dict[str, Any]:
    """Return a completion, with the log-probabilities of the prompt where the request asks for its echo."""
    if chat:
        choices = [{"index": 0, "message": {"role": "assistant", "content": "7"}, "finish_reason": "stop"}]
    else:
        prompt = body["prompt"]
        several = isinstance(prompt, list) and isinstance(prompt[0], str | list)
        choices = [completion(i, one, body) for i, one in enumerate(prompt if several else [prompt])]
    usage = {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41}
    return {"id": "x", "object": "text_completion", "created": 1, "model": "mock", "choices": choices, "usage": usage}


def completion(index: int, prompt: Any, body: dict[str, Any]) -> dict[str, Any]:
    """Return the choice of one prompt, which is a text or a list of tokens."""
    if not body.get("echo"):
        return {"index": index, "text": " 7", "logprobs": None, "finish_reason": "stop"}
    tokens = [*(TOKEN.findall(prompt) if isinstance(prompt, str) else [f" w{token}" for token in prompt]), " x"]
    values = [None, *(-((i * 37 + len(word) * 11) % 101) / 16 - 0.0123456789 for i, word in enumerate(tokens[1:]))]
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token))
    tops = [None, *({token: value} for token, value in zip(tokens[1:], values[1:], strict=True))]
    logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": ends[:-1]}
    return {"index": index, "text": "".join(tokens), "logprobs": logprobs, "finish_reason": "length"}


def serve() -> None:
    """Serve on a free port, whose number is printed, until the process is ended."""

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(Mock, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    uvloop.run(forever())


@contextmanager
def mock() -> Iterator[str]:
    """Yield the URL of a mock in a process of its own."""
    process = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


def write(folder: Path, kind: str, size: int) -> Path:
    """Write the items, and the tasks of both programs over them, into a folder; return it."""
    (folder / "tasks").mkdir(parents=True)
    items = folder / "items.jsonl"
    rows = ({"id": str(n), "question": QUESTION.format(n=n), **_asked(n)} for n in range(size))
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours, theirs = _options(kind, items)
    head = f"# @package tasks.bench\ndefaults:\n  - /schema/tasks/{kind}@_here_\n"
    (folder / "tasks" / "bench.yaml").write_text(head + yaml.safe_dump(ours))
    (folder / "lm_eval").mkdir()
    (folder / "lm_eval" / "bench.yaml").write_text(yaml.safe_dump(theirs))
    if find_spec("lm_eval") is not None:
        _write_tokenizer(folder / "tokenizer")
    return folder


def _asked(n: int) -> dict[str, Any]:
    return {"choices": ["the first", "the second", "the third", "none of them"], "answer": n % 4, "number": "7"}


def _options(kind: str, items: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of our task and of that of lm-evaluation-harness."""
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(items)}}, "test_split": "test"}
    base = {"task": "bench", **data, "doc_to_text": "{{question}}"}
    if kind == "generation":
        ours = {"path": str(items), "prompt": "{{question}}", "target": "number", "max_tokens": 32, "stop": ["\n"]}
        generation = {"until": ["\n"], "max_gen_toks": 32, "do_sample": False}
        metric = [{"metric": "exact_match"}]
        more = {"output_type": "generate_until", "doc_to_target": "{{number}}", "generation_kwargs": generation}
        return ours, base | more | {"metric_list": metric}
    ours = {"path": str(items), "context": "{{question}}", "choices": "choices", "answer": "answer"}
    more = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}"}
    return ours, base | more | {"metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}


def _write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of Hugging Face that has a token for each word, as the mock has."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = TOKEN.findall(" ".join([QUESTION, *_asked(0)["choices"]]))
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys(["<unk>", "<end>", *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s?\S+|\s+"), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>").save_pretrained(folder)


def spent(command: list[str], folder: Path) -> Cost:
    """Run a client to its end and return its cost. Raises `RuntimeError` with its last lines if it fails."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HOME": str(folder / "hf")}
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command}: exit {process.returncode}\n{log.read()[-2000:]}")
    report = folder / "ours" / "report.html"
    size = report.stat().st_size / 1e6 if report.exists() else 0.0
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, size)


def skipped() -> str:
    """Return the names of all checks: the mock would fail them, and they are no part of the comparison."""
    return json.dumps([check.name for check in CHECKS])


def ours(url: str, folder: Path, kind: str, python: str) -> Cost:
    options = ["backend=external", f"backend.url={url}", f"validate.skip={skipped()}", "tasks=[bench]"]
    paths = [f"--config-dir={folder}", f"hydra.run.dir={folder / 'ours'}"]
    return spent([python, "launch.py", *paths, *options, f"evaluate.concurrency={IN_FLIGHT}"], folder)


def lm_eval(url: str, folder: Path, kind: str) -> Cost:
    settings = {
        "model": "mock",
        "base_url": f"{url}/completions",
        "tokenizer": str(folder / "tokenizer"),
        "num_concurrent": IN_FLIGHT,
        "max_length": 8192,
    }
    arguments = ",".join(f"{key}={value}" for key, value in settings.items())
    command = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", arguments]
    chosen = ["--tasks", "bench", "--include_path", str(folder / "lm_eval"), "--batch_size", "1"]
    return spent([*command, *chosen, "--log_samples", "--output_path", str(folder / "theirs")], folder)


INSPECT = """
import sys
from inspect_ai import Task, eval
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.scorer import match
from inspect_ai.solver import generate
url, folder, connections = sys.argv[1:]
data = json_dataset(f"{folder}/items.jsonl", FieldSpec(input="question", target="number", id="id"))
task = Task(dataset=data, solver=generate(), scorer=match())
logs = eval(task, model="openai-api/mock/mock", model_base_url=url, model_args={"api_key": "none"}, max_tokens=32,
            max_connections=int(connections), max_samples=int(connections), log_dir=f"{folder}/logs", display="none")
assert logs[0].status == "success", logs[0].error
"""


def inspect(url: str, folder: Path, python: str) -> Cost:
    return spent([python, "-c", INSPECT, url, str(folder), str(IN_FLIGHT)], folder)


Client = Callable[[str, Path, str], Cost]


def compare(url: str, folder: Path, clients: dict[str, Client], kind: str, sizes: list[int], rounds: int) -> None:
    """Measure and print one kind of task."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
    for number in range(rounds):
        for name in list(clients)[:: -1 if number % 2 else 1]:
            costs = [
                clients[name](url, write(folder / f"{kind}-{number}-{name}-{size}", kind, size), kind).cpu_s
                for size in sizes
            ]
            each = (costs[1] - costs[0]) / (sizes[1] - sizes[0])
            found[name].append((each * 1000, costs[0] - each * sizes[0]))
    load = os.getloadavg()[0]
    print(f"{SHOWN[kind]}, {sizes[0]:,} and {sizes[1]:,} samples, {rounds} rounds, load of the machine {load:.0f}:")
    for name, values in found.items():
        each, fixed = (statistics.median(column) for column in zip(*values, strict=True))
        ratio = statistics.median(one[0] / own[0] for one, own in zip(values, found["ours"], strict=True))
        print(f"   {name}: {each:.2f} CPU-s per 1,000 samples ({ratio:.2f} of ours), {fixed:.1f} fixed", flush=True)


def memory(url: str, folder: Path, python: str) -> None:
    """Print the peak memory of our client, and the size of its report."""
    for kind in KINDS:
        for size in MEMORY_SIZES:
            cost = ours(url, write(folder / f"{kind}-{size}", kind, size), kind, python)
            print(f"{SHOWN[kind]}, {size:,}: {cost.peak_mib:.0f} MiB, report {cost.report_mb:.1f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="be the mock")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs=2, default=[200, 1_000])
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--without-lm-eval", action="store_true", help="measure ours alone")
    parser.add_argument("--ours", default=sys.executable, help="the Python that runs ours")
    parser.add_argument("--inspect", help="the Python of an environment with inspect_ai")
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    if given.serve:
        serve()
        return
    with mock() as url, tempfile.TemporaryDirectory() as temporary:
        if given.memory:
            memory(url, Path(temporary), given.ours)
            return
        for kind in [given.only] if given.only else KINDS:
            clients: dict[str, Client] = {"ours": lambda u, f, k: ours(u, f, k, given.ours)}
            if find_spec("lm_eval") is None:
                print(f"lm-eval: not measured, the package is missing: {sys.executable} -m pip install 'lm-eval[api]'")
            elif not given.without_lm_eval:
                clients["lm-eval"] = lm_eval
            if given.inspect and kind == "generation":
                clients["inspect_ai"] = lambda u, f, k: inspect(u, f, given.inspect)
            elif kind == "generation":
                print("inspect_ai: not measured; name the Python of an environment with it: --inspect PYTHON")
            compare(url, Path(temporary), clients, kind, given.sizes, given.rounds)


if __name__ == "__main__":
    main()
