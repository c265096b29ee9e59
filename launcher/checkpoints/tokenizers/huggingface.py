"""A tokenizer of Hugging Face's library ``tokenizers``, with the exact bytes of every token.

The pipeline is that of ``tokenizer.json`` as it is: transformers 5 would build another one from the name of a class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from launcher.checkpoints import bounded
from launcher.checkpoints.fields import flag
from launcher.checkpoints.tokenizers.chat_template import from_files
from launcher.checkpoints.tokenizers.guard import encoding, opening, probe
from launcher.checkpoints.tokenizers.sentencepiece import Added, SentencePieceTokenizer, model_of
from launcher.checkpoints.tokenizers.templated import Names, TemplatedTokenizer
from launcher.checkpoints.tokenizers.token_bound import longest_token
from launcher.checkpoints.tokenizers.token_bytes import token_table
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import byte_name
from launcher.core.types import Json
from launcher.settings.model import Bounds

NO_TOKENIZER = (
    "no tokenizer (expected tokenizer.json, tokenizer.model or vocab.json); set model.tokenizer to its folder"
)


class HuggingFaceTokenizer(TemplatedTokenizer):
    """Any tokenizer whose decoder is byte-level (GPT-2, Llama 3, Qwen) or SentencePiece-like (Llama 2, Gemma).

    ``eos_ids`` are end-of-sequence ids beyond the named one, as a model's ``generation_config.json`` lists them.
    Raises `CheckpointError` naming ``source`` for a tokenizer whose tokens have no bytes of their own (WordPiece).
    """

    def __init__(self, backend: Any, source: str, names: Names | None = None, eos_ids: Iterable[int] = ()) -> None:
        self._backend = backend
        self._names = names or Names()
        with opening(source):
            self._backend.no_truncation()
            self._backend.no_padding()
            spec = json.loads(backend.to_str())
            self._bytes, self._special, self._strips = token_table(spec, source)
            self.longest_token = longest_token(spec)
        self._added = {added["id"] for added in spec["added_tokens"]}
        _refuse_unknown(spec.get("post_processor"), {*self._bytes, *self._special}, source)
        base = {*self._bytes, *self._special} - self._added
        self._named_are_special()
        self.vocab_size = max([*self._bytes, *self._special]) + 1
        self._base_vocab_size = 1 + max(base, default=-1)
        self.bos_id = self._id("bos_token")
        own = self._id("eos_token")
        self.eos_ids = frozenset([*([] if own is None else [own]), *eos_ids])

    def _id(self, role: str) -> int | None:
        name = self._names.roles.get(role)
        found: int | None = None if name is None else self._backend.token_to_id(name)
        return found

    def _named_are_special(self) -> None:
        """A token that only a role names, such as an ``eos_token`` of the plain vocabulary, is no text either."""
        for role in ("bos_token", "eos_token", "unk_token", "pad_token"):
            token = self._id(role)
            if token is not None and self._bytes.pop(token, None) is not None:
                self._special[token] = self._names.roles[role]

    @property
    def base_vocab_size(self) -> int:
        return self._base_vocab_size

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        with encoding():
            return list(self._backend.encode(text, add_special_tokens=special).ids)

    def token_bytes(self, token: int) -> bytes:
        return self._bytes.get(token, b"")

    def token_name(self, token: int) -> str:
        return self._special.get(token) or byte_name(self.token_bytes(token))

    def is_added(self, token: int) -> bool:
        return token in self._special or token in self._added

    def text_pieces(self, tokens: Sequence[int]) -> list[bytes]:
        pieces = [self.token_bytes(token) for token in tokens]
        first = next((i for i, piece in enumerate(pieces) if piece), None)
        for _ in range(self._strips if first is not None else 0):
            pieces[first or 0] = pieces[first or 0].removeprefix(b" ")
        return pieces

    def files(self) -> dict[str, bytes]:
        """Return the pipeline as it is: the named class does not build another one."""
        pipeline = self._backend.to_str(pretty=True).encode()
        config = self._config_file(tokenizer_class="PreTrainedTokenizerFast")
        return {"tokenizer.json": pipeline, "tokenizer_config.json": config}

    def info(self) -> dict[str, Json]:
        return super().info() | {"tokenizer": type(self._backend.model).__name__}


def _refuse_unknown(stage: Json, known: Set[int], source: str) -> None:
    """Raise `CheckpointError` for a token that is put around a text and that the vocabulary does not have."""
    for token in _around(stage):
        if token not in known:
            raise CheckpointError(
                f"{source}: post_processor adds token {bounded.shown(token)} (expected a token of the vocabulary)"
            )


def _around(stage: Json) -> Iterator[Json]:
    """Yield the ids in a post-processor: of templates, and the pairs ``[token, id]`` of ``sep`` and ``cls``."""
    if not isinstance(stage, dict):
        return
    for part in stage.get("processors") or ():
        yield from _around(part)
    for named in (stage.get("special_tokens") or {}).values():
        yield from named["ids"]
    yield from (stage[key][1] for key in ("sep", "cls") if key in stage)


def from_folder(folder: Path, bounds: Bounds | None = None) -> TemplatedTokenizer:
    """Load the tokenizer stored in ``folder``, from disk only, never running code that comes with it.

    Raises `CheckpointError` if there is none, if it cannot be read, or if its files contradict each other.
    """
    if (folder / "tokenizer.json").is_file():
        return from_file(folder / "tokenizer.json", bounds)
    with opening(folder):
        if (folder / "tokenizer.model").is_file():
            bounded.check_length(folder / "tokenizer.model", bounds)
            return _from_sentencepiece(folder)
        if (folder / "vocab.json").is_file():
            bounded.check_length(folder / "vocab.json", bounds)
            return _from_class(folder)
    raise CheckpointError(f"{folder}: {NO_TOKENIZER}")


def from_file(file: Path, bounds: Bounds | None = None) -> HuggingFaceTokenizer:
    """Load a ``tokenizer.json`` as it is, with what the files beside it say of its special tokens and of chat."""
    from tokenizers import Tokenizer as Backend

    bounded.check_length(file, bounds)
    probe(file)
    folder = file.parent
    with opening(file):
        config = _config(folder)
        names = _names(folder, config)
        backend = Backend.from_file(str(file))
        _add_listed(backend, folder, config)
        _add_named(backend, config, names)
        return HuggingFaceTokenizer(backend, str(file), names, generation_eos(folder))


def _config(folder: Path) -> Mapping[str, Json]:
    file = folder / "tokenizer_config.json"
    return bounded.read_json_object(file) if file.is_file() else {}


def _names(folder: Path, config: Mapping[str, Json]) -> Names:
    """Return roles and template. Where two files name one role, transformers' order decides."""
    file = folder / "special_tokens_map.json"
    listed = bounded.read_json_object(file) if file.is_file() else {}
    first, second = (config, listed) if "added_tokens_decoder" in config else (listed, config)
    roles = dict(_roles(second)) | dict(_roles(first))
    return Names(roles, from_files(folder, config, folder / "tokenizer_config.json"))


def _roles(stored: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """Yield special tokens by role; each is a text, or an object whose ``content`` is one."""
    for role, value in stored.items():
        text = value.get("content") if isinstance(value, dict) else value
        if role.endswith("_token") and isinstance(text, str):
            yield role, text


def _add_listed(backend: Any, folder: Path, config: Mapping[str, Json]) -> None:
    """Add tokens that only ``tokenizer_config.json`` or ``added_tokens.json`` list, with the ids that they give.

    Raises `CheckpointError` where an id is another one than in ``tokenizer.json``.
    """
    from tokenizers import AddedToken

    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for file, token, content, how in sorted(_listed(folder, config), key=lambda found: found[1]):
        if content not in known:
            backend.add_tokens([AddedToken(content, **how)])
        found = backend.token_to_id(content)
        if found != token:
            raise CheckpointError(
                f"{file}: the token {content[:100]!r} has id {token} there, and {found} by tokenizer.json "
                "(expected the same id)"
            )


ID = re.compile("[0-9]{1,10}")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def _listed(folder: Path, config: Mapping[str, Json]) -> Iterator[tuple[Path, int, str, dict[str, bool]]]:
    file = folder / "tokenizer_config.json"
    decoder = config.get("added_tokens_decoder")
    for token, entry in decoder.items() if isinstance(decoder, dict) else ():
        if not ID.fullmatch(token) or not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise CheckpointError(f"{file}: added_tokens_decoder has {token[:100]!r} (expected ids of tokens)")
        yield file, int(token), entry["content"], {key: flag(entry, key, file) for key in FLAGS if key in entry}
    file = folder / "added_tokens.json"
    for content, token in bounded.read_json_object(file).items() if file.is_file() and not decoder else ():
        if not isinstance(token, int) or isinstance(token, bool):
            raise CheckpointError(f"{file}: the id of {content[:100]!r} is {bounded.shown(token)} (expected a number)")
        yield file, token, content, {"normalized": False}


def _add_named(backend: Any, config: Mapping[str, Json], names: Names) -> None:
    """Let tokens of the vocabulary that a role names be found in text, as transformers always has.

    A template writes them: without this, an ``eos_token`` that ``tokenizer.json`` does not mark would be cut up.
    """
    from tokenizers import AddedToken

    more = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    texts = [
        item.get("content") if isinstance(item, dict) else item for item in (more if isinstance(more, list) else ())
    ]
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for text in [*names.roles.values(), *texts]:
        if isinstance(text, str) and text not in known and backend.token_to_id(text) is not None:
            backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])


def _from_sentencepiece(folder: Path) -> SentencePieceTokenizer:
    """Read a ``tokenizer.model`` by SentencePiece itself, with the added tokens and flags of the files beside it.

    The flags have the defaults of Hugging Face's classes for such files: BOS, and no EOS.
    """
    file, config = folder / "tokenizer.model", _config(folder)
    names, model = _names(folder, config), model_of(file)
    told, size = folder / "tokenizer_config.json", model.vocab_size()
    tokens = {model.id_to_piece(i): i for i in range(size) if model.is_control(i) or model.is_unknown(i)}
    special = {*tokens, *names.roles.values()}
    known = {model.id_to_piece(i): i for i in range(size)}
    tokens |= {name: known[name] for name in names.roles.values() if name in known}
    for source, token, content, how in _listed(folder, config):
        if known.get(content, token) != token or (token < size and content not in known):
            raise CheckpointError(
                f"{source}: the token {content[:100]!r} has id {token} there, which {file.name} denies"
            )
        tokens[content] = token
        special |= {content} if how.get("special") else set()
    added = Added(tokens, frozenset(special), prefix_each=flag(config, "legacy", told, True))
    bos, eos = flag(config, "add_bos_token", told, True), flag(config, "add_eos_token", told)
    return SentencePieceTokenizer(file, bos, eos, names, added, generation_eos(folder))


def _from_class(folder: Path) -> HuggingFaceTokenizer:
    """Let transformers build what a ``vocab.json`` and a ``merges.txt`` leave to the class that the files name."""
    import transformers

    config = _config(folder)
    named = str(config.get("tokenizer_class"))
    cls: Any = getattr(transformers, named, None) or getattr(transformers, named.removesuffix("Fast"), None)
    ours = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedTokenizerBase)
    chosen = cls if ours else transformers.AutoTokenizer
    with opening(folder):
        tokenizer = chosen.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"{folder}: {type(tokenizer).__name__} is not a fast tokenizer (expected tokenizer.json)")
    names = _names(folder, dict(tokenizer.special_tokens_map) | dict(config))
    return HuggingFaceTokenizer(tokenizer.backend_tokenizer, str(folder), names, generation_eos(folder))


def generation_eos(folder: Path) -> list[int]:
    """Return the end-of-sequence ids of ``generation_config.json`` and of ``config.json``; each may have a list."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            ids = bounded.read_json_object(folder / name).get("eos_token_id")
            found += [] if ids is None else _token_ids(ids, folder / name)
    return found


def _token_ids(value: Json, file: Path) -> list[int]:
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) for token in ids):
        raise CheckpointError(f"{file}: eos_token_id is {str(value)[:200]} (expected a token id or a list of them)")
    return ids
