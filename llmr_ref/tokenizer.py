"""Byte-level BPE: cut text into words, then replace pairs of tokens in the order they were learnt.

L3 "Tokenization" asks for four properties. Reversible and general: every one of the 256 bytes is a
token, so any text can be written and read back. Compressive: `Tokenizer.compression`. Statistical:
the merges are learnt from counts, see `llmr_ref.bpe_training`.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any

from llmr_ref.pretokenization import (
    GPT2_PATTERN,
    WordSplitter,
    blocks,
    check_special_tokens,
    require_text,
    special_token_pattern,
    utf8,
)

Merge = tuple[bytes, bytes]

# --- bytes as printable characters ---------------------------------------------------------------


def _printable_characters() -> list[str]:
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b if b in shown else next(others)) for b in range(256)]


# GPT-2's alphabet: a visible Latin-1 character stands for itself, the rest for those from 256 on.
BYTE_TO_CHARACTER = _printable_characters()
_CHARACTER_TO_BYTE = {c: b for b, c in enumerate(BYTE_TO_CHARACTER)}


def show_bytes(token: bytes) -> str:
    """A token in the alphabet of GPT-2's files, one visible character a byte (a space is Ġ)."""
    return "".join(map(BYTE_TO_CHARACTER.__getitem__, token))


def read_bytes(shown: str) -> bytes:
    """The token that `show_bytes` shows.

    Raises: ValueError for a character outside that alphabet.
    """
    try:
        return bytes(map(_CHARACTER_TO_BYTE.__getitem__, shown))
    except KeyError as error:
        raise ValueError(
            f"{shown!r} is not in GPT-2's alphabet of bytes: {error.args[0]!r} stands for no byte"
        ) from None


# --- encoding and decoding -----------------------------------------------------------------------

_BLOCK = 1 << 16  # characters that `encode_iterable` handles at a time
_REMEMBERED = 1 << 17  # pieces, and words, whose ids are kept: in English 200 bytes each
_LONGEST_REMEMBERED = 64  # characters
_LONG_WORD = 256  # tokens from which a heap beats looking at every pair again


class _Remembered(dict[str, tuple[int, ...]]):
    """Ids of the texts seen so far, worked out on first sight; forgets all when it is full."""

    def __init__(self, compute: Callable[[str], tuple[int, ...]]) -> None:
        self._compute = compute

    def __missing__(self, text: str) -> tuple[int, ...]:
        ids = self._compute(text)
        if len(text) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[text] = ids
        return ids


class Tokenizer:
    """Text to ids and back.

    vocab: id -> bytes, all 256 single bytes among them. merges: pairs of tokens, the first learnt
    first; the pair joined is a token too. special_tokens: texts that are one token wherever they
    stand; one that the vocabulary lacks gets the next free id.
    Attributes: the four, with `special_tokens` as a dict from text to id.
    Raises: TypeError or ValueError naming the id, the merge, the token or the pattern at fault.
    Source: Sennrich et al. 2016, algorithm 1; Radford et al. 2019, section 2.2; L3 "Tokenization".
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Iterable[Merge],
        special_tokens: Iterable[str] = (),
        pattern: str = GPT2_PATTERN,
    ) -> None:
        special_tokens = check_special_tokens(special_tokens)
        self._specials = special_token_pattern(special_tokens)
        self._splitter = WordSplitter(pattern)
        self.pattern = pattern
        self.vocab = dict(vocab)
        self.merges = [tuple(merge) for merge in merges]
        # The first token of a spelling is the ordinary one; a special token may repeat it.
        ordinary: dict[bytes, int] = {}
        for id, token in self.vocab.items():
            if not isinstance(id, int) or id < 0 or not isinstance(token, bytes):
                raise TypeError(f"vocab maps ids from 0 on to bytes, got {id!r}: {token!r}")
            ordinary.setdefault(token, id)
        for byte in range(256):
            if bytes([byte]) not in ordinary:
                raise ValueError(f"vocab lacks the byte {bytes([byte])!r}: it must hold all 256")
        self._byte_ids = [ordinary[bytes([byte])] for byte in range(256)]
        self._rank: dict[tuple[int, int], int] = {}
        self._product: list[int] = []
        made = set(self._byte_ids)
        for rank, merge in enumerate(self.merges):
            pair, product = _check_merge(rank, merge, ordinary)
            if self._rank.setdefault(pair, rank) != rank:
                raise ValueError(f"merges[{rank}] = {merge!r} repeats merges[{self._rank[pair]}]")
            self._product.append(product)
            made.add(product)
        last = {token: id for id, token in self.vocab.items() if id not in made}
        self.special_tokens: dict[str, int] = {}
        free = count(max(self.vocab) + 1)
        for text in special_tokens:
            token = text.encode()
            id = last[token] if token in last else next(free)
            self.special_tokens[text] = id
            self.vocab[id] = token
        self._words = _Remembered(self._encode_word)
        self._pieces = _Remembered(self._encode_piece)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, special tokens recognised (of two that fit, the longer).

        Raises: TypeError for anything but a str; ValueError for a lone surrogate, which has no
        bytes.
        """
        require_text(text)
        if self._specials is None:
            return self.encode_ordinary(text)
        ids: list[int] = []
        for i, part in enumerate(self._specials.split(text)):
            if i % 2:
                ids.append(self.special_tokens[part])
            else:
                ids += self.encode_ordinary(part)
        return ids

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text in which special tokens mean nothing: use it for what a stranger wrote.

        Raises: as `encode`.
        """
        require_text(text)
        pieces = self._splitter.pieces(text)
        return list(chain.from_iterable(map(self._pieces.__getitem__, pieces)))

    def encode_iterable(self, texts: Iterable[str]) -> Iterator[int]:
        """Ids of the joined texts, one by one; where the texts are split does not matter.

        Memory: one block of some 64 thousand characters, however many the texts hold; more where a
        stretch without white space is longer. With a pattern of one's own, everything up to the
        next special token.
        Raises: as `encode`.
        """
        for block in blocks(texts, self._splitter, self.special_tokens, _BLOCK):
            yield from self.encode(block)

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are no UTF-8, as when a character is cut in two, become U+FFFD.

        Raises: ValueError for an id that is not in the vocabulary; TypeError for anything but one
        sequence of ids.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes, whatever they are. Raises: as `decode`."""
        if hasattr(ids, "tolist"):
            ids = ids.tolist()  # a tensor's own elements are no keys
        try:
            return b"".join(map(self.vocab.__getitem__, ids))
        except KeyError as error:
            raise ValueError(
                f"id {error.args[0]!r} is not in the vocabulary of {len(self.vocab)} tokens, "
                f"{min(self.vocab)}..{max(self.vocab)}"
            ) from None
        except TypeError:
            raise TypeError(f"ids must be one sequence of integers, got {ids!r:.60}") from None

    def compression(self, text: str) -> float:
        """UTF-8 bytes per token of a text.

        Raises: ValueError for an empty text; else as `encode`. Source: L3 "Compressive".
        """
        ids = self.encode(text)
        if not ids:
            raise ValueError("text is empty: no token to share its bytes")
        return len(text.encode()) / len(ids)

    def _encode_piece(self, piece: str) -> tuple[int, ...]:
        words = self._splitter.words(piece)
        return tuple(chain.from_iterable(map(self._words.__getitem__, words)))

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """Merge the pair that was learnt first, the leftmost of them, as long as there is one."""
        ids = [self._byte_ids[byte] for byte in utf8(word)]
        if len(ids) >= _LONG_WORD:
            return self._merge_long(ids)
        never = len(self.merges)
        rank_of, product = self._rank.get, self._product
        ranks = [rank_of(pair, never) for pair in pairwise(ids)]  # of (ids[i], ids[i + 1])
        while ranks:
            rank = min(ranks)
            if rank == never:
                break
            i = ranks.index(rank)
            ids[i] = product[rank]
            del ids[i + 1], ranks[i]
            if i:
                ranks[i - 1] = rank_of((ids[i - 1], ids[i]), never)
            if i < len(ranks):
                ranks[i] = rank_of((ids[i], ids[i + 1]), never)
        return tuple(ids)

    def _merge_long(self, ids: list[int]) -> tuple[int, ...]:
        """The same in n log n: a heap of (rank, place) and links to the neighbours."""
        gone = -1
        ids = [*ids, gone]
        after, before = list(range(1, len(ids) + 1)), list(range(-1, len(ids) - 1))
        rank_of = self._rank.get
        ranks = map(rank_of, pairwise(ids))
        heap = [(rank, i) for i, rank in enumerate(ranks) if rank is not None]
        heapq.heapify(heap)
        while heap:
            rank, i = heapq.heappop(heap)
            j = after[i]
            if rank_of((ids[i], ids[j])) != rank:
                continue  # one of the two has been merged since
            ids[i], ids[j] = self._product[rank], gone
            after[i] = after[j]
            before[after[i]] = i
            for left in (before[i], i):
                new = rank_of((ids[left], ids[after[left]])) if left >= 0 else None
                if new is not None:
                    heapq.heappush(heap, (new, left))
        return tuple(id for id in ids if id != gone)

    # --- files -----------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self.vocab, self.merges, list(self.special_tokens), self.pattern)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one JSON file, all of it or nothing.

        Raises: OSError when it cannot be written; an older one is then still there.
        """
        content = {
            "format": _FORMAT,
            "pattern": self.pattern,
            "special_tokens": self.special_tokens,
            "vocab": [[id, show_bytes(token)] for id, token in self.vocab.items()],
            "merges": [[show_bytes(a), show_bytes(b)] for a, b in self.merges],
        }
        _write(path, json.dumps(content, ensure_ascii=False))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """What `save` wrote.

        Raises: FileNotFoundError; ValueError for a file that is damaged or something else.
        """
        content = _read_json(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"{path} is no tokenizer file: its format is not {_FORMAT!r}")
        try:
            specials = content["special_tokens"]
            vocab = {int(id): read_bytes(shown) for id, shown in content["vocab"]}
            merges = [(read_bytes(a), read_bytes(b)) for a, b in content["merges"]]
            tokenizer = cls(vocab, merges, list(specials), content["pattern"])
        except KeyError as error:
            raise ValueError(f"{path} is damaged: it has no {error.args[0]!r}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        if tokenizer.special_tokens != specials:
            raise ValueError(f"{path} is damaged: special tokens {specials} are not in its vocab")
        return tokenizer

    @classmethod
    def from_gpt2_files(
        cls,
        encoder_json: str | os.PathLike[str],
        vocab_bpe: str | os.PathLike[str],
        special_tokens: Sequence[str] = ("<|endoftext|>",),
        pattern: str = GPT2_PATTERN,
    ) -> Tokenizer:
        """Read the two files of GPT-2, known elsewhere as vocab.json and merges.txt.

        Raises: FileNotFoundError; ValueError for a file that is damaged or something else.
        Source: Radford et al. 2019, released files.
        """
        encoder = _read_json(encoder_json)
        if not isinstance(encoder, dict):
            raise ValueError(f"{encoder_json} is damaged: it maps no token to its id")
        try:
            vocab = {
                id: shown.encode() if shown in special_tokens else read_bytes(shown)
                for shown, id in sorted(encoder.items(), key=lambda entry: entry[1])
            }
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{encoder_json} is damaged, or holds special tokens that were not named: {error}"
            ) from None
        lines = _read_text(vocab_bpe).split("\n")
        merges = []
        for number, line in enumerate(lines, start=1):
            if not line or (number == 1 and line.startswith("#version")):
                continue
            try:
                first, second = map(read_bytes, line.split(" "))
            except ValueError:
                raise ValueError(
                    f"{vocab_bpe} is damaged: line {number} is {line!r}, not two tokens and a space"
                ) from None
            merges.append((first, second))
        try:
            return cls(vocab, merges, special_tokens, pattern)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{encoder_json} and {vocab_bpe} do not fit: {error}") from None

    def save_gpt2_files(
        self, encoder_json: str | os.PathLike[str], vocab_bpe: str | os.PathLike[str]
    ) -> None:
        """Write the two files that `from_gpt2_files` reads; the pattern is not in them.

        Raises: ValueError when a special token is written as another token is; else as `save`.
        """
        special = {id: text for text, id in self.special_tokens.items()}
        encoder: dict[str, int] = {}
        for id, token in self.vocab.items():
            written = special.get(id, show_bytes(token))
            if encoder.setdefault(written, id) != id:
                raise ValueError(
                    f"tokens {encoder[written]} and {id} are both {written!r} in GPT-2's files; "
                    "`save` keeps them apart"
                )
        merges = [f"{show_bytes(a)} {show_bytes(b)}\n" for a, b in self.merges]
        _write(encoder_json, json.dumps(encoder, ensure_ascii=False))
        _write(vocab_bpe, "".join(["#version: 0.2\n", *merges]))


_FORMAT = "llmr-tokenizer-1"


def _check_merge(
    rank: int, merge: Sequence[bytes], ids: Mapping[bytes, int]
) -> tuple[tuple[int, int], int]:
    """The ids of a merge's two tokens, and of what they make."""
    if len(merge) != 2 or not all(isinstance(token, bytes) for token in merge):
        raise TypeError(f"merges[{rank}] must be two tokens in bytes, got {merge!r}")
    a, b = merge
    for token in (a, b, a + b):
        if token not in ids:
            raise ValueError(f"merges[{rank}] = {merge!r} needs {token!r}, which vocab lacks")
    return (ids[a], ids[b]), ids[a + b]


def _read_text(path: str | os.PathLike[str]) -> str:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no tokenizer file at {path}")
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _read_json(path: str | os.PathLike[str]) -> object:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: no JSON, {error}") from None


def _write(path: str | os.PathLike[str], text: str) -> None:
    """Write beside the target, then rename: a reader sees the old file or the new one."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
