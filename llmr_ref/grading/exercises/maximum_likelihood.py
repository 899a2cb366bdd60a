"""Exercise: the distribution of the next token as a share of what was counted."""

import math

import torch
from torch import Tensor

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.count_ngrams import Counts, count_ngrams, drawn_sequence

TOLERANCE = 1e-6  # float32 is enough


def counted(followers: dict[int, int], vocab_size: int) -> Tensor:
    """c(h w) for every token w, (V,) in float64."""
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in followers.items():
        c[token] = times
    return c


def maximum_likelihood(counts: Counts, context: tuple[int, ...], vocab_size: int) -> Tensor:
    """c(h w) / c(h) for every token w; nan where the context was never seen."""
    c = counted(counts.get(context, {}), vocab_size)
    return c / c.sum()


exercise = Exercise(
    "maximum_likelihood",
    points=2,
    difficulty=1,
    minutes=10,
    reference=maximum_likelihood,
    chapter="n-grams#relative-frequencies",
)


def estimate(counts, context, vocab_size, note):
    return Case((counts, context, vocab_size), note=note, any_float=True, tolerance=TOLERANCE)


@exercise.property("a token's probability is its share of what followed the context", weight=2)
def shares(draw: Draw):
    a, b = draw.integer(1, 4), draw.integer(5, 9)
    yield estimate({(0,): {0: a, 1: b}, (1,): {0: b}}, (0,), 2, "two tokens that followed")
    table = count_ngrams([[0, 1, 2, 0, 0, 1, *drawn_sequence(draw, 3, 12)]], 2)
    yield estimate(table, (0,), 3, "counts of a text")
    yield estimate({(0,): {2: b}, (2,): {1: a}}, (0,), 3, "a single token that followed")


@exercise.property("every token of the vocabulary has a place, at its id")
def places(draw: Draw):
    a = draw.integer(2, 9)
    yield estimate({(3,): {4: 1, 1: a}, (1,): {1: 2}}, (3,), 6, "tokens that never followed")
    yield estimate({(2,): {5: a, 2: a}, (0,): {5: 1}}, (2,), 8, "equal counts")


@exercise.property("contexts may be long, empty or hold padding", weight=0.5)
def contexts(draw: Draw):
    ids = [1, 2, 0, *drawn_sequence(draw, 4, 20)]
    yield estimate(count_ngrams([ids], 1), (), 4, "the empty context")
    yield estimate(count_ngrams([ids, [1, 1], [1]], 3), (-1, -1), 4, "a context of padding")
    yield estimate(count_ngrams([ids], 3), (1, 2), 4, "a context of two tokens")


@exercise.property("a context that was never seen leaves no estimate: nan for every token")
def unseen(draw: Draw):
    table = count_ngrams([drawn_sequence(draw, 3, 10)], 2)
    yield estimate(table, (3,), draw.integer(4, 6), "a context that was never seen")
    yield estimate({}, (0,), 3, "an empty table")


@exercise.wrong(
    "divides by the number of all n-grams",
    hint="You computed how likely the whole n-gram is. Given the context, only what followed that "
    "context matters: what should your numbers add up to?",
    see="n-grams#relative-frequencies",
)
def joint(counts, context, vocab_size):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    everything = sum(sum(followers.values()) for followers in counts.values())
    if context not in counts:
        return torch.full((vocab_size,), math.nan)
    return c / everything


@exercise.wrong(
    "returns the counts themselves",
    hint="Your numbers do not add up to 1. Which division turns counts into shares?",
    see="n-grams#relative-frequencies",
)
def raw(counts, context, vocab_size):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    return c


@exercise.wrong(
    "lists only the tokens that were seen",
    hint="The result has one place per token of the vocabulary, at the index of its id, and zeros "
    "where nothing was counted. Compare its length with `vocab_size`.",
    see="n-grams#relative-frequencies",
)
def seen_only(counts, context, vocab_size):
    followers = counts.get(context, {})
    c = torch.tensor([float(times) for times in followers.values()])
    return c / c.sum()


@exercise.wrong(
    "gives every token that followed the same share",
    hint="A token that followed nine times should get nine times as much as one that followed once. "
    "Do your numbers depend on the counts?",
    see="n-grams#relative-frequencies",
)
def equal_shares(counts, context, vocab_size):
    c = torch.zeros(vocab_size)
    for token in counts.get(context, {}):
        c[token] = 1
    return c / c.sum()


@exercise.wrong(
    "gives zeros where the context was never seen",
    hint="All zeros is no distribution, and it claims that nothing can follow. What is 0 divided by "
    "0, and what does the exercise ask for?",
    see="n-grams#sparsity",
)
def zeros_for_unseen(counts, context, vocab_size):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    return c / c.sum().clamp(min=1)


@exercise.wrong(
    "gives the uniform distribution where the context was never seen",
    hint="A uniform guess is sensible, but it is a choice and no estimate from these counts; it "
    "comes in with smoothing. What does the fraction say for a context without counts?",
    see="n-grams#sparsity",
)
def uniform_for_unseen(counts, context, vocab_size):
    if context not in counts:
        return torch.full((vocab_size,), 1 / vocab_size)
    c = torch.zeros(vocab_size)
    for token, times in counts[context].items():
        c[token] = times
    return c / c.sum()


@exercise.wrong(
    "fails where the context was never seen",
    hint="Most contexts of a long n-gram are not in the table, so asking a dictionary for them must "
    "not raise. Which method of a dict has a default, and where else can a division by 0 raise?",
    see="n-grams#sparsity",
)
def key_error(counts, context, vocab_size):
    c = torch.zeros(vocab_size)
    for token, times in counts[context].items():
        c[token] = times
    return c / c.sum()


@exercise.wrong(
    "divides by the largest count",
    hint="Your most frequent token has probability 1, whatever else was counted. What do the numbers "
    "have to add up to?",
    see="n-grams#relative-frequencies",
)
def by_the_largest(counts, context, vocab_size):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    return c / c.max()


@exercise.wrong(
    "takes a softmax of the counts",
    hint="Counts are no scores: they need no exponential, and a token that never followed gets "
    "probability 0. What does the formula divide by what?",
    see="n-grams#relative-frequencies",
)
def softmax_of_counts(counts, context, vocab_size):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    return torch.softmax(c, dim=0)


@exercise.wrong(
    "turns the condition round and divides by the counts of the token",
    hint="You ask how often this context stood before a token. The question is how often this token "
    "followed the context. Whose total belongs below the fraction?",
    see="n-grams#relative-frequencies",
)
def condition_reversed(counts, context, vocab_size):
    c, of_token = torch.zeros(vocab_size), torch.zeros(vocab_size)
    for h, followers in counts.items():
        for token, times in followers.items():
            of_token[token] += times
            if h == context:
                c[token] = times
    if context not in counts:
        return torch.full((vocab_size,), math.nan)
    return c / of_token.clamp(min=1)


@exercise.wrong(
    "counts ids from 1",
    hint="Ids begin at 0, as indices do. At which place of your result does token 0 stand?",
    see="n-grams#relative-frequencies",
)
def ids_from_one(counts, context, vocab_size):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token - 1] = times
    return c / c.sum()


@exercise.wrong(
    "divides whole numbers without a remainder",
    hint="Your result holds zeros and ones only. What does `//` do to a count that is smaller than "
    "the total?",
    see="n-grams#relative-frequencies",
)
def floor_division(counts, context, vocab_size):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    return c // c.sum()


@exercise.wrong(
    "writes a new context into the table",
    hint="Asking must not change the table: afterwards it holds a context that nobody counted. "
    "Compare `setdefault` with `get`.",
    see="n-grams#sparsity",
)
def setdefault(counts, context, vocab_size):
    c = torch.zeros(vocab_size)
    for token, times in counts.setdefault(context, {}).items():
        c[token] = times
    return c / c.sum()


@exercise.right("a vector of counts over its sum")
def vector(counts, context, vocab_size):
    c = torch.zeros(vocab_size)
    if context in counts:
        for token, times in counts[context].items():
            c[token] = times
    return c / c.sum()


@exercise.right("a list, with the unseen context as a case of its own")
def listed(counts, context, vocab_size):
    followers = counts.get(context)
    if followers is None:
        return torch.tensor([float("nan")] * vocab_size)
    total = sum(followers.values())
    return torch.tensor([followers.get(w, 0) / total for w in range(vocab_size)])


@exercise.right("a weighted count of ids")
def bincount(counts, context, vocab_size):
    followers = counts.get(context, {})
    ids = torch.tensor(list(followers), dtype=torch.int64)
    times = torch.tensor(list(followers.values()), dtype=torch.float64)
    c = torch.bincount(ids, weights=times, minlength=vocab_size).double()
    return c / times.sum()
