"""Compare the figures of our load test with those of guidellm, at the same endpoint.

    python benchmarks/load_test.py --guidellm PATH [--seconds 20] [--in-flight 1,4,16] [--rounds 1] [--model]

One endpoint is a server with fixed latencies: a token after 200 ms, then one each 80 ms, 16 requests at a time. Another
is our own server, whose echo engine keeps the same pace. With ``--model``, the third is our server with a random model.
Its steps take long enough that its rate is what it computes. Both tools stream completions with
prompts of about as many tokens and answers of as many, which `ignore_eos` makes equal. They take turns. The figures
are medians over the rounds, and the ratio is ours to guidellm's.

The servers run on the first half of the cores, and both tools on the other half. guidellm spends about 1.3 ms of CPU on
each streamed token. So at a server that gives more tokens than its cores take, it measures itself. The last figure
is the CPU-seconds of each tool, with its start.

guidellm needs an environment of its own: `python -m venv guide && guide/bin/pip install guidellm`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evaluate import ROOT, skipped
from load import server

TOKENIZER = ROOT / "launcher/assets/tiny/iter_0000800/tokenizer"
FIRST_S, EACH_S, SLOTS = 0.2, 0.08, 16
PACED = (f"engine.latency_s={FIRST_S}", f"engine.tokens_per_second={1 / EACH_S:g}")
PROMPT, ANSWER = 64, 32
FIGURES = ("tokens/s", "TTFT ms", "ITL ms")
COST = "CPU-s"
WITHIN = 0.1
WARM_UP = 0.2
"""The share of a level's time that our load test leaves out of its rate, as the first requests start at once."""
SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
"""A model of 30 million parameters, of which one core computes a token in 10 to 20 ms."""
Endpoint = tuple[str, str, str]
"""What it is, its URL, and the name of its model."""
Figure = tuple[float, float, float]
"""Generated tokens per second, and the medians of TTFT and ITL in milliseconds."""
Costly = tuple[float, float, float, float]
"""The same, and the CPU-seconds of the tool."""
CORES = sorted(os.sched_getaffinity(0))
SERVERS, TOOLS = set(CORES[: len(CORES) // 2 or 1]), set(CORES[len(CORES) // 2 :])


@dataclass(frozen=True)
class Tool:
    """What a tool measures: the model at a URL, for some seconds; it writes into the folder."""

    program: str
    url: str
    model: str
    folder: Path
    seconds: float


async def fixed(port: asyncio.Future[int]) -> None:
    """Serve completions with fixed latencies until this is cancelled."""
    slots = asyncio.Semaphore(SLOTS)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await _answer(*await _request(reader), writer, slots)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    port.set_result(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()


async def _request(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = [line.partition(":") for line in head.split("\r\n")[1:]]
    size = next((int(value) for name, _, value in lines if name.lower() == "content-length"), 0)
    return head.split(" ")[1], json.loads(await reader.readexactly(size) or b"{}")


async def _answer(path: str, asked: dict[str, Any], writer: asyncio.StreamWriter, slots: asyncio.Semaphore) -> None:
    if "completions" not in path:
        body = json.dumps({"object": "list", "data": [{"id": "fixed", "object": "model"}]}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        return
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    tokens, loop = int(asked["max_tokens"]), asyncio.get_running_loop()
    async with slots:
        due = loop.time() + FIRST_S
        for number in range(tokens):
            await asyncio.sleep(max(0.0, due - loop.time()))
            if writer.is_closing():
                raise ConnectionError
            finish = "length" if number == tokens - 1 else None
            _event(writer, [{"index": 0, "text": "word ", "finish_reason": finish}])
            due += EACH_S
    words = len(str(asked["prompt"]).split())
    usage = {"prompt_tokens": words, "completion_tokens": tokens, "total_tokens": words + tokens}
    _event(writer, [], usage)
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    await writer.drain()


def _event(writer: asyncio.StreamWriter, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> None:
    event = {"id": "x", "object": "text_completion", "created": 1, "model": "fixed", "choices": choices, "usage": usage}
    data = b"data: %s\n\n" % json.dumps(event).encode()
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def serve_fixed() -> None:
    """Serve, and print the port."""
    port = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(fixed(port))
    print(await port, flush=True)
    await serving


@contextmanager
def fixed_server() -> Iterator[str]:
    """Yield the URL of a server with fixed latencies, in a process of its own."""
    command = [sys.executable, __file__, "--serve-fixed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


def ours(given: Tool, level: int) -> Figure:
    """Run our load test at one level."""
    folder = given.folder / f"ours-{level}"
    settings = [
        f"load.in_flight=[{level}]",
        f"load.seconds={given.seconds}",
        f"load.prompt_tokens={PROMPT}",
        f"load.max_tokens={ANSWER}",
        "load.budget_s=100000",
        "load.budget_tokens=1000000000",
        f"validate.skip={skipped()}",
        f"hydra.run.dir={folder}",
    ]
    _run([sys.executable, "launch.py", "check", given.url, *settings])
    found = json.loads((folder / "load.json").read_text())["levels"][0]
    return found["generated_tokens_per_s"], 1000 * found["ttft_s"]["p50"], 1000 * found["tpot_s"]["p50"]


def guidellm(given: Tool, level: int) -> Figure:
    """Run guidellm at one level; its rate is that of its own table, with the answers that the end has cut."""
    target, report = given.url.removesuffix("/v1"), given.folder / f"guidellm-{level}.json"
    backend = f"target={target},model={given.model},request_format=/v1/completions,http2=false,validate_backend=false"
    options = {
        "backend": f"kind=openai_http,{backend}",
        "profile": f"kind=concurrent,streams={level},warmup={WARM_UP}",
        "constraint": f"kind=max_duration,seconds={given.seconds:g}",
        "tokenizer": f"kind=huggingface_auto,model={TOKENIZER}",
        "data": f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={ANSWER}",
        "output": f"kind=json,path={report}",
    }
    given.folder.mkdir(exist_ok=True)
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    _run([given.program, "run", *words, "--disable-console"])
    found = json.loads(report.read_text())["benchmarks"][0]["metrics"]
    medians = (found[name]["successful"]["median"] for name in ("time_to_first_token_ms", "inter_token_latency_ms"))
    first, each = medians
    if not first:
        raise RuntimeError(f"no answer came to its end within {given.seconds:g} s: give more --seconds")
    return found["output_tokens_per_second"]["total"]["mean"], first, each


def _run(command: list[str]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{command[:3]}: {done.stdout[-1500:]}{done.stderr[-1500:]}")


def compare(endpoint: Endpoint, folder: Path, given: argparse.Namespace) -> bool:
    """Print the figures of both tools; return whether all agree."""
    name, url, model = endpoint
    tools = [Tool(given.guidellm, url, model, folder / f"{model}-{n}", given.seconds) for n in range(given.rounds)]
    agree = True
    print(f"{name}, {given.seconds:g} s at each level, {given.rounds} rounds, load {os.getloadavg()[0]:.1f}:")
    for level in given.in_flight:
        rounds = [_round(tool, level, number) for number, tool in enumerate(tools)]
        for at, figure in enumerate((*FIGURES, COST)):
            own, other = (statistics.median(one[tool][at] for one in rounds) for tool in (0, 1))
            agree = agree and (figure == COST or abs(own / other - 1) <= WITHIN)
            both = f"ours {own:9.2f}  guidellm {other:9.2f}  ratio {own / other:.3f}"
            print(f"   {level:>4} in flight  {figure:<9} {both}", flush=True)
    return agree


def _round(tool: Tool, level: int, number: int) -> tuple[Costly, Costly]:
    """Run both tools, in alternating order; return our figures first."""
    if number % 2:
        other = _costly(guidellm, tool, level)
        return _costly(ours, tool, level), other
    return _costly(ours, tool, level), _costly(guidellm, tool, level)


def _costly(run: Callable[[Tool, int], Figure], tool: Tool, level: int) -> Costly:
    """Run a tool on its cores; return its figures, and the CPU-seconds that it took."""
    before = _cpu_s()
    with on(TOOLS):
        found = run(tool, level)
    return *found, _cpu_s() - before


def _cpu_s() -> float:
    """Return the CPU-seconds of all processes that have ended; servers go on."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def on(cores: Set[int]) -> Iterator[None]:
    """Start processes on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def random_model(folder: Path) -> Path:
    """Write a random model of transformers, with the tokenizer of the shipped one."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    config = LlamaConfig(
        vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, **SIZES
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def endpoints(folder: Path, *, model: bool) -> Generator[Endpoint]:
    """Yield the endpoints one after the other, each served as long as it is looked at."""
    with on(SERVERS), fixed_server() as url:
        yield "fixed latencies", url, "fixed"
    with on(SERVERS), server(folder / "echo", "echo", "model=none", *PACED) as url:
        yield "our server, paced", url, "none"
    if model:
        where = ("model=checkpoint", f"model.path={random_model(folder / 'model')}", "model.name=random")
        with on(SERVERS), server(folder / "random", "huggingface", *where) as url:
            yield "our server, a random model", url, "random"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve-fixed", action="store_true", help="be the server with fixed latencies")
    parser.add_argument("--guidellm", default="guidellm", help="the program, in an environment of its own")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--in-flight", type=lambda text: [int(each) for each in text.split(",")], default=[1, 4, 16])
    parser.add_argument("--model", action="store_true", help="also measure a random model, which computes")
    given = parser.parse_args()
    if given.serve_fixed:
        asyncio.run(serve_fixed())
        return
    program = shutil.which(given.guidellm)
    if program is None:
        print(f"skipped: {given.guidellm} is not installed; pip install guidellm into an environment of its own")
        return
    given.guidellm = program
    with tempfile.TemporaryDirectory() as temporary, closing(endpoints(Path(temporary), model=given.model)) as served:
        agree = all(list(map(partial(compare, folder=Path(temporary), given=given), served)))
    print("all figures are within 10 %" if agree else "NOT all figures are within 10 %")


if __name__ == "__main__":
    main()
