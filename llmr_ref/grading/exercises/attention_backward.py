"""Exercise: attention backwards: dQ, dK and dV, with a mask."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref import backprop
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.neuron_step import AUTOGRAD, RULE

exercise = Exercise(
    "attention_backward",
    points=5,
    difficulty=5,
    minutes=40,
    reference=backprop.attention_backward,
    chapter="backprop-tensors#attention-backward",
    forbids=AUTOGRAD,
    rule=RULE,
)


def inputs(draw: Draw, *lead: int, T: int, S: int, d_k: int, d_v: int, dtype=torch.float32):
    """dO, Q, K, V with scores that are far from even."""
    shapes = ((T, d_v), (T, d_k), (S, d_k), (S, d_v))
    return tuple(draw.normal(*lead, *shape, dtype=dtype) for shape in shapes)


def random_mask(draw: Draw, *shape: int) -> Tensor:
    """Every query may see at least one key and, when there are several, at least one is hidden."""
    mask = draw.booleans(*shape)
    own = draw.integers(0, shape[-1] - 1, *shape[:-1])[..., None]
    key = torch.arange(shape[-1])
    return (mask | (key == own)) & (key != (own + 1) % shape[-1])


@exercise.property("queries, keys and values get their gradients", weight=2)
def plain(draw: Draw):
    yield Case(inputs(draw, T=1, S=2, d_k=2, d_v=2), note="one query, two keys")
    yield Case(inputs(draw, T=2, S=3, d_k=4, d_v=2), note="two queries, three keys")
    yield Case(inputs(draw, T=3, S=3, d_k=3, d_v=3), note="one size for all")
    yield Case(inputs(draw, T=4, S=draw.integer(5, 7), d_k=5, d_v=3))
    yield Case(inputs(draw, T=3, S=1, d_k=2, d_v=4), note="a single key")


@exercise.property("leading dimensions are free")
def leading(draw: Draw):
    yield Case(inputs(draw, 2, T=3, S=4, d_k=3, d_v=2), note="a batch")
    yield Case(inputs(draw, 3, T=3, S=3, d_k=3, d_v=3), note="a batch, one size for all")
    yield Case(inputs(draw, 2, 3, T=2, S=4, d_k=3, d_v=5), note="a batch and heads")


@exercise.property("a hidden key gets nothing, and changes nothing", weight=2)
def masked(draw: Draw):
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    yield Case(inputs(draw, T=3, S=3, d_k=2, d_v=2), {"mask": causal}, note="a causal mask")
    n = draw.integer(4, 6)
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    args = inputs(draw, 2, T=n, S=n, d_k=3, d_v=2)
    yield Case(args, {"mask": causal}, note="a causal mask and a batch")
    args = inputs(draw, T=3, S=5, d_k=4, d_v=2)
    yield Case(args, {"mask": random_mask(draw, 3, 5)}, note="an irregular mask")
    args = inputs(draw, 2, 2, T=3, S=4, d_k=2, d_v=3)
    yield Case(args, {"mask": random_mask(draw, 2, 1, 3, 4)}, note="a mask for each sequence")


@exercise.property("a query that may attend to nothing moves nothing", weight=0.5)
def empty_rows(draw: Draw):
    mask = torch.tensor([[True, True], [False, False]])
    yield Case((*inputs(draw, T=2, S=2, d_k=2, d_v=2), mask), note="a second query without keys")
    mask = random_mask(draw, 4, 3) & torch.tensor([[True], [False], [True], [False]])
    yield Case(inputs(draw, 2, T=4, S=3, d_k=3, d_v=2), {"mask": mask}, note="closed rows")


@exercise.property("the results have the dtype of the inputs", weight=0.5)
def dtypes(draw: Draw):
    for dtype, name in ((torch.float64, "float64"), (torch.bfloat16, "bfloat16")):
        args = inputs(draw, T=3, S=3, d_k=4, d_v=2, dtype=dtype)
        yield Case(args, {"mask": torch.ones(3, 3, dtype=torch.bool).tril()}, note=f"{name} inputs")


@exercise.wrong(
    "forgets the scale on the way back",
    hint="Forward divides the scores by a root, so scores move less than Q K^T does. Where "
    "does that factor come back in?",
    see="backprop-tensors#attention-backward",
)
def no_scale_back(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True))
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "scales twice on the way back",
    hint="dS holds the factor already, and the last line applies it again. Multiply by each "
    "local derivative once.",
    see="backprop-tensors#attention-backward",
)
def scales_twice(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True)) / math.sqrt(Q.shape[-1])
    scale = Q.shape[-1] ** -0.5
    return scale * dS @ K, scale * dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "scales the gradient of the queries only",
    hint="The scale stands between the product and the scores, so both factors of the product "
    "see it.",
    see="backprop-tensors#attention-backward",
)
def scales_queries_only(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True))
    return dS @ K / math.sqrt(Q.shape[-1]), dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "does not scale the scores on the way forward",
    hint="The weights that you rebuild are not those of the forward pass. What did the scores "
    "get divided by?",
    see="backprop-tensors#attention-backward",
)
def no_scale_forward(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "gives the values their gradient without a transpose",
    hint="Value i is used by every query t with weight A_ti. Over which index of A do the "
    "contributions to dV run?",
    see="backprop-tensors#attention-backward",
)
def dV_not_transposed(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "gives the keys their gradient without a transpose",
    hint="Key i meets every query t in the score S_ti. Over which index of dS does the sum for"
    " dK run?",
    see="backprop-tensors#attention-backward",
)
def dK_not_transposed(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS @ Q, dV


@exercise.wrong(
    "pairs queries with queries and keys with keys",
    hint="In a product of two factors, each gets the other as its derivative. What does q "
    "move, in q times k?",
    see="backprop-tensors#attention-backward",
)
def same_partner(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS @ Q, dS.transpose(-2, -1) @ K, dV


@exercise.wrong(
    "returns the gradients of queries and keys in each other's place",
    hint="Where there are as many queries as keys, nothing in the shapes tells. In which order"
    " does the statement name them?",
    see="backprop-tensors#attention-backward",
)
def swapped(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS.transpose(-2, -1) @ Q, dS @ K, dV


@exercise.wrong(
    "lets the gradient skip the softmax",
    hint="Between weights and scores stands the softmax. You built its backward two exercises ago.",
    see="backprop-tensors#softmax-backward",
)
def skips_softmax(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = dA / math.sqrt(Q.shape[-1])
    if mask is not None:
        dS = dS.masked_fill(~mask, 0.0)
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "keeps the diagonal of the softmax's Jacobian only",
    hint="A score moves the other weights of its row as well. Which term is missing beside A "
    "(1 - A)?",
    see="backprop-tensors#softmax-backward",
)
def diagonal_only(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (1 - A) * dA / math.sqrt(Q.shape[-1])
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "sends the gradient through the softmax along the queries",
    hint="Every query divides its attention among the keys. Along which dimension do the "
    "weights sum to 1?",
    see="backprop-tensors#softmax-backward",
)
def wrong_dimension_back(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-2, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "normalises over the queries",
    hint="Add up your weights along the last dimension: what should every row give?",
    see="backprop-tensors#attention-backward",
)
def over_queries(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -2).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-2, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "drops the dimension in the softmax's sum",
    hint="A sum removes its dimension, and broadcasting lines it up with another one. Look at "
    "the shape of what you subtract.",
    see="backprop-tensors#softmax-backward",
)
def no_keepdim(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "ignores the mask",
    hint="The result does not change when a key is hidden. Where does your code read `mask`?",
    see="backprop-tensors#attention-backward",
)
def ignores_mask(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "hides the keys that the mask allows",
    hint="True means that attending is allowed. `masked_fill` fills where its argument is True.",
    see="backprop-tensors#attention-backward",
)
def inverted(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "zeroes weights after the softmax without sharing them out again",
    hint="The weights of the forward pass sum to 1 over the allowed keys. Yours sum to less: "
    "the hidden keys took part in the softmax.",
    see="backprop-tensors#attention-backward",
)
def zeroes_weights(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    A = torch.softmax(scores, -1)
    if mask is not None:
        A = A * mask
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "returns nan where a query may attend to nothing",
    hint="A softmax over minus infinities alone divides 0 by 0, and one nan in a product fills"
    " the result. What should such a row of weights be?",
    see="backprop-tensors#attention-backward",
)
def nan_rows(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.wrong(
    "works for plain matrices only",
    hint="`.T` and `transpose(0, 1)` count from the front, where batch and heads are. Which "
    "two dimensions change places, counted from the end?",
    see="backprop-tensors#attention-backward",
)
def matrices_only(dO, Q, K, V, mask=None):
    scores = Q @ K.transpose(0, 1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(0, 1) @ dO
    dA = dO @ V.transpose(0, 1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS.transpose(0, 1) @ Q, dV


@exercise.wrong(
    "returns float32 whatever it is given",
    hint="Something on the way converts to float32. A gradient has the dtype of what it "
    "belongs to.",
    see="backprop-tensors#attention-backward",
)
def to_float32(dO, Q, K, V, mask=None):
    dO, Q, K, V = dO.float(), Q.float(), K.float(), V.float()
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = torch.softmax(scores, -1).nan_to_num(0.0)
    dV = A.transpose(-2, -1) @ dO
    dA = dO @ V.transpose(-2, -1)
    dS = A * (dA - (A * dA).sum(-1, keepdim=True)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS.transpose(-2, -1) @ Q, dV


@exercise.right("the five products of the formula")
def five_products(dO, Q, K, V, mask=None):
    scale = Q.size(-1) ** -0.5
    S = scale * (Q @ K.mT)
    if mask is not None:
        S = S.masked_fill(mask.logical_not(), float("-inf"))
    A = F.softmax(S, dim=-1)
    if mask is not None:
        A = torch.where(mask, A, torch.zeros_like(A))
    dA = dO @ V.mT
    dS = A * dA
    dS = dS - A * dS.sum(dim=-1, keepdim=True)
    return scale * (dS @ K), scale * (dS.mT @ Q), A.mT @ dO


@exercise.right("einsum, with the row sums taken from the output")
def row_sums_from_output(dO, Q, K, V, mask=None):
    scores = torch.einsum("...td,...sd->...ts", Q, K) / math.sqrt(K.shape[-1])
    allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    scores = torch.where(allowed, scores, torch.finfo(scores.dtype).min)
    e = (scores - scores.amax(-1, keepdim=True)).exp() * allowed
    A = e / e.sum(-1, keepdim=True).clamp_min(1e-9)
    O = torch.einsum("...ts,...sv->...tv", A, V)  # noqa: E741 - the lecture's letter
    delta = (dO * O).sum(-1, keepdim=True)
    dS = A * (torch.einsum("...tv,...sv->...ts", dO, V) - delta) / math.sqrt(K.shape[-1])
    dQ = torch.einsum("...ts,...sd->...td", dS, K)
    dK = torch.einsum("...ts,...td->...sd", dS, Q)
    return dQ, dK, torch.einsum("...ts,...tv->...sv", A, dO)


@exercise.right("query by query, in float64, hidden keys left out")
def query_by_query(dO, Q, K, V, mask=None):
    lead, T, S = Q.shape[:-2], Q.shape[-2], K.shape[-2]
    allowed = torch.ones(T, S, dtype=torch.bool) if mask is None else mask
    allowed = allowed.expand(*lead, T, S).reshape(-1, T, S)
    g, q, k, v = (x.reshape(-1, *x.shape[-2:]).double() for x in (dO, Q, K, V))
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    root = math.sqrt(Q.shape[-1])
    for b in range(len(q)):
        for t in range(T):
            keys = allowed[b, t].nonzero().squeeze(-1)
            if len(keys) == 0:
                continue
            a = torch.softmax(k[b, keys] @ q[b, t] / root, 0)
            da = v[b, keys] @ g[b, t]
            ds = a * (da - a @ da) / root
            dq[b, t] = ds @ k[b, keys]
            dk[b, keys] += torch.outer(ds, q[b, t])
            dv[b, keys] += torch.outer(a, g[b, t])
    return dq.reshape(Q.shape).to(Q), dk.reshape(K.shape).to(K), dv.reshape(V.shape).to(V)


@exercise.shortcut("attention of torch, differentiated by torch")
def torch_backward(dO, Q, K, V, mask=None):
    leaves = [x.clone().requires_grad_() for x in (Q, K, V)]
    scores = leaves[0] @ leaves[1].transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        empty = ~mask.any(-1, keepdim=True)
        scores = scores.masked_fill(~mask & ~empty, -math.inf)
        out = torch.softmax(scores, -1).masked_fill(empty, 0.0) @ leaves[2]
    else:
        out = torch.softmax(scores, -1) @ leaves[2]
    return torch.autograd.grad(out, leaves, dO)
