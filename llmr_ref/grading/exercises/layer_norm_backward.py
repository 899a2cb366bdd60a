"""Exercise: LayerNorm backwards: the mean and the deviation move with x."""

import torch
import torch.nn.functional as F

from llmr_ref import backprop
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.neuron_step import AUTOGRAD, RULE

exercise = Exercise(
    "layer_norm_backward",
    points=4,
    difficulty=4,
    minutes=30,
    reference=backprop.layer_norm_backward,
    chapter="backprop-tensors#layernorm-backward",
    forbids=(*AUTOGRAD, "torch.ops.aten.native_layer_norm_backward"),
    rule=RULE,
)


def norm(draw: Draw, *shape: int, dtype=torch.float32, note="", scale=2.0, **settings) -> Case:
    """Vectors with a mean of their own, and a gain and a gradient that vary."""
    dy = draw.normal(*shape, dtype=dtype)
    x = draw.normal(*shape, scale=scale, dtype=torch.float64) + 1.5
    weight = draw.normal(shape[-1], scale=0.5, dtype=torch.float64) + 1.25
    return Case((dy, x.to(dtype), weight.to(dtype)), settings, note=note)


@exercise.property("one vector: the mean and the deviation move with x", weight=2)
def vectors(draw: Draw):
    yield norm(draw, 3, note="one vector of three")
    yield norm(draw, 4)
    yield norm(draw, draw.integer(5, 8))


@exercise.property("rows of a batch stand alone, parameters add up", weight=2)
def batches(draw: Draw):
    yield norm(draw, 2, 3, note="two rows")
    yield norm(draw, 4, 4, note="as many rows as columns")
    yield norm(draw, 2, 3, 5, note="two leading dimensions")
    yield norm(draw, 2, 2, 3, 4, note="three leading dimensions")


@exercise.property("eps stands under the root, and is an argument")
def epsilons(draw: Draw):
    yield norm(draw, 2, 4, eps=0.5, note="eps=0.5")
    yield norm(draw, 3, 5, scale=0.1, eps=0.01, note="a small variance and eps=0.01")


@exercise.property("the results have the dtypes of x and weight", weight=0.5)
def dtypes(draw: Draw):
    yield norm(draw, 2, 4, dtype=torch.float64, note="float64")
    yield norm(draw, 2, 4, dtype=torch.bfloat16, note="bfloat16")


@exercise.wrong(
    "holds the mean and the deviation still",
    hint="You divide by sigma and stop. When one entry of x moves, the mean and the deviation "
    "move with it, and through them every entry of z.",
    see="backprop-tensors#layernorm-backward",
)
def held_still(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = dz / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "forgets that the mean moves",
    hint="Adding a constant to x changes nothing, so the entries of dx must sum to 0. Which of"
    " the two terms makes sure of that?",
    see="backprop-tensors#layernorm-backward",
)
def mean_still(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = (dz - z * (dz * z).mean(-1, keepdim=True)) / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "forgets that the deviation moves",
    hint="Stretching x around its mean changes nothing, so dx and z must be at right angles. "
    "Which of the two terms makes sure of that?",
    see="backprop-tensors#layernorm-backward",
)
def deviation_still(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = (dz - dz.mean(-1, keepdim=True)) / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "sends the upstream gradient past the gain",
    hint="Between z and y stands gamma. Which gradient arrives at z, dy or something else?",
    see="backprop#the-chain-rule",
)
def no_gain(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = dy
    dx = (dz - dz.mean(-1, keepdim=True) - z * (dz * z).mean(-1, keepdim=True)) / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "applies the gain at the end, outside of the means",
    hint="Gamma differs from entry to entry, so it cannot be taken out of a mean over entries."
    " Follow the graph: gamma comes first on the way back.",
    see="backprop-tensors#layernorm-backward",
)
def gain_last(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = dy
    dx = dz - dz.mean(-1, keepdim=True) - z * (dz * z).mean(-1, keepdim=True)
    dx = weight * dx / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "uses x instead of z for the gradient of the gain",
    hint="Forward multiplies gamma by z, not by x. What is the local derivative?",
    see="backprop#local-derivatives",
)
def input_for_z(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = (dz - dz.mean(-1, keepdim=True) - z * (dz * z).mean(-1, keepdim=True)) / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * x).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "divides the variance by d - 1",
    hint="`std` and `var` of torch divide by d - 1 unless told otherwise. LayerNorm divides by d.",
    see="backprop-tensors#layernorm-backward",
)
def unbiased(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1) + eps).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = (dz - dz.mean(-1, keepdim=True) - z * (dz * z).mean(-1, keepdim=True)) / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "adds eps to the deviation instead of the variance",
    hint="Is your eps inside the root? The two differ when the variance is small or eps is large.",
    see="backprop-tensors#layernorm-backward",
)
def eps_outside(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = centred.square().mean(-1, keepdim=True).sqrt() + eps
    z = centred / sigma
    dz = weight * dy
    dx = (dz - dz.mean(-1, keepdim=True) - z * (dz * z).mean(-1, keepdim=True)) / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "uses an eps of its own",
    hint="The result is right for the default only. Where in your code does `eps` appear?",
    see="backprop-tensors#layernorm-backward",
)
def own_eps(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = (dz - dz.mean(-1, keepdim=True) - z * (dz * z).mean(-1, keepdim=True)) / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "divides by the variance",
    hint="Forward divides by the deviation, so the local derivative is one over the deviation."
    " Did you take the root?",
    see="backprop-tensors#layernorm-backward",
)
def variance(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = (dz - dz.mean(-1, keepdim=True) - z * (dz * z).mean(-1, keepdim=True)) / sigma**2
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "sums where it should average",
    hint="Both corrections are means over the d entries of a vector. Yours are d times too large.",
    see="backprop-tensors#layernorm-backward",
)
def sums(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = (dz - dz.sum(-1, keepdim=True) - z * (dz * z).sum(-1, keepdim=True)) / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "adds the term of the deviation",
    hint="A larger entry makes sigma larger, which pulls z back. Which sign has that effect?",
    see="backprop-tensors#layernorm-backward",
)
def adds(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = (dz - dz.mean(-1, keepdim=True) + z * (dz * z).mean(-1, keepdim=True)) / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "averages over the whole batch",
    hint="Every vector has a mean and a deviation of its own. Which dimension do your means "
    "run over?",
    see="backprop-tensors#layernorm-backward",
)
def whole_batch(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = (dz - dz.mean() - z * (dz * z).mean()) / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "keeps parameter gradients of every position",
    hint="There is one gamma for all positions. What happens to their contributions?",
    see="backprop#shared-values-add-up",
)
def no_sum(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = (dz - dz.mean(-1, keepdim=True) - z * (dz * z).mean(-1, keepdim=True)) / sigma
    dgamma, dbeta = dy * z, dy
    return dx, dgamma, dbeta


@exercise.wrong(
    "averages the parameter gradients over positions",
    hint="Each position used gamma, and each use moves the loss. If the loss is a mean, dy "
    "knows already.",
    see="backprop#shared-values-add-up",
)
def mean_of_positions(dy, x, weight, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = (dz - dz.mean(-1, keepdim=True) - z * (dz * z).mean(-1, keepdim=True)) / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).mean(0), dy.reshape(rows).mean(0)
    return dx, dgamma, dbeta


@exercise.wrong(
    "returns float32 whatever it is given",
    hint="Computing in float32 is a good idea for 16 bits, but a gradient has the dtype of "
    "what it belongs to.",
    see="backprop-tensors#layernorm-backward",
)
def to_float32(dy, x, weight, eps=1e-5):
    dy, x, weight = dy.float(), x.float(), weight.float()
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z = centred / sigma
    dz = weight * dy
    dx = (dz - dz.mean(-1, keepdim=True) - z * (dz * z).mean(-1, keepdim=True)) / sigma
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * z).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return dx, dgamma, dbeta


@exercise.right("two projections: off the mean, off z")
def projections(dy, x, weight, eps=1e-5):
    variance, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
    rstd = torch.rsqrt(variance + eps)
    z = (x - mean) * rstd
    dz = dy * weight
    dz = dz - dz.mean(dim=-1, keepdim=True) - z * (dz * z).mean(dim=-1, keepdim=True)
    lead = list(range(x.ndim - 1))
    dgamma = (dy * z).sum(lead) if lead else dy * z
    return dz * rstd, dgamma, dy.sum(lead) if lead else dy


@exercise.right("node by node through centre, variance and root")
def node_by_node(dy, x, weight, eps=1e-5):
    d = x.shape[-1]
    centred = x - x.sum(-1, keepdim=True) / d
    variance = (centred**2).sum(-1, keepdim=True) / d
    sigma = torch.sqrt(variance + eps)
    z = centred / sigma
    dz = dy * weight
    dsigma = (dz * -centred / sigma**2).sum(-1, keepdim=True)
    dvariance = dsigma / (2 * sigma)
    dcentred = dz / sigma + dvariance * 2 * centred / d
    dx = dcentred - dcentred.sum(-1, keepdim=True) / d
    return dx, (dy * z).reshape(-1, d).sum(0), dy.reshape(-1, d).sum(0)


@exercise.right("the Jacobian of every row, in float64")
def with_jacobians(dy, x, weight, eps=1e-5):
    d = x.shape[-1]
    rows, upstream = x.reshape(-1, d).double(), dy.reshape(-1, d).double()
    dx, dgamma = torch.zeros_like(rows), torch.zeros(d, dtype=torch.float64)
    for i in range(len(rows)):
        c = rows[i] - rows[i].mean()
        s = float((c @ c) / d + eps) ** 0.5
        z = c / s
        J = (torch.eye(d, dtype=torch.float64) - 1 / d - torch.outer(z, z) / d) / s
        dx[i] = J @ (upstream[i] * weight.double())
        dgamma += upstream[i] * z
    dbeta = upstream.sum(0)
    return dx.reshape(x.shape).to(x.dtype), dgamma.to(weight.dtype), dbeta.to(weight.dtype)


@exercise.shortcut("a layer norm of torch, differentiated by torch")
def torch_backward(dy, x, weight, eps=1e-5):
    x_, gamma = x.clone().requires_grad_(), weight.clone().requires_grad_()
    beta = torch.zeros_like(weight).requires_grad_()
    y = F.layer_norm(x_, x.shape[-1:], gamma, beta, eps)
    return torch.autograd.grad(y, (x_, gamma, beta), dy)
