"""Talk to Triton itself: the KServe v2 protocol with NVIDIA's client, without the OpenAI API.

Serve a model, then run this with the run folder's ``triton.json``, which holds Triton's address:

    python launch.py backend=pytriton mode=serve hydra.run.dir=outputs/served
    python examples/triton_client.py outputs/served/triton.json "12+34="
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton


def string(name: str, value: str) -> triton.InferInput:
    tensor = triton.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value.encode()], dtype=object))
    return tensor


async def tokens(client: triton.InferenceServerClient, token: str, prompt: str) -> AsyncIterator[triton.InferResult]:
    """Stream the answers to one prompt; each has the tokens that became ready together."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        sampling = {"id": "example-1", "max_tokens": 24, "temperature": 0.5, "top_p": 0.5, "seed": 1, "logprobs": 0}
        yield {"model_name": "generate", "inputs": [string("text", prompt), string("sampling", json.dumps(sampling))]}

    answers = client.stream_infer(requests(), headers={"triton-grpc-protocol-triton-access-token": token})
    async for answer, error in answers:
        if error is not None:
            raise error
        yield answer
        if answer.as_numpy("finish") is not None:
            return


async def main(path: str, prompt: str) -> None:
    where = json.loads(Path(path).read_text())
    async with triton.InferenceServerClient(where["grpc"]) as client:
        print("ready:", await client.is_server_ready())
        metadata = await client.get_model_metadata("generate", as_json=True)
        print("inputs:", ", ".join(tensor["name"] for tensor in metadata["inputs"]))
        async for answer in tokens(client, where["access_token"], prompt):
            text = answer.as_numpy("text")[0].decode()
            print(answer.as_numpy("tokens").tolist(), answer.as_numpy("logprobs").round(3).tolist(), repr(text))
        print("finish:", answer.as_numpy("finish")[0].decode())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
