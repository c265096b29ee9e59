"""A SentencePiece ``.model`` file as NeMo and Megatron-LM use it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.core import Json
from launcher.errors import CheckpointError
from launcher.tokenizer import PLAIN, Message, NoChatTemplate, Rendering, Tokenizer, byte_name

SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"


class SentencePieceTokenizer(Tokenizer):
    """Encodes as the model file says; a plain prompt gets a BOS where ``add_bos`` asks for it."""

    def __init__(self, file: Path, add_bos: bool = False) -> None:
        from sentencepiece import SentencePieceProcessor

        try:
            self._model: Any = SentencePieceProcessor(model_file=str(file))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{file}: not a SentencePiece model: {str(error).splitlines()[0]}") from error
        self._file = file
        self.vocab_size = self._model.vocab_size()
        self.bos_id = self._model.bos_id() if self._model.bos_id() >= 0 else None
        self.eos_ids = frozenset([self._model.eos_id()] if self._model.eos_id() >= 0 else [])
        self._add_bos = add_bos and self.bos_id is not None

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(self._model.encode(text, add_bos=special and self._add_bos))

    def token_bytes(self, token: int) -> bytes:
        model = self._model
        if not 0 <= token < self.vocab_size or model.is_control(token) or model.is_unknown(token):
            return b""
        piece = model.id_to_piece(token)
        return bytes([int(piece[3:5], 16)]) if model.is_byte(token) else piece.replace(SPACE_MARK, " ").encode()

    def token_name(self, token: int) -> str:
        data = self.token_bytes(token)
        return byte_name(data) if data or not 0 <= token < self.vocab_size else str(self._model.id_to_piece(token))

    def text_pieces(self, tokens: Sequence[int]) -> list[bytes]:
        pieces = [self.token_bytes(token) for token in tokens]
        first = next((i for i, piece in enumerate(pieces) if piece), None)
        if first is not None and self._model.encode("x", out_type=str)[0].startswith(SPACE_MARK):
            pieces[first] = pieces[first].removeprefix(b" ")
        return pieces

    def render_chat(self, messages: Sequence[Message], rendering: Rendering = PLAIN) -> str:
        raise NoChatTemplate(f"{self._file.name} has no chat template; set model.tokenizer to a Hugging Face folder")

    def info(self) -> dict[str, Json]:
        eos = next(iter(self.eos_ids), None)
        return super().info() | {
            "tokenizer": "sentencepiece",
            "eos_token": None if eos is None else self.token_name(eos),
            "bos_token": None if self.bos_id is None else self.token_name(self.bos_id),
        }
