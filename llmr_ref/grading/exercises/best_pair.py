"""Exercise: which pair is merged next, and what decides a tie."""

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.count_pairs import Pair


def best_pair(counts: dict[Pair, int]) -> Pair | None:
    """The most frequent pair; of several the greatest, first token first; None without any."""
    return max(counts, key=lambda pair: (counts[pair], pair), default=None)


exercise = Exercise(
    "best_pair",
    points=2,
    difficulty=2,
    minutes=10,
    reference=best_pair,
    chapter="tokenization#ties",
)


@exercise.property("the most frequent pair is chosen", weight=2)
def most_frequent(draw: Draw):
    a, b = draw.integer(2, 5), draw.integer(6, 8)
    yield Case(({(b"t", b"h"): b, (b"h", b"e"): a},), note="the first of two")
    yield Case(({(b"t", b"h"): a, (b"h", b"e"): b, (b"z", b"z"): 1},), note="one in the middle")
    yield Case(({(b"a", b"b"): 9, (b"h", b"e"): 10 + a, (b"i", b"s"): 5},), note="a count above 9")
    yield Case(({(b"a", b"b"): a},), note="a single pair")


@exercise.property(
    "of several most frequent pairs the greatest is chosen, first token first", weight=2
)
def ties(draw: Draw):
    n = draw.integer(2, 9)
    yield Case(({(b"h", b"e"): n, (b"t", b"h"): n, (b"a", b"t"): n},), note="three of one count")
    yield Case(({(b"b", b"a"): n, (b"b", b"c"): n, (b"b", b"b"): n},), note="equal first tokens")
    yield Case(({(b"s", b"a"): n, (b"o", b"z"): n, (b"e", b"t"): n, (b"z", b"z"): 1},))
    yield Case(({(b"a", b"z"): n, (b"ab", b"a"): n, (b"a", b"c"): n},), note="a longer token")
    yield Case(({(b"abc", b"d"): n, (b"b", b"a"): n, (b"a", b"q"): n},), note="a longer token")


@exercise.property("tokens are compared as bytes")
def as_bytes(draw: Draw):
    n = draw.integer(2, 9)
    yield Case(
        ({(b"\xc3", b"\xa9"): n, (b"z", b"a"): n, (b"e", b"s"): n},), note="half a character"
    )
    yield Case(({(b" ", b"t"): n, (b"T", b"h"): n, (b"t", b"h"): n, (b"N", b"o"): n},))


@exercise.property("without any pair the result is None", weight=0.5)
def nothing(draw: Draw):
    yield Case(({},), note="no pair at all")


@exercise.wrong(
    "leaves a tie to the order of the dictionary",
    hint="`max` keeps the first of several. The tie has a rule of its own, so that everybody learns "
    "the same merges; where does it stand in your code?",
    see="tokenization#ties",
)
def first_of_a_tie(counts):
    return max(counts, key=counts.get, default=None)


@exercise.wrong(
    "takes the last pair of a tie",
    hint="The order in which pairs were counted should not matter. Which rule decides a tie here?",
    see="tokenization#ties",
)
def last_of_a_tie(counts):
    return max(reversed(counts), key=counts.get, default=None)


@exercise.wrong(
    "takes the smallest pair of a tie",
    hint="Sorting by count downwards and by pair upwards ends at the wrong side of a tie. Which of "
    "several is asked for?",
    see="tokenization#ties",
)
def smallest_of_a_tie(counts):
    return min(counts, key=lambda pair: (-counts[pair], pair), default=None)


@exercise.wrong(
    "compares the joined bytes in a tie",
    hint="Joined, `a` and `z` come after `ab` and `a`. The rule compares the first tokens, and only "
    "if they are equal the second.",
    see="tokenization#ties",
)
def joined(counts):
    return max(counts, key=lambda pair: (counts[pair], pair[0] + pair[1]), default=None)


@exercise.wrong(
    "compares the second tokens first in a tie",
    hint="Pairs are compared as tuples are: the first entry decides, the second only when the first "
    "ones are equal.",
    see="tokenization#ties",
)
def second_first(counts):
    return max(counts, key=lambda pair: (counts[pair], pair[1], pair[0]), default=None)


@exercise.wrong(
    "takes the longest pair of a tie",
    hint="The greatest is the last in the order of a dictionary, not the longest. How do bytes "
    "compare in Python?",
    see="tokenization#ties",
)
def longest(counts):
    return max(
        counts, key=lambda pair: (counts[pair], len(pair[0]) + len(pair[1]), pair), default=None
    )


@exercise.wrong(
    "chooses the rarest pair",
    hint="Merging the most frequent pair saves the most tokens. Which end of the counts do you take?",
    see="tokenization#counting-pairs",
)
def rarest(counts):
    return min(counts, key=lambda pair: (counts[pair], pair), default=None)


@exercise.wrong(
    "chooses the greatest pair and ignores the counts",
    hint="The count decides first, the pair itself only in a tie. What does your key compare first?",
    see="tokenization#counting-pairs",
)
def greatest(counts):
    return max(counts, default=None)


@exercise.wrong(
    "fails without any pair",
    hint="When every word has become one token, nothing is left to count. What does `max` do with "
    "nothing, and what should your function return?",
    see="tokenization#training",
)
def fails_on_nothing(counts):
    return max(counts, key=lambda pair: (counts[pair], pair))


@exercise.wrong(
    "returns the count as well",
    hint="The result is the pair alone: a tuple of two tokens.",
    see="tokenization#ties",
)
def with_the_count(counts):
    if not counts:
        return None
    pair = max(counts, key=lambda pair: (counts[pair], pair))
    return pair, counts[pair]


@exercise.wrong(
    "reads tokens as text, which half a character is not",
    hint="A token can be the first byte of an é. Bytes can be compared as they are; do you need to "
    "decode them?",
    see="tokenization#general",
)
def decoded(counts):
    def key(pair):
        return counts[pair], pair[0].decode(), pair[1].decode()

    return max(counts, key=key, default=None)


@exercise.wrong(
    "compares how tokens are printed",
    hint="Printed, a byte above 127 begins with a backslash, which sorts before small letters. "
    "Compare the bytes themselves.",
    see="tokenization#ties",
)
def printed(counts):
    return max(counts, key=lambda pair: (counts[pair], str(pair)), default=None)


@exercise.wrong(
    "takes capitals for small letters in a tie",
    hint="Bytes compare by their number: N comes before t whatever their size as letters. Compare "
    "them as they are.",
    see="tokenization#ties",
)
def case_folded(counts):
    return max(
        counts, key=lambda pair: (counts[pair], pair[0].lower(), pair[1].swapcase()), default=None
    )


@exercise.right("the greatest of count and pair")
def keyed(counts):
    return max(counts, key=lambda pair: (counts[pair], pair), default=None)


@exercise.right("the ties first, then the greatest of them")
def ties_first(counts):
    if not counts:
        return None
    most = max(counts.values())
    return max(pair for pair, times in counts.items() if times == most)


@exercise.right("sorted, and the last one")
def in_order(counts):
    ordered = sorted((times, pair) for pair, times in counts.items())
    return ordered[-1][1] if ordered else None


@exercise.right("a loop that remembers the best")
def loop(counts):
    best = None
    for pair, times in counts.items():
        if best is None or times > counts[best] or (times == counts[best] and pair > best):
            best = pair
    return best
