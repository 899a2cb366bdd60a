"""Exercise: a linear layer backwards, with any number of leading dimensions."""

import torch
import torch.nn.functional as F

from llmr_ref import backprop
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.neuron_step import AUTOGRAD, RULE

exercise = Exercise(
    "linear_backward",
    points=3,
    difficulty=3,
    minutes=20,
    reference=backprop.linear_backward,
    chapter="backprop-tensors#a-linear-layer",
    forbids=AUTOGRAD,
    rule=RULE,
)


def layer(draw: Draw, *lead: int, n_in: int, n_out: int, dtype=torch.float32, note="") -> Case:
    dy, x = draw.normal(*lead, n_out, dtype=dtype), draw.normal(*lead, n_in, dtype=dtype)
    return Case((dy, x, draw.normal(n_out, n_in, dtype=dtype)), note=note)


@exercise.property("rows of inputs: dx = dy W, dW = dy^T x, db = the sum of dy", weight=2)
def rows(draw: Draw):
    yield layer(draw, 1, n_in=2, n_out=3, note="one row")
    yield layer(draw, 4, n_in=2, n_out=3, note="four rows")
    yield layer(draw, 3, n_in=4, n_out=2)
    yield layer(draw, 3, n_in=3, n_out=3, note="one size for all")
    yield layer(draw, draw.integer(4, 6), n_in=3, n_out=1, note="a single output")


@exercise.property("parameters add up over every leading dimension", weight=2)
def batches(draw: Draw):
    yield layer(draw, 2, 3, n_in=4, n_out=2, note="a batch of sequences")
    yield layer(draw, 2, 2, n_in=2, n_out=2, note="a batch, one size for all")
    yield layer(draw, 2, 1, 2, n_in=2, n_out=1, note="three leading dimensions")
    yield layer(draw, 2, draw.integer(2, 4), 3, n_in=2, n_out=5, note="three leading dimensions")


@exercise.property("a single vector works, and so does none")
def vectors(draw: Draw):
    yield layer(draw, n_in=3, n_out=2, note="no leading dimension")
    yield layer(draw, n_in=2, n_out=2, note="no leading dimension, a square weight")
    yield layer(draw, 0, n_in=3, n_out=2, note="no row at all")


@exercise.property("the results have the dtypes of x and W", weight=0.5)
def dtypes(draw: Draw):
    yield layer(draw, 3, n_in=2, n_out=4, dtype=torch.float64, note="float64")
    yield layer(draw, 2, 3, n_in=2, n_out=4, dtype=torch.bfloat16, note="bfloat16")


@exercise.wrong(
    "returns the weight's gradient transposed",
    hint="The gradient of W has the shape of W, (out, in). Which of the two factors has to stand on "
    "the left?",
    see="backprop-tensors#a-linear-layer",
)
def transposed_dW(dy, x, W):
    dy_, x_ = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    return dy @ W, x_.T @ dy_, dy_.sum(0)


@exercise.wrong(
    "sends the gradient back through the transposed weight",
    hint="Forward multiplies by W transposed. Write out one entry of dx as a sum over outputs: which "
    "index of W runs?",
    see="backprop-tensors#a-linear-layer",
)
def transposed_W(dy, x, W):
    dy_, x_ = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    return dy @ W.T, dy_.T @ x_, dy_.sum(0)


@exercise.wrong(
    "takes the mean over positions instead of the sum",
    hint="Each position used the same weight, and each use moves the loss. Contributions add up; if "
    "there is a mean, the loss took it and dy knows.",
    see="backprop#shared-values-add-up",
)
def mean_of_positions(dy, x, W):
    dy_, x_ = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    n = max(len(x_), 1)
    return dy @ W, dy_.T @ x_ / n, dy_.sum(0) / n


@exercise.wrong(
    "takes the mean for the bias but not for the weight",
    hint="The bias is used at every position, as the weight is. Why should one add up and the other "
    "average?",
    see="backprop#shared-values-add-up",
)
def mean_of_bias(dy, x, W):
    dy_, x_ = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    return dy @ W, dy_.T @ x_, dy_.sum(0) / max(len(x_), 1)


@exercise.wrong(
    "keeps a gradient of the weight for every sequence",
    hint="There is one W for the whole batch, so dW has no batch dimension. What happens to the "
    "contributions of the sequences?",
    see="backprop#shared-values-add-up",
)
def batched_dW(dy, x, W):
    dy_, x_ = torch.atleast_2d(dy), torch.atleast_2d(x)
    return dy @ W, dy_.transpose(-2, -1) @ x_, dy_.sum(-2)


@exercise.wrong(
    "leaves leading dimensions in the bias gradient",
    hint="Your sum takes one dimension away. A batch of sequences has two that are not the outputs.",
    see="backprop#shared-values-add-up",
)
def first_dimension_only(dy, x, W):
    dy_, x_ = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    return dy @ W, dy_.T @ x_, dy.sum(0) if dy.dim() > 1 else dy


@exercise.wrong(
    "returns the upstream gradient as the bias's",
    hint="The local derivative of the bias is 1, but at every position. The bias is a vector (out,).",
    see="backprop#shared-values-add-up",
)
def no_sum_for_bias(dy, x, W):
    dy_, x_ = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    return dy @ W, dy_.T @ x_, dy


@exercise.wrong(
    "sums the bias gradient over the outputs",
    hint="Every output has a bias of its own. Which dimensions should disappear, and which one stay?",
    see="backprop-tensors#a-linear-layer",
)
def sums_outputs(dy, x, W):
    dy_, x_ = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    return dy @ W, dy_.T @ x_, dy_.sum(-1)


@exercise.wrong(
    "reshapes where it should transpose",
    hint="`reshape` keeps the order in memory; it does not exchange rows and columns. Follow one "
    "number of dy through your line.",
    see="backprop-tensors#a-linear-layer",
)
def reshapes(dy, x, W):
    x_ = x.reshape(-1, x.shape[-1])
    dW = dy.reshape(dy.shape[-1], -1) @ x_
    return dy @ W, dW, dy.reshape(-1, dy.shape[-1]).sum(0)


@exercise.wrong(
    "counts on exactly one batch dimension and one of positions",
    hint="Three letters in your einsum are three dimensions. An ellipsis, or a reshape to rows, "
    "takes any number.",
    see="backprop-tensors#a-linear-layer",
)
def three_dimensions(dy, x, W):
    if dy.dim() <= 2:
        dy_, x_ = torch.atleast_2d(dy), torch.atleast_2d(x)
        return dy @ W, dy_.T @ x_, dy_.sum(0)
    return dy @ W, torch.einsum("bto,bti->oi", dy, x), dy.sum((0, 1))


@exercise.wrong(
    "works for rows only, not for a single vector",
    hint="A vector has no dimension -2. What does `reshape(-1, n)` make of it?",
    see="backprop-tensors#a-linear-layer",
)
def needs_rows(dy, x, W):
    lead = tuple(range(dy.dim() - 1))
    dW = dy.transpose(-2, -1) @ x
    while dW.dim() > 2:
        dW = dW.sum(0)
    return dy @ W, dW, dy.sum(lead)


@exercise.wrong(
    "returns float32 whatever it is given",
    hint="Something on the way converts to float32. A gradient has the dtype of what it belongs to.",
    see="backprop-tensors#a-linear-layer",
)
def to_float32(dy, x, W):
    dy, x, W = dy.float(), x.float(), W.float()
    dy_, x_ = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    return dy @ W, dy_.T @ x_, dy_.sum(0)


@exercise.right("all leading dimensions flattened to rows")
def flattened(dy, x, W):
    dy_rows = dy.reshape(-1, W.shape[0])
    x_rows = x.reshape(-1, W.shape[1])
    return dy.matmul(W), dy_rows.t().matmul(x_rows), dy_rows.sum(dim=0)


@exercise.right("einsum with an ellipsis")
def with_einsum(dy, x, W):
    dx = torch.einsum("...o,oi->...i", dy, W)
    dW = torch.einsum("no,ni->oi", dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1]))
    return dx, dW, torch.einsum("no->o", dy.reshape(-1, dy.shape[-1]))


@exercise.right("an outer product per position, added up")
def outer_products(dy, x, W):
    dW = torch.zeros_like(W, dtype=torch.float64)
    db = torch.zeros(W.shape[0], dtype=torch.float64)
    for g, v in zip(dy.reshape(-1, W.shape[0]), x.reshape(-1, W.shape[1]), strict=True):
        dW += torch.outer(g.double(), v.double())
        db += g
    dx = (dy.unsqueeze(-2) @ W).squeeze(-2)
    return dx, dW.to(W.dtype), db.to(W.dtype)


@exercise.shortcut("a linear layer of torch, differentiated by torch")
def torch_backward(dy, x, W):
    x_, W_ = x.clone().requires_grad_(), W.clone().requires_grad_()
    b = torch.zeros(W.shape[0], dtype=W.dtype, requires_grad=True)
    return torch.autograd.grad(F.linear(x_, W_, b), (x_, W_, b), dy)
