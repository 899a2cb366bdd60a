"""Exercise: softmax of scaled, masked scores, applied to the values."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref import attention
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "scaled_dot_product_attention",
    points=4,
    difficulty=3,
    minutes=25,
    reference=attention.scaled_dot_product_attention,
    chapter="masking#minus-infinity-then-softmax",
    forbids=(
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.nn.functional.multi_head_attention_forward",
        "torch.nn.MultiheadAttention",
    ),
    rule="Write the formula out; `F.scaled_dot_product_attention` is what you are rebuilding.",
)


def random_mask(draw: Draw, *shape: int) -> Tensor:
    """Every query may see at least one key and, when there are several, at least one is hidden."""
    mask = draw.booleans(*shape)
    own = draw.integers(0, shape[-1] - 1, *shape[:-1])[..., None]
    key = torch.arange(shape[-1])
    return (mask | (key == own)) & (key != (own + 1) % shape[-1])


@exercise.property("every query gets the values, weighted by the softmax of its scaled scores")
def unmasked(draw: Draw):
    yield Case(
        (draw.normal(1, 4), draw.normal(2, 4), draw.normal(2, 2)), note="one query, two keys"
    )
    yield Case((draw.normal(2, 4), draw.normal(3, 4), draw.normal(3, 2)))
    yield Case((draw.normal(3, 2), draw.normal(3, 2), draw.normal(3, 2)), note="one size for all")
    d = draw.integer(7, 10)
    yield Case((draw.normal(4, d), draw.normal(5, d), draw.normal(5, 6)))
    yield Case((draw.normal(3, 4), draw.normal(1, 4), draw.normal(1, 3)), note="a single key")


@exercise.property("leading dimensions are free")
def leading(draw: Draw):
    yield Case((draw.normal(2, 3, 4), draw.normal(2, 5, 4), draw.normal(2, 5, 3)), note="a batch")
    yield Case(
        (draw.normal(2, 3, 4, 5), draw.normal(2, 3, 6, 5), draw.normal(2, 3, 6, 2)),
        note="a batch and heads",
    )


@exercise.property("a hidden key gets no weight, and the others share all of it", weight=2)
def masked(draw: Draw):
    first_only = torch.tensor([[True, False]])
    yield Case(
        (draw.normal(1, 2), draw.normal(2, 2), draw.normal(2, 2), first_only),
        note="the second of two keys hidden",
    )
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    yield Case(
        (draw.normal(3, 2), draw.normal(3, 2), draw.normal(3, 2)),
        {"mask": causal},
        note="a causal mask",
    )
    yield Case(
        (draw.normal(3, 4), draw.normal(5, 4), draw.normal(5, 2)),
        {"mask": random_mask(draw, 3, 5)},
        note="an irregular mask",
    )
    yield Case(
        (draw.normal(2, 4, 3, scale=3), draw.normal(2, 4, 3, scale=3), draw.normal(2, 4, 3)),
        {"mask": random_mask(draw, 4, 4)},
        note="one mask for a batch",
    )
    yield Case(
        (draw.normal(3, 2, 4), draw.normal(3, 4, 4), draw.normal(3, 4, 5)),
        {"mask": random_mask(draw, 3, 2, 4)},
        note="a mask for each sequence of a batch",
    )
    yield Case(
        (draw.normal(2, 3, 4, 2), draw.normal(2, 3, 4, 2), draw.normal(2, 3, 4, 2)),
        {"mask": random_mask(draw, 2, 1, 1, 4)},
        note="a mask that broadcasts over heads and queries",
    )


@exercise.property("a query that may attend to nothing gets an output of zeros")
def empty_rows(draw: Draw):
    mask = torch.tensor([[True, True], [False, False]])
    yield Case(
        (draw.normal(2, 2), draw.normal(2, 2), draw.normal(2, 2), mask),
        note="a second query without keys",
    )
    mask = random_mask(draw, 4, 3) & torch.tensor([[True], [False], [True], [False]])
    yield Case((draw.normal(2, 4, 3), draw.normal(2, 3, 3), draw.normal(2, 3, 2)), {"mask": mask})
    yield Case(
        (draw.normal(2, 3), draw.normal(4, 3), draw.normal(4, 2)),
        {"mask": torch.zeros(2, 4, dtype=torch.bool)},
        note="nothing to attend to at all",
    )


@exercise.property("the result has the dtype of the queries", weight=0.5)
def dtypes(draw: Draw):
    for dtype, name in ((torch.float64, "float64"), (torch.bfloat16, "bfloat16")):
        Q, K, V = (draw.normal(n, 4, dtype=dtype) for n in (2, 3, 3))
        yield Case((Q, K, V), note=f"{name} inputs")
        yield Case((Q, K, V), {"mask": random_mask(draw, 2, 3)}, note=f"{name} inputs and a mask")


@exercise.property("gradients flow back to queries, keys and values", weight=0.5)
def gradients(draw: Draw):
    yield Case((draw.normal(2, 3), draw.normal(4, 3), draw.normal(4, 2)), gradients=True)
    yield Case(
        (draw.normal(2, 3, 4), draw.normal(2, 3, 4), draw.normal(2, 3, 4)),
        {"mask": random_mask(draw, 3, 3)},
        note="a mask",
        gradients=True,
    )


@exercise.wrong(
    "does not scale the scores",
    hint="A dot product of d_k terms grows like the square root of d_k, and the softmax turns into "
    "a hard choice. Which factor of the formula is missing?",
    see="self-attention#the-square-root",
)
def no_scale(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1)
    if mask is not None:
        empty = ~mask.any(dim=-1, keepdim=True)
        scores = scores.masked_fill(~mask & ~empty, -math.inf)
        return F.softmax(scores, dim=-1).masked_fill(empty, 0.0) @ V
    return F.softmax(scores, dim=-1) @ V


@exercise.wrong(
    "divides by the width instead of its square root",
    hint="The scores of independent entries have variance d_k. What do you divide by so that the "
    "variance becomes 1?",
    see="self-attention#the-square-root",
)
def divides_by_width(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / Q.size(-1)
    if mask is not None:
        empty = ~mask.any(dim=-1, keepdim=True)
        scores = scores.masked_fill(~mask & ~empty, -math.inf)
        return F.softmax(scores, dim=-1).masked_fill(empty, 0.0) @ V
    return F.softmax(scores, dim=-1) @ V


@exercise.wrong(
    "multiplies by the square root of the width",
    hint="The scale should keep wide scores small. Do yours become smaller or larger as d_k grows?",
    see="self-attention#the-square-root",
)
def multiplies_by_root(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) * math.sqrt(Q.size(-1))
    if mask is not None:
        empty = ~mask.any(dim=-1, keepdim=True)
        scores = scores.masked_fill(~mask & ~empty, -math.inf)
        return F.softmax(scores, dim=-1).masked_fill(empty, 0.0) @ V
    return F.softmax(scores, dim=-1) @ V


@exercise.wrong(
    "scales by the number of keys instead of their width",
    hint="You read the scale from the dimension that counts positions. A score is a sum over the "
    "other one: how many terms does a single dot product have?",
    see="self-attention#the-square-root",
)
def scales_by_length(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(K.size(-2))
    if mask is not None:
        empty = ~mask.any(dim=-1, keepdim=True)
        scores = scores.masked_fill(~mask & ~empty, -math.inf)
        return F.softmax(scores, dim=-1).masked_fill(empty, 0.0) @ V
    return F.softmax(scores, dim=-1) @ V


@exercise.wrong(
    "scales after the softmax",
    hint="Your weights no longer sum to 1. The scale belongs to the scores, not to what the "
    "softmax makes of them.",
    see="self-attention#the-square-root",
)
def scales_weights(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1)
    if mask is not None:
        empty = ~mask.any(dim=-1, keepdim=True)
        scores = scores.masked_fill(~mask & ~empty, -math.inf)
        weights = F.softmax(scores, dim=-1).masked_fill(empty, 0.0)
    else:
        weights = F.softmax(scores, dim=-1)
    return weights / math.sqrt(Q.size(-1)) @ V


@exercise.wrong(
    "normalises over the queries",
    hint="Each query divides its attention among the keys. Add up your weights along the last "
    "dimension: what should every row give?",
    see="masking#minus-infinity-then-softmax",
)
def over_queries(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.size(-1))
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return F.softmax(scores, dim=-2).nan_to_num(0.0) @ V


@exercise.wrong(
    "ignores the mask",
    hint="The result does not change when a key is hidden. Where does your code read `mask`?",
    see="masking#the-cheating-model",
)
def ignores_mask(Q, K, V, mask=None):
    return F.softmax(Q @ K.transpose(-2, -1) / math.sqrt(Q.size(-1)), dim=-1) @ V


@exercise.wrong(
    "hides the keys that the mask allows",
    hint="In this course True means that attending is allowed. `masked_fill` fills where its "
    "argument is True: is that where you want minus infinity?",
    see="masking#true-means-may-attend",
)
def inverted(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.size(-1))
    if mask is not None:
        scores = scores.masked_fill(mask, -math.inf)
    return F.softmax(scores, dim=-1).nan_to_num(0.0) @ V


@exercise.wrong(
    "zeroes weights after the softmax without sharing them out again",
    hint="The hidden keys took part in the sum of the softmax, so the weights that remain sum to "
    "less than 1. At which step must a key disappear?",
    see="masking#minus-infinity-then-softmax",
)
def zeroes_weights(Q, K, V, mask=None):
    weights = F.softmax(Q @ K.transpose(-2, -1) / math.sqrt(Q.size(-1)), dim=-1)
    if mask is not None:
        weights = weights * mask
    return weights @ V


@exercise.wrong(
    "sets hidden scores to zero, or nearly, instead of minus infinity",
    hint="The exponential of 0 is 1, so a key with score 0 still gets weight. Note that -1e-9 is "
    "almost zero, while -1e9 is not. Which score has the exponential 0?",
    see="masking#minus-infinity-then-softmax",
)
def zero_scores(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.size(-1))
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e-9)
    return F.softmax(scores, dim=-1) @ V


@exercise.wrong(
    "adds the boolean mask to the scores",
    hint="Added to a score, True counts as 1 and False as 0. That favours allowed keys a little "
    "and hides none. What would have to be added to hide one?",
    see="masking#true-means-may-attend",
)
def adds_mask(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.size(-1))
    if mask is not None:
        scores = scores + mask
    return F.softmax(scores, dim=-1) @ V


@exercise.wrong(
    "returns nan for a query that may attend to nothing",
    hint="In a row of minus infinities alone the softmax divides 0 by 0. Such rows occur with "
    "padding. What should they give, and how do you find them?",
    see="masking#rows-with-nothing-to-attend-to",
)
def nan_rows(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.size(-1))
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return F.softmax(scores, dim=-1) @ V


@exercise.wrong(
    "lets a query that may attend to nothing attend to everything evenly",
    hint="When every score of a row is the same large negative number, the softmax makes them "
    "equal weights. A row that the mask closes should contribute nothing.",
    see="masking#rows-with-nothing-to-attend-to",
)
def even_rows(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.size(-1))
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e9)
    return F.softmax(scores, dim=-1) @ V


@exercise.wrong(
    "uses the first mask of a batch for all sequences",
    hint="Every sequence of a batch may have a mask of its own. Masks and scores broadcast by "
    "themselves: which line of yours throws dimensions away?",
    see="masking#padding",
)
def first_mask(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.size(-1))
    if mask is None:
        return F.softmax(scores, dim=-1) @ V
    while mask.dim() > 2:
        mask = mask[0]
    empty = ~mask.any(dim=-1, keepdim=True)
    scores = scores.masked_fill(~mask & ~empty, -math.inf)
    return F.softmax(scores, dim=-1).masked_fill(empty, 0.0) @ V


@exercise.wrong(
    "works for plain matrices only",
    hint="`.T` and `transpose(0, 1)` count dimensions from the front, where batch and heads are. "
    "Which two dimensions of K have to change places, counted from the end?",
    see="multi-head#side-by-side-then-mixed",
)
def matrices_only(Q, K, V, mask=None):
    scores = Q @ K.transpose(0, 1) / math.sqrt(Q.size(-1))
    if mask is not None:
        empty = ~mask.any(dim=-1, keepdim=True)
        scores = scores.masked_fill(~mask & ~empty, -math.inf)
        return F.softmax(scores, dim=-1).masked_fill(empty, 0.0) @ V
    return F.softmax(scores, dim=-1) @ V


@exercise.wrong(
    "returns float32 whatever it is given",
    hint="Something on the way converts to float32: a `.float()`, or a tensor made without a "
    "dtype. The caller expects the dtype of Q.",
    see="masking#softmax-safely",
)
def to_float32(Q, K, V, mask=None):
    scores = Q.float() @ K.float().transpose(-2, -1) / math.sqrt(Q.size(-1))
    if mask is not None:
        empty = ~mask.any(dim=-1, keepdim=True)
        scores = scores.masked_fill(~mask & ~empty, -math.inf)
        return F.softmax(scores, dim=-1).masked_fill(empty, 0.0) @ V.float()
    return F.softmax(scores, dim=-1) @ V.float()


@exercise.wrong(
    "cuts the gradient through the weights",
    hint="The values V get a gradient, queries and keys do not, so nothing can learn where to "
    "look. Search for detach, .data or no_grad between the scores and the product with V.",
    see="masking#softmax-safely",
)
def detached_weights(Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.size(-1))
    if mask is not None:
        empty = ~mask.any(dim=-1, keepdim=True)
        scores = scores.masked_fill(~mask & ~empty, -math.inf)
        return F.softmax(scores, dim=-1).detach().masked_fill(empty, 0.0) @ V
    return F.softmax(scores, dim=-1).detach() @ V


@exercise.right("minus infinity where hidden, nan replaced by zero")
def replaced_nan(Q, K, V, mask=None):
    scores = torch.matmul(Q, K.mT) / Q.shape[-1] ** 0.5
    if mask is not None:
        scores = torch.where(mask, scores, float("-inf"))
    return torch.nan_to_num(torch.softmax(scores, dim=-1)) @ V


@exercise.right("exponentials times the mask, over their sum")
def exponentials(Q, K, V, mask=None):
    scores = torch.einsum("...td,...sd->...ts", Q, K) * Q.shape[-1] ** -0.5
    allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    largest = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).amax(-1, keepdim=True)
    e = (scores - largest).masked_fill(~allowed, -math.inf).exp()
    return torch.einsum("...ts,...sv->...tv", e / e.sum(-1, keepdim=True).clamp_min(1e-9), V)


@exercise.right("an additive bias, and closed rows zeroed at the end")
def additive(Q, K, V, mask=None):
    bias = torch.zeros((), dtype=Q.dtype)
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=Q.dtype).masked_fill(mask.logical_not(), -1e9)
    out = F.softmax(Q @ K.transpose(-1, -2) / math.sqrt(K.shape[-1]) + bias, dim=-1) @ V
    return out if mask is None else torch.where(mask.any(-1).unsqueeze(-1), out, 0.0)


@exercise.shortcut("torch's fused kernel")
def fused(Q, K, V, mask=None):
    return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)
