"""Exercise: the log-probability of a whole sequence, a sum over its tokens."""

import math

import torch

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.count_ngrams import PAD, Counts, count_ngrams, drawn_sequence

TOLERANCE = 1e-5  # of the sum: also when every term was computed in float32


def sequence_log_probability(
    sequence: list[int], counts: Counts, n: int, vocab_size: int, k: float = 1.0
) -> float:
    """The sum of ln P(token | the n - 1 tokens before it), add-k estimates; -inf if one is 0."""
    padded = [PAD] * (n - 1) + sequence
    logs = []
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[i : i + n - 1]), {})
        above = followers.get(token, 0) + k
        below = sum(followers.values()) + k * vocab_size
        logs.append(math.log(above / below) if above else -math.inf)
    return math.fsum(logs)


exercise = Exercise(
    "sequence_log_probability",
    points=3,
    difficulty=2,
    minutes=20,
    reference=sequence_log_probability,
    chapter="perplexity#the-probability-of-a-text",
)


def scored(sequence, counts, n, vocab_size, note, **kwargs):
    return Case((sequence, counts, n, vocab_size), kwargs, note=note, tolerance=TOLERANCE)


@exercise.property("the logarithms of the tokens' probabilities add up", weight=2)
def adds_up(draw: Draw):
    ids = [0, 1, 0, 2, 0, 1, *drawn_sequence(draw, 3, 12)]
    counts = count_ngrams([ids], 2)
    yield scored([0, 1], counts, 2, 5, "two tokens and n = 2")
    yield scored([2, *drawn_sequence(draw, 4, 4)], counts, 2, 7, "five tokens and n = 2")
    yield scored([1, 0, 3, 0, 1], counts, 2, 6, "k = 0.1", k=0.1)


@exercise.property("a context is the n - 1 tokens before, padded at the beginning", weight=1.5)
def contexts(draw: Draw):
    ids = [1, 1, 0, 2, 0, 1, *drawn_sequence(draw, 3, 20)]
    yield scored([1, 1, 0, 2, 0], count_ngrams([ids], 1), 1, 4, "n = 1")
    yield scored(ids[:7], count_ngrams([ids, ids[4:]], 3), 3, 4, "n = 3")
    yield scored([1], count_ngrams([ids], 4), 4, 4, "one token and n = 4")
    yield scored(ids[2:11], count_ngrams([ids], 4), 4, 5, "n = 4", k=0.5)


@exercise.property("the probability of a long sequence does not vanish")
def long(draw: Draw):
    ids = drawn_sequence(draw, 20, 110)
    yield scored(ids, count_ngrams([ids[:30]], 2), 2, 10_000, "110 tokens of a large vocabulary")


@exercise.property("an impossible sequence has minus infinity, an empty one 0", weight=0.5)
def extremes(draw: Draw):
    counts = count_ngrams([[0, 1, 0, 1, 1]], 2)
    yield scored([0, 1, 2, 0], counts, 2, 4, "a token that never followed and k = 0", k=0.0)
    yield scored([0, 1, 1, 0], counts, 2, 4, "only what was seen, and k = 0", k=0.0)
    yield scored([], counts, 2, draw.integer(2, 5), "no token at all")


@exercise.wrong(
    "multiplies the probabilities before it takes the logarithm",
    hint="A product of many small numbers is 0 for a computer. Take the logarithm of every factor; "
    "what becomes of the product?",
    see="perplexity#the-probability-of-a-text",
)
def product_first(sequence, counts, n, vocab_size, k=1.0):
    padded = [-1] * (n - 1) + sequence
    p = 1.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[i : i + n - 1]), {})
        below = sum(followers.values()) + k * vocab_size
        p *= (followers.get(token, 0) + k) / below if below else 0.0
    return math.log(p) if p > 0 else -math.inf


@exercise.wrong(
    "takes logarithms to base 2",
    hint="Your number is in bits. The exercise asks for nats: which base has the natural logarithm?",
    see="perplexity#nats-and-bits",
)
def in_bits(sequence, counts, n, vocab_size, k=1.0):
    padded = [-1] * (n - 1) + sequence
    total = 0.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[i : i + n - 1]), {})
        above = followers.get(token, 0) + k
        below = sum(followers.values()) + k * vocab_size
        total += math.log2(above / below) if above else -math.inf
    return total


@exercise.wrong(
    "takes logarithms to base 10",
    hint="The exercise asks for nats. Which base has the natural logarithm?",
    see="perplexity#nats-and-bits",
)
def decimal(sequence, counts, n, vocab_size, k=1.0):
    padded = [-1] * (n - 1) + sequence
    total = 0.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[i : i + n - 1]), {})
        above = followers.get(token, 0) + k
        below = sum(followers.values()) + k * vocab_size
        total += math.log10(above / below) if above else -math.inf
    return total


@exercise.wrong(
    "returns the negative log-likelihood",
    hint="A probability is at most 1. Which sign has its logarithm, and which one has yours?",
    see="perplexity#the-probability-of-a-text",
)
def negative(sequence, counts, n, vocab_size, k=1.0):
    padded = [-1] * (n - 1) + sequence
    total = 0.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[i : i + n - 1]), {})
        above = followers.get(token, 0) + k
        below = sum(followers.values()) + k * vocab_size
        total -= math.log(above / below) if above else -math.inf
    return total


@exercise.wrong(
    "divides by the number of tokens",
    hint="That is the mean per token, which comes later. The probability of the sequence is the "
    "whole product, so its logarithm is the whole sum.",
    see="perplexity#why-not-the-probability",
)
def mean(sequence, counts, n, vocab_size, k=1.0):
    padded = [-1] * (n - 1) + sequence
    total = 0.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[i : i + n - 1]), {})
        above = followers.get(token, 0) + k
        below = sum(followers.values()) + k * vocab_size
        total += math.log(above / below) if above else -math.inf
    return total / max(1, len(sequence))


@exercise.wrong(
    "leaves out the first tokens, which have too little before them",
    hint="Every token belongs to the sequence, the first one too. What stands in its context?",
    see="n-grams#the-beginning-of-a-sequence",
)
def skips_the_first(sequence, counts, n, vocab_size, k=1.0):
    total = 0.0
    for i in range(n - 1, len(sequence)):
        followers = counts.get(tuple(sequence[i - n + 1 : i]), {})
        above = followers.get(sequence[i], 0) + k
        below = sum(followers.values()) + k * vocab_size
        total += math.log(above / below) if above else -math.inf
    return total


@exercise.wrong(
    "shortens the first contexts, so that the table does not know them",
    hint="The table holds contexts of n - 1 entries, with -1 before the beginning. Print the context "
    "that you look up for the first token.",
    see="n-grams#the-beginning-of-a-sequence",
)
def short_contexts(sequence, counts, n, vocab_size, k=1.0):
    total = 0.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(sequence[max(0, i - n + 1) : i]), {})
        above = followers.get(token, 0) + k
        below = sum(followers.values()) + k * vocab_size
        total += math.log(above / below) if above else -math.inf
    return total


@exercise.wrong(
    "takes everything before the token as its context",
    hint="An n-gram model looks back n - 1 tokens and no further; longer contexts are not in the "
    "table. How long are the contexts that you look up?",
    see="n-grams#the-markov-property",
)
def whole_history(sequence, counts, n, vocab_size, k=1.0):
    padded = [-1] * (n - 1) + sequence
    total = 0.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[: i + n - 1]), {})
        above = followers.get(token, 0) + k
        below = sum(followers.values()) + k * vocab_size
        total += math.log(above / below) if above else -math.inf
    return total


@exercise.wrong(
    "puts the predicted token into its own context",
    hint="The context ends before the token that is predicted. Print both for the second token and "
    "compare with the sequence.",
    see="n-grams#the-markov-property",
)
def sees_the_token(sequence, counts, n, vocab_size, k=1.0):
    padded = [-1] * (n - 1) + sequence
    total = 0.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[i + 1 : i + n]), {})
        above = followers.get(token, 0) + k
        below = sum(followers.values()) + k * vocab_size
        total += math.log(above / below) if above else -math.inf
    return total


@exercise.wrong(
    "fails when a token is impossible",
    hint="`math.log(0)` raises, and so does a division by 0. What is the limit of the logarithm as "
    "the probability goes to 0?",
    see="n-grams#sparsity",
)
def domain_error(sequence, counts, n, vocab_size, k=1.0):
    padded = [-1] * (n - 1) + sequence
    total = 0.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[i : i + n - 1]), {})
        below = sum(followers.values()) + k * vocab_size
        total += math.log((followers.get(token, 0) + k) / below)
    return total


@exercise.wrong(
    "leaves impossible tokens out of the sum",
    hint="One impossible token makes the whole sequence impossible. A sequence cannot become "
    "likelier because a part of it cannot happen.",
    see="n-grams#sparsity",
)
def skips_the_impossible(sequence, counts, n, vocab_size, k=1.0):
    padded = [-1] * (n - 1) + sequence
    total = 0.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[i : i + n - 1]), {})
        above = followers.get(token, 0) + k
        below = sum(followers.values()) + k * vocab_size
        if above:
            total += math.log(above / below)
    return total


@exercise.wrong(
    "returns the probability instead of its logarithm",
    hint="The exercise asks for the logarithm. Of a long sequence the probability itself is too "
    "small for a float.",
    see="perplexity#the-probability-of-a-text",
)
def no_logarithm(sequence, counts, n, vocab_size, k=1.0):
    padded = [-1] * (n - 1) + sequence
    p = 1.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[i : i + n - 1]), {})
        below = sum(followers.values()) + k * vocab_size
        p *= (followers.get(token, 0) + k) / below if below else 0.0
    return p


@exercise.wrong(
    "takes the number of tokens in the table for the size of the vocabulary",
    hint="V is an argument: the vocabulary may hold tokens that the text never used. Where does your "
    "code read `vocab_size`?",
    see="n-grams#smoothing",
)
def own_vocabulary(sequence, counts, n, vocab_size, k=1.0):
    seen = {token for followers in counts.values() for token in followers}
    padded = [-1] * (n - 1) + sequence
    total = 0.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[i : i + n - 1]), {})
        above = followers.get(token, 0) + k
        below = sum(followers.values()) + k * len(seen)
        total += math.log(above / below) if above else -math.inf
    return total


@exercise.wrong(
    "divides by the number of all n-grams",
    hint="The chain rule multiplies conditional probabilities. Whose total belongs below the "
    "fraction?",
    see="n-grams#relative-frequencies",
)
def joint(sequence, counts, n, vocab_size, k=1.0):
    everything = sum(sum(followers.values()) for followers in counts.values())
    padded = [-1] * (n - 1) + sequence
    total = 0.0
    for i, token in enumerate(sequence):
        followers = counts.get(tuple(padded[i : i + n - 1]), {})
        above = followers.get(token, 0) + k
        total += math.log(above / (everything + k * vocab_size)) if above else -math.inf
    return total


@exercise.right("a running sum over slices of the padded sequence")
def running(sequence, counts, n, vocab_size, k=1.0):
    padded = [-1] * (n - 1) + sequence
    total = 0.0
    for end in range(n - 1, len(padded)):
        followers = counts.get(tuple(padded[end - n + 1 : end]), {})
        c = followers.get(padded[end], 0) + k
        if c == 0:
            return -math.inf
        total += math.log(c) - math.log(sum(followers.values()) + k * vocab_size)
    return total


@exercise.right("one vector of probabilities per token, in torch")
def with_vectors(sequence, counts, n, vocab_size, k=1.0):
    context = (-1,) * (n - 1)
    logs = []
    for token in sequence:
        c = torch.full((vocab_size,), float(k), dtype=torch.float64)
        for follower, times in counts.get(context, {}).items():
            c[follower] += times
        logs.append((c / c.sum()).nan_to_num(0.0).log()[token])
        context = (*context, token)[1:]
    return torch.stack(logs).sum().item() if logs else 0.0


@exercise.right("a generator in a sum")
def generator(sequence, counts, n, vocab_size, k=1.0):
    def log_p(context, token):
        followers = counts.get(context, {})
        c, total = followers.get(token, 0) + k, sum(followers.values()) + k * vocab_size
        return math.log(c / total) if c > 0 else float("-inf")

    padded = (-1,) * (n - 1) + tuple(sequence)
    return sum(log_p(padded[i : i + n - 1], padded[i + n - 1]) for i in range(len(sequence)))
