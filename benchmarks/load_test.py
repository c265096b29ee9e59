"""Compare the figures of our load test with those of guidellm, at the same endpoint.

    python benchmarks/load_test.py --guidellm PATH [--seconds 20] [--in-flight 1,4,16] [--rounds 1] [--model]

One endpoint is a server with fixed latencies: a token after 50 ms, then one each 10 ms, 16 requests at a time. The
other is our own server, whose echo engine keeps the same pace. Both tools stream completions with prompts of about as
many tokens and answers of as many, which `ignore_eos` makes equal. They take turns. The figures are medians over the
rounds, and the ratio is ours to guidellm's. guidellm counts answers that ended within the time, so short runs round
its rate.

With ``--model`` the shipped model is measured too. On CPU its steps take a millisecond, and both tools share the
cores with it. So this shows what a client costs, and decides nothing.

guidellm needs an environment of its own: `python -m venv guide && guide/bin/pip install guidellm`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluate import ROOT, skipped
from load import server

TOKENIZER = ROOT / "launcher/assets/tiny/iter_0000800/tokenizer"
FIRST_S, EACH_S, SLOTS = 0.05, 0.01, 16
PACED = (f"engine.latency_s={FIRST_S}", f"engine.tokens_per_second={1 / EACH_S:g}")
PROMPT, ANSWER = 128, 64
FIGURES = ("tokens/s", "TTFT ms", "ITL ms")
WITHIN = 0.1
Endpoint = tuple[str, str, str]
"""What it is, its URL, and the name of its model."""
Figures = dict[int, tuple[float, ...]]
"""For each number in flight: generated tokens per second, and the medians of TTFT and ITL in milliseconds."""


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


def ours(url: str, folder: Path, levels: list[int], seconds: float) -> Figures:
    """Run our load test."""
    settings = [
        f"load.in_flight={levels}".replace(" ", ""),
        f"load.seconds={seconds}",
        f"load.prompt_tokens={PROMPT}",
        f"load.max_tokens={ANSWER}",
        "load.budget_s=100000",
        "load.budget_tokens=1000000000",
        f"validate.skip={skipped()}",
        f"hydra.run.dir={folder}",
    ]
    _run([sys.executable, "launch.py", "check", url, *settings])
    found = json.loads((folder / "load.json").read_text())["levels"]
    return {
        level["in_flight"]: (
            level["generated_tokens_per_s"],
            1000 * level["ttft_s"]["p50"],
            1000 * level["tpot_s"]["p50"],
        )
        for level in found
    }


def guidellm(program: str, url: str, model: str, folder: Path, levels: list[int], seconds: float) -> Figures:
    """Run guidellm once for each level."""
    return {level: _guidellm_level(program, url, model, folder, level, seconds) for level in levels}


def _guidellm_level(
    program: str, url: str, model: str, folder: Path, level: int, seconds: float
) -> tuple[float, float, float]:
    target, report = url.removesuffix("/v1"), folder / f"guidellm-{level}.json"
    backend = f"target={target},model={model},request_format=/v1/completions,http2=false,validate_backend=false"
    options = {
        "backend": f"kind=openai_http,{backend}",
        "profile": f"kind=concurrent,streams={level}",
        "constraint": f"kind=max_duration,seconds={seconds:g}",
        "tokenizer": f"kind=huggingface_auto,model={TOKENIZER}",
        "data": f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={ANSWER}",
        "output": f"kind=json,path={report}",
    }
    folder.mkdir(exist_ok=True)
    _run(
        [
            program,
            "run",
            *(word for name, value in options.items() for word in (f"--{name}", value)),
            "--disable-console",
        ]
    )
    found = json.loads(report.read_text())["benchmarks"][0]["metrics"]
    rate = found["output_tokens_per_second"]["successful"]["mean"]
    medians = (found[name]["successful"]["median"] for name in ("time_to_first_token_ms", "inter_token_latency_ms"))
    first, each = medians
    return rate, first, each


def _run(command: list[str]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{command[:3]}: {done.stdout[-1500:]}{done.stderr[-1500:]}")


def compare(endpoint: Endpoint, program: str, folder: Path, given: argparse.Namespace) -> bool:
    """Print the figures of both tools; return whether all agree."""
    name, _, model = endpoint
    rounds = [_round(endpoint, program, folder / f"{model}-{number}", given, number) for number in range(given.rounds)]
    agree = True
    print(f"{name}, {given.seconds:g} s at each level, {given.rounds} rounds, load {os.getloadavg()[0]:.1f}:")
    for level in [level for level in given.in_flight if all(level in own for own, _ in rounds)]:
        for at, figure in enumerate(FIGURES):
            own, other = (statistics.median(one[tool][level][at] for one in rounds) for tool in (0, 1))
            agree = agree and abs(own / other - 1) <= WITHIN
            both = f"ours {own:9.2f}  guidellm {other:9.2f}  ratio {own / other:.3f}"
            print(f"   {level:>4} in flight  {figure:<9} {both}", flush=True)
    return agree


def _round(
    endpoint: Endpoint, program: str, folder: Path, given: argparse.Namespace, number: int
) -> tuple[Figures, Figures]:
    """Run both tools, in alternating order; return our figures first."""
    _, url, model = endpoint
    if number % 2:
        other = guidellm(program, url, model, folder, given.in_flight, given.seconds)
        return ours(url, folder, given.in_flight, given.seconds), other
    own = ours(url, folder, given.in_flight, given.seconds)
    return own, guidellm(program, url, model, folder, given.in_flight, given.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve-fixed", action="store_true", help="be the server with fixed latencies")
    parser.add_argument("--guidellm", default="guidellm", help="the program, in an environment of its own")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--in-flight", type=lambda text: [int(each) for each in text.split(",")], default=[1, 4, 16])
    parser.add_argument("--model", action="store_true", help="also measure the shipped model")
    given = parser.parse_args()
    if given.serve_fixed:
        asyncio.run(serve_fixed())
        return
    program = shutil.which(given.guidellm)
    if program is None:
        print(f"skipped: {given.guidellm} is not installed; pip install guidellm into an environment of its own")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with fixed_server() as url:
            agree = compare(("fixed latencies", url, "fixed"), program, folder, given)
        with server(folder / "echo", "echo", "model=none", *PACED) as url:
            agree = compare(("our server, paced", url, "none"), program, folder, given) and agree
        if given.model:
            with server(folder / "tiny", "megatron") as url:
                compare(("our server, the shipped model", url, "tiny"), program, folder, given)
    print("all paced figures are within 10 %" if agree else "NOT all paced figures are within 10 %")


if __name__ == "__main__":
    main()
