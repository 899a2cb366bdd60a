"""Exercise: how often every pair of tokens stands side by side."""

# mypy: disable-error-code="var-annotated"
# ruff: noqa: RUF007 - students know zip
from llmr_ref.grading.exercise import Case, Draw, Exercise

Word = tuple[bytes, ...]
Pair = tuple[bytes, bytes]


def count_pairs(words: dict[Word, int]) -> dict[Pair, int]:
    """Every pair of neighbouring tokens, as often as the words that hold it occur."""
    counts: dict[Pair, int] = {}
    for word, times in words.items():
        for pair in zip(word, word[1:], strict=False):
            counts[pair] = counts.get(pair, 0) + times
    return counts


def drawn_counts(draw: Draw, tokens: list[bytes], n_words: int) -> dict[Word, int]:
    """Words of 1 to 5 of these tokens, and how often each occurs."""
    words: dict[Word, int] = {}
    for _ in range(n_words):
        ids = draw.integers(0, len(tokens) - 1, draw.integer(1, 5)).tolist()
        words[tuple(tokens[i] for i in ids)] = draw.integer(2, 9)
    return words


exercise = Exercise(
    "count_pairs",
    points=2,
    difficulty=2,
    minutes=15,
    reference=count_pairs,
    chapter="tokenization#counting-pairs",
)


@exercise.property("a pair counts as often as the words occur that hold it", weight=2)
def multiplicities(draw: Draw):
    a, b = draw.integer(2, 4), draw.integer(5, 9)
    yield Case(({(b"t", b"h", b"e"): a},), note="one word")
    yield Case(({(b"t", b"h", b"e"): a, (b"t", b"h", b"y"): b, (b"e",): 3},), note="two words")
    yield Case((drawn_counts(draw, [b"a", b"b", b"c"], 8),))


@exercise.property("within a word every place counts, overlapping ones too")
def places(draw: Draw):
    a = draw.integer(2, 9)
    yield Case(({(b"n", b"a", b"n", b"a"): a},), note="a pair that comes twice in a word")
    yield Case(({(b"a", b"a", b"a"): a, (b"b", b"b"): 2},), note="three equal tokens")


@exercise.property("a pair is two tokens in order, whatever their bytes")
def tokens(draw: Draw):
    a, b = draw.integer(2, 4), draw.integer(5, 9)
    joined = {(b"ab", b"c"): a, (b"a", b"bc"): b, (b"c", b"ab"): 1}
    yield Case((joined,), note="pairs that spell the same when joined")
    yield Case(
        (drawn_counts(draw, [b"a", b"ab", b"\xc3", b"\xa9", b" "], 8),), note="longer tokens"
    )


@exercise.property("words of one token hold no pair", weight=0.5)
def no_pairs(draw: Draw):
    yield Case(({(b"a",): draw.integer(1, 5), (b"the",): 2},), note="words of one token")
    yield Case(({},), note="no word at all")


@exercise.wrong(
    "counts every word once, however often it occurs",
    hint="The numbers in `words` say how often each word stands in the text. Where in your code do "
    "they appear?",
    see="tokenization#counting-pairs",
)
def ignores_times(words):
    counts = {}
    for word in words:
        for pair in zip(word, word[1:], strict=False):
            counts[pair] = counts.get(pair, 0) + 1
    return counts


@exercise.wrong(
    "overwrites a pair's count with that of the next word",
    hint="A pair can stand in many words. Do you add to what is there already?",
    see="tokenization#counting-pairs",
)
def overwrites(words):
    counts = {}
    for word, times in words.items():
        for pair in zip(word, word[1:], strict=False):
            counts[pair] = times
    return counts


@exercise.wrong(
    "counts a pair once per word",
    hint="In banana, a and n stand side by side more than once. Which of your steps forgets "
    "repetitions?",
    see="tokenization#counting-pairs",
)
def once_per_word(words):
    counts = {}
    for word, times in words.items():
        for pair in set(zip(word, word[1:], strict=False)):
            counts[pair] = counts.get(pair, 0) + times
    return counts


@exercise.wrong(
    "skips a pair that overlaps the one before",
    hint="Three equal tokens in a row have two places where two are neighbours. That merging cannot "
    "use both comes later.",
    see="tokenization#counting-pairs",
)
def no_overlap(words):
    counts = {}
    for word, times in words.items():
        i = 0
        while i < len(word) - 1:
            pair = (word[i], word[i + 1])
            counts[pair] = counts.get(pair, 0) + times
            i += 2 if i + 2 < len(word) and word[i] == word[i + 1] == word[i + 2] else 1
    return counts


@exercise.wrong(
    "takes tokens two by two",
    hint="In the word the there are two pairs, t h and h e. How far does your loop move on?",
    see="tokenization#counting-pairs",
)
def two_by_two(words):
    counts = {}
    for word, times in words.items():
        for i in range(0, len(word) - 1, 2):
            pair = (word[i], word[i + 1])
            counts[pair] = counts.get(pair, 0) + times
    return counts


@exercise.wrong(
    "counts a pair and its reverse as one",
    hint="The pair h e says nothing on e h: order matters in a word. Which of your steps sorts?",
    see="tokenization#counting-pairs",
)
def unordered(words):
    counts = {}
    for word, times in words.items():
        for pair in zip(word, word[1:], strict=False):
            pair = tuple(sorted(pair))
            counts[pair] = counts.get(pair, 0) + times
    return counts


@exercise.wrong(
    "misses the last pair of every word",
    hint="A word of three tokens has two pairs. Where does your loop end?",
    see="tokenization#counting-pairs",
)
def misses_the_last(words):
    counts = {}
    for word, times in words.items():
        for i in range(len(word) - 2):
            pair = (word[i], word[i + 1])
            counts[pair] = counts.get(pair, 0) + times
    return counts


@exercise.wrong(
    "joins the two tokens of a pair",
    hint="`ab` and `c` are another pair than `a` and `bc`, but their bytes are the same. The key of a "
    "pair is a tuple of two tokens.",
    see="tokenization#counting-pairs",
)
def joined_keys(words):
    counts = {}
    for word, times in words.items():
        for a, b in zip(word, word[1:], strict=False):
            counts[a + b] = counts.get(a + b, 0) + times
    return counts


@exercise.wrong(
    "counts pairs of bytes instead of pairs of tokens",
    hint="A token can have several bytes; after the first merge some have. The neighbours of a pair "
    "are tokens.",
    see="tokenization#counting-pairs",
)
def pairs_of_bytes(words):
    counts = {}
    for word, times in words.items():
        spelled = b"".join(word)
        for i in range(len(spelled) - 1):
            pair = (spelled[i : i + 1], spelled[i + 1 : i + 2])
            counts[pair] = counts.get(pair, 0) + times
    return counts


@exercise.wrong(
    "pairs the last token of a word with the first of the next",
    hint="No token of byte-pair encoding reaches across words, and the order of a dictionary says "
    "nothing on the text. Do your pairs end with their word?",
    see="tokenization#words-first",
)
def across_words(words):
    counts = {}
    before = None
    for word, times in words.items():
        for token in word:
            if before is not None:
                counts[before, token] = counts.get((before, token), 0) + times
            before = token
    return counts


@exercise.wrong(
    "counts words of one token as pairs",
    hint="A pair has two tokens. What do your keys look like for a word of one token?",
    see="tokenization#counting-pairs",
)
def single_tokens(words):
    counts = {}
    for word, times in words.items():
        for i in range(max(1, len(word) - 1)):
            pair = word[i : i + 2]
            counts[pair] = counts.get(pair, 0) + times
    return counts


@exercise.wrong(
    "lists every pair as often as it occurs instead of counting",
    hint="The result is a dictionary from a pair to a number. What turns a list into counts?",
    see="tokenization#counting-pairs",
)
def a_list(words):
    pairs = []
    for word, times in words.items():
        for pair in zip(word, word[1:], strict=False):
            pairs += [pair] * times
    return pairs


@exercise.right("neighbours from a zip")
def zipped(words):
    counts = {}
    for word, times in words.items():
        for pair in zip(word, word[1:], strict=False):
            counts[pair] = counts.get(pair, 0) + times
    return counts


@exercise.right("a counter and pairwise")
def counter(words):
    from collections import Counter
    from itertools import pairwise

    counts = Counter()
    for word, times in words.items():
        for pair in pairwise(word):
            counts[pair] += times
    return counts


@exercise.right("indices and a default of zero")
def indices(words):
    from collections import defaultdict

    counts = defaultdict(int)
    for word in words:
        for i in range(1, len(word)):
            counts[(word[i - 1], word[i])] += words[word]
    return dict(counts)
