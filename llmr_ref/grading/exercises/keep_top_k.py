"""Exercise: rule out all but the k most probable tokens, exactly k."""

import math

import torch

from llmr_ref import sampling
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "keep_top_k",
    points=3,
    difficulty=3,
    minutes=20,
    reference=sampling.keep_top_k,
    chapter="sampling#top-k",
)


@exercise.property("the k largest scores stay, the others become minus infinity", weight=2)
def rows(draw: Draw):
    yield Case((torch.tensor([0.5, 2.0, 1.0, -1.0]), 2), note="four tokens and k = 2")
    yield Case((draw.permutation(6) - 2.5, 3), note="all scores different")
    n = draw.integer(5, 8)
    yield Case((draw.permutation(n) / 2 - 1, draw.integer(2, 4)))
    yield Case((-1.5 - draw.permutation(5), 2), note="negative scores only")


@exercise.property("every row of a batch keeps k of its own")
def batches(draw: Draw):
    rows = torch.stack([draw.permutation(5) + 10.0 * i for i in range(3)])
    yield Case((rows, 2), note="rows of very different size")
    yield Case((torch.stack([draw.permutation(4) / 2 for _ in range(4)]), 3), note="a square")
    rows = torch.stack([draw.permutation(4) / 2 for _ in range(6)]).reshape(2, 3, 4)
    yield Case((rows, 1), note="two leading dimensions and k = 1")


@exercise.property("of equal scores those with the lowest ids stay, so that exactly k do", weight=2)
def ties(draw: Draw):
    yield Case((torch.tensor([1.0, 2.0, 1.0, 1.0]), 2), note="three scores for one place")
    yield Case((torch.zeros(5), draw.integer(2, 3)), note="all scores equal")
    yield Case((torch.tensor([[3.0, 3.0, 0.0], [0.0, 3.0, 3.0]]), 1), note="ties and k = 1")
    yield Case((draw.integers(0, 2, 3, 20).float(), 7), note="many ties in three rows")


@exercise.property("k may be 1 or V, and a token may be ruled out already")
def edges(draw: Draw):
    yield Case((draw.permutation(4) / 2, 4), note="k = V")
    yield Case((torch.tensor([0.5]), 1), note="a single token")
    hidden = torch.tensor([1.0, -math.inf, 0.5, -math.inf])
    yield Case((hidden, 1), note="two tokens that are ruled out")


@exercise.property("the result has the dtype of the scores", weight=0.5)
def dtypes(draw: Draw):
    yield Case(((draw.permutation(5) / 2).bfloat16(), 2), note="bfloat16 scores")
    yield Case(((draw.permutation(5) / 2).double(), 3), note="float64 scores")


@exercise.wrong(
    "keeps every score that equals the smallest one kept",
    hint="With ties at the cut your comparison keeps more than k tokens. Count them in a row "
    "of equal scores. Which ones should go?",
    see="sampling#ties",
)
def keeps_ties(logits, k):
    smallest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, -math.inf)


@exercise.wrong(
    "drops every score that equals the smallest one kept",
    hint="Your comparison rules out the k-th token itself. Count what is left.",
    see="sampling#top-k",
)
def drops_the_last(logits, k):
    smallest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits <= smallest, -math.inf)


@exercise.wrong(
    "keeps one token too many",
    hint="Count the scores that are finite in your result. `values[k]` is the (k+1)-th.",
    see="sampling#top-k",
)
def one_too_many(logits, k):
    order = logits.argsort(descending=True, stable=True)
    keep = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order[..., : k + 1], True)
    return logits.masked_fill(~keep, -math.inf)


@exercise.wrong(
    "keeps the smallest scores",
    hint="In which order did you sort, and which end do you keep?",
    see="sampling#top-k",
)
def smallest(logits, k):
    order = logits.argsort(descending=False, stable=True)
    keep = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order[..., :k], True)
    return logits.masked_fill(~keep, -math.inf)


@exercise.wrong(
    "prefers high ids among equal scores",
    hint="Of equal scores the lowest ids should stay. A sort that is flipped afterwards also "
    "flips the ties.",
    see="sampling#ties",
)
def high_ids(logits, k):
    order = logits.argsort(dim=-1, stable=True).flip(-1)
    keep = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order[..., :k], True)
    return logits.masked_fill(~keep, -math.inf)


@exercise.wrong(
    "sets scores to zero instead of minus infinity",
    hint="A score of 0 has the weight exp(0) = 1. Which score has the weight 0?",
    see="sampling#minus-infinity",
)
def zeros(logits, k):
    order = logits.argsort(descending=True, stable=True)
    keep = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order[..., :k], True)
    return logits.masked_fill(~keep, 0.0)


@exercise.wrong(
    "returns probabilities",
    hint="The caller may want to cut further before the softmax. Return scores, changed only "
    "where tokens are ruled out.",
    see="sampling#order-of-operations",
)
def probabilities(logits, k):
    order = logits.argsort(descending=True, stable=True)
    keep = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order[..., :k], True)
    return logits.masked_fill(~keep, -math.inf).softmax(-1)


@exercise.wrong(
    "returns the k scores in falling order",
    hint="The place of a score in its row is the id of its token. Rule the others out, and "
    "leave the row as long as it was.",
    see="sampling#top-k",
)
def only_k(logits, k):
    return logits.sort(dim=-1, descending=True, stable=True).values[..., :k]


@exercise.wrong(
    "returns the scores sorted",
    hint="The place of a score in its row is the id of its token. Sorting is only for finding "
    "out which ones stay.",
    see="sampling#top-k",
)
def sorted_scores(logits, k):
    falling = logits.sort(dim=-1, descending=True, stable=True).values.clone()
    falling[..., k:] = -math.inf
    return falling


@exercise.wrong(
    "shares k among the rows of a batch",
    hint="Every row keeps k tokens of its own. What does flattening do to rows with small scores?",
    see="sampling#top-k",
)
def whole_batch(logits, k):
    flat = logits.flatten()
    order = flat.argsort(descending=True, stable=True)
    keep = torch.zeros_like(flat, dtype=torch.bool)
    keep[order[: k * (flat.numel() // logits.shape[-1])]] = True
    return logits.masked_fill(~keep.reshape(logits.shape), -math.inf)


@exercise.wrong(
    "uses the cut of the first row for all",
    hint="Rows have scores of their own, and so a k-th largest of their own.",
    see="sampling#top-k",
)
def first_row(logits, k):
    rows = logits.reshape(-1, logits.shape[-1])
    order = rows.argsort(dim=-1, descending=True, stable=True)
    smallest = rows[0, order[0, k - 1]]
    rank = order.argsort(dim=-1)
    keep = (rows > smallest) | ((rows == smallest) & (rank < k))
    return rows.masked_fill(~keep, -math.inf).reshape(logits.shape)


@exercise.wrong(
    "changes its input",
    hint="Indexed assignment writes into the caller's tensor. Print your input after the call.",
    see="sampling#minus-infinity",
)
def in_place(logits, k):
    order = logits.argsort(dim=-1, descending=True, stable=True)
    return logits.scatter_(-1, order[..., k:], -math.inf)


@exercise.wrong(
    "returns float32 whatever it is given",
    hint="Something on the way makes a float32 tensor. The caller expects the dtype of the scores.",
    see="sampling#top-k",
)
def to_float32(logits, k):
    order = logits.argsort(descending=True, stable=True)
    keep = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order[..., :k], True)
    return logits.float().masked_fill(~keep, -math.inf)


@exercise.right("a stable sort and a scatter of True")
def stable_sort(logits, k):
    order = logits.argsort(descending=True, stable=True)
    keep = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order[..., :k], True)
    return logits.masked_fill(~keep, -math.inf)


@exercise.right("ranks, counted by comparison")
def ranks(logits, k):
    above = (logits.unsqueeze(-2) > logits.unsqueeze(-1)).sum(-1)
    equal = logits.unsqueeze(-2) == logits.unsqueeze(-1)
    before = torch.ones(equal.shape[-2:], dtype=torch.bool).tril(-1)
    rank = above + (equal & before).sum(-1)
    return torch.where(rank < k, logits, float("-inf"))


@exercise.right("the k-th largest, then equals filled up from the left")
def filled_up(logits, k):
    cut = torch.sort(logits, dim=-1, descending=True).values[..., k - 1].unsqueeze(-1)
    above, equal = logits > cut, logits == cut
    room = k - above.sum(dim=-1, keepdim=True)
    keep = above | (equal & (equal.cumsum(dim=-1) <= room))
    out = torch.full_like(logits, -math.inf)
    out[keep] = logits[keep]
    return out
