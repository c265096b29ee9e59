"""The tokenizer that an engine serves with, and the tokens that the model has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from launcher.checkpoints import load_tokenizer
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import TemplateLimits, Tokenizer
from launcher.core.types import Json, resolve
from launcher.settings.model import Model


@contextmanager
def open_tokenizer(model: Model, stored: Callable[[], Tokenizer]) -> Iterator[Tokenizer]:
    """Load the tokenizer that ``model`` names, else the ``stored`` one; leaving the context ends its chat renderer."""
    tokenizer = load_tokenizer(resolve(model.tokenizer), model.bounds) if model.tokenizer else stored()
    tokenizer.template_limits = TemplateLimits(model.chat_template_timeout_s, model.chat_template_max_mb)
    tokenizer.tool_call_parser = model.tool_call_parser.value
    try:
        yield tokenizer
    finally:
        tokenizer.close()


def check_tokenizer(model: Model, stored: Callable[[], Tokenizer], rows: int | None) -> None:
    """Raise `CheckpointError` as serving would: for a tokenizer that is missing or damaged, or of another model.

    ``rows`` are those of the model's embedding; None where its files do not say.
    """
    with open_tokenizer(model, stored) as tokenizer:
        if rows is not None:
            served_tokens(tokenizer, rows, model)


def served_tokens(tokenizer: Tokenizer, rows: int, model: Model) -> int:
    """Return the number of token ids that can be served by a model whose embedding has ``rows``.

    Tokens that were added to a vocabulary may have no row (gemma-3, many fine-tunes of Llama 2): a prompt with one of
    them is refused. Raises `CheckpointError` for a tokenizer of another model, whose plain text has such tokens.
    """
    if tokenizer.base_vocab_size > rows:
        source = _source(model)
        raise CheckpointError(f"{source} has {tokenizer.vocab_size} tokens; the model's embedding has {rows} rows")
    return min(tokenizer.vocab_size, rows)


def tokenizer_facts(tokenizer: Tokenizer, rows: int, model: Model) -> dict[str, Json]:
    """Return the report's facts about tokens and chat; ``notes`` are lines for the user."""
    chat = tokenizer.chat_facts()
    notes = [f"chat: {chat['problem']}"] if "problem" in chat else []
    if tokenizer.vocab_size > rows:
        name = tokenizer.token_name(rows)[:100]
        notes.append(
            f"{_source(model)} has {tokenizer.vocab_size} tokens, and the model's embedding {rows} rows: a prompt with "
            f"token {rows} ({name!r}) or above is refused"
        )
    return {"chat": chat, "notes": notes}


def _source(model: Model) -> str:
    return f"model.tokenizer={model.tokenizer}" if model.tokenizer else f"{model.path}: its tokenizer"
