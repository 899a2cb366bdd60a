"""The text of a run as tokens: to train on, held out, and back to text."""

from __future__ import annotations

import codecs
import contextlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from llmr_ref.data import CharTokenizer, Stream, read_text, shakespeare, train_validation_split
from llmr_ref.grammar import ProbabilisticGrammar
from llmr_ref.shards import INDEX, TokenShards
from llmr_ref.tokenizer import Tokenizer

HELD_OUT = 0.1
GRAMMAR_STRINGS = 20_000
FINAL_TOKENS = 100_000  # of the held-out ones that the last comparison reads


@dataclass(frozen=True)
class Corpus:
    """Tokens to train on and tokens held out. `entropy` is known of a grammar alone, in bits."""

    source: str
    tokenizer: CharTokenizer | Tokenizer
    training: Stream
    validation: Stream
    characters_per_token: float
    bytes_per_token: float
    fingerprint: int
    entropy: float | None = None


def load_corpus(source: str | None = None, tokenizer: Path | None = None) -> Corpus:
    """`source`: "shakespeare", "grammar", a text file, or a folder of token shards; None chooses.

    Without a tokenizer file a token is a character.
    Raises: FileNotFoundError, IsADirectoryError; ValueError for shards without a tokenizer, or a text
    that is too short.
    """
    entropy = None
    tokens: Stream
    if source is None:
        try:
            return load_corpus("shakespeare", tokenizer)
        except FileNotFoundError:
            return load_corpus("grammar", tokenizer)
    if (Path(source) / INDEX).is_file():
        if tokenizer is None:
            raise ValueError(f"{source} holds token shards: name the tokenizer that made them")
        coder: CharTokenizer | Tokenizer = Tokenizer.load(tokenizer)
        tokens = TokenShards(source)
        fingerprint = zlib.crc32((Path(source) / INDEX).read_bytes())
    else:
        if source == "shakespeare":
            text = shakespeare()
        elif source == "grammar":
            grammar = ProbabilisticGrammar()
            text = "".join(grammar.sample(GRAMMAR_STRINGS, seed=0))
            entropy = grammar.entropy_per_character(unit="bits")
        else:
            text = read_text(source)
        coder = CharTokenizer.from_text(text) if tokenizer is None else Tokenizer.load(tokenizer)
        tokens = torch.tensor(coder.encode(text), dtype=torch.int64)
        fingerprint = zlib.crc32(tokens.numpy().tobytes())
    training, validation = train_validation_split(tokens, HELD_OUT)
    some = coder.decode(np.asarray(validation[:FINAL_TOKENS]).tolist())
    n = min(len(validation), FINAL_TOKENS)
    return Corpus(
        source if source in ("shakespeare", "grammar") else str(Path(source).resolve()),
        coder,
        training,
        validation,
        len(some) / n,
        len(some.encode()) / n,
        fingerprint,
        entropy,
    )


def vocab_size(tokenizer: CharTokenizer | Tokenizer) -> int:
    if isinstance(tokenizer, CharTokenizer):
        return tokenizer.vocab_size
    return max(tokenizer.vocab) + 1


def save_tokenizer(tokenizer: CharTokenizer | Tokenizer, path: Path) -> None:
    if isinstance(tokenizer, CharTokenizer):
        path.write_text(json.dumps({"characters": tokenizer.symbols}), encoding="utf-8")
    else:
        tokenizer.save(path)


def load_tokenizer(path: Path) -> CharTokenizer | Tokenizer:
    """Raises: FileNotFoundError; ValueError for a file that is damaged."""
    if path.is_file():
        with contextlib.suppress(ValueError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict) and "characters" in content:
                return CharTokenizer(content["characters"])
    return Tokenizer.load(path)


def as_text(ids: Iterator[int], tokenizer: CharTokenizer | Tokenizer) -> Iterator[str]:
    """Text as soon as it is certain: a character may be made of several tokens."""
    if isinstance(tokenizer, CharTokenizer):
        yield from (tokenizer.decode([id]) for id in ids)
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for id in ids:
        yield decoder.decode(tokenizer.decode_bytes([id]))
    yield decoder.decode(b"", final=True)
