"""A SentencePiece ``.model`` file, read by SentencePiece itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.checkpoints.tokenizers.guard import encoding, probe
from launcher.checkpoints.tokenizers.templated import Names, TemplatedTokenizer
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import PLAIN, Message, NoChatTemplate, Rendering, byte_name
from launcher.core.types import Json

SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"


@dataclass(frozen=True)
class Added:
    """What a Hugging Face folder adds to a model file.

    ``tokens`` are found in text before SentencePiece reads the rest, ``special`` of them without bytes. ``prefix_each``
    puts a space before each piece of text between them, not only the first (transformers' ``legacy``).
    """

    tokens: Mapping[str, int] = field(default_factory=dict)
    special: frozenset[str] = frozenset()
    prefix_each: bool = True


@dataclass(frozen=True)
class Piece:
    """An entry of a vocabulary; ``kind`` is SentencePiece's number of it, which GGUF shares."""

    text: str
    score: float
    kind: int


class SentencePieceTokenizer(TemplatedTokenizer):
    """Encodes as the model file says; a plain prompt gets a BOS where ``add_bos`` asks for it, and an EOS likewise.

    NeMo and Megatron-LM use the file alone; a Hugging Face folder has ``names`` and ``added`` tokens, and ``eos_ids``
    beyond the file's own.
    """

    def __init__(
        self,
        file: Path,
        add_bos: bool = False,
        add_eos: bool = False,
        names: Names | None = None,
        added: Added | None = None,
        eos_ids: Iterable[int] = (),
    ) -> None:
        self._model: Any = model_of(file)
        self._file = file
        self._names = names or Names()
        self._added = added or Added()
        self._by_id = {token: content for content, token in self._added.tokens.items()}
        self._size: int = self._model.vocab_size()
        self.vocab_size = max([self._size - 1, *self._by_id]) + 1
        self.bos_id = self._named("bos_token", self._model.bos_id())
        eos = self._named("eos_token", self._model.eos_id())
        self.eos_ids = frozenset([*eos_ids, *([] if eos is None else [eos])])
        self._before = [self.bos_id] if add_bos and self.bos_id is not None else []
        self._after = [eos] if add_eos and eos is not None else []
        self._unknown = str(self._model.id_to_piece(self._model.unk_id()))
        self._splits = re.compile(
            "|".join(map(re.escape, sorted(self._added.tokens, key=len, reverse=True))) or r"(?!)"
        )
        self._strips = self._model.encode("x", out_type=str)[0].startswith(SPACE_MARK)

    def _named(self, role: str, default: int) -> int | None:
        name = self._names.roles.get(role)
        if name is not None and name in self._added.tokens:
            return self._added.tokens[name]
        return default if default >= 0 else None

    @property
    def base_vocab_size(self) -> int:
        return self._size

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        with encoding():
            tokens = [token for part in self._parts(text) for token in part]
        return [*self._before, *tokens, *self._after] if special else tokens

    def _parts(self, text: str) -> Iterator[list[int]]:
        at = 0
        for found in self._splits.finditer(text):
            yield self._encode_part(text[at : found.start()], first=at == 0)
            yield [self._added.tokens[found[0]]]
            at = found.end()
        yield self._encode_part(text[at:], first=at == 0)

    def _encode_part(self, text: str, first: bool) -> list[int]:
        if first or self._added.prefix_each or not text:
            return list(self._model.encode(text))
        lead = self._model.encode(self._unknown)  # a text behind another gets no space in front, as in transformers
        return list(self._model.encode(self._unknown + text))[len(lead) :]

    def token_bytes(self, token: int) -> bytes:
        if token in self._by_id:
            content = self._by_id[token]
            return b"" if content in self._added.special else content.encode()
        model = self._model
        if not 0 <= token < self._size or model.is_control(token) or model.is_unknown(token):
            return b""
        piece = model.id_to_piece(token)
        return bytes([int(piece[3:5], 16)]) if model.is_byte(token) else piece.replace(SPACE_MARK, " ").encode()

    def token_name(self, token: int) -> str:
        if token in self._by_id:
            return self._by_id[token]
        data = self.token_bytes(token)
        return byte_name(data) if data or not 0 <= token < self._size else str(self._model.id_to_piece(token))

    def is_added(self, token: int) -> bool:
        return token in self._by_id or super().is_added(token)

    def text_pieces(self, tokens: Sequence[int]) -> list[bytes]:
        pieces = [self.token_bytes(token) for token in tokens]
        first = next((i for i, piece in enumerate(pieces) if piece), None)
        if first is not None and self._strips:
            pieces[first] = pieces[first].removeprefix(b" ")
        return pieces

    def files(self) -> dict[str, bytes]:
        """Return the model file, with the tokens and flags that a Hugging Face folder adds to it."""
        added = {
            str(token): {"content": content, "special": content in self._added.special, "normalized": False}
            for content, token in self._added.tokens.items()
        }
        config = self._config_file(
            tokenizer_class="LlamaTokenizer",
            add_bos_token=bool(self._before),
            add_eos_token=bool(self._after),
            legacy=self._added.prefix_each,
            added_tokens_decoder=added,
            **self._own_roles(),
        )
        return {"tokenizer.model": self._file.read_bytes(), "tokenizer_config.json": config}

    def pieces(self) -> list[Piece]:
        """Return the vocabulary by id: the file's own, then what a folder adds."""
        model = self._model
        kinds = ((2, model.is_unknown), (3, model.is_control), (6, model.is_byte), (5, model.is_unused))
        found = []
        for token in range(self._size):
            kind = next((number for number, test in kinds if test(token)), 1)
            found.append(Piece(str(model.id_to_piece(token)), float(model.get_score(token)), kind))
        for token in range(self._size, self.vocab_size):
            content = self._by_id.get(token, f"[PAD{token}]")
            found.append(Piece(content, 0.0, 3 if content in self._added.special else 4))
        return found

    def _own_roles(self) -> dict[str, Json]:
        """Return the names of the model file's own special tokens, for roles that nothing else names."""
        model = self._model
        own = {"bos_token": model.bos_id(), "eos_token": model.eos_id(), "unk_token": model.unk_id()}
        return {
            role: str(model.id_to_piece(token))
            for role, token in own.items()
            if token >= 0 and role not in self._names.roles
        }

    def render_chat(self, messages: Sequence[Message], rendering: Rendering = PLAIN) -> str:
        if self._names.template is None:
            advice = "set model.tokenizer to a Hugging Face folder"
            raise NoChatTemplate(f"{self._file.name} has no chat template; {advice}")
        return super().render_chat(messages, rendering)

    def info(self) -> dict[str, Json]:
        eos = self._named("eos_token", self._model.eos_id())
        return super().info() | {
            "tokenizer": "sentencepiece",
            "eos_token": None if eos is None else self.token_name(eos),
            "bos_token": None if self.bos_id is None else self.token_name(self.bos_id),
        }


def model_of(file: Path) -> Any:
    """Load a model file. Raises `CheckpointError` for one that is none."""
    from sentencepiece import SentencePieceProcessor

    probe(file)
    try:
        return SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{file}: not a SentencePiece model: {str(error).splitlines()[0]}") from error
