"""Exercise: a softmax over any dimension that is safe for scores of any size."""

import math

import torch
import torch.nn.functional as F

from llmr_ref import attention
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "softmax",
    points=3,
    difficulty=1,
    minutes=10,
    reference=attention.softmax,
    chapter="masking#softmax-safely",
    forbids=(
        *(f"torch.{name}" for name in ("softmax", "log_softmax")),
        *(f"torch.Tensor.{name}" for name in ("softmax", "log_softmax")),
        *(f"torch.special.{name}" for name in ("softmax", "log_softmax")),
        *(f"torch.nn.functional.{name}" for name in (
            "softmax", "log_softmax", "softmin", "gumbel_softmax", "scaled_dot_product_attention",
        )),
        *(f"torch.nn.{name}" for name in ("Softmax", "LogSoftmax", "Softmin")),
    ),
    rule="Build it from `exp` and sums; torch's own softmax, its logarithm included, is what you are "
    "rebuilding.",
)  # fmt: skip


@exercise.property("along the last dimension, weights are exponentials over their sum", weight=2)
def last_dimension(draw: Draw):
    yield Case((torch.tensor([0.0, math.log(3.0)]).mul(100).round().div(100),))
    yield Case((draw.normal(2, 3),), note="two rows of three scores")
    yield Case((draw.normal(3, 3),), note="as many rows as columns")
    yield Case((draw.normal(2, draw.integer(4, 6), 3, scale=2.0),))
    yield Case((draw.normal(4, 1),), note="a single score per row")


@exercise.property("any dimension can be chosen", weight=1.5)
def any_dimension(draw: Draw):
    yield Case((draw.normal(3, 2),), {"dim": 0}, note="dim=0")
    yield Case((draw.normal(4, 4),), {"dim": 0}, note="dim=0 of a square matrix")
    yield Case((draw.normal(2, 4, 3),), {"dim": 1}, note="dim=1 of three dimensions")
    yield Case((draw.normal(2, 3, draw.integer(4, 6)),), {"dim": -2}, note="dim=-2")


@exercise.property("scores of any size give finite weights", weight=1.5)
def any_size(draw: Draw):
    # Neighbours of 10 000 in float32 are 0.001 apart, so an answer that adds before it subtracts is
    # off by as much.
    yield Case((torch.tensor([1e4, 1e4 + 1]),), note="scores near 10 000", tolerance=2e-3)
    yield Case((draw.normal(3) - 1e4,), note="scores near -10 000", tolerance=2e-3)
    yield Case((torch.tensor([-1e4, 0.0, 1e4]),), note="scores far apart")
    rows = draw.normal(3, 4) + torch.tensor([[0.0], [1e4], [-1e4]])
    yield Case((rows,), note="rows of very different size", tolerance=2e-3)
    hidden = draw.normal(3, 5).masked_fill(torch.eye(3, 5, dtype=torch.bool), -math.inf)
    yield Case((hidden,), note="a score of minus infinity in every row")


@exercise.property("the result has the dtype of the input")
def dtypes(draw: Draw):
    yield Case((draw.normal(2, 3, dtype=torch.float64),), note="float64 scores")
    yield Case((draw.normal(2, 3, dtype=torch.bfloat16),), note="bfloat16 scores")


@exercise.property("gradients flow back to the scores")
def gradients(draw: Draw):
    yield Case((draw.normal(2, 3),), gradients=True)
    yield Case((draw.normal(3, 4, scale=2.0),), {"dim": 0}, gradients=True)


@exercise.wrong(
    "exponentiates the scores as they are, so that large ones overflow",
    hint="The exponential of 89 is infinite in float32, and that of -104 is zero. Ratios of "
    "exponentials depend on differences of scores alone. What can you take from every score of a "
    "slice first?",
    see="masking#softmax-safely",
)
def overflows(x, dim=-1):
    e = torch.exp(x)
    return e / e.sum(dim=dim, keepdim=True)


@exercise.wrong(
    "subtracts one maximum from the whole tensor",
    hint="Subtracting a constant is safe only inside the slice that is normalised. When another "
    "row holds the maximum, what is left of the exponentials of this row?",
    see="masking#softmax-safely",
)
def global_maximum(x, dim=-1):
    e = torch.exp(x - x.max())
    return e / e.sum(dim=dim, keepdim=True)


@exercise.wrong(
    "cuts large scores off instead of shifting them",
    hint="Clamping hides the overflow but changes the scores: two large ones that differ become "
    "equal. A shift keeps their difference.",
    see="masking#softmax-safely",
)
def clamps(x, dim=-1):
    e = x.clamp(-50, 50).exp()
    return e / e.sum(dim=dim, keepdim=True)


@exercise.wrong(
    "subtracts the mean instead of the maximum",
    hint="After your shift, can an exponent still be positive and large? Try three scores that lie "
    "10 000 apart.",
    see="masking#softmax-safely",
)
def subtracts_mean(x, dim=-1):
    e = torch.exp(x - x.mean(dim=dim, keepdim=True))
    return e / e.sum(dim=dim, keepdim=True)


@exercise.wrong(
    "adds a small number to the denominator to keep it from zero",
    hint="A small constant below the fraction turns nan into zero, so the weights of very negative "
    "scores no longer sum to 1. Prevent the underflow instead of patching the division.",
    see="masking#softmax-safely",
)
def patched_denominator(x, dim=-1):
    e = torch.exp(x)
    return e / (e.sum(dim=dim, keepdim=True) + 1e-9)


@exercise.wrong(
    "always works along the last dimension",
    hint="The result is right for the default only. Where in your code does the argument `dim` "
    "appear?",
    see="masking#softmax-safely",
)
def last_only(x, dim=-1):
    e = torch.exp(x - x.max(dim=-1, keepdim=True).values)
    return e / e.sum(dim=-1, keepdim=True)


@exercise.wrong(
    "always works along the first dimension",
    hint="Add up your result along the last dimension: does each row sum to 1? Which dimension did "
    "you write, and which one did the caller ask for?",
    see="masking#softmax-safely",
)
def first_only(x, dim=-1):
    e = torch.exp(x - x.max(dim=0, keepdim=True).values)
    return e / e.sum(dim=0, keepdim=True)


@exercise.wrong(
    "normalises over the whole tensor",
    hint="All weights together sum to 1. Every slice along `dim` should be a distribution of its "
    "own.",
    see="masking#softmax-safely",
)
def over_everything(x, dim=-1):
    e = torch.exp(x - x.max())
    return e / e.sum()


@exercise.wrong(
    "drops the dimension in the sum, so that rows are divided by the sums of others",
    hint="A sum along a dimension removes it, and broadcasting then lines the sums up with the "
    "wrong dimension. On a square matrix nothing even raises. Look at the shape of your "
    "denominator.",
    see="masking#softmax-safely",
)
def sum_without_keepdim(x, dim=-1):
    e = torch.exp(x - x.max(dim=dim, keepdim=True).values)
    return e / e.sum(dim=dim)


@exercise.wrong(
    "drops the dimension in the maximum, so that rows are shifted by the maxima of others",
    hint="A maximum along a dimension removes it, and broadcasting then lines the maxima up with "
    "the wrong dimension. Look at the shape of what you subtract.",
    see="masking#softmax-safely",
)
def maximum_without_keepdim(x, dim=-1):
    e = torch.exp(x - x.max(dim=dim).values)
    return e / e.sum(dim=dim, keepdim=True)


@exercise.wrong(
    "changes its input",
    hint="Operators such as `-=` and methods that end in an underscore write into the caller's "
    "tensor. Print your input after the call.",
    see="masking#softmax-safely",
)
def in_place(x, dim=-1):
    x -= x.max(dim=dim, keepdim=True).values
    e = torch.exp(x)
    return e / e.sum(dim=dim, keepdim=True)


@exercise.wrong(
    "returns float32 whatever it is given",
    hint="Computing in float32 is a good idea for 16-bit scores, but the caller expects the dtype "
    "that came in. What is the last thing to do before you return?",
    see="masking#softmax-safely",
)
def to_float32(x, dim=-1):
    z = x.float()
    e = torch.exp(z - z.max(dim=dim, keepdim=True).values)
    return e / e.sum(dim=dim, keepdim=True)


@exercise.wrong(
    "cuts the gradient",
    hint="The values are right, but nothing can be learnt through them. Look for detach, .data, "
    "no_grad, .item() or a detour through numpy.",
    see="masking#softmax-safely",
)
def detached(x, dim=-1):
    z = x.detach()
    e = torch.exp(z - z.max(dim=dim, keepdim=True).values)
    return e / e.sum(dim=dim, keepdim=True)


@exercise.wrong(
    "returns the logarithms of the weights",
    hint="Your numbers are negative, so they are no weights yet. Which function did you call, or "
    "which step is missing?",
    see="masking#softmax-safely",
)
def logarithms(x, dim=-1):
    return F.log_softmax(x, dim=dim)


@exercise.wrong(
    "divides the scores by their sum without exponentials",
    hint="Scores may be negative, and so are some of your weights. What makes every score positive "
    "before the division?",
    see="masking#softmax-safely",
)
def no_exponential(x, dim=-1):
    return x / x.sum(dim=dim, keepdim=True)


@exercise.right("maximum subtracted, then normalised")
def shifted(x, dim=-1):
    e = torch.exp(x - x.max(dim=dim, keepdim=True).values)
    return e / torch.sum(e, dim=dim, keepdim=True)


@exercise.right("one exponential of the score minus its logsumexp")
def through_logarithm(x, dim=-1):
    return (x - torch.logsumexp(x, dim=dim, keepdim=True)).exp()


@exercise.right("the chosen dimension moved to the end, and back")
def moved(x, dim=-1):
    rows = x.transpose(dim, -1)
    largest, _ = rows.max(-1)
    e = torch.exp(rows - largest.unsqueeze(-1))
    return (e / e.sum(-1).unsqueeze(-1)).transpose(dim, -1)


@exercise.right("computed in float64 and cast back")
def in_double(x, dim=-1):
    z = x.double()
    z = z - z.amax(dim, keepdim=True).detach()
    return (z.exp() / z.exp().sum(dim, keepdim=True)).type_as(x)


@exercise.right("in one pass, with a running maximum and a running sum")
def online(x, dim=-1):
    largest = torch.full_like(x.select(dim, 0), torch.finfo(x.dtype).min)
    total = torch.zeros_like(largest)
    for scores in x.unbind(dim):
        previous, largest = largest, torch.maximum(largest, scores)
        total = total * (previous - largest).exp() + (scores - largest).exp()
    return (x - largest.unsqueeze(dim)).exp() / total.unsqueeze(dim)


@exercise.shortcut("torch.softmax")
def torch_softmax(x, dim=-1):
    return torch.softmax(x, dim=dim)


@exercise.shortcut("the functional form")
def functional(x, dim=-1):
    return F.softmax(x, dim)


@exercise.shortcut("a method of the tensor")
def method(x, dim=-1):
    return x.softmax(dim)


@exercise.shortcut("a name read with getattr")
def by_name(x, dim=-1):
    return getattr(torch, "softmax")(x, dim)  # noqa: B009 - as a student hides it


@exercise.shortcut("a module that is called")
def module(x, dim=-1):
    return torch.nn.Softmax(dim=dim)(x)


@exercise.shortcut("the exponential of torch's log-softmax")
def exponential_of_logarithm(x, dim=-1):
    return x.log_softmax(dim).exp()
