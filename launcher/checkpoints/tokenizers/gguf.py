"""The tokenizer inside a GGUF file, rebuilt like llama.cpp's (``src/llama-vocab.cpp``, late 2026)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.checkpoints.bounded import shown
from launcher.checkpoints.fields import flag
from launcher.checkpoints.tokenizers.chat_template import TOOL_USE, StoredTemplate
from launcher.checkpoints.tokenizers.guard import opening
from launcher.checkpoints.tokenizers.huggingface import HuggingFaceTokenizer
from launcher.checkpoints.tokenizers.templated import Names
from launcher.checkpoints.tokenizers.token_bytes import SPACE_MARK
from launcher.core.errors import CheckpointError
from launcher.core.types import Json

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""``tokenizer.ggml.token_type``: pieces of text, two kinds that are never text, and text that is never split."""

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*%s|"
CASED_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PUNCTUATED = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SPLITS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "llama3": (WORDS + r"\p{N}{1,3}" + REST,),
    "qwen2": (WORDS + r"\p{N}" + REST,),
    "qwen35": (
        CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "gpt2": (GPT2,),
    "digits": (r"\p{N}", GPT2),
    "tekken": (CASED % ("", "") + r"\p{N}" + CASED_REST,),
    "gpt4o": (CASED % (CONTRACTIONS + "?", CONTRACTIONS + "?") + r"\p{N}{1,3}" + CASED_REST,),
    "deepseek3": (r"\p{N}{1,3}", "[一-龥\u3040-\u309f\u30a0-\u30ff]+", PUNCTUATED),
    "seed-coder": (WORDS + r"\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",),
}
"""How text is cut before merging, each expression after the other."""

KINDS: dict[str, tuple[str, ...]] = {
    "default": ("default",),
    "llama3": (
        "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
        "dbrx", "smaug-bpe", "glm4", "chatglm-bpe",
    ),
    "qwen2": (
        "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2",
    ),
    "qwen35": ("qwen35",),
    "gpt2": (
        "gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "mpt", "olmo", "jais", "trillion", "granite-docling",
        "exaone4",
    ),
    "digits": ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"),
    "tekken": ("tekken",),
    "gpt4o": ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
    "deepseek3": ("deepseek-v3", "hunyuan-dense", "joyai-llm"),
    "seed-coder": ("seed-coder",),
}  # fmt: skip
"""The names in ``tokenizer.ggml.pre`` of each kind of splits."""

KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
WHOLE_FIRST = {*KINDS["llama3"][:9], "tekken"}
"""A word of the vocabulary is taken without merging (``ignore_merges``), and BOS comes before a text by default."""

TURN_ENDS = frozenset((
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~[",
    # Filling in the middle ends where another file or a padding begins.
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>",
    "<REPO>", "<reponame>", "<|file_sep|>",
))  # fmt: skip
"""Tokens that end an answer wherever a vocabulary has them (llama.cpp's EOG tokens)."""

END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id", "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id")
ROLES = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id", "unk": "unknown_token_id"}
LLAMA_IDS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
"""What a SentencePiece vocabulary has where the file does not say."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a GGUF file by id, their types, and the special ones by role."""

    path: Path
    fields: Mapping[str, Json]
    tokens: Sequence[str]
    types: Sequence[int]
    ids: Mapping[str, int]

    def get(self, key: str, default: Json = None) -> Json:
        found = self.fields.get(f"tokenizer.ggml.{key}")
        return default if found is None else found

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false; `CheckpointError` for a value of another type, which llama.cpp does not read."""
        return flag(self.fields, f"tokenizer.ggml.{key}", self.path, default)

    def end(self, key: str, switch: str, default: bool) -> int | None:
        """Return the token that ``switch`` adds to a text, if it does; `CheckpointError` if the file has none."""
        if not self.flag(switch, default):
            return None
        if key not in self.ids:
            raise CheckpointError(f"{self.path}: {switch} is on (by default for this kind), and {key} is missing")
        return self.ids[key]


def tokenizer_of(fields: Mapping[str, Json], path: Path) -> HuggingFaceTokenizer:
    """Return the tokenizer of a GGUF file by its metadata ``fields``.

    Raises `CheckpointError` for a kind of tokenizer that cannot be rebuilt; ``model.tokenizer`` then has to name one.
    """
    kind = fields.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise CheckpointError(
            f"{path}: tokenizer.ggml.model is {shown(kind)} (supported: gpt2, llama); set model.tokenizer"
        )
    with opening(path):
        return _rebuilt(kind, fields, path)


def _rebuilt(kind: str, fields: Mapping[str, Json], path: Path) -> HuggingFaceTokenizer:
    vocabulary = _vocabulary(fields, path, LLAMA_IDS if kind == "llama" else {})
    backend = _byte_level(vocabulary) if kind == "gpt2" else _sentencepiece(vocabulary)
    _add_special(backend, vocabulary)
    _add_ends(backend, vocabulary, add_bos=kind == "llama" or str(vocabulary.get("pre")) in WHOLE_FIRST)
    roles = {role: vocabulary.ids[key] for role, key in ROLES.items() if key in vocabulary.ids}
    named = {f"{role}_token": vocabulary.tokens[token] for role, token in roles.items()}
    template = fields.get("tokenizer.chat_template")
    tool_use = fields.get(f"tokenizer.chat_template.{TOOL_USE}")
    for_tools = tool_use if isinstance(tool_use, str) and tool_use else None
    stored = StoredTemplate(template, path, for_tools) if isinstance(template, str) and template else None
    return HuggingFaceTokenizer(backend, str(path), Names(named, stored), ends(vocabulary))


def _vocabulary(fields: Mapping[str, Json], path: Path, defaults: Mapping[str, int]) -> Vocabulary:
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise CheckpointError(f"{path}: tokenizer.ggml.tokens is missing (expected a list of texts)")
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
    ((twice, count),) = Counter(tokens).most_common(1)
    if count > 1:
        raise CheckpointError(f"{path}: tokenizer.ggml.tokens has {twice[:100]!r} twice (expected each token once)")
    types = fields.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if not isinstance(types, list) or len(types) < len(tokens) or not all(isinstance(kind, int) for kind in types):
        raise CheckpointError(
            f"{path}: tokenizer.ggml.token_type must have an entry, a number, for each of {len(tokens)} tokens"
        )
    return Vocabulary(path, fields, tokens, types[: len(tokens)], dict(_ids(fields, path, defaults, len(tokens))))


def _ids(fields: Mapping[str, Json], path: Path, defaults: Mapping[str, int], count: int) -> Iterator[tuple[str, int]]:
    for key in {*END_KEYS, *ROLES.values()}:
        token = fields.get(f"tokenizer.ggml.{key}")
        if token is None:
            token = defaults[key] if defaults.get(key, count) < count else None
        elif not isinstance(token, int) or not 0 <= token < count:
            raise CheckpointError(f"{path}: tokenizer.ggml.{key} is {str(token)[:100]} (expected 0 to {count - 1})")
        if token is not None:
            yield key, token


def ends(vocabulary: Vocabulary) -> frozenset[int]:
    """Return the tokens that end an answer: those that the file names, and those known by their text.

    Where ``<|return|>`` and ``<|call|>`` end an answer, ``<|end|>`` only ends a message, as in llama.cpp.
    """
    texts = {text: token for token, text in enumerate(vocabulary.tokens)}
    found = {text for text in TURN_ENDS if text in texts}
    if {"<|return|>", "<|call|>"} <= found or ({"<|call|>", "<|calls|>"} & found and "<|flush|>" in found):
        found.discard("<|end|>")
    if "<|tool_response>" in found:
        found.discard("</s>")
    named = {vocabulary.ids[key] for key in END_KEYS if key in vocabulary.ids}
    return frozenset({texts[text] for text in found} | named)


def _byte_level(vocabulary: Vocabulary) -> Any:
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE

    merges = vocabulary.get("merges")
    if not isinstance(merges, list):
        raise CheckpointError(f"{vocabulary.path}: tokenizer.ggml.merges is missing (expected a list of texts)")
    wrong = next((merge for merge in merges if not isinstance(merge, str) or " " not in merge[1:-1]), None)
    if wrong is not None:
        raise CheckpointError(
            f"{vocabulary.path}: tokenizer.ggml.merges has {shown(wrong)} (expected two tokens with a space between)"
        )
    pre = str(vocabulary.get("pre", "default"))
    pieces = {token: i for i, token in enumerate(vocabulary.tokens)}
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    try:
        backend = Tokenizer(BPE(vocab=pieces, merges=pairs, ignore_merges=pre in WHOLE_FIRST))
    except Exception as error:  # the Rust code raises bare Exception
        raise CheckpointError(f"{vocabulary.path}: tokenizer.ggml.merges: {str(error)[:200]}") from error
    backend.pre_tokenizer = _pre_tokenizer(pre, vocabulary.path)
    backend.decoder = decoders.ByteLevel()
    return backend


def _pre_tokenizer(pre: str, path: Path) -> Any:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    if pre not in KIND_OF:
        known = ", ".join(KIND_OF)
        raise CheckpointError(f"{path}: tokenizer.ggml.pre is {pre[:100]!r} (known: {known}); set model.tokenizer")
    splits = [Split(Regex(expression), behavior="isolated") for expression in SPLITS[KIND_OF[pre]]]
    return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


def _sentencepiece(vocabulary: Vocabulary) -> Any:
    """Rebuild the merges of a SentencePiece vocabulary from its scores: a pair is as good as the piece it makes."""
    from tokenizers import Tokenizer, decoders, normalizers
    from tokenizers.models import BPE

    scores = vocabulary.get("scores")
    if (
        not isinstance(scores, list)
        or len(scores) < len(vocabulary.tokens)
        or not all(isinstance(score, int | float) for score in scores)
    ):
        raise CheckpointError(f"{vocabulary.path}: tokenizer.ggml.scores is missing (expected a number for each token)")
    pieces = {token: i for i, token in enumerate(vocabulary.tokens)}
    plain = {piece: i for piece, i in pieces.items() if vocabulary.types[i] not in (UNKNOWN, CONTROL)}
    unknown = vocabulary.ids.get("unknown_token_id")
    named = {} if unknown is None else {"unk_token": vocabulary.tokens[unknown]}
    backend = Tokenizer(BPE(vocab=pieces, merges=_merges(plain, scores), byte_fallback=True, fuse_unk=True, **named))
    prefix = vocabulary.flag("add_space_prefix", True)
    first = [normalizers.Prepend(SPACE_MARK)] if prefix else []
    backend.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", SPACE_MARK)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    steps = [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    backend.decoder = decoders.Sequence(steps)
    return backend


def _merges(pieces: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return all pairs of pieces that make a piece, the best first."""
    found = [
        (-scores[token], -len(piece[:cut]), piece[:cut], piece[cut:])
        for piece, token in pieces.items()
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    return [(left, right) for _, _, left, right in sorted(found)]


def _add_special(backend: Any, vocabulary: Vocabulary) -> None:
    typed = list(zip(vocabulary.tokens, vocabulary.types, strict=True))
    control = [token for token, kind in typed if kind in (UNKNOWN, CONTROL) or token in TURN_ENDS]
    defined = [token for token, kind in typed if kind == USER_DEFINED and token not in TURN_ENDS]
    backend.add_tokens(list(_added(control, special=True)))
    backend.add_tokens(list(_added(defined, special=False)))


def _added(tokens: Iterable[str], special: bool) -> Iterator[Any]:
    from tokenizers import AddedToken

    for token in tokens:
        yield AddedToken(token, special=special, normalized=False)


def _add_ends(backend: Any, vocabulary: Vocabulary, add_bos: bool) -> None:
    """Add BOS before and EOS after a plain prompt where the file asks for it, or llama.cpp by default."""
    from tokenizers.processors import TemplateProcessing

    before = vocabulary.end("bos_token_id", "add_bos_token", add_bos)
    after = vocabulary.end("eos_token_id", "add_eos_token", False)
    found = [(vocabulary.tokens[token], token) for token in (before, after) if token is not None]
    if found:
        single = [vocabulary.tokens[before]] if before is not None else []
        single += ["$A", *([vocabulary.tokens[after]] if after is not None else [])]
        backend.post_processor = TemplateProcessing(single=single, special_tokens=found)
