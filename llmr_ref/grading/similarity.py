"""Which answers share code, as something to look at: winnowed fingerprints of their Python tokens.

Source: Schleimer, Wilkerson, Aiken, "Winnowing: local algorithms for document fingerprinting", SIGMOD 2003.
Written here, because copydetect, the kept package, hashes with Python's salted `hash`, so that two runs
on one class choose other fingerprints, and compares every pair of files with each other.
"""

import io
import itertools
import keyword
import math
import tokenize
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

GRAM = 12  # tokens: a shared run shorter than this is never noticed
GUARANTEE = 20  # tokens: a shared run this long always is
WINDOW = GUARANTEE - GRAM + 1

SHARED_TOKENS = 60  # a pair below this, or below that share of an answer, is not worth a look
SHARED_PART = 0.6
COMMON = (10, 0.05)  # a run in the answers of more students than this is simply how one writes it

LONGEST = 50_000  # characters of an answer that are compared
REFERENCE = ""  # whose answers the reference solution's are

ENDS = frozenset({tokenize.NEWLINE, tokenize.ENDMARKER})  # of a statement, or of everything
LAYOUT = frozenset({tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT})


@dataclass(frozen=True)
class Token:
    """A token without what a renaming or a reformatting changes, and the line it stands on, from 1."""

    text: str
    line: int


@dataclass(frozen=True)
class Line:
    """A line of an answer. shared: the other answer has it too, up to names and layout."""

    text: str
    shared: bool


@dataclass(frozen=True)
class Marked:
    """A whole answer. shared: the numbers of its lines, from 1, that the other answer has too."""

    source: str
    shared: frozenset[int]

    @property
    def lines(self) -> list[Line]:
        lines = self.source.rstrip("\n").split("\n")  # as the tokenizer counts them
        return [Line(text, n in self.shared) for n, text in enumerate(lines, start=1)]


@dataclass(frozen=True)
class SharedCode:
    """One exercise in which two answers share code."""

    exercise: str
    left: Marked
    right: Marked


@dataclass(frozen=True)
class Pair:
    """Two students, or a student and the reference, whose answers share code.

    part: of the tokens that could tell two answers apart, the share that both have, in the one of the
    two where it is larger.
    """

    left: str
    right: str
    tokens: int
    part: float
    exercises: list[SharedCode]


@dataclass
class _Answer:
    source: str
    tokens: list[Token]
    prints: dict[int, list[int]] = field(default_factory=dict)  # hash -> where it begins

    def covered(self, hashes: Iterable[int]) -> set[int]:
        """The tokens that lie in a run with one of these hashes."""
        starts = (start for h in hashes for start in self.prints[h])
        return {place for start in starts for place in range(start, start + GRAM)}


def tokens(source: str) -> list[Token]:
    """Python tokens without names, comments, docstrings, layout; as far as the source can be read.

    A name becomes V, unless a library gave it: after a dot it stays, but not after `self.`.
    """
    found: list[Token] = []
    before = ["", ""]  # the last two tokens as written; a statement begins with none
    try:
        for t in tokenize.generate_tokens(io.StringIO(source).readline):
            if t.type in ENDS:
                before = ["", ""]
            elif t.type not in LAYOUT and not t.string.isspace():
                docstring = t.type == tokenize.STRING and not before[1]
                if not docstring:
                    if t.string in ")]}" and before[1] == ",":
                        found.pop()  # a comma before a closing bracket is layout
                    found.append(Token(_normal(t, before), t.start[0]))
                    before = [before[1], t.string]
    except (
        tokenize.TokenError,
        SyntaxError,
    ):  # code that does not run is compared as far as it goes
        pass
    return found


def _normal(token: tokenize.TokenInfo, before: Sequence[str]) -> str:
    if token.type == tokenize.STRING:
        return "S"
    if token.type != tokenize.NAME or keyword.iskeyword(token.string):
        return token.string
    return token.string if before[1] == "." and before[0] != "self" else "V"


def grams(found: Sequence[Token]) -> list[int]:
    """A hash of every run of GRAM tokens, the same in every process."""
    texts = [t.text for t in found]
    runs = (texts[i : i + GRAM] for i in range(len(texts) - GRAM + 1))
    return [
        int.from_bytes(blake2b("\0".join(run).encode(), digest_size=8).digest()) for run in runs
    ]


def winnow(hashes: Sequence[int], window: int = WINDOW) -> list[int]:
    """Where the smallest hash of each window stands, the rightmost one of equals."""
    chosen: list[int] = []
    rising: deque[int] = deque()
    for i, h in enumerate(hashes):
        while rising and hashes[rising[-1]] >= h:
            rising.pop()
        rising.append(i)
        if rising[0] <= i - window:
            rising.popleft()
        if i >= min(window, len(hashes)) - 1 and chosen[-1:] != [rising[0]]:
            chosen.append(rising[0])
    return chosen


def similar_pairs(
    answers: Mapping[str, Mapping[str, str]],
    reference: Mapping[str, str],
    template: Mapping[str, str],
) -> list[Pair]:
    """Pairs that share much code, the largest share first.

    answers: student -> exercise -> code; reference and template: exercise -> code. What the template
    gives to everybody does not count, nor what more students share than can have copied it.
    """
    given = {exercise: set(grams(tokens(code))) for exercise, code in template.items()}
    read: dict[str, dict[str, _Answer]] = {}
    holders: dict[tuple[str, int], list[str]] = defaultdict(list)
    for who, sources in sorted({**answers, REFERENCE: reference}.items()):
        read[who] = {e: _fingerprinted(code, given.get(e, set())) for e, code in sources.items()}
        for exercise, answer in read[who].items():
            for h in answer.prints:
                holders[exercise, h].append(who)
    few = max(COMMON[0], math.ceil(COMMON[1] * len(answers)))
    together: Counter[tuple[str, str]] = Counter()
    for (exercise, h), owners in holders.items():
        if len(owners) > few:
            for student in owners:
                del read[student][exercise].prints[h]
        else:
            together.update(itertools.combinations(owners, 2))
    least = math.ceil(SHARED_TOKENS / GRAM)
    pairs = [_pair(a, b, read[a], read[b]) for (a, b), n in together.items() if n >= least]
    kept = [p for p in pairs if p.tokens >= SHARED_TOKENS and p.part >= SHARED_PART]
    return sorted(kept, key=lambda p: (-p.part, -p.tokens, p.left, p.right))


def _fingerprinted(source: str, given: set[int]) -> _Answer:
    answer = _Answer(source[:LONGEST], tokens(source[:LONGEST]))
    hashes = grams(answer.tokens)
    for place in winnow(hashes):
        if hashes[place] not in given:
            answer.prints.setdefault(hashes[place], []).append(place)
    return answer


def _pair(a: str, b: str, left: dict[str, _Answer], right: dict[str, _Answer]) -> Pair:
    """What two students share, over all exercises. A student stands left of the reference."""
    if a == REFERENCE:
        a, b, left, right = b, a, right, left
    shown = []
    counts = [0, 0]
    for exercise in (e for e in left if e in right):
        both = left[exercise].prints.keys() & right[exercise].prints.keys()
        if not both:
            continue
        sides = [left[exercise], right[exercise]]
        covered = [side.covered(both) for side in sides]
        counts = [n + len(places) for n, places in zip(counts, covered, strict=True)]
        shown.append(SharedCode(exercise, *map(_marked, sides, covered)))
    own = [sum(len(x.covered(x.prints)) for x in side.values()) for side in (left, right)]
    parts = [n / total for n, total in zip(counts, own, strict=True) if total]
    return Pair(a, b, min(counts), max(parts, default=0.0), shown)


def _marked(answer: _Answer, places: set[int]) -> Marked:
    return Marked(answer.source, frozenset(answer.tokens[place].line for place in places))
