"""Exercise: LayerNorm: the z-score of every vector, then an affine map."""

import torch
import torch.nn.functional as F

from llmr_ref import layers
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "layer_norm",
    points=2,
    difficulty=2,
    minutes=15,
    reference=layers.layer_norm,
    chapter="block#layer-norm",
    forbids=(
        "torch.nn.functional.layer_norm",
        "torch.layer_norm",
        "torch.native_layer_norm",
        "torch.nn.LayerNorm",
        "torch.nn.functional.group_norm",
    ),
    rule="Compute mean and variance yourself; the norms of torch are what you are rebuilding.",
)


def norm(
    draw: Draw, *shape: int, dtype=torch.float32, scale=2.0, gradients=False, note="", **settings
):
    """Vectors with a mean of their own, a gain and a shift that vary."""
    x = draw.normal(*shape, scale=scale) + 1.5
    gain, shift = draw.normal(shape[-1], scale=0.5) + 1.25, draw.normal(shape[-1])
    args = tuple(t.to(dtype) for t in (x, gain, shift))
    return Case(args, settings, note=note, gradients=gradients)


@exercise.property("every vector is normalised, stretched and shifted", weight=2)
def vectors(draw: Draw):
    yield norm(draw, 3, note="one vector of three")
    yield norm(draw, 2, 3, note="two vectors")
    yield norm(draw, 4, 4, note="as many vectors as numbers in each")
    yield norm(draw, 2, draw.integer(3, 5), 6, note="a batch of sequences")


@exercise.property("eps stands under the root, and is an argument")
def epsilons(draw: Draw):
    yield norm(draw, 2, 4, eps=0.5, note="eps=0.5")
    yield norm(draw, 2, 3, scale=0.05, eps=0.01, note="a small variance")
    x = torch.full((2, 3), float(draw.integer(2, 5)))
    yield Case((x, torch.ones(3), draw.normal(3)), note="vectors whose entries are all equal")


@exercise.property("gradients reach the input, the gain and the shift", weight=0.5)
def gradients(draw: Draw):
    yield norm(draw, 2, 3, 4, gradients=True)


@exercise.property("the result has the dtype of x", weight=0.5)
def dtypes(draw: Draw):
    yield norm(draw, 2, 4, dtype=torch.float64, note="float64")
    yield norm(draw, 2, 8, dtype=torch.bfloat16, note="bfloat16")


@exercise.wrong(
    "divides the variance by d - 1",
    hint="`std` and `var` of torch divide by d - 1 unless told otherwise. A layer norm "
    "divides by d.",
    see="block#layer-norm",
)
def unbiased(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    variance = x.var(-1, keepdim=True)
    z = centred / torch.sqrt(variance + eps)
    return weight * z + bias


@exercise.wrong(
    "adds eps to the deviation instead of the variance",
    hint="Is your eps inside the root? The two differ when the variance is small or eps is large.",
    see="block#layer-norm",
)
def eps_outside(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    z = centred / (torch.sqrt(variance) + eps)
    return weight * z + bias


@exercise.wrong(
    "uses an eps of its own",
    hint="Your result is right for the default only. Where in your code does `eps` appear?",
    see="block#layer-norm",
)
def own_eps(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    z = centred / torch.sqrt(variance + 1e-5)
    return weight * z + bias


@exercise.wrong(
    "divides by the variance",
    hint="The z-score divides by the standard deviation. Did you take the root?",
    see="block#layer-norm",
)
def by_variance(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    z = centred / (variance + eps)
    return weight * z + bias


@exercise.wrong(
    "does not subtract the mean",
    hint="What you compute is an RMS norm. The z-score is taken around the mean.",
    see="block#layer-norm",
)
def not_centred(x, weight, bias, eps=1e-5):
    centred = x
    variance = (centred**2).mean(-1, keepdim=True)
    z = centred / torch.sqrt(variance + eps)
    return weight * z + bias


@exercise.wrong(
    "measures the spread around 0 instead of the mean",
    hint="The vector is centred, but its spread was measured before that.",
    see="block#layer-norm",
)
def centred_late(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    variance = (x**2).mean(-1, keepdim=True)
    z = centred / torch.sqrt(variance + eps)
    return weight * z + bias


@exercise.wrong(
    "normalises along the first dimension",
    hint="A layer norm works inside one vector. Along which dimension do its d numbers lie?",
    see="block#layer-norm",
)
def first_dim(x, weight, bias, eps=1e-5):
    centred = x - x.mean(0, keepdim=True)
    variance = (centred**2).mean(0, keepdim=True)
    z = centred / torch.sqrt(variance + eps)
    return weight * z + bias


@exercise.wrong(
    "normalises the whole tensor at once",
    hint="Every position has a mean and a deviation of its own. Yours are shared by the batch.",
    see="block#layer-norm",
)
def everything(x, weight, bias, eps=1e-5):
    centred = x - x.mean()
    variance = (centred**2).mean()
    z = centred / torch.sqrt(variance + eps)
    return weight * z + bias


@exercise.wrong(
    "leaves out the gain",
    hint="After the z-score every number is multiplied by its own gamma.",
    see="block#layer-norm",
)
def no_gain(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    z = centred / torch.sqrt(variance + eps)
    return z + bias


@exercise.wrong(
    "leaves out the shift",
    hint="At the end every number gets its own beta.",
    see="block#layer-norm",
)
def no_shift(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    z = centred / torch.sqrt(variance + eps)
    return weight * z


@exercise.wrong(
    "multiplies the shift by the gain as well",
    hint="gamma stretches z. What happens to beta after that?",
    see="block#layer-norm",
)
def gain_of_shift(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    z = centred / torch.sqrt(variance + eps)
    return weight * (z + bias)


@exercise.wrong(
    "counts the gain from 0",
    hint="The gain multiplies as it is. Some models store it minus 1; this one does not.",
    see="block#layer-norm",
)
def plus_one(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    z = centred / torch.sqrt(variance + eps)
    return (1 + weight) * z + bias


@exercise.wrong(
    "returns float32 whatever it is given",
    hint="Computing in 32 bits is a good idea for 16-bit numbers, but the result has the "
    "dtype of x.",
    see="block#layer-norm",
)
def to_float32(x, weight, bias, eps=1e-5):
    x, weight, bias = x.float(), weight.float(), bias.float()
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    z = centred / torch.sqrt(variance + eps)
    return weight * z + bias


@exercise.wrong(
    "cuts the gradient off at the mean and the deviation",
    hint="Both depend on x, so x moves the result through them too. What does `detach` hide?",
    see="block#layer-norm",
)
def detached(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True).detach()
    z = centred / torch.sqrt(variance + eps)
    return weight * z + bias


@exercise.wrong(
    "subtracts the mean in place",
    hint="`-=` writes into the tensor of the caller, who still needs it for the residual.",
    see="block#layer-norm",
)
def in_place(x, weight, bias, eps=1e-5):
    x -= x.mean(-1, keepdim=True)
    centred = x
    variance = (centred**2).mean(-1, keepdim=True)
    z = centred / torch.sqrt(variance + eps)
    return weight * z + bias


@exercise.right("the formula, line by line")
def by_formula(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    z = centred / torch.sqrt(variance + eps)
    return weight * z + bias


@exercise.right("variance and mean in one call")
def by_var_mean(x, weight, bias, eps=1e-5):
    variance, mean = torch.var_mean(
        x.float() if x.itemsize < 4 else x, -1, correction=0, keepdim=True
    )
    z = (x - mean) * torch.rsqrt(variance + eps)
    return (z * weight + bias).to(x.dtype)


@exercise.right("the mean of the squares minus the square of the mean, in float64")
def by_moments(x, weight, bias, eps=1e-5):
    y = x.double()
    d = y.shape[-1]
    mean = y.sum(dim=-1, keepdim=True) / d
    variance = (y * y).sum(dim=-1, keepdim=True) / d - mean * mean
    z = (y - mean) / (variance.clamp(min=0) + eps) ** 0.5
    return torch.addcmul(bias.double(), z, weight.double()).to(x.dtype)


@exercise.shortcut("torch's own function")
def functional(x, weight, bias, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
