"""Ask vLLM's parsers of tool calls about the texts of ``vllm_answers.json``, and write their answers into it.

Run it with the Python of an environment that has vLLM: ``python record_vllm_answers.py TOKENIZER``. TOKENIZER is a
folder, to whose tokens those of the forms are added. vLLM is no dependency: the tests read what was recorded.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "vllm_answers.json"


def main(folder: str) -> None:
    """Record the answers."""
    import vllm
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    logging.disable(logging.CRITICAL)
    record = json.loads(FILE.read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in record["marks"]])
    for case in record["cases"]:
        case["vllm"] = answered(case["form"], case["text"], record["tools"], tokenizer)
    record["source"] = f"vLLM {vllm.__version__}, extract_tool_calls of the classes in vllm.tool_parsers"
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in record.pop("cases"))
    head = json.dumps(record, ensure_ascii=False, indent=1).removesuffix("\n}")
    FILE.write_text(f'{head},\n "cases": [\n{lines}\n]\n}}\n')


def answered(form: str, text: str, tools: list[Any], tokenizer: Any) -> list[list[Any]]:
    """Return the calls that vLLM reads; arguments that are no JSON as a text."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    request = ChatCompletionRequest(model="m", messages=[{"role": "user", "content": "x"}], tools=tools)
    parser = ToolParserManager.get_tool_parser(form)(tokenizer, request.tools)
    found = parser.extract_tool_calls(text, request).tool_calls
    return [[call.function.name, _arguments(call.function.arguments)] for call in found]


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main(sys.argv[1])
