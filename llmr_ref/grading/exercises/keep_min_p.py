"""Exercise: rule out tokens that are far less probable than the most probable one."""

import math

import torch

from llmr_ref import sampling
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "keep_min_p",
    points=2,
    difficulty=2,
    minutes=10,
    reference=sampling.keep_min_p,
    chapter="sampling#min-p",
)


def spread(draw: Draw, n: int) -> torch.Tensor:
    """Scores 0.4 apart in random order: a bar between two of them is far from both."""
    return 0.4 * draw.permutation(n) - 0.55


def bar(draw: Draw) -> float:
    """A p whose logarithm falls half-way between two gaps: exp(-0.2), exp(-0.6) or exp(-1.0)."""
    return (0.82, 0.55, 0.37)[draw.integer(0, 2)]


@exercise.property("a token stays if it has at least p times the largest probability", weight=2)
def rows(draw: Draw):
    yield Case((torch.tensor([1.0, 2.0, 0.0]), 0.3), note="three tokens and p = 0.3")
    yield Case((spread(draw, 5), 0.37), note="p = 0.37")
    yield Case((spread(draw, draw.integer(6, 9)), bar(draw)))
    yield Case((spread(draw, 5) - 3, 0.55), note="negative scores only")
    yield Case((spread(draw, 20), 0.1), note="many tokens, each with little probability")


@exercise.property("every row of a batch has a bar of its own")
def batches(draw: Draw):
    rows = torch.stack((spread(draw, 4), 3 * spread(draw, 4) + 2.0, spread(draw, 4) / 2 - 5.0))
    yield Case((rows, 0.37), note="rows of very different size")
    rows = torch.stack([scale * spread(draw, 4) for scale in (1, 2, 3, 0.5)])
    yield Case((rows, 0.55), note="as many rows as tokens")
    yield Case((torch.stack([spread(draw, 3) for _ in range(4)]).reshape(2, 2, 3), 0.82))


@exercise.property("equal scores share their fate, and p = 1 keeps the largest", weight=1)
def edges(draw: Draw):
    yield Case((torch.tensor([2.0, 0.0, 2.0, 1.0]), 1.0), note="p = 1 and two largest scores")
    yield Case((torch.zeros(3), 0.9), note="all scores equal")
    yield Case((torch.tensor([0.5]), 0.4), note="a single token")
    hidden = torch.tensor([1.0, -math.inf, 0.4, -2.0])
    yield Case((hidden, 0.3), note="a token that is ruled out already")


@exercise.property("the result has the dtype of the scores", weight=0.5)
def dtypes(draw: Draw):
    yield Case((spread(draw, 5).double(), 0.55), note="float64 scores")
    yield Case((torch.tensor([0.5, 2.0, 1.0, -1.0]).bfloat16(), 0.2), note="bfloat16 scores")


@exercise.wrong(
    "rules out tokens with a probability below p",
    hint="p is relative to the most probable token. Among many tokens even the best one may "
    "have less than p.",
    see="sampling#min-p",
)
def absolute(logits, p):
    P = torch.softmax(logits, dim=-1)
    return logits.masked_fill((p > P) & (P.amax(-1, keepdim=True) > P), -math.inf)


@exercise.wrong(
    "multiplies the largest score instead of the largest probability",
    hint="Scores may be negative and have no zero point, so a share of a score means nothing. "
    "Compare probabilities, or differences of scores.",
    see="sampling#min-p",
)
def share_of_score(logits, p):
    return logits.masked_fill(logits < p * logits.amax(-1, keepdim=True), -math.inf)


@exercise.wrong(
    "subtracts p from the largest probability",
    hint="The bar is a share of the largest probability, not a distance from it.",
    see="sampling#min-p",
)
def distance(logits, p):
    P = torch.softmax(logits, dim=-1)
    return logits.masked_fill(P.amax(-1, keepdim=True) - p > P, -math.inf)


@exercise.wrong(
    "subtracts p from the largest score",
    hint="A ratio of two probabilities is the exponential of a difference of scores. What do "
    "you have to take of p before you subtract?",
    see="sampling#min-p",
)
def score_distance(logits, p):
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) - p, -math.inf)


@exercise.wrong(
    "rules out tokens that are just at the bar",
    hint="With p = 1 the most probable token itself is at the bar. At least means that "
    "equality stays.",
    see="sampling#min-p",
)
def strict(logits, p):
    P = torch.softmax(logits, dim=-1)
    return logits.masked_fill(p * P.amax(-1, keepdim=True) >= P, -math.inf)


@exercise.wrong(
    "keeps what it should rule out",
    hint="Look at which tokens are left: `masked_fill` fills where its argument is True.",
    see="sampling#minus-infinity",
)
def inverted(logits, p):
    P = torch.softmax(logits, dim=-1)
    return logits.masked_fill(p * P.amax(-1, keepdim=True) <= P, -math.inf)


@exercise.wrong(
    "measures the bar by the smallest probability",
    hint="Compare every token with the most probable one. Which of the two ends does your "
    "reduction take?",
    see="sampling#min-p",
)
def smallest(logits, p):
    P = torch.softmax(logits, dim=-1)
    return logits.masked_fill(p * P.amin(-1, keepdim=True) > P, -math.inf)


@exercise.wrong(
    "takes p of the whole mass",
    hint="The sum of all probabilities is 1, so your bar is p itself for every distribution. "
    "The bar should sink when the distribution is flat.",
    see="sampling#min-p",
)
def of_the_sum(logits, p):
    P = torch.softmax(logits, dim=-1)
    return logits.masked_fill(p * P.sum(-1, keepdim=True) > P, -math.inf)


@exercise.wrong(
    "uses one bar for the whole batch",
    hint="Rows differ in how sure they are. Along which dimension is the largest probability "
    "taken?",
    see="sampling#min-p",
)
def one_bar(logits, p):
    P = torch.softmax(logits, dim=-1)
    return logits.masked_fill(p * P.max() > P, -math.inf)


@exercise.wrong(
    "drops the dimension in the maximum",
    hint="A maximum along a dimension removes it, and broadcasting then lines it up with "
    "another one. On a square nothing even raises.",
    see="sampling#min-p",
)
def no_keepdim(logits, p):
    P = torch.softmax(logits, dim=-1)
    return logits.masked_fill(p * P.amax(-1) > P, -math.inf)


@exercise.wrong(
    "rules out everything below 1 - p",
    hint="A larger p should rule out more. What does yours do at p = 0.1?",
    see="sampling#min-p",
)
def one_minus(logits, p):
    P = torch.softmax(logits, dim=-1)
    return logits.masked_fill((1 - p) * P.amax(-1, keepdim=True) > P, -math.inf)


@exercise.wrong(
    "sets scores to zero instead of minus infinity",
    hint="A score of 0 has the weight exp(0) = 1. Which score has the weight 0?",
    see="sampling#minus-infinity",
)
def zeros(logits, p):
    P = torch.softmax(logits, dim=-1)
    return logits.masked_fill(p * P.amax(-1, keepdim=True) > P, 0.0)


@exercise.wrong(
    "returns probabilities",
    hint="The caller may want to cut further before the softmax. Return scores, changed only "
    "where tokens are ruled out.",
    see="sampling#order-of-operations",
)
def probabilities(logits, p):
    P = torch.softmax(logits, dim=-1)
    return P.masked_fill(p * P.amax(-1, keepdim=True) > P, 0.0)


@exercise.right("probabilities against a share of the largest")
def share_of_largest(logits, p):
    P = torch.softmax(logits, dim=-1)
    return logits.masked_fill(p * P.amax(-1, keepdim=True) > P, -math.inf)


@exercise.right("differences of scores against the logarithm of p")
def differences(logits, p):
    gap = logits - logits.max(dim=-1, keepdim=True).values
    return torch.where(gap >= math.log(p), logits, float("-inf"))


@exercise.right("exponentials without a softmax, row by row")
def row_by_row(logits, p):
    out = logits.clone()
    for row in out.view(-1, logits.shape[-1]):
        relative = (row.double() - row.double().max()).exp()
        row[relative < p] = -math.inf
    return out
