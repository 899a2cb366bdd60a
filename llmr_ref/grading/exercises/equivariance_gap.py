"""Exercise: by how much a layer fails to commute with a permutation of the positions."""

import math

import torch

from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(layer, x, permutation):
    """max |layer(P x) - P layer(x)|. Source: L1 "Why Do We Need Them?"."""
    permuted_first = layer(x[..., permutation, :])
    permuted_last = layer(x)[..., permutation, :]
    return (permuted_first - permuted_last).abs().max()


exercise = Exercise(
    "equivariance_gap",
    points=2,
    difficulty=2,
    minutes=15,
    reference=reference,
    chapter="positions#attention-does-not-see-order",
)


@exercise.driver
def gap_of(equivariance_gap, kind, x, permutation):
    def attend(x, mask):
        scores = x @ x.transpose(-2, -1) / math.sqrt(x.shape[-1])
        return scores.masked_fill(~mask, -math.inf).softmax(-1) @ x

    T = x.shape[-2]
    everything = torch.ones(T, T, dtype=torch.bool)
    layers = {
        "doubled": lambda x: 2 * x,
        "attention": lambda x: attend(x, everything),
        "causal attention": lambda x: attend(x, everything.tril()),
        "attention with positions": lambda x: attend(x + torch.arange(T)[:, None] / T, everything),
        "sum so far": lambda x: x.cumsum(-2),
        "falling sum": lambda x: -x.abs().cumsum(-2),
        "the row before": lambda x: x.roll(1, -2),
        "one average for all": lambda x: x.mean(-2, keepdim=True).expand(x.shape),
    }
    return torch.as_tensor(equivariance_gap(layers[kind], x, permutation))


def gap(kind, x, permutation, note=""):
    return Case((kind, x, permutation), note=note or kind, any_float=True, tolerance=1e-4)


@exercise.property("a layer that sees order has a gap", weight=2)
def with_order(draw: Draw):
    swap = torch.tensor([1, 0])
    yield gap("sum so far", torch.tensor([[1.0], [3.0]]), swap, note="a running sum of 1 and 3")
    turn = torch.tensor([1, 2, 0])
    yield gap("sum so far", draw.normal(3, 2), turn, note="a running sum and a cyclic permutation")
    yield gap("the row before", draw.normal(4, 3), torch.tensor([2, 0, 3, 1]))
    T = draw.integer(5, 7)
    yield gap("causal attention", draw.normal(T, 4), turned(draw, T))
    yield gap("attention with positions", draw.normal(T, 2), turned(draw, T))


@exercise.property("a layer that does not see order has none")
def without_order(draw: Draw):
    yield gap("doubled", draw.normal(3, 2), torch.tensor([1, 2, 0]))
    T = draw.integer(4, 6)
    yield gap("attention", draw.normal(T, 4), turned(draw, T))
    yield gap("one average for all", draw.normal(T, 3), turned(draw, T))


@exercise.property("the largest difference counts, whatever its sign", weight=0.5)
def signs(draw: Draw):
    up = torch.tensor([[1.0], [2.0], [4.0]])
    yield gap("falling sum", up, torch.tensor([2, 0, 1]), note="a falling sum")
    yield gap("falling sum", draw.normal(5, 2).abs() + 1, torch.tensor([4, 0, 1, 2, 3]))


@exercise.property("leading dimensions are free", weight=0.5)
def leading(draw: Draw):
    quiet, loud = draw.normal(1, 4, 3, scale=0.3), draw.normal(1, 4, 3, scale=3.0)
    yield gap("sum so far", torch.cat((quiet, loud)), torch.tensor([1, 2, 3, 0]), note="a batch")
    quiet, loud = draw.normal(1, 3, 2, scale=0.3), draw.normal(2, 3, 2, scale=3.0)
    yield gap(
        "sum so far",
        torch.cat((quiet, loud)),
        torch.tensor([1, 2, 0]),
        note="as many sequences as positions",
    )
    yield gap("causal attention", draw.normal(2, 2, 4, 3), torch.tensor([3, 0, 2, 1]))


def turned(draw: Draw, n: int):
    """A cycle through all n positions in random order: its inverse is another permutation."""
    order = draw.permutation(n)
    permutation = torch.empty_like(order)
    permutation[order] = order.roll(1)
    return permutation


@exercise.wrong(
    "asks for invariance: the second result is left in its old order",
    hint="Doubling every row commutes with any permutation, and yet your gap is not 0. "
    "When the rows of the input move, where should the rows of the output be?",
    see="positions#attention-does-not-see-order",
)
def invariance(layer, x, permutation):
    first = layer(x[..., permutation, :])
    last = layer(x)
    return (first - last).abs().max()


@exercise.wrong(
    "permutes the output alone",
    hint="Your layer never sees the permuted rows: both results come from one input. "
    "Equivariance compares two orders of work, first permute, then the layer, and the "
    "other way round.",
    see="positions#attention-does-not-see-order",
)
def output_only(layer, x, permutation):
    first = layer(x)
    last = layer(x)[..., permutation, :]
    return (first - last).abs().max()


@exercise.wrong(
    "permutes twice where it should permute back",
    hint="You bring the first result back to the old order with the permutation itself. "
    "That undoes it only if it is its own inverse. Try the cycle 1, 2, 0.",
    see="positions#attention-does-not-see-order",
)
def permutes_twice(layer, x, permutation):
    back = layer(x[..., permutation, :])[..., permutation, :]
    return (back - layer(x)).abs().max()


@exercise.wrong(
    "compares a result with itself",
    hint="Both sides of your difference run the same layer on the same rows, so nothing is "
    "tested. Which of the two should see the rows in their old order?",
    see="positions#attention-does-not-see-order",
)
def same_twice(layer, x, permutation):
    first = layer(x[..., permutation, :])
    last = layer(x[..., permutation, :])
    return (first - last).abs().max()


@exercise.wrong(
    "permutes the first dimension instead of the positions",
    hint="With a batch in front, the first dimension counts sequences. Positions are the "
    "dimension before the last.",
    see="positions#attention-does-not-see-order",
)
def permutes_batch(layer, x, permutation):
    return (layer(x[permutation]) - layer(x)[permutation]).abs().max()


@exercise.wrong(
    "takes the largest signed difference",
    hint="A difference of -3 is as large as one of 3, and your maximum passes over it. "
    "What is missing before the maximum?",
    see="positions#attention-does-not-see-order",
)
def signed(layer, x, permutation):
    first = layer(x[..., permutation, :])
    last = layer(x)[..., permutation, :]
    return (first - last).max()


@exercise.wrong(
    "takes the mean instead of the largest difference",
    hint="A mean hides one row that differs among many that agree. The statement asks for "
    "the largest entry.",
    see="positions#attention-does-not-see-order",
)
def mean(layer, x, permutation):
    first = layer(x[..., permutation, :])
    last = layer(x)[..., permutation, :]
    return (first - last).abs().mean()


@exercise.wrong(
    "compares sums, which no permutation changes",
    hint="A sum over positions forgets where each row was, and that is what is tested "
    "here. Compare the two results entry by entry.",
    see="positions#attention-does-not-see-order",
)
def sums(layer, x, permutation):
    first = layer(x[..., permutation, :])
    last = layer(x)[..., permutation, :]
    return (first.sum(-2) - last.sum(-2)).abs().max()


@exercise.wrong(
    "reverses the order instead of using the permutation it is given",
    hint="Your test looks at one order alone, the reversed one. Does your code read "
    "`permutation` at all?",
    see="positions#attention-does-not-see-order",
)
def reverses(layer, x, permutation):
    return (layer(x.flip(-2)) - layer(x).flip(-2)).abs().max()


@exercise.wrong(
    "looks at the first position only",
    hint="Only row 0 of the two results is compared. A layer may treat that row well and "
    "another one badly.",
    see="positions#attention-does-not-see-order",
)
def first_row(layer, x, permutation):
    first = layer(x[..., permutation, :])
    last = layer(x)[..., permutation, :]
    return (first - last)[..., :1, :].abs().max()


@exercise.wrong(
    "looks at the first sequence of a batch only",
    hint="The gap of a batch is the largest over all of its sequences. Which line of yours "
    "throws dimensions away?",
    see="positions#attention-does-not-see-order",
)
def first_sequence(layer, x, permutation):
    first = layer(x[..., permutation, :])
    last = layer(x)[..., permutation, :]
    while first.dim() > 2:
        first, last = first[0], last[0]
    return (first - last).abs().max()


@exercise.right("both orders of work compared")
def both_orders(layer, x, permutation):
    first = layer(x[..., permutation, :])
    last = layer(x)[..., permutation, :]
    return (first - last).abs().max()


@exercise.right("brought back with the inverse permutation")
def inverse(layer, x, permutation):
    back = layer(x.index_select(-2, permutation)).index_select(-2, permutation.argsort())
    return torch.linalg.vector_norm(back - layer(x), ord=math.inf)


@exercise.right("a permutation matrix in front and behind")
def matrix(layer, x, permutation):
    P = torch.eye(len(permutation))[permutation]
    return float((layer(P @ x) - P @ layer(x)).abs().max())


@exercise.right("row by row")
def row_by_row(layer, x, permutation):
    after, before = layer(torch.stack([x[..., p, :] for p in permutation], dim=-2)), layer(x)
    gaps = [(after[..., n, :] - before[..., p, :]).abs().max() for n, p in enumerate(permutation)]
    return max(gaps)


exercise.equivalent(
    "first - last -> last - first",
    because="the difference is made positive before anything else",
)
