"""How the tasks of lm-evaluation-harness are asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from launcher.core.ranges import Count, CountFromZero, Seed


@dataclass
class LmEvalSettings:
    """The keys of ``lm_eval.*`` are for all tasks ``lm_eval/<name>`` of a run; each of them may have its own.

    ``include_path`` is a folder with YAML files of further tasks. ``num_fewshot``, ``limit``, ``gen_kwargs``,
    ``apply_chat_template``, ``fewshot_as_multiturn`` and ``system_instruction`` mean what they mean for lm-eval's
    command line; null and empty leave them to the task. As there, a task with zero examples in its YAML keeps zero.
    ``repeats`` generates every answer several times (null: as the task says), each with another seed. lm-eval sends one
    seed for all.

    With ``chat`` the messages go to ``/v1/chat/completions``, whose server applies the chat template. That is for tasks
    that generate text. Otherwise prompts are token ids. ``tokenizer`` is the folder of a tokenizer; empty takes that of
    the endpoint. ``apply_chat_template`` without ``chat`` needs such a folder. ``add_bos_token`` puts the beginning of
    sequence before every prompt.

    ``max_length`` is the window of rolling log-likelihoods in tokens (null: the server's context). No prompt is cut:
    the server refuses one that is too long, and it is counted. ``max_gen_toks`` replaces the bound of generated texts
    (null: that of the task, else 256 as in lm-eval). Texts that end at their limit are scored as lm-eval does, and the
    metric ``truncated`` is their share.

    ``seed`` is sent with every request, ``fewshot_seed`` draws the examples. ``unsafe`` allows tasks that run programs
    of the model on this machine, without a sandbox.
    """

    include_path: str = ""
    num_fewshot: CountFromZero | None = None
    limit: Count | None = None
    gen_kwargs: dict[str, Any] = field(default_factory=dict)
    repeats: Count | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = False
    system_instruction: str = ""
    chat: bool = False
    tokenizer: str = ""
    add_bos_token: bool = False
    max_length: Count | None = None
    max_gen_toks: Count | None = None
    seed: Seed = 1234
    fewshot_seed: Seed = 1234
    unsafe: bool = False
