"""Exercise: add-k smoothing, so that what was never counted is not impossible."""

import torch
from torch import Tensor

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.count_ngrams import Counts, count_ngrams, drawn_sequence
from llmr_ref.grading.exercises.maximum_likelihood import TOLERANCE, counted


def add_k(counts: Counts, context: tuple[int, ...], vocab_size: int, k: float = 1.0) -> Tensor:
    """(c(h w) + k) / (c(h) + k V) for every token w."""
    c = counted(counts.get(context, {}), vocab_size)
    return (c + k) / (c.sum() + k * vocab_size)


exercise = Exercise(
    "add_k",
    points=2,
    difficulty=1,
    minutes=10,
    reference=add_k,
    chapter="n-grams#smoothing",
)


def estimate(counts, context, vocab_size, note, **kwargs):
    return Case(
        (counts, context, vocab_size), kwargs, note=note, any_float=True, tolerance=TOLERANCE
    )


@exercise.property("one is added to every count, and V to their sum", weight=2)
def add_one(draw: Draw):
    a, b = draw.integer(1, 4), draw.integer(5, 9)
    yield estimate({(0,): {0: a, 1: b}, (1,): {0: b}}, (0,), 3, "three tokens, two of them seen")
    ids = [0, 1, 2, 0, 0, *drawn_sequence(draw, 3, 12)]
    yield estimate(count_ngrams([ids], 2), (0,), 7, "counts of a text")
    yield estimate(count_ngrams([ids], 1), (), 5, "the empty context")


@exercise.property("k can be any number from 0 on", weight=1.5)
def any_k(draw: Draw):
    a, b = draw.integer(1, 4), draw.integer(5, 9)
    table = {(0, 1): {2: a, 3: b}, (1, 2): {3: 1}}
    yield estimate(table, (0, 1), 4, "k = 0.5", k=0.5)
    yield estimate(table, (0, 1), 6, "a small k", k=0.01 * draw.integer(1, 9))
    yield estimate(table, (0, 1), 5, "a k that is larger than the counts", k=20.5)
    yield estimate(table, (0, 1), 5, "k = 0", k=0.0)


@exercise.property("after a context that was never seen, every token is equally likely")
def unseen(draw: Draw):
    table = count_ngrams([drawn_sequence(draw, 3, 10)], 2)
    yield estimate(table, (3,), draw.integer(4, 6), "a context that was never seen")
    yield estimate(table, (4,), 5, "a context that was never seen, and k = 0.25", k=0.25)
    yield estimate({}, (), 3, "an empty table")


@exercise.wrong(
    "adds k to the total only once",
    hint="You added k to V counts. By how much did their sum grow? Add up your probabilities.",
    see="n-grams#smoothing",
)
def k_once(counts, context, vocab_size, k=1.0):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    return (c + k) / (c.sum() + k)


@exercise.wrong(
    "adds V to the total whatever k is",
    hint="For k = 1 your result is right. By how much does the sum of V counts grow when each grows "
    "by a half?",
    see="n-grams#smoothing",
)
def adds_v(counts, context, vocab_size, k=1.0):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    return (c + k) / (c.sum() + vocab_size)


@exercise.wrong(
    "adds 1 whatever k is",
    hint="Where in your code does the argument `k` appear?",
    see="n-grams#smoothing",
)
def always_one(counts, context, vocab_size, k=1.0):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    return (c + 1) / (c.sum() + vocab_size)


@exercise.wrong(
    "adds k only to the tokens that were seen",
    hint="Smoothing is there for the tokens that were not counted after this context. What do they "
    "get from you?",
    see="n-grams#smoothing",
)
def seen_only(counts, context, vocab_size, k=1.0):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times + k
    return c / (c.sum() + k * (vocab_size - len(counts.get(context, {}))))


@exercise.wrong(
    "takes the number of tokens that followed for the size of the vocabulary",
    hint="V is the number of tokens that could follow, not of those that did. Add up your "
    "probabilities.",
    see="n-grams#smoothing",
)
def types_for_v(counts, context, vocab_size, k=1.0):
    c = torch.zeros(vocab_size)
    followers = counts.get(context, {})
    for token, times in followers.items():
        c[token] = times
    return (c + k) / (c.sum() + k * len(followers))


@exercise.wrong(
    "adds to the total and not to the counts",
    hint="A token that was never counted still gets 0 from you. What belongs above the fraction?",
    see="n-grams#smoothing",
)
def only_below(counts, context, vocab_size, k=1.0):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    return c / (c.sum() + k * vocab_size)


@exercise.wrong(
    "adds to the counts and not to the total",
    hint="Your probabilities add up to more than 1. After the counts grew, what is their sum?",
    see="n-grams#smoothing",
)
def only_above(counts, context, vocab_size, k=1.0):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    return (c + k) / c.sum()


@exercise.wrong(
    "gives zeros where the context was never seen",
    hint="Without counts, k alone is left above the fraction and kV below. Does your function get as "
    "far as the formula?",
    see="n-grams#sparsity",
)
def zeros_for_unseen(counts, context, vocab_size, k=1.0):
    c = torch.zeros(vocab_size)
    if context not in counts:
        return c
    for token, times in counts[context].items():
        c[token] = times
    return (c + k) / (c.sum() + k * vocab_size)


@exercise.wrong(
    "fails where the context was never seen",
    hint="Asking a dictionary for a key that it lacks raises. An unseen context is the normal case "
    "here; which method of a dict has a default?",
    see="n-grams#sparsity",
)
def key_error(counts, context, vocab_size, k=1.0):
    c = torch.zeros(vocab_size)
    for token, times in counts[context].items():
        c[token] = times
    return (c + k) / (c.sum() + k * vocab_size)


@exercise.wrong(
    "cuts the fraction of k off",
    hint="A tensor of whole numbers cannot hold a half. What is the dtype of the vector that k is "
    "written into?",
    see="n-grams#smoothing",
)
def whole_numbers(counts, context, vocab_size, k=1.0):
    c = torch.zeros(vocab_size, dtype=torch.int64)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    c += int(k)
    return c / c.sum()


@exercise.wrong(
    "divides by the number of all n-grams",
    hint="Given a context, only what followed it matters. Which counts did you add up for the total?",
    see="n-grams#relative-frequencies",
)
def joint(counts, context, vocab_size, k=1.0):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    everything = sum(sum(followers.values()) for followers in counts.values())
    return (c + k) / (everything + k * vocab_size)


@exercise.wrong(
    "adds k to the probabilities instead of the counts",
    hint="A context that was seen a thousand times should move less than one that was seen once. "
    "Add before you divide.",
    see="n-grams#smoothing",
)
def after_the_division(counts, context, vocab_size, k=1.0):
    c = torch.zeros(vocab_size)
    for token, times in counts.get(context, {}).items():
        c[token] = times
    p = c / c.sum().clamp(min=1) + k
    return p / p.sum()


@exercise.wrong(
    "writes the smoothed counts into the table",
    hint="The next call finds counts that have grown already. Build a new vector and leave the table "
    "alone.",
    see="n-grams#smoothing",
)
def in_place(counts, context, vocab_size, k=1.0):
    followers = counts.setdefault(context, {})
    for token in range(vocab_size):
        followers[token] = followers.get(token, 0) + k
    c = torch.tensor([followers[token] for token in range(vocab_size)], dtype=torch.float64)
    return c / c.sum()


@exercise.right("a vector that begins with k everywhere")
def begins_with_k(counts, context, vocab_size, k=1.0):
    c = torch.full((vocab_size,), k)
    for token, times in counts.get(context, {}).items():
        c[token] += times
    return c / c.sum()


@exercise.right("the formula, token by token")
def formula(counts, context, vocab_size, k=1.0):
    followers = counts.get(context, {})
    total = sum(followers.values()) + k * vocab_size
    return torch.tensor([(followers.get(w, 0) + k) / total for w in range(vocab_size)])


@exercise.right("a mixture of the relative frequency and the uniform distribution")
def mixture(counts, context, vocab_size, k=1.0):
    uniform = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    if context not in counts:
        return uniform
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in counts[context].items():
        c[token] = times
    share = c.sum() / (c.sum() + k * vocab_size)
    return share * c / c.sum() + (1 - share) * uniform
