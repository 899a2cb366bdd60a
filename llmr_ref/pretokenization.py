"""Pre-tokenisation: which stretches of a text are words, and how often each occurs.

No token of byte-level BPE reaches across the words found here. Source: Radford et al. 2019 (GPT-2),
section 2.2; L3 "Tokenization".
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import regex

Source = str | os.PathLike[str] | Iterable[os.PathLike[str]]
Progress = Callable[[str, int, int], object]
Counted = tuple[int, dict[str, int]]  # bytes that were counted, and the words in them

# Radford et al. 2019 (GPT-2): English contractions; then letters, digits or other signs, each with
# the one space before them; of longer white space the last character is left for the next word.
GPT2_PATTERN = r"'(?:[sdmt]|ll|re|ve)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# The same with every digit by itself, as SmolLM2 has it: 1 + 1 numbers for 10 digits, not 10^n.
DIGITS_PATTERN = r"'(?:[sdmt]|ll|re|ve)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
# The plainest one: what is white space and what is not.
PLAIN_PATTERN = r"\S+|\s+"

# These three never put a visible character and white space after it into one word, nor look back.
# So a text may be cut there without changing a word: into blocks that are read one at a time, and
# into pieces of which most occur often, so that each is split into words only once.
_CUTS_BEFORE_SPACE = frozenset({GPT2_PATTERN, DIGITS_PATTERN, PLAIN_PATTERN})
_CUT = regex.compile(r"(?r)\S\s")  # found from the right
# `re` is twice as fast here; it alone counts four control characters (1c to 1f) as white space.
_PIECE = re.compile(r"[^\S\x1c-\x1f]*+[\S\x1c-\x1f]++|[^\S\x1c-\x1f]++")

_COUNTED_TOGETHER = 1 << 22  # characters that a worker gets at a time
_READ_TOGETHER = 1 << 18  # characters that are read at a time


def require_text(text: object) -> None:
    """Raise TypeError for anything but a str."""
    if not isinstance(text, str):
        raise TypeError(f"text must be str, got {type(text).__name__}: decode it first")


def utf8(text: str) -> bytes:
    """The bytes of a text. Raises: ValueError for a lone surrogate, which has none."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text[:40]!r} cannot be written in UTF-8: {error.reason}") from None


class WordSplitter:
    """Finds the words of a text.

    Raises: ValueError for a pattern that does not compile or that captures groups.
    """

    def __init__(self, pattern: str = GPT2_PATTERN) -> None:
        try:
            compiled = regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from None
        if compiled.groups:
            raise ValueError(f"pattern {pattern!r} captures groups; write (?:...) instead of (...)")
        self.pattern = pattern
        self.cuts_before_space = pattern in _CUTS_BEFORE_SPACE
        self._find = compiled.findall

    def pieces(self, text: str) -> list[str]:
        """The text in stretches whose words do not depend on their surroundings."""
        return _PIECE.findall(text) if self.cuts_before_space else [text]

    def words(self, text: str) -> list[str]:
        """The words of a text; joined they are the text.

        Raises: ValueError when the pattern skips a part of the text: it could not be read back.
        """
        words: list[str] = self._find(text)
        if not self.cuts_before_space and sum(map(len, words)) != len(text):
            raise ValueError(
                f"pattern {self.pattern!r} skips a part of {text[:40]!r}; let it match every "
                r"character, for instance by ending in |\s+|."
            )
        return words


def check_special_tokens(special_tokens: Iterable[str]) -> list[str]:
    """The tokens as a list.

    Raises: TypeError for a str or for a token that is none; ValueError for an empty token, one that
    is given twice, or one that UTF-8 cannot write.
    """
    if isinstance(special_tokens, str):
        raise TypeError(f"special_tokens is a list of str, got the str {special_tokens!r}")
    tokens: list[str] = []
    for token in special_tokens:
        if not isinstance(token, str):
            raise TypeError(f"a special token is a str, got {token!r}")
        if not token or token in tokens:
            fault = "is given twice" if token else "is empty"
            raise ValueError(f"special token {token!r} {fault}; every one is a text of its own")
        utf8(token)
        tokens.append(token)
    return tokens


def special_token_pattern(special_tokens: Iterable[str]) -> regex.Pattern[str] | None:
    """One capturing pattern for all of them, None without any; where two fit, the longer."""
    longest_first = sorted(special_tokens, key=len, reverse=True)
    alternatives = "|".join(map(regex.escape, longest_first))
    return regex.compile(f"({alternatives})") if longest_first else None


def blocks(
    texts: Iterable[str], splitter: WordSplitter, special_tokens: Collection[str], size: int
) -> Iterator[str]:
    """The joined texts again, in blocks of about `size` characters that can be encoded alone.

    A block ends after a special token or where the pattern allows a cut. Memory: one block, which
    grows as far as the next such place; with a pattern of one's own only special tokens are.
    """
    specials = special_token_pattern(special_tokens)
    longest = max(map(len, special_tokens), default=1)
    waiting: list[str] = []
    length, enough = 0, size
    for text in texts:
        require_text(text)
        waiting.append(text)
        length += len(text)
        if length < enough:
            continue
        joined = "".join(waiting)
        end = _last_cut(joined, splitter, specials, longest)
        if end:
            yield joined[:end]
        waiting = [joined[end:]]
        length -= end
        # Without a cut wait for twice as much: a character at a time must not cost n^2.
        enough = max(size, 2 * length)
    if length:
        yield "".join(waiting)


def _last_cut(
    text: str, splitter: WordSplitter, specials: regex.Pattern[str] | None, longest: int
) -> int:
    """The last place where text of which more will come can be cut; 0 if there is none."""
    # From here on a special token may begin, or go on to be a longer one, in what has not come yet.
    undecided = len(text) - longest + 1
    after_special = 0
    if specials:
        for match in specials.finditer(text):
            if match.start() >= undecided:
                break
            after_special = match.end()
    if splitter.cuts_before_space:
        found = _CUT.search(text, after_special, max(after_special, undecided) + 1)
        if found:
            return int(found.start()) + 1
    return after_special


# --- words and how often they occur --------------------------------------------------------------


def count_words(
    source: Source,
    special_tokens: Iterable[str] = (),
    *,
    pattern: str = GPT2_PATTERN,
    workers: int = 1,
    progress: Progress | None = None,
) -> Counter[str]:
    """How often every word occurs, in the order of first appearance.

    Memory: the distinct words, and a block of 4 million characters for every worker.
    Raises: as `train_bpe`.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    splitter = WordSplitter(pattern)
    special_tokens = check_special_tokens(special_tokens)
    texts, total = _open(source)
    size = min(_COUNTED_TOGETHER, total // workers + 1)
    streams = (blocks(text, splitter, special_tokens, size) for text in texts)
    count = partial(_count_block, pattern=pattern, special_tokens=special_tokens)
    words: Counter[str] = Counter()
    done = 0
    for n_bytes, counted in _in_order(count, chain.from_iterable(streams), workers):
        words.update(counted)
        done += n_bytes
        if progress:
            progress("words", done, total)
    return words


def _open(source: Source) -> tuple[list[Iterator[str]], int]:
    """The texts of a source, each in slices, and how many bytes they hold together."""
    if isinstance(source, str):
        slices = (source[i : i + _READ_TOGETHER] for i in range(0, len(source), _READ_TOGETHER))
        return [slices], len(source.encode("utf-8", errors="surrogatepass"))
    paths = list(source) if isinstance(source, Iterable) else [source]
    for path in paths:
        if not isinstance(path, os.PathLike):
            raise TypeError(f"source is a str (the text itself), a Path or Paths, got {path!r}")
        if not Path(path).is_file():
            raise FileNotFoundError(f"no text file at {os.fspath(path)}")
    return [_read(Path(path)) for path in paths], sum(os.path.getsize(path) for path in paths)


def _read(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8", newline="") as file:
        try:
            while text := file.read(_READ_TOGETHER):
                yield text
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: {error}") from None


def _count_block(block: str, pattern: str, special_tokens: Sequence[str]) -> Counted:
    """How many bytes a block has, and its words; special tokens end a word and are not counted."""
    splitter, specials = WordSplitter(pattern), special_token_pattern(special_tokens)
    pieces: Counter[str] = Counter()
    for part in specials.split(block)[::2] if specials else [block]:
        pieces.update(splitter.pieces(part))
    words: dict[str, int] = {}
    for piece, n in pieces.items():
        for word in splitter.words(piece):
            words[word] = words.get(word, 0) + n
    return len(block.encode("utf-8", errors="surrogatepass")), words


def _in_order(
    count: Callable[[str], Counted], all_blocks: Iterable[str], workers: int
) -> Iterator[Counted]:
    """count(block) for every block, in order, with few more blocks in memory than workers."""
    if workers == 1:
        yield from map(count, all_blocks)
        return
    # Elsewhere forked processes crash in system libraries.
    method = "fork" if sys.platform == "linux" else None
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: deque[Future[Counted]] = deque()
        for block in all_blocks:
            waiting.append(pool.submit(count, block))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
