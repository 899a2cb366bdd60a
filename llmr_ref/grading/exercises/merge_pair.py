"""Exercise: one pair of tokens joined wherever it stands in a word."""

# mypy: disable-error-code="var-annotated"
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.count_pairs import Pair


def merge_pair(tokens: list[bytes], pair: Pair) -> list[bytes]:
    """The tokens with every occurrence of the pair joined, from left to right."""
    merged: list[bytes] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


exercise = Exercise(
    "merge_pair",
    points=2,
    difficulty=2,
    minutes=15,
    reference=merge_pair,
    chapter="tokenization#merging",
)


def split(text: str) -> list[bytes]:
    """One token a byte."""
    return [bytes([byte]) for byte in text.encode()]


@exercise.property("every occurrence of the pair becomes one token", weight=2)
def every(draw: Draw):
    yield Case((split("the"), (b"t", b"h")), note="one occurrence")
    yield Case((split("banana"), (b"a", b"n")), note="two occurrences")
    yield Case((split("lathe"), (b"h", b"e")), note="an occurrence at the end")
    tokens = [b"abc"[i : i + 1] for i in draw.integers(0, 2, 14).tolist()]
    yield Case(([b"a", b"c", *tokens, b"a", b"b", b"c"], (b"a", b"b")), note="more tokens")


@exercise.property("from left to right, and no token is used twice")
def overlapping(draw: Draw):
    n = draw.integer(3, 4)
    yield Case((split("aaa"), (b"a", b"a")), note="three equal tokens")
    yield Case((split("b" + "a" * (2 * n) + "b"), (b"a", b"a")), note="an even run of equal tokens")
    yield Case((split("a" * (2 * n + 1)), (b"a", b"a")), note="an odd run of equal tokens")


@exercise.property("only this pair of tokens is joined, not what spells the same")
def tokens_not_bytes(draw: Draw):
    tail = [b"abc"[i : i + 1] for i in draw.integers(0, 2, 4).tolist()]
    yield Case(([b"a", b"bc", b"ab", b"c"], (b"ab", b"c")), note="two ways to spell abc")
    yield Case(([b"b", b"a", b"b", *tail], (b"a", b"b")), note="the reversed pair in front")
    yield Case(([b"ab", b"c", b"abc", b"d"], (b"abc", b"d")), note="a longer token")
    yield Case(([b"a", b"b", b"a", b"b"], (b"ab", b"ab")), note="a pair that is not there yet")


@exercise.property("nothing changes where the pair is not, and the input never", weight=0.5)
def absent(draw: Draw):
    yield Case((split("xyz"), (b"a", b"b")), note="a pair that does not occur")
    yield Case(([b"a"], (b"a", b"a")), note="a single token")
    yield Case(([], (b"a", b"b")), note="no token")
    yield Case((split("abab"[: draw.integer(2, 4)]), (b"a", b"b")), note="a short word")


@exercise.wrong(
    "joins the first occurrence only",
    hint="A pair can stand in a word more than once. What makes your loop end?",
    see="tokenization#merging",
)
def first_only(tokens, pair):
    for i in range(len(tokens) - 1):
        if (tokens[i], tokens[i + 1]) == pair:
            return [*tokens[:i], pair[0] + pair[1], *tokens[i + 2 :]]
    return list(tokens)


@exercise.wrong(
    "works from right to left",
    hint="In a run of three equal tokens the first two are joined. Which two do you join?",
    see="tokenization#merging",
)
def from_the_right(tokens, pair):
    merged = []
    i = len(tokens) - 1
    while i >= 0:
        if i > 0 and (tokens[i - 1], tokens[i]) == pair:
            merged.append(pair[0] + pair[1])
            i -= 2
        else:
            merged.append(tokens[i])
            i -= 1
    return merged[::-1]


@exercise.wrong(
    "uses a token twice where occurrences overlap",
    hint="Join your tokens: is it still the word? After a merge, both tokens are used up.",
    see="tokenization#merging",
)
def uses_twice(tokens, pair):
    merged = []
    for i, token in enumerate(tokens):
        if i + 1 < len(tokens) and (token, tokens[i + 1]) == pair:
            merged.append(token + tokens[i + 1])
        elif not (i and (tokens[i - 1], token) == pair):
            merged.append(token)
    return merged


@exercise.wrong(
    "keeps the second token of a joined pair",
    hint="Join your tokens: is it still the word? How far must the loop move on after a merge?",
    see="tokenization#merging",
)
def keeps_the_second(tokens, pair):
    merged = []
    for i, token in enumerate(tokens):
        if i + 1 < len(tokens) and (token, tokens[i + 1]) == pair:
            merged.append(token + tokens[i + 1])
        else:
            merged.append(token)
    return merged


@exercise.wrong(
    "loses the last token",
    hint="The last token has no neighbour to the right, but it is still a part of the word. Where "
    "does your loop end?",
    see="tokenization#merging",
)
def loses_the_last(tokens, pair):
    merged = []
    i = 0
    while i < len(tokens) - 1:
        if (tokens[i], tokens[i + 1]) == pair:
            merged.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


@exercise.wrong(
    "looks past the end of the word",
    hint="The last token has no neighbour to the right. Which index does your comparison ask for "
    "there?",
    see="tokenization#merging",
)
def past_the_end(tokens, pair):
    merged = []
    i = 0
    while i < len(tokens):
        if (tokens[i], tokens[i + 1]) == pair:
            merged.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


@exercise.wrong(
    "compares the joined bytes instead of the two tokens",
    hint="`a` and `bc` spell the same as `ab` and `c`, but they are another pair. Compare token by "
    "token.",
    see="tokenization#merging",
)
def joined(tokens, pair):
    merged = []
    i = 0
    while i < len(tokens):
        if i + 1 < len(tokens) and tokens[i] + tokens[i + 1] == pair[0] + pair[1]:
            merged.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


@exercise.wrong(
    "joins the reversed pair as well",
    hint="Merging `a b` leaves `b a` alone: order matters. How do you compare the pair?",
    see="tokenization#merging",
)
def either_order(tokens, pair):
    merged = []
    i = 0
    while i < len(tokens):
        if i + 1 < len(tokens) and {tokens[i], tokens[i + 1]} == set(pair):
            merged.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


@exercise.wrong(
    "changes its input",
    hint="`del`, `pop` and assignments to places write into the caller's list. Print your input "
    "after the call.",
    see="tokenization#merging",
)
def in_place(tokens, pair):
    i = 0
    while i < len(tokens) - 1:
        if (tokens[i], tokens[i + 1]) == pair:
            tokens[i : i + 2] = [pair[0] + pair[1]]
        i += 1
    return tokens


@exercise.wrong(
    "writes the joined token as a pair",
    hint="The new token is one stretch of bytes, the two written one after the other. Which type "
    "has yours?",
    see="tokenization#merging",
)
def as_a_pair(tokens, pair):
    merged = []
    i = 0
    while i < len(tokens):
        if i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == pair:
            merged.append(pair)
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


@exercise.wrong(
    "compares the first token of the pair only",
    hint="A pair is found where both tokens stand, side by side. What do you compare the second one "
    "with?",
    see="tokenization#merging",
)
def first_token_only(tokens, pair):
    merged = []
    i = 0
    while i < len(tokens):
        if i + 1 < len(tokens) and tokens[i] == pair[0]:
            merged.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


@exercise.wrong(
    "goes on merging what it has just made",
    hint="Your longest token holds more than one pair. One call joins two tokens of the input, not a "
    "token and the result of a merge.",
    see="tokenization#merging",
)
def goes_on(tokens, pair):
    merged = []
    for token in tokens:
        if merged and merged[-1].endswith(pair[0]) and token == pair[1]:
            merged[-1] = merged[-1] + token
        else:
            merged.append(token)
    return merged


@exercise.right("a loop that moves on by one or two")
def one_or_two(tokens, pair):
    merged = []
    i = 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


@exercise.right("each token joined to the last one of the result")
def joined_to_the_last(tokens, pair):
    merged = []
    for token in tokens:
        if merged and merged[-1] == pair[0] and token == pair[1]:
            merged[-1] = pair[0] + pair[1]
        else:
            merged.append(token)
    return merged


@exercise.right("a stack of what is left to read")
def stack(tokens, pair):
    left = list(reversed(tokens))
    merged = []
    while left:
        token = left.pop()
        if token == pair[0] and left and left[-1] == pair[1]:
            token += left.pop()
        merged.append(token)
    return merged


@exercise.right("the first occurrence, then the rest by itself")
def recursive(tokens, pair):
    def merge(rest):
        for i in range(len(rest) - 1):
            if (rest[i], rest[i + 1]) == tuple(pair):
                return [*rest[:i], b"".join(pair), *merge(rest[i + 2 :])]
        return rest

    return merge(list(tokens))
