"""Exercise: the exact distribution from which an n-gram model draws its next token."""

import math

import torch
from torch import Tensor

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.count_ngrams import PAD, Counts, drawn_sequence
from llmr_ref.grading.exercises.maximum_likelihood import TOLERANCE, counted
from llmr_ref.grading.exercises.witten_bell import tables_of


def next_token_distribution(
    tables: list[Counts], history: list[int], vocab_size: int, temperature: float = 1.0
) -> Tensor:
    """c(h w)^(1/T), normalised, after the longest context h that was seen; uniform without any."""
    longest = len(tables) - 1
    context = tuple(([PAD] * longest + history)[len(history) :])
    while context and context not in tables[len(context)]:
        context = context[1:]
    followers = tables[len(context)].get(context, {})
    if not followers:
        return torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    c = counted(followers, vocab_size)
    weights = (c / c.max()) ** (1 / temperature) if temperature else (c == c.max()).double()
    return weights / weights.sum()


exercise = Exercise(
    "next_token_distribution",
    points=4,
    difficulty=3,
    minutes=25,
    reference=next_token_distribution,
    chapter="n-grams#generating",
)


def after(tables, history, vocab_size, note, tolerance=TOLERANCE, **kwargs):
    return Case(
        (tables, history, vocab_size), kwargs, note=note, any_float=True, tolerance=tolerance
    )


@exercise.property(
    "what followed the last n - 1 tokens is drawn in proportion to its count", weight=2
)
def proportional(draw: Draw):
    a, b = draw.integer(2, 4), draw.integer(5, 9)
    bigrams = [{(): {0: a, 1: b + 2, 2: 1}}, {(1,): {0: b, 2: a}, (0,): {1: 1}}]
    yield after(bigrams, [1], 4, "n = 2")
    ids = [0, 1, 1, 2, 0, 1, 0, 2, 1, *drawn_sequence(draw, 3, 25), 0, 1]
    yield after(tables_of([ids], 3), [0, 1], 5, "n = 3")
    yield after(tables_of([ids], 3), [1, 2, 2, 0, 1], 5, "a history longer than the context")
    yield after(tables_of([ids], 1), [2, 0], 4, "n = 1")


@exercise.property("a history shorter than n - 1 tokens is padded")
def short_history(draw: Draw):
    ids = [0, 1, 1, 2, 0, 1, *drawn_sequence(draw, 3, 20)]
    tables = tables_of([ids, [2, 1, 0], [2, 0]], 3)
    yield after(tables, [], 4, "no history")
    yield after(tables, [2], 4, "a history of one token and n = 3")


@exercise.property(
    "a context that was never seen loses its oldest token until it is one", weight=1.5
)
def unseen(draw: Draw):
    ids = [0, 1, 0, 2, 2, 0, 1, *drawn_sequence(draw, 3, 15)]
    yield after(tables_of([ids], 2), [3], 5, "an unseen context of one token")
    yield after(tables_of([ids], 3), [4, 0], 5, "a context that is seen when shortened once")
    yield after(tables_of([ids], 3), [0, 4], 6, "a context of which nothing was seen")
    yield after([{}, {}], [1], draw.integer(2, 5), "empty tables")


@exercise.property("counts are raised to 1/T before they are normalised", weight=1.5)
def temperatures(draw: Draw):
    a, b = draw.integer(2, 4), draw.integer(5, 9)
    table = [{(): {0: a, 1: b, 3: 1, 4: a + b}}]
    yield after(table, [], 5, "temperature 0.5", temperature=0.5)
    yield after(table, [], 6, "temperature 2", temperature=2.0)
    yield after(table, [], 5, "a temperature in between", temperature=0.1 * draw.integer(6, 9))
    large = [{(): {0: 40 + a, 1: 40 + b, 2: 35}}]
    yield after(large, [], 4, "temperature 0.001", tolerance=1e-3, temperature=0.001)


@exercise.property("at temperature 0 the most frequent tokens share everything equally")
def greedy(draw: Draw):
    a, b = draw.integer(1, 4), draw.integer(5, 9)
    yield after([{(): {0: a, 3: b, 1: 1}}], [], 4, "temperature 0", temperature=0.0)
    tied = [{(): {1: b, 2: a, 4: b}}]
    yield after(tied, [], 5, "a tie and temperature 0", temperature=0.0)


@exercise.wrong(
    "raises the counts to T instead of 1/T",
    hint="A low temperature should sharpen the distribution. Does your most frequent token gain or "
    "lose when T falls from 1 to 0.5?",
    see="n-grams#temperature",
)
def power_of_t(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(([-1] * longest + history)[len(history) :])
    while context and context not in tables[len(context)]:
        context = context[1:]
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] = times
    if c.sum() == 0:
        return torch.full((vocab_size,), 1 / vocab_size)
    weights = (c / c.max()) ** temperature if temperature else (c == c.max()).double()
    return weights / weights.sum()


@exercise.wrong(
    "takes a softmax of the probabilities",
    hint="Even tokens that never followed get a share from you, since the exponential of 0 is 1. "
    "Softmax wants log-probabilities, or leave it out.",
    see="n-grams#temperature",
)
def softmax_of_probabilities(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(([-1] * longest + history)[len(history) :])
    while context and context not in tables[len(context)]:
        context = context[1:]
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] = times
    if c.sum() == 0:
        return torch.full((vocab_size,), 1 / vocab_size)
    if temperature == 0:
        weights = (c == c.max()).double()
        return weights / weights.sum()
    return torch.softmax(c / c.sum() / temperature, dim=0)


@exercise.wrong(
    "overflows at low temperatures",
    hint="50 to the power of 1000 is too large for any float. Only the ratios of the weights matter: "
    "by what may you divide all counts first?",
    see="n-grams#temperature",
)
def overflows(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(([-1] * longest + history)[len(history) :])
    while context and context not in tables[len(context)]:
        context = context[1:]
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] = times
    if c.sum() == 0:
        return torch.full((vocab_size,), 1 / vocab_size)
    weights = c ** (1 / temperature) if temperature else (c == c.max()).double()
    return weights / weights.sum()


@exercise.wrong(
    "fails at temperature 0",
    hint="1/T does not exist for T = 0. Which tokens are left as T goes to 0? Treat that case by "
    "itself.",
    see="n-grams#temperature",
)
def zero_division(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(([-1] * longest + history)[len(history) :])
    while context and context not in tables[len(context)]:
        context = context[1:]
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] = times
    if c.sum() == 0:
        return torch.full((vocab_size,), 1 / vocab_size)
    weights = (c / c.max()) ** (1 / temperature)
    return weights / weights.sum()


@exercise.wrong(
    "gives everything to the first of several most frequent tokens",
    hint="Let T go to 0 by hand for two equal counts: neither ever gets more than the other. What "
    "does `argmax` do with a tie?",
    see="n-grams#temperature",
)
def first_of_a_tie(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(([-1] * longest + history)[len(history) :])
    while context and context not in tables[len(context)]:
        context = context[1:]
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] = times
    if c.sum() == 0:
        return torch.full((vocab_size,), 1 / vocab_size)
    if temperature == 0:
        weights = torch.zeros_like(c)
        weights[c.argmax()] = 1
    else:
        weights = (c / c.max()) ** (1 / temperature)
    return weights / weights.sum()


@exercise.wrong(
    "guesses uniformly as soon as the whole context is unseen",
    hint="When the last two tokens were never seen together, the last one alone may still say much. "
    "Which context do you try next?",
    see="n-grams#backing-off",
)
def no_shortening(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(([-1] * longest + history)[len(history) :])
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[longest].get(context, {}).items():
        c[token] = times
    if c.sum() == 0:
        return torch.full((vocab_size,), 1 / vocab_size)
    weights = (c / c.max()) ** (1 / temperature) if temperature else (c == c.max()).double()
    return weights / weights.sum()


@exercise.wrong(
    "drops the nearest token of an unseen context first",
    hint="The token right before the next one says the most about it. Which end of the context do "
    "you cut off?",
    see="n-grams#backing-off",
)
def drops_the_nearest(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(([-1] * longest + history)[len(history) :])
    while context and context not in tables[len(context)]:
        context = context[:-1]
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] = times
    if c.sum() == 0:
        return torch.full((vocab_size,), 1 / vocab_size)
    weights = (c / c.max()) ** (1 / temperature) if temperature else (c == c.max()).double()
    return weights / weights.sum()


@exercise.wrong(
    "does not pad a history that is too short",
    hint="The table knows what begins a sequence: it was counted under contexts with -1 in them. "
    "Which context do you look up for an empty history?",
    see="n-grams#the-beginning-of-a-sequence",
)
def no_padding(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(history[max(0, len(history) - longest) :])
    while context and context not in tables[len(context)]:
        context = context[1:]
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] = times
    if c.sum() == 0:
        return torch.full((vocab_size,), 1 / vocab_size)
    weights = (c / c.max()) ** (1 / temperature) if temperature else (c == c.max()).double()
    return weights / weights.sum()


@exercise.wrong(
    "looks at the beginning of the history instead of its end",
    hint="With a history of five tokens and n = 3, which two tokens stand right before the next one?",
    see="n-grams#the-markov-property",
)
def oldest_tokens(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    padded = [-1] * (longest - len(history)) + history
    context = tuple(padded[:longest])
    while context and context not in tables[len(context)]:
        context = context[1:]
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] = times
    if c.sum() == 0:
        return torch.full((vocab_size,), 1 / vocab_size)
    weights = (c / c.max()) ** (1 / temperature) if temperature else (c == c.max()).double()
    return weights / weights.sum()


@exercise.wrong(
    "adds one to every count",
    hint="Tokens that never followed get a share. Smoothing is for scoring; here the counts are "
    "taken as they are.",
    see="n-grams#generating",
)
def smoothed(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(([-1] * longest + history)[len(history) :])
    while context and context not in tables[len(context)]:
        context = context[1:]
    c = torch.ones(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] += times
    weights = (c / c.max()) ** (1 / temperature) if temperature else (c == c.max()).double()
    return weights / weights.sum()


@exercise.wrong(
    "ignores the temperature",
    hint="Where in your code does the argument `temperature` appear?",
    see="n-grams#temperature",
)
def no_temperature(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(([-1] * longest + history)[len(history) :])
    while context and context not in tables[len(context)]:
        context = context[1:]
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] = times
    if c.sum() == 0:
        return torch.full((vocab_size,), 1 / vocab_size)
    return c / c.sum()


@exercise.wrong(
    "divides by zero when nothing was counted at all",
    hint="With empty tables every count is 0. Which distribution is left when nothing is known?",
    see="n-grams#sparsity",
)
def nothing_counted(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(([-1] * longest + history)[len(history) :])
    while context and context not in tables[len(context)]:
        context = context[1:]
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] = times
    weights = (c / c.max()) ** (1 / temperature) if temperature else (c == c.max()).double()
    return weights / weights.sum()


@exercise.wrong(
    "draws a token instead of giving its distribution",
    hint="Your result has a single 1 in it. The exercise asks for the probabilities from which one "
    "would draw; drawing comes afterwards.",
    see="n-grams#generating",
)
def draws(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(([-1] * longest + history)[len(history) :])
    while context and context not in tables[len(context)]:
        context = context[1:]
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] = times
    if c.sum() == 0:
        c += 1
    weights = (c / c.max()) ** (1 / max(temperature, 1e-6))
    drawn = torch.multinomial(weights, 1)
    return torch.zeros_like(c).index_fill(0, drawn, 1.0)


@exercise.wrong(
    "forgets to normalise after the temperature",
    hint="At T = 1 your numbers add up to 1, at other temperatures they do not. When is the right "
    "moment to divide by the sum?",
    see="n-grams#temperature",
)
def not_normalised(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    context = tuple(([-1] * longest + history)[len(history) :])
    while context and context not in tables[len(context)]:
        context = context[1:]
    c = torch.zeros(vocab_size, dtype=torch.float64)
    for token, times in tables[len(context)].get(context, {}).items():
        c[token] = times
    if c.sum() == 0:
        return torch.full((vocab_size,), 1 / vocab_size)
    if temperature == 0:
        return (c == c.max()).double() / (c == c.max()).sum()
    return (c / c.sum()) ** (1 / temperature)


@exercise.right("counts over the largest count, then the power")
def over_the_largest(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    padded = (-1,) * longest + tuple(history)
    for length in range(longest, -1, -1):
        context = padded[len(padded) - length :]
        if context in tables[length]:
            break
    else:
        return torch.ones(vocab_size) / vocab_size
    c = torch.zeros(vocab_size)
    for token, times in tables[length][context].items():
        c[token] = times
    c = c / c.max()
    weights = c == 1 if temperature == 0 else c ** (1 / temperature)
    return weights / weights.sum()


exercise.equivalent(
    "(-1,) * longest -> (-1,)",
    because="padding occurs at the beginning alone, so a context with one place of it says as much as "
    "one with more, and its followers are the same",
)
exercise.equivalent(
    "range(longest, -1, -1) -> range(longest, -2, -1)",
    because="place -1 is the longest table, which holds the empty context only when n is 1, and then it "
    "was asked before",
)


@exercise.right("a softmax of logarithms")
def softmax_of_logarithms(tables, history, vocab_size, temperature=1.0):
    longest = len(tables) - 1
    history = [-1] * max(0, longest - len(history)) + history
    context = tuple(history[len(history) - longest :])
    followers = tables[longest].get(context)
    while not followers and context:
        context = context[1:]
        followers = tables[len(context)].get(context)
    if not followers:
        return torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    log_c = torch.full((vocab_size,), -math.inf, dtype=torch.float64)
    for token, times in followers.items():
        log_c[token] = math.log(times)
    if temperature == 0:
        log_c = torch.where(log_c == log_c.max(), 0.0, -math.inf)
        temperature = 1.0
    return torch.softmax(log_c / temperature, dim=-1)


@exercise.right("plain numbers over the tokens that followed")
def plain_numbers(tables, history, vocab_size, temperature=1.0):
    context = tuple([-1] * (len(tables) - 1) + list(history))[len(history) :]
    while not tables[len(context)].get(context):
        if not context:
            return torch.tensor([1.0 / vocab_size] * vocab_size)
        context = context[1:]
    followers = tables[len(context)][context]
    largest = max(followers.values())
    p = torch.zeros(vocab_size)
    for token, times in followers.items():
        if temperature:
            p[token] = (times / largest) ** (1 / temperature)
        elif times == largest:
            p[token] = 1
    return p / p.sum()
