"""Exercise: causal attention in which several heads of queries share keys and values."""

import math

import torch
import torch.nn.functional as F

from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(Q, K, V):
    """Heads n g to (n + 1) g - 1 of Q read head n of K and V. Source: Ainslie et al. 2023 (GQA)."""
    g = Q.shape[-3] // K.shape[-3]
    K, V = (x.repeat_interleave(g, dim=-3) for x in (K, V))
    return F.scaled_dot_product_attention(Q, K, V, is_causal=True).transpose(-3, -2).flatten(-2)


exercise = Exercise(
    "grouped_query_attention",
    points=3,
    difficulty=3,
    minutes=20,
    reference=reference,
    chapter="block#grouped-query-attention",
)


def heads(draw: Draw, *lead: int, h: int, kv: int, T: int, d=4, d_v=None, **about) -> Case:
    K, V = draw.normal(*lead, kv, T, d), draw.normal(*lead, kv, T, d_v or d)
    return Case((draw.normal(*lead, h, T, d), K, V), **about)


@exercise.property("each group of heads reads keys and values of its own", weight=2)
def grouped(draw: Draw):
    yield heads(draw, h=4, kv=2, T=2, d=2, note="four heads that share two")
    yield heads(draw, 2, h=6, kv=3, T=4, note="six heads that share three")
    yield heads(draw, 2, h=6, kv=2, T=draw.integer(3, 6), note="six heads that share two")


@exercise.property("one head for all, or one for each")
def extremes(draw: Draw):
    yield heads(draw, h=2, kv=1, T=2, d=2, note="a single head of keys and values")
    yield heads(draw, 3, h=4, kv=1, T=5, note="a single head of keys and values, and a batch")
    yield heads(draw, 2, h=3, kv=3, T=4, note="as many heads of keys as of queries")


@exercise.property("leading dimensions are free, and values may be wider than keys", weight=0.5)
def shapes(draw: Draw):
    yield heads(draw, 2, 3, h=4, kv=2, T=3, note="two leading dimensions")
    yield heads(draw, 2, h=4, kv=2, T=3, d=4, d_v=6, note="wide values")
    yield heads(draw, 2, h=4, kv=2, T=1, note="a single position")


@exercise.property("gradients add up over the heads that share", weight=0.5)
def gradients(draw: Draw):
    yield heads(draw, 2, h=4, kv=2, T=3, gradients=True)


@exercise.wrong(
    "deals the shared heads out in turn",
    hint="Neighbouring heads share: 0 and 1 read head 0. `repeat` puts copies of the "
    "whole after each other; which function repeats every head in place?",
    see="block#grouped-query-attention",
)
def tiled(Q, K, V):
    h, T, d = Q.shape[-3:]
    g = h // K.shape[-3]
    K = torch.cat([K] * g, dim=-3)
    V = torch.cat([V] * g, dim=-3)
    scores = Q @ K.mT / math.sqrt(d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.transpose(-3, -2).flatten(-2)


@exercise.wrong(
    "repeats values in another order than keys",
    hint="A head looks at the keys of one head and takes the values of another. Repeat both alike.",
    see="block#grouped-query-attention",
)
def values_tiled(Q, K, V):
    h, T, d = Q.shape[-3:]
    g = h // K.shape[-3]
    K = K.repeat_interleave(g, dim=-3)
    V = torch.cat([V] * g, dim=-3)
    scores = Q @ K.mT / math.sqrt(d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.transpose(-3, -2).flatten(-2)


@exercise.wrong(
    "lets all heads read the first head of keys and values",
    hint="That is multi-query attention. How many heads does each one of K serve?",
    see="block#grouped-query-attention",
)
def first_only(Q, K, V):
    _, T, d = Q.shape[-3:]
    K = K[..., :1, :, :]
    V = V[..., :1, :, :]
    scores = Q @ K.mT / math.sqrt(d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.transpose(-3, -2).flatten(-2)


@exercise.wrong(
    "takes for granted that two heads share",
    hint="The size of a group follows from the shapes. How many heads has Q, how many K?",
    see="block#grouped-query-attention",
)
def pairs(Q, K, V):
    _, T, d = Q.shape[-3:]
    g = 2
    K = K.repeat_interleave(g, dim=-3)
    V = V.repeat_interleave(g, dim=-3)
    scores = Q @ K.mT / math.sqrt(d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.transpose(-3, -2).flatten(-2)


@exercise.wrong(
    "averages the queries of a group",
    hint="Keys and values are shared, queries are not. The heads of a group still look "
    "at different things.",
    see="block#grouped-query-attention",
)
def averaged(Q, K, V):
    h, T, d = Q.shape[-3:]
    g = h // K.shape[-3]
    Q = Q.unflatten(-3, (-1, g)).mean(-3).repeat_interleave(g, dim=-3)
    K = K.repeat_interleave(g, dim=-3)
    V = V.repeat_interleave(g, dim=-3)
    scores = Q @ K.mT / math.sqrt(d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.transpose(-3, -2).flatten(-2)


@exercise.wrong(
    "lets queries see the future",
    hint="A language model predicts what follows. Which keys must a query not see?",
    see="multi-head#side-by-side-then-mixed",
)
def no_mask(Q, K, V):
    h, _, d = Q.shape[-3:]
    g = h // K.shape[-3]
    K = K.repeat_interleave(g, dim=-3)
    V = V.repeat_interleave(g, dim=-3)
    scores = Q @ K.mT / math.sqrt(d)
    A = scores.softmax(-1)
    out = A @ V
    return out.transpose(-3, -2).flatten(-2)


@exercise.wrong(
    "hides every query from itself",
    hint="A query may look at its own key. Which diagonal does `tril` keep?",
    see="multi-head#side-by-side-then-mixed",
)
def strict(Q, K, V):
    h, T, d = Q.shape[-3:]
    g = h // K.shape[-3]
    K = K.repeat_interleave(g, dim=-3)
    V = V.repeat_interleave(g, dim=-3)
    scores = Q @ K.mT / math.sqrt(d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril(-1)
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.transpose(-3, -2).flatten(-2)


@exercise.wrong(
    "leaves out the root of d_k",
    hint="Scores grow with the width of a head. What divides them?",
    see="multi-head#side-by-side-then-mixed",
)
def not_scaled(Q, K, V):
    h, T = Q.shape[-3:-1]
    g = h // K.shape[-3]
    K = K.repeat_interleave(g, dim=-3)
    V = V.repeat_interleave(g, dim=-3)
    scores = Q @ K.mT
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.transpose(-3, -2).flatten(-2)


@exercise.wrong(
    "divides by the root of the whole width",
    hint="Each head compares vectors of width d_k. It does not matter to it how many "
    "heads there are.",
    see="multi-head#side-by-side-then-mixed",
)
def scale_of_all(Q, K, V):
    h, T, d = Q.shape[-3:]
    g = h // K.shape[-3]
    K = K.repeat_interleave(g, dim=-3)
    V = V.repeat_interleave(g, dim=-3)
    scores = Q @ K.mT / math.sqrt(h * d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.transpose(-3, -2).flatten(-2)


@exercise.wrong(
    "divides by the root of the group's size as well",
    hint="Sharing saves memory; scores are the same as before.",
    see="block#grouped-query-attention",
)
def scale_of_group(Q, K, V):
    h, T, d = Q.shape[-3:]
    g = h // K.shape[-3]
    K = K.repeat_interleave(g, dim=-3)
    V = V.repeat_interleave(g, dim=-3)
    scores = Q @ K.mT / math.sqrt(g * d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.transpose(-3, -2).flatten(-2)


@exercise.wrong(
    "normalises over queries instead of keys",
    hint="The weights of one query sum to 1. Along which dimension do its keys lie?",
    see="multi-head#side-by-side-then-mixed",
)
def wrong_softmax(Q, K, V):
    h, T, d = Q.shape[-3:]
    g = h // K.shape[-3]
    K = K.repeat_interleave(g, dim=-3)
    V = V.repeat_interleave(g, dim=-3)
    scores = Q @ K.mT / math.sqrt(d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-2)
    out = A @ V
    return out.transpose(-3, -2).flatten(-2)


@exercise.wrong(
    "flattens heads and positions in the wrong order",
    hint="The output has one row a position, with its heads side by side. `reshape` "
    "without a transposition mixes positions.",
    see="multi-head#side-by-side-then-mixed",
)
def flattened(Q, K, V):
    h, T, d = Q.shape[-3:]
    g = h // K.shape[-3]
    K = K.repeat_interleave(g, dim=-3)
    V = V.repeat_interleave(g, dim=-3)
    scores = Q @ K.mT / math.sqrt(d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.reshape(*out.shape[:-3], T, -1)


@exercise.wrong(
    "leaves the heads apart",
    hint="The output is (..., T, h d_v). What remains to be done with (..., h, T, d_v)?",
    see="multi-head#side-by-side-then-mixed",
)
def not_merged(Q, K, V):
    h, T, d = Q.shape[-3:]
    g = h // K.shape[-3]
    K = K.repeat_interleave(g, dim=-3)
    V = V.repeat_interleave(g, dim=-3)
    scores = Q @ K.mT / math.sqrt(d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.transpose(-3, -2)


@exercise.wrong(
    "adds the heads up",
    hint="Heads are laid side by side, so that the output projection can weigh them.",
    see="multi-head#side-by-side-then-mixed",
)
def summed(Q, K, V):
    h, T, d = Q.shape[-3:]
    g = h // K.shape[-3]
    K = K.repeat_interleave(g, dim=-3)
    V = V.repeat_interleave(g, dim=-3)
    scores = Q @ K.mT / math.sqrt(d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.sum(-3)


@exercise.right("keys and values repeated")
def repeated(Q, K, V):
    h, T, d = Q.shape[-3:]
    g = h // K.shape[-3]
    K = K.repeat_interleave(g, dim=-3)
    V = V.repeat_interleave(g, dim=-3)
    scores = Q @ K.mT / math.sqrt(d)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    A = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    out = A @ V
    return out.transpose(-3, -2).flatten(-2)


@exercise.right("queries in groups, nothing repeated")
def by_view(Q, K, V):
    h, T, d = Q.shape[-3:]
    kv = K.shape[-3]
    grouped = Q.reshape(*Q.shape[:-3], kv, h // kv, T, d)
    scores = torch.einsum("...kgtd,...ksd->...kgts", grouped, K) * d**-0.5
    future = torch.full((T, T), -math.inf).triu(1)
    out = torch.einsum("...kgts,...ksv->...tkgv", torch.softmax(scores + future, dim=-1), V)
    return out.reshape(*out.shape[:-3], -1)


@exercise.right("one head after the other, with torch's attention")
def head_by_head(Q, K, V):
    g = Q.shape[-3] // K.shape[-3]
    outputs = []
    for head, q in enumerate(Q.unbind(-3)):
        k, v = K.select(-3, head // g), V.select(-3, head // g)
        outputs.append(F.scaled_dot_product_attention(q, k, v, is_causal=True))
    return torch.cat(outputs, dim=-1)
