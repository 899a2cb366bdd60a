"""Exercise: training in parallel computes what generation computes, if nothing leaks."""

import math

import torch

from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(model, tokens):
    """The largest difference between all positions at once and one prefix at a time. Source: L4."""
    parallel = model(tokens)
    gaps = [
        (model(tokens[..., : t + 1])[..., -1, :] - parallel[..., t, :]).abs().max()
        for t in range(tokens.shape[-1])
    ]
    return torch.stack(gaps).max()


exercise = Exercise(
    "parallel_gap",
    points=3,
    difficulty=3,
    minutes=20,
    reference=reference,
    chapter="masking#one-pass-gives-every-prefix",
)


@exercise.driver
def gap_of(parallel_gap, kind, tokens, E):
    """Small models: every one turns tokens (..., T) into scores (..., T, V)."""

    def mean_so_far(x):
        return x.cumsum(-2) / torch.arange(1, x.shape[-2] + 1)[:, None]

    def at(x, t):
        return (torch.arange(x.shape[-2]) == t)[:, None]

    models = {
        "a running mean": lambda x: mean_so_far(x),
        "the token alone": lambda x: x,
        "a leak of all that follows": lambda x: mean_so_far(x) + x.mean(-2, keepdim=True),
        "a leak of the next token": lambda x: x + x.roll(-1, -2) * ~at(x, x.shape[-2] - 1),
        "a leak at the first position": lambda x: mean_so_far(x) + at(x, 0) * x[..., -1:, :],
        "a leak in the middle": lambda x: (
            mean_so_far(x) + at(x, 1) * x[..., -1:, :] * (x.shape[-2] > 2)
        ),
        "scores that fall": lambda x: mean_so_far(x) - 3 * x.shape[-2] ** 2,
        "a shift for all scores": lambda x: x * 5 + x.shape[-2],
    }
    return torch.as_tensor(parallel_gap(lambda tokens: models[kind](E[tokens]), tokens))


def gap(draw: Draw, kind: str, *shape: int, V=6, d=3, note="") -> Case:
    E, tokens = draw.normal(V, d), draw.integers(0, V - 1, *shape)
    return Case((kind, tokens, E), note=note or kind, any_float=True, tolerance=1e-5)


@exercise.property("what leaks shows as a gap", weight=2)
def leaks(draw: Draw):
    tokens, E = torch.tensor([0, 1]), torch.tensor([[1.0], [3.0]])
    note = "two tokens and a leak of what follows"
    yield Case(("a leak of all that follows", tokens, E), note=note, any_float=True)
    yield gap(draw, "a leak of the next token", 5)
    yield gap(draw, "a leak of all that follows", draw.integer(6, 8))
    yield gap(draw, "scores that fall", 4)
    yield gap(draw, "a shift for all scores", 4)


@exercise.property("without a leak there is none")
def tight(draw: Draw):
    yield gap(draw, "a running mean", 4)
    yield gap(draw, "the token alone", 5)
    yield gap(draw, "a running mean", 2, draw.integer(5, 7), note="a running mean and a batch")
    yield gap(draw, "a leak of all that follows", 1, note="a single token, nothing to leak")


@exercise.property("a leak at one position is enough")
def positions(draw: Draw):
    yield gap(draw, "a leak at the first position", 5)
    yield gap(draw, "a leak in the middle", draw.integer(5, 7))


@exercise.property("leading dimensions are free", weight=0.5)
def leading(draw: Draw):
    E = torch.cat((torch.zeros(1, 3), draw.normal(3, 3) + 2))
    quiet, loud = torch.zeros(2, 4, dtype=torch.int64), draw.integers(1, 3, 2, 4)
    args = ("a leak of all that follows", torch.cat((quiet, loud)), E)
    yield Case(args, note="a batch", any_float=True, tolerance=1e-5)
    yield gap(draw, "a leak of the next token", 2, 2, 4, note="two leading dimensions")
    yield gap(draw, "a leak of all that follows", 3, 3, note="as many sequences as positions")


@exercise.wrong(
    "compares the last position only",
    hint="There the prefix is the whole sequence, so the two always agree. Which "
    "positions can see too much?",
    see="masking#one-pass-gives-every-prefix",
)
def last_only(model, tokens):
    parallel = model(tokens)
    largest = torch.tensor(0.0)
    for t in [tokens.shape[-1] - 1]:
        alone = model(tokens[..., : t + 1])[..., -1, :]
        difference = (alone - parallel[..., t, :]).abs()
        largest = torch.maximum(largest, difference.max())
    return largest


@exercise.wrong(
    "compares the first position only",
    hint="A leak may sit anywhere. Every position needs a look.",
    see="masking#one-pass-gives-every-prefix",
)
def first_only(model, tokens):
    parallel = model(tokens)
    largest = torch.tensor(0.0)
    for t in range(1):
        alone = model(tokens[..., : t + 1])[..., -1, :]
        difference = (alone - parallel[..., t, :]).abs()
        largest = torch.maximum(largest, difference.max())
    return largest


@exercise.wrong(
    "leaves out the first position",
    hint="Position 0 has a prefix as well: itself.",
    see="masking#one-pass-gives-every-prefix",
)
def not_first(model, tokens):
    parallel = model(tokens)
    largest = torch.tensor(0.0)
    for t in range(1, tokens.shape[-1]):
        alone = model(tokens[..., : t + 1])[..., -1, :]
        difference = (alone - parallel[..., t, :]).abs()
        largest = torch.maximum(largest, difference.max())
    return largest


@exercise.wrong(
    "gives the prefix without its last token",
    hint="The scores at t are computed from tokens 0 to t, t included.",
    see="masking#one-pass-gives-every-prefix",
)
def prefix_short(model, tokens):
    parallel = model(tokens)
    largest = torch.tensor(0.0)
    for t in range(tokens.shape[-1]):
        alone = model(tokens[..., : max(t, 1)])[..., -1, :]
        difference = (alone - parallel[..., t, :]).abs()
        largest = torch.maximum(largest, difference.max())
    return largest


@exercise.wrong(
    "gives the prefix one token too many",
    hint="With token t + 1 in the prefix the leak is on both sides.",
    see="masking#one-pass-gives-every-prefix",
)
def prefix_long(model, tokens):
    parallel = model(tokens)
    largest = torch.tensor(0.0)
    for t in range(tokens.shape[-1]):
        alone = model(tokens[..., : t + 2])[..., t, :]
        difference = (alone - parallel[..., t, :]).abs()
        largest = torch.maximum(largest, difference.max())
    return largest


@exercise.wrong(
    "feeds each token alone",
    hint="Generation reads the whole prefix at every step.",
    see="masking#one-pass-gives-every-prefix",
)
def single_token(model, tokens):
    parallel = model(tokens)
    largest = torch.tensor(0.0)
    for t in range(tokens.shape[-1]):
        alone = model(tokens[..., t : t + 1])[..., -1, :]
        difference = (alone - parallel[..., t, :]).abs()
        largest = torch.maximum(largest, difference.max())
    return largest


@exercise.wrong(
    "takes the largest signed difference",
    hint="A difference of -5 is a gap of 5.",
    see="masking#one-pass-gives-every-prefix",
)
def signed(model, tokens):
    parallel = model(tokens)
    largest = torch.tensor(0.0)
    for t in range(tokens.shape[-1]):
        alone = model(tokens[..., : t + 1])[..., -1, :]
        difference = alone - parallel[..., t, :]
        largest = torch.maximum(largest, difference.max())
    return largest


@exercise.wrong(
    "averages the differences",
    hint="One leak among many positions would drown in the mean.",
    see="masking#one-pass-gives-every-prefix",
)
def mean(model, tokens):
    parallel = model(tokens)
    largest = torch.tensor(0.0)
    for t in range(tokens.shape[-1]):
        alone = model(tokens[..., : t + 1])[..., -1, :]
        difference = (alone - parallel[..., t, :]).abs()
        largest = torch.maximum(largest, difference.mean())
    return largest


@exercise.wrong(
    "adds up the gaps of all positions",
    hint="The largest one is asked for.",
    see="masking#one-pass-gives-every-prefix",
)
def sum_over_positions(model, tokens):
    parallel = model(tokens)
    largest = torch.tensor(0.0)
    for t in range(tokens.shape[-1]):
        alone = model(tokens[..., : t + 1])[..., -1, :]
        difference = (alone - parallel[..., t, :]).abs()
        largest = largest + difference.max()
    return largest


@exercise.wrong(
    "looks at the first sequence only",
    hint="The batch may hold the leak in another row.",
    see="masking#one-pass-gives-every-prefix",
)
def first_sequence(model, tokens):
    parallel = model(tokens)
    largest = torch.tensor(0.0)
    for t in range(tokens.shape[-1]):
        alone = model(tokens[..., : t + 1])[..., -1, :]
        difference = (alone - parallel[..., t, :]).abs()
        largest = torch.maximum(largest, difference.reshape(-1, difference.shape[-1])[0].max())
    return largest


@exercise.wrong(
    "cuts the batch instead of the positions",
    hint="Positions are the last dimension of the tokens. What does `tokens[: t + 1]` cut?",
    see="masking#one-pass-gives-every-prefix",
)
def batch_cut(model, tokens):
    parallel = model(tokens)
    largest = torch.tensor(0.0)
    for t in range(tokens.shape[-1]):
        alone = model(tokens[: t + 1])[..., -1, :]
        difference = (alone - parallel[..., t, :]).abs()
        largest = torch.maximum(largest, difference.max())
    return largest


@exercise.wrong(
    "compares probabilities",
    hint="The gap is one of scores. A softmax hides what is added to all of them.",
    see="masking#one-pass-gives-every-prefix",
)
def probabilities(model, tokens):
    parallel = model(tokens).softmax(-1)
    largest = torch.tensor(0.0)
    for t in range(tokens.shape[-1]):
        alone = model(tokens[..., : t + 1])[..., -1, :].softmax(-1)
        difference = (alone - parallel[..., t, :]).abs()
        largest = torch.maximum(largest, difference.max())
    return largest


@exercise.right("one prefix after the other")
def prefix_by_prefix(model, tokens):
    parallel = model(tokens)
    largest = torch.tensor(0.0)
    for t in range(tokens.shape[-1]):
        alone = model(tokens[..., : t + 1])[..., -1, :]
        difference = (alone - parallel[..., t, :]).abs()
        largest = torch.maximum(largest, difference.max())
    return largest


@exercise.right("all prefixes stacked")
def stacked(model, tokens):
    T = tokens.shape[-1]
    steps = [model(tokens.narrow(-1, 0, n)).select(-2, n - 1) for n in range(1, T + 1)]
    return torch.linalg.vector_norm(torch.stack(steps, dim=-2) - model(tokens), ord=math.inf)


@exercise.right("tokens dropped from the end")
def from_the_end(model, tokens):
    everything, gap = model(tokens), 0.0
    while tokens.shape[-1]:
        t = tokens.shape[-1] - 1
        difference = model(tokens)[..., t, :] - everything[..., t, :]
        gap = max(gap, difference.amax().item(), -difference.amin().item())
        tokens = tokens[..., :t]
    return torch.tensor(gap)


exercise.equivalent(
    "alone - parallel[..., t, :] -> parallel[..., t, :] - alone",
    because="the absolute value follows",
)
