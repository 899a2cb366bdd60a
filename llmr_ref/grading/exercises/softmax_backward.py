"""Exercise: from the gradient of the weights to the gradient of the scores."""

import torch
from torch import Tensor

from llmr_ref import backprop
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.neuron_step import AUTOGRAD, RULE

exercise = Exercise(
    "softmax_backward",
    points=3,
    difficulty=3,
    minutes=20,
    reference=backprop.softmax_backward,
    chapter="backprop-tensors#softmax-backward",
    forbids=(*AUTOGRAD, "torch._softmax_backward_data"),
    rule=RULE,
)


def weights(draw: Draw, *shape: int, dim: int = -1) -> Tensor:
    """Softmax weights, far from even."""
    return draw.normal(*shape, scale=1.5, dtype=torch.float64).softmax(dim).float()


@exercise.property("one vector of scores gets the upstream gradient through the softmax", weight=2)
def vectors(draw: Draw):
    yield Case((torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75])), note="two weights")
    yield Case((draw.normal(4), weights(draw, 4)))
    n = draw.integer(5, 7)
    yield Case((draw.normal(n), weights(draw, n)))
    yield Case((draw.normal(1), torch.ones(1)), note="a single weight, which is always 1")


@exercise.property("every row of a batch stands alone", weight=2)
def batches(draw: Draw):
    yield Case((draw.normal(2, 3), weights(draw, 2, 3)), note="two rows")
    yield Case((draw.normal(3, 3), weights(draw, 3, 3)), note="as many rows as columns")
    yield Case((draw.normal(2, 3, 4), weights(draw, 2, 3, 4)), note="two leading dimensions")


@exercise.property("any dimension can be the one that sums to 1")
def dimensions(draw: Draw):
    yield Case((draw.normal(3, 2), weights(draw, 3, 2, dim=0)), {"dim": 0}, note="dim=0")
    yield Case((draw.normal(4, 4), weights(draw, 4, 4, dim=0)), {"dim": 0}, note="a square, dim=0")
    yield Case((draw.normal(2, 4, 3), weights(draw, 2, 4, 3, dim=1)), {"dim": 1}, note="dim=1")


@exercise.property("a weight of 0 gets a gradient of 0", weight=0.5)
def closed(draw: Draw):
    hidden = torch.tensor([[0.3, 0.7, 0.0], [0.0, 1.0, 0.0]])
    yield Case((draw.normal(2, 3), hidden), note="hidden keys")
    yield Case((draw.normal(2, 3), hidden * torch.tensor([[1.0], [0.0]])), note="a closed row")


@exercise.property("the result has the dtype of A", weight=0.5)
def dtypes(draw: Draw):
    for dtype, name in ((torch.float64, "float64"), (torch.bfloat16, "bfloat16")):
        dA, A = draw.normal(2, 4, dtype=dtype), weights(draw, 2, 4).to(dtype)
        yield Case((dA, A), note=f"{name} weights")


@exercise.wrong(
    "keeps the diagonal of the Jacobian only",
    hint="A score moves its own weight and, through the sum below the fraction, every other weight "
    "of its row. Which entries of the Jacobian does A (1 - A) leave out?",
    see="backprop-tensors#softmax-backward",
)
def diagonal_only(dA, A, dim=-1):
    return dA * A * (1 - A)


@exercise.wrong(
    "forgets the weight in front",
    hint="The difference in the bracket is right. Both terms of the Jacobian carry the same factor: "
    "which one?",
    see="backprop-tensors#softmax-backward",
)
def no_factor(dA, A, dim=-1):
    return dA - (dA * A).sum(dim, keepdim=True)


@exercise.wrong(
    "sums the upstream gradient without its weights",
    hint="What is subtracted is the mean of dA under the distribution A. Put a row of equal entries "
    "into dA: the result should be zero.",
    see="backprop-tensors#softmax-backward",
)
def plain_sum(dA, A, dim=-1):
    return A * (dA - dA.sum(dim, keepdim=True))


@exercise.wrong(
    "subtracts the plain mean of the upstream gradient",
    hint="Large weights count for more in the mean that is subtracted. Which distribution is the "
    "mean taken under?",
    see="backprop-tensors#softmax-backward",
)
def plain_mean(dA, A, dim=-1):
    return A * (dA - dA.mean(dim, keepdim=True))


@exercise.wrong(
    "divides the weighted sum by the number of entries",
    hint="The weights sum to 1 already, so their weighted sum is a mean. `mean` divides once more.",
    see="backprop-tensors#softmax-backward",
)
def divided_twice(dA, A, dim=-1):
    return A * (dA - (dA * A).mean(dim, keepdim=True))


@exercise.wrong(
    "adds the weighted sum instead of subtracting it",
    hint="Raising every score by the same amount changes no weight, so the entries of the result "
    "must sum to 0. Do yours?",
    see="backprop-tensors#softmax-backward",
)
def adds_sum(dA, A, dim=-1):
    return A * (dA + (dA * A).sum(dim, keepdim=True))


@exercise.wrong(
    "takes one sum over the whole batch",
    hint="Rows are distributions of their own. Along which dimension does your sum run when no `dim` "
    "is written?",
    see="backprop-tensors#softmax-backward",
)
def sum_over_everything(dA, A, dim=-1):
    return A * (dA - (dA * A).sum())


@exercise.wrong(
    "drops the dimension in the sum, so that rows get the sums of others",
    hint="A sum removes its dimension, and broadcasting then lines it up with another one. On a "
    "square nothing even raises.",
    see="backprop-tensors#softmax-backward",
)
def sum_without_keepdim(dA, A, dim=-1):
    return A * (dA - (dA * A).sum(dim))


@exercise.wrong(
    "always works along the last dimension",
    hint="The result is right for the default only. Where in your code does `dim` appear?",
    see="backprop-tensors#softmax-backward",
)
def last_only(dA, A, dim=-1):
    return A * (dA - (dA * A).sum(-1, keepdim=True))


@exercise.wrong(
    "takes the weights for scores and applies the softmax again",
    hint="A is the output of the softmax and says all that is needed about its input. What is the "
    "softmax of a softmax?",
    see="backprop-tensors#softmax-backward",
)
def softmax_again(dA, A, dim=-1):
    A = torch.softmax(A, dim)
    return A * (dA - (dA * A).sum(dim, keepdim=True))


@exercise.wrong(
    "works for a single vector only",
    hint="`diag` and `outer` know vectors. With leading dimensions you need their batched forms, or "
    "the two terms without any Jacobian.",
    see="backprop-tensors#softmax-backward",
)
def vector_only(dA, A, dim=-1):
    return (torch.diag(A) - torch.outer(A, A)) @ dA


@exercise.wrong(
    "returns float32 whatever it is given",
    hint="Computing in float32 is a good idea for 16-bit weights, but the gradient goes to a tensor "
    "with a dtype. What is the last thing to do?",
    see="backprop-tensors#softmax-backward",
)
def to_float32(dA, A, dim=-1):
    dA, A = dA.float(), A.float()
    return A * (dA - (dA * A).sum(dim, keepdim=True))


@exercise.wrong(
    "changes the upstream gradient in place",
    hint="Somebody else may still need dA. Look for `-=` and for methods that end in an underscore.",
    see="backprop-tensors#softmax-backward",
)
def in_place(dA, A, dim=-1):
    dA -= (dA * A).sum(dim, keepdim=True)
    return A * dA


@exercise.right("the weight times the deviation from the weighted mean")
def deviation(dA, A, dim=-1):
    return A * (dA - (A * dA).sum(dim=dim, keepdim=True))


@exercise.right("the whole Jacobian, batched")
def jacobian(dA, A, dim=-1):
    rows, upstream = A.transpose(dim, -1), dA.transpose(dim, -1)
    J = torch.diag_embed(rows) - rows.unsqueeze(-1) * rows.unsqueeze(-2)
    return (J @ upstream.unsqueeze(-1)).squeeze(-1).transpose(dim, -1)


@exercise.right("in float64, two terms side by side")
def two_terms(dA, A, dim=-1):
    product = A.double() * dA.double()
    return (product - A.double() * product.sum(dim).unsqueeze(dim)).to(A.dtype)


@exercise.shortcut("the kernel that torch's own backward calls")
def torch_kernel(dA, A, dim=-1):
    return torch._softmax_backward_data(dA, A, dim, A.dtype)
