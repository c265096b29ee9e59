"""Starts llama-cpp-python's server with OpenAI's sampling defaults, and lets it take request ids that are no UUIDs.

Its own defaults penalise repetition by 1.1, and it answers the launcher's ids with HTTP 400. The Python of the server
runs this file, which knows nothing of the launcher. A request that has ``repeat_penalty`` still gets it.
"""

from __future__ import annotations

import functools
import runpy
import sys

NEUTRAL = {"repeat_penalty": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}
MODELS = ("CreateCompletionRequest", "CreateChatCompletionRequest")


def main() -> None:
    """Change the defaults of requests, then run the server with the arguments of this process."""
    sys.path.pop(0)  # the folder of this file
    from llama_cpp.server import types
    from starlette_context import plugins

    plugins.RequestIdPlugin = functools.partial(plugins.RequestIdPlugin, validate=False)

    for name in MODELS:
        model = getattr(types, name)
        for field, default in NEUTRAL.items():
            if field in model.model_fields:
                model.model_fields[field].default = default
        model.model_rebuild(force=True)
    runpy.run_module("llama_cpp.server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
