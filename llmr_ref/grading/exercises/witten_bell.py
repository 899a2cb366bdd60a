"""Exercise: every order of n-gram mixed with the one below it, after Witten and Bell."""

import torch
from torch import Tensor

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.count_ngrams import Counts, count_ngrams, drawn_sequence
from llmr_ref.grading.exercises.maximum_likelihood import TOLERANCE, counted


def witten_bell(tables: list[Counts], context: tuple[int, ...], vocab_size: int) -> Tensor:
    """(c(h w) + N1+(h .) P(w | h')) / (c(h) + N1+(h .)) from the shortest context up, first 1 / V.

    tables[m] counts what follows contexts of m tokens. Source: as llmr_ref.ngram.NGramModel.
    """
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    for m, counts in enumerate(tables):
        followers = counts.get(context[len(context) - m :], {})
        if followers:
            c, types = counted(followers, vocab_size), len(followers)
            p = (c + types * p) / (c.sum() + types)
    return p


def tables_of(sequences: list[list[int]], n: int) -> list[Counts]:
    """The counts of all orders up to n, as the exercises that mix or shorten contexts want them."""
    return [count_ngrams(sequences, m) for m in range(1, n + 1)]


exercise = Exercise(
    "witten_bell",
    points=4,
    difficulty=3,
    minutes=30,
    reference=witten_bell,
    chapter="n-grams#interpolation",
)


def estimate(tables, context, vocab_size, note=""):
    return Case((tables, context, vocab_size), note=note, any_float=True, tolerance=TOLERANCE)


@exercise.property("unigrams are mixed with the uniform distribution")
def unigrams(draw: Draw):
    a, b = draw.integer(1, 3), draw.integer(4, 9)
    yield estimate([{(): {0: a, 2: b}}], (), 4, "unigrams alone")
    yield estimate(tables_of([[0, 0, *drawn_sequence(draw, 4, 9)]], 1), (), 6, "unigrams of a text")


@exercise.property("every order is mixed with the one below it", weight=2)
def orders(draw: Draw):
    a, b = draw.integer(2, 4), draw.integer(5, 9)
    pair = [{(): {0: a, 1: b, 2: 1}}, {(1,): {0: b, 2: a}, (0,): {1: 1}}]
    yield estimate(pair, (1,), 4, "two orders")
    ids = [0, 1, 1, 2, 0, 1, 0, *drawn_sequence(draw, 4, 25), 0, 1, 2]
    yield estimate(tables_of([ids], 3), (0, 1), 5, "three orders")
    yield estimate(tables_of([ids], 4), tuple(ids[-5:-2]), 6, "four orders")
    yield estimate(tables_of([ids, ids[3:9], ids[5:8]], 3), (-1, -1), 5, "a context of padding")


@exercise.property(
    "a context that was never seen leaves the estimate of the shorter one", weight=1.5
)
def unseen(draw: Draw):
    ids = [0, 1, 0, 2, 2, 0, *drawn_sequence(draw, 3, 15)]
    yield estimate(tables_of([ids], 2), (3,), 5, "an unseen context of one token")
    yield estimate(tables_of([ids], 3), (4, 0), 5, "a context that is seen when shortened once")
    yield estimate(tables_of([ids], 3), (0, 4), 6, "a context that is never seen")


@exercise.property("without any counts the distribution is uniform", weight=0.5)
def nothing(draw: Draw):
    yield estimate([{}], (), draw.integer(2, 5), "an empty table")
    yield estimate([{}, {}, {}], (1, 0), draw.integer(2, 5), "three empty tables")


@exercise.wrong(
    "stops at the relative frequencies of single tokens",
    hint="A token that the text does not hold still gets 0. Which distribution lies below the "
    "unigrams, and does your recursion get there?",
    see="n-grams#interpolation",
)
def no_base_case(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    for m, counts in enumerate(tables):
        followers = counts.get(context[len(context) - m :], {})
        if followers:
            c = torch.zeros(vocab_size, dtype=torch.float64)
            for token, times in followers.items():
                c[token] = times
            types = len(followers) if m else 0
            p = (c + types * p) / (c.sum() + types)
    return p


@exercise.wrong(
    "shortens contexts by dropping the nearest token",
    hint="The shorter context keeps what stands next to the predicted token. Which end of the tuple "
    "is the oldest?",
    see="n-grams#backing-off",
)
def drops_the_nearest(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    for m, counts in enumerate(tables):
        followers = counts.get(context[:m], {})
        if followers:
            c = torch.zeros(vocab_size, dtype=torch.float64)
            for token, times in followers.items():
                c[token] = times
            p = (c + len(followers) * p) / (c.sum() + len(followers))
    return p


@exercise.wrong(
    "looks unigrams up under the whole context",
    hint="A slice that begins at minus zero begins at zero. What is `context[-m:]` for m = 0, and "
    "which key do unigrams have?",
    see="n-grams#backing-off",
)
def minus_zero(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    for m, counts in enumerate(tables):
        followers = counts.get(context[-m:], {})
        if followers:
            c = torch.zeros(vocab_size, dtype=torch.float64)
            for token, times in followers.items():
                c[token] = times
            p = (c + len(followers) * p) / (c.sum() + len(followers))
    return p


@exercise.wrong(
    "gives the two parts of the mixture each other's weight",
    hint="A context that was seen often should trust its own counts. Let c(h) grow while the number "
    "of different followers stays: which part of your mixture wins?",
    see="n-grams#interpolation",
)
def weights_swapped(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    for m, counts in enumerate(tables):
        followers = counts.get(context[len(context) - m :], {})
        if followers:
            c = torch.zeros(vocab_size, dtype=torch.float64)
            for token, times in followers.items():
                c[token] = times
            own = len(followers) / (c.sum() + len(followers))
            p = own * c / c.sum() + (1 - own) * p
    return p


@exercise.wrong(
    "counts how often something followed instead of how many different tokens did",
    hint="Your two parts always weigh the same. N1+ is about variety: ten times the same follower "
    "count as one.",
    see="n-grams#interpolation",
)
def tokens_for_types(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    for m, counts in enumerate(tables):
        followers = counts.get(context[len(context) - m :], {})
        if followers:
            c = torch.zeros(vocab_size, dtype=torch.float64)
            for token, times in followers.items():
                c[token] = times
            p = (c + c.sum() * p) / (2 * c.sum())
    return p


@exercise.wrong(
    "takes the size of the vocabulary for the number of different followers",
    hint="N1+ belongs to this context: how many different tokens followed it. Where does V enter the "
    "formula, and where not?",
    see="n-grams#interpolation",
)
def v_for_types(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    for m, counts in enumerate(tables):
        followers = counts.get(context[len(context) - m :], {})
        if followers:
            c = torch.zeros(vocab_size, dtype=torch.float64)
            for token, times in followers.items():
                c[token] = times
            p = (c + vocab_size * p) / (c.sum() + vocab_size)
    return p


@exercise.wrong(
    "lends the lower order a weight of one count whatever followed",
    hint="A context with many different followers is likely to see a new one, so it should lend "
    "more. Which number of the formula did you replace by 1?",
    see="n-grams#interpolation",
)
def one_count(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    for m, counts in enumerate(tables):
        followers = counts.get(context[len(context) - m :], {})
        if followers:
            c = torch.zeros(vocab_size, dtype=torch.float64)
            for token, times in followers.items():
                c[token] = times
            p = (c + p) / (c.sum() + 1)
    return p


@exercise.wrong(
    "mixes with the relative frequencies one order down instead of their estimate",
    hint="P(w | h') in the formula is itself a mixture. Does your function use its own result for "
    "the shorter context?",
    see="n-grams#interpolation",
)
def not_recursive(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    lower = p
    for m, counts in enumerate(tables):
        followers = counts.get(context[len(context) - m :], {})
        if followers:
            c = torch.zeros(vocab_size, dtype=torch.float64)
            for token, times in followers.items():
                c[token] = times
            p = (c + len(followers) * lower) / (c.sum() + len(followers))
            lower = c / c.sum()
    return p


@exercise.wrong(
    "falls back to the uniform distribution at once when the context was never seen",
    hint="The text may say much about the last token even when it never saw the last two. Which "
    "estimate is left when c(h) is 0?",
    see="n-grams#backing-off",
)
def uniform_for_unseen(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    if context not in tables[-1]:
        return p
    for m, counts in enumerate(tables):
        followers = counts.get(context[len(context) - m :], {})
        c = torch.zeros(vocab_size, dtype=torch.float64)
        for token, times in followers.items():
            c[token] = times
        p = (c + len(followers) * p) / (c.sum() + len(followers))
    return p


@exercise.wrong(
    "divides by zero when the context was never seen",
    hint="With no counts the formula reads 0 divided by 0. What does the exercise say about that "
    "case?",
    see="n-grams#sparsity",
)
def divides_by_zero(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    for m, counts in enumerate(tables):
        followers = counts.get(context[len(context) - m :], {})
        c = torch.zeros(vocab_size, dtype=torch.float64)
        for token, times in followers.items():
            c[token] = times
        p = (c + len(followers) * p) / (c.sum() + len(followers))
    return p


@exercise.wrong(
    "asks the lower order only about tokens that did not follow",
    hint="Add up your probabilities. In the formula every token gets a part of the lower order, the "
    "ones that were counted as well.",
    see="n-grams#interpolation",
)
def only_the_unseen_borrow(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    for m, counts in enumerate(tables):
        followers = counts.get(context[len(context) - m :], {})
        if followers:
            c = torch.zeros(vocab_size, dtype=torch.float64)
            for token, times in followers.items():
                c[token] = times
            p = torch.where(c > 0, c, len(followers) * p) / (c.sum() + len(followers))
    return p


@exercise.wrong(
    "jumps from the longest context to the uniform distribution",
    hint="Between the longest context and no knowledge at all lie the shorter contexts. How many of "
    "the tables does your function read?",
    see="n-grams#interpolation",
)
def skips_the_orders_between(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    followers = tables[-1].get(context, {})
    if followers:
        c = torch.zeros(vocab_size, dtype=torch.float64)
        for token, times in followers.items():
            c[token] = times
        p = (c + len(followers) * p) / (c.sum() + len(followers))
    return p


@exercise.wrong(
    "leaves the longest table unread",
    hint="With n tables there are contexts of 0 to n - 1 tokens. Which one does your loop end at?",
    see="n-grams#interpolation",
)
def misses_the_longest(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    for m in range(len(context)):
        followers = tables[m].get(context[len(context) - m :], {})
        if followers:
            c = torch.zeros(vocab_size, dtype=torch.float64)
            for token, times in followers.items():
                c[token] = times
            p = (c + len(followers) * p) / (c.sum() + len(followers))
    return p


@exercise.right("from the shortest context up")
def upwards(tables, context, vocab_size):
    p = torch.ones(vocab_size) / vocab_size
    for m in range(len(tables)):
        followers = tables[m].get(context[len(context) - m :])
        if followers:
            c = torch.zeros(vocab_size)
            for token, times in followers.items():
                c[token] = times
            p = (c + len(followers) * p) / (c.sum() + len(followers))
    return p


@exercise.right("a function that calls itself with a shorter context")
def recursive(tables, context, vocab_size):
    def estimate(h):
        lower = estimate(h[1:]) if h else torch.full((vocab_size,), 1 / vocab_size)
        followers = tables[len(h)].get(h, {})
        if not followers:
            return lower
        c = torch.tensor([float(followers.get(w, 0)) for w in range(vocab_size)])
        types = int((c > 0).sum())
        return (c + types * lower) / (c.sum() + types)

    return estimate(context)


@exercise.right("a mixture with a weight")
def weighted(tables, context, vocab_size):
    p = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    for m, counts in enumerate(tables):
        h = context[-m:] if m else ()
        if h not in counts:
            continue
        total, types = sum(counts[h].values()), len(counts[h])
        own = total / (total + types)
        frequencies = torch.zeros(vocab_size, dtype=torch.float64)
        for token, times in counts[h].items():
            frequencies[token] = times / total
        p = own * frequencies + (1 - own) * p
    return p


@exercise.right("token by token, in plain numbers")
def plain_numbers(tables, context, vocab_size):
    p = [1 / vocab_size] * vocab_size
    for m, counts in enumerate(tables):
        followers = counts.get(context[len(context) - m :], {})
        types, below = len(followers), sum(followers.values()) + len(followers)
        if below:
            p = [(followers.get(w, 0) + types * p[w]) / below for w in range(vocab_size)]
    return torch.tensor(p)
