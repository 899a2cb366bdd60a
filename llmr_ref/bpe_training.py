"""Learning the merges of byte-level BPE: count adjacent pairs, join the most frequent, repeat.

Sennrich et al. 2016, algorithm 1; Radford et al. 2019 start from bytes. Letters: a, b are the two
tokens of a pair, c is what they become.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, pairwise
from typing import Literal, get_args

from llmr_ref.pretokenization import (
    GPT2_PATTERN,
    Progress,
    Source,
    check_special_tokens,
    count_words,
    utf8,
)
from llmr_ref.tokenizer import BYTE_TO_CHARACTER, Merge

# Which of several most frequent pairs is merged. "greatest": the one whose bytes are greatest,
# first token first (CS336, NYU). "first": the one that occurs first in the text (minbpe). "gpt2":
# the smallest, bytes in the order of GPT-2's printable characters and before all merges, merges in
# the order they were made (Hugging Face).
TieBreak = Literal["greatest", "first", "gpt2"]
Implementation = Literal["incremental", "explicit"]
Pair = tuple[int, int]

_EDGE, _INSIDE = -1, -2  # instead of an id: between two words; within a token


def train_bpe(
    source: Source,
    vocab_size: int,
    special_tokens: Iterable[str] = (),
    *,
    pattern: str = GPT2_PATTERN,
    tie_break: TieBreak = "greatest",
    workers: int = 1,
    progress: Progress | None = None,
    implementation: Implementation = "incremental",
) -> tuple[dict[int, bytes], list[Merge]]:
    """Vocabulary and merges of a text: give them to `Tokenizer`.

    source: a str is the text itself, a Path or several are files in UTF-8. Ids: 0..255 the bytes,
    then the merges as they were made, then the special tokens, which are no part of the words
    counted. The vocabulary is smaller than asked for when every word has become one token.
    progress: called with "words" and bytes, then "merges" and merges: done, of how many.
    Raises: ValueError for a vocab_size below 256 + special tokens, an unknown tie_break or
    implementation, workers below 1, a text that is not UTF-8; TypeError; FileNotFoundError.
    Source: Sennrich et al. 2016, algorithm 1; L3 "The BPE algorithm".
    """
    _check_choices(tie_break, implementation)
    special_tokens = check_special_tokens(special_tokens)
    least = 256 + len(special_tokens)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size must be at least {least}: 256 bytes and {len(special_tokens)} special "
            f"tokens, got {vocab_size}"
        )
    words = count_words(source, special_tokens, pattern=pattern, workers=workers, progress=progress)
    merges = learn_merges(
        words,
        vocab_size - least,
        tie_break=tie_break,
        progress=progress,
        implementation=implementation,
    )
    tokens = [*_bytes(), *(a + b for a, b in merges), *(text.encode() for text in special_tokens)]
    return dict(enumerate(tokens)), merges


def learn_merges(
    words: Mapping[str, int],
    n_merges: int,
    *,
    tie_break: TieBreak = "greatest",
    progress: Progress | None = None,
    implementation: Implementation = "incremental",
) -> list[Merge]:
    """The pairs that were joined, in order; fewer when every word has become one token.

    Raises: ValueError for a count below 1, n_merges below 0, a word that UTF-8 cannot write, an
    unknown tie_break or implementation.
    Source: Sennrich et al. 2016, algorithm 1.
    """
    _check_choices(tie_break, implementation)
    if n_merges < 0:
        raise ValueError(f"n_merges must be 0 or more, got {n_merges}")
    counted: dict[bytes, int] = {}
    for word, n in words.items():
        if n < 1:
            raise ValueError(f"a word occurs once or more, got {n} for {word!r}")
        counted[utf8(word)] = n
    learn = _incremental if implementation == "incremental" else _explicit
    merges: list[Merge] = []
    for merge in islice(learn(counted, tie_break), n_merges):
        merges.append(merge)
        if progress:
            progress("merges", len(merges), n_merges)
    return merges


def _explicit(words: Mapping[bytes, int], tie_break: TieBreak) -> Iterator[Merge]:
    """Count all pairs, join the most frequent everywhere, count all pairs again."""
    tokens = _bytes()
    spelled = {word: list(word) for word in words}
    while True:
        counts: Counter[Pair] = Counter()
        for word, n in words.items():
            for pair in pairwise(spelled[word]):
                counts[pair] += n
        if not counts:
            return
        most = max(counts.values())
        ties = [pair for pair, n in counts.items() if n == most]  # the first to occur is first
        if tie_break == "first":
            best = ties[0]
        elif tie_break == "greatest":
            best = max(ties, key=lambda pair: (tokens[pair[0]], tokens[pair[1]]))
        else:
            best = min(ties, key=_gpt2_order)
        yield tokens[best[0]], tokens[best[1]]
        spelled = {word: _join(ids, best, len(tokens)) for word, ids in spelled.items()}
        tokens.append(tokens[best[0]] + tokens[best[1]])


def _join(ids: list[int], pair: Pair, c: int) -> list[int]:
    joined: list[int] = []
    for id in ids:
        if joined and (joined[-1], id) == pair:
            joined[-1] = c
        else:
            joined.append(id)
    return joined


def _incremental(words: Mapping[bytes, int], tie_break: TieBreak) -> Iterator[Merge]:
    """Count all pairs once; after a merge correct the counts of what stood beside it.

    All words lie one after the other in `ids`, a place for every byte. A token of several bytes has
    its id at its first and at its last place, so that both neighbours can be read off: the next
    token begins `width` places on, the one before ends one place back.
    """
    tokens, width = _bytes(), [1] * 256
    ids, weights = [_EDGE], [0]
    for word, n in words.items():
        ids += word
        ids.append(_EDGE)
        weights += [n] * (len(word) + 1)
    weight = weights.__getitem__

    where: defaultdict[Pair, list[int]] = defaultdict(list)
    for i, pair in enumerate(pairwise(ids)):
        where[pair].append(i)
    pairs = _Pairs(where, _preference(tie_break, tokens, width, ids, where))
    for pair in [pair for pair in where if _EDGE in pair]:
        del where[pair]
    for pair, places in where.items():
        pairs.file(pair, sum(map(weight, places)))

    while best := pairs.take():
        (a, b), c = best, len(tokens)
        yield tokens[a], tokens[b]
        tokens.append(tokens[a] + tokens[b])
        width.append(width[a] + width[b])
        to_b, to_end = width[a], width[c] - 1
        merged = []
        for i in where[best]:
            j = i + to_b
            if ids[i] == a and ids[j] == b:  # else one of them was merged into something else
                ids[j] = _INSIDE
                ids[i] = ids[i + to_end] = c
                merged.append(i)

        # Places of the new pairs by what stands on the left and on the right.
        left_of, right_of = defaultdict(list), defaultdict(list)
        to_next = to_end + 1
        for i in merged:
            left, right = ids[i - 1], ids[i + to_next]
            if left != _EDGE:
                left_of[left].append(i - width[left])
            if right not in (_EDGE, c):  # c c is on the left of the second c already
                right_of[right].append(i)
        for left, places in left_of.items():
            n = sum(map(weight, places))
            where[left, c] = places
            pairs.lower((b if left == c else left, a), n)  # a b a b: what became c was b before
            pairs.file((left, c), n)
        for right, places in right_of.items():
            n = sum(map(weight, places))
            where[c, right] = places
            pairs.lower((b, right), n)
            pairs.file((c, right), n)
        del pairs.count[best], where[best]


class _Pairs:
    """Pairs by how often they occur, equals by preference.

    Every pair is filed under a count. Counts only fall, so a pair that is found under a count which
    is no longer its own is filed again further down: nothing ever looks through all pairs.
    """

    def __init__(
        self, where: dict[Pair, list[int]], preference: Callable[[Pair], tuple[object, ...]]
    ) -> None:
        self.count: dict[Pair, int] = {}
        self._where, self._preference = where, preference
        self._filed: dict[int, list[Pair]] = {}
        self._levels: list[int] = []  # a heap of -count, for the counts in `_filed`
        self._level = 0
        self._ties: list[tuple[tuple[object, ...], Pair]] = []  # a heap, all of this level's pairs

    def file(self, pair: Pair, n: int) -> None:
        self.count[pair] = n
        if n == self._level:
            heapq.heappush(self._ties, (self._preference(pair), pair))
        elif n in self._filed:
            self._filed[n].append(pair)
        else:
            self._filed[n] = [pair]
            heapq.heappush(self._levels, -n)

    def lower(self, pair: Pair, n: int) -> None:
        self.count[pair] -= n

    def take(self) -> Pair | None:
        """The most frequent pair, None when there are no more."""
        while True:
            while self._ties:
                _, pair = heapq.heappop(self._ties)
                if self._is_current(pair):
                    return pair
            if not self._levels:
                return None
            self._level = -heapq.heappop(self._levels)
            pairs = filter(self._is_current, self._filed.pop(self._level))
            self._ties = [(self._preference(pair), pair) for pair in pairs]
            heapq.heapify(self._ties)

    def _is_current(self, pair: Pair) -> bool:
        n = self.count[pair]
        if n == self._level:
            return True
        if n:
            self.file(pair, n)
        else:
            del self.count[pair], self._where[pair]
        return False


def _preference(
    tie_break: TieBreak,
    tokens: list[bytes],
    width: list[int],
    ids: list[int],
    where: Mapping[Pair, list[int]],
) -> Callable[[Pair], tuple[object, ...]]:
    """What is smallest for the pair to be merged; all arguments but the first grow meanwhile."""
    if tie_break == "greatest":
        return lambda pair: (_descending(tokens[pair[0]]), _descending(tokens[pair[1]]))
    if tie_break == "gpt2":
        return _gpt2_order

    def first(pair: Pair) -> tuple[object, ...]:
        # Counts fall when a pair is lost somewhere: as long as this one's stays, so does its place.
        a, b = pair
        return (next(i for i in where[pair] if ids[i] == a and ids[i + width[a]] == b),)

    return first


def _descending(token: bytes) -> str:
    """Sorts the other way round than the token: the longer of two with the same beginning first."""
    return token.translate(_COMPLEMENT).decode("latin-1") + "\u0100"


def _gpt2_order(pair: Pair) -> tuple[int, int]:
    """Bytes in the order of the characters that stand for them, then merges in their own."""
    a, b = pair
    return _GPT2_RANK[a] if a < 256 else a, _GPT2_RANK[b] if b < 256 else b


_COMPLEMENT = bytes(range(255, -1, -1))
_GPT2_RANK = [sorted(BYTE_TO_CHARACTER).index(character) for character in BYTE_TO_CHARACTER]


def _bytes() -> list[bytes]:
    return [bytes([byte]) for byte in range(256)]


def _check_choices(tie_break: str, implementation: str) -> None:
    if tie_break not in get_args(TieBreak):
        raise ValueError(f"tie_break is {tie_break!r}; choose 'greatest', 'first' or 'gpt2'")
    if implementation not in get_args(Implementation):
        raise ValueError(
            f"implementation is {implementation!r}; choose 'incremental' or 'explicit'"
        )
