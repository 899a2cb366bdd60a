"""Exercise: RMSNorm: a layer norm that neither centres nor shifts."""

import torch
import torch.nn.functional as F

from llmr_ref import layers
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "rms_norm",
    points=2,
    difficulty=2,
    minutes=15,
    reference=layers.rms_norm,
    chapter="block#rms-norm",
    forbids=("torch.nn.functional.rms_norm", "torch.rms_norm", "torch.nn.RMSNorm"),
    rule="Compute the root of the mean square yourself; torch's RMS norm is what you rebuild.",
)


def norm(
    draw: Draw, *shape: int, dtype=torch.float32, scale=2.0, gradients=False, note="", **settings
):
    """Vectors with a mean of their own and a gain that varies."""
    x = draw.normal(*shape, scale=scale) + scale / 2
    gain = draw.normal(shape[-1], scale=0.5) + 1.25
    return Case((x.to(dtype), gain.to(dtype)), settings, note=note, gradients=gradients)


@exercise.property("every vector is divided by the root of its mean square", weight=2)
def vectors(draw: Draw):
    yield norm(draw, 3, note="one vector of three")
    yield norm(draw, 2, 3, note="two vectors")
    yield norm(draw, 4, 4, note="as many vectors as numbers in each")
    yield norm(draw, 2, draw.integer(3, 5), 6, note="a batch of sequences")


@exercise.property("eps stands under the root, and is an argument")
def epsilons(draw: Draw):
    yield norm(draw, 2, 4, eps=0.5, note="eps=0.5")
    yield norm(draw, 2, 3, scale=0.05, eps=0.01, note="small numbers")
    yield Case((torch.zeros(2, 3), draw.normal(3)), note="zeros")


@exercise.property("16-bit numbers are squared in 32 bits, and the dtype of x comes back")
def dtypes(draw: Draw):
    yield norm(draw, 2, 4, dtype=torch.float64, note="float64")
    yield norm(draw, 2, 4, dtype=torch.float16, scale=600.0, note="large numbers in float16")
    yield norm(draw, 2, 4, dtype=torch.bfloat16, note="bfloat16")


@exercise.property("gradients reach the input and the gain", weight=0.5)
def gradients(draw: Draw):
    yield norm(draw, 2, 3, 4, gradients=True)


@exercise.wrong(
    "subtracts the mean",
    hint="This is how LayerNorm begins. RMSNorm leaves the mean where it is.",
    see="block#rms-norm",
)
def centred(x, weight, eps=1e-5):
    z = x.double()
    z = z - z.mean(-1, keepdim=True)
    mean_square = (z * z).mean(-1, keepdim=True)
    y = z / torch.sqrt(mean_square + eps)
    return (weight * y).to(x.dtype)


@exercise.wrong(
    "divides by the length of the vector",
    hint="RMS is the root of the **mean** of the squares. Your sum grows with d.",
    see="block#rms-norm",
)
def summed(x, weight, eps=1e-5):
    z = x.double()
    mean_square = (z * z).sum(-1, keepdim=True)
    y = z / torch.sqrt(mean_square + eps)
    return (weight * y).to(x.dtype)


@exercise.wrong(
    "adds eps outside of the root",
    hint="Is your eps inside the root? For small numbers the two differ a lot.",
    see="block#rms-norm",
)
def eps_outside(x, weight, eps=1e-5):
    z = x.double()
    mean_square = (z * z).mean(-1, keepdim=True)
    y = z / (torch.sqrt(mean_square) + eps)
    return (weight * y).to(x.dtype)


@exercise.wrong(
    "uses an eps of its own",
    hint="Your result is right for the default only. Where does `eps` appear?",
    see="block#rms-norm",
)
def own_eps(x, weight, eps=1e-5):
    z = x.double()
    mean_square = (z * z).mean(-1, keepdim=True)
    y = z / torch.sqrt(mean_square + 1e-5)
    return (weight * y).to(x.dtype)


@exercise.wrong(
    "divides by the mean square",
    hint="The R of RMS stands for root.",
    see="block#rms-norm",
)
def no_root(x, weight, eps=1e-5):
    z = x.double()
    mean_square = (z * z).mean(-1, keepdim=True)
    y = z / (mean_square + eps)
    return (weight * y).to(x.dtype)


@exercise.wrong(
    "multiplies by the root",
    hint="A vector of any length is to come out with numbers around 1. Which operation "
    "makes large ones small?",
    see="block#rms-norm",
)
def multiplies(x, weight, eps=1e-5):
    z = x.double()
    mean_square = (z * z).mean(-1, keepdim=True)
    y = z * torch.sqrt(mean_square + eps)
    return (weight * y).to(x.dtype)


@exercise.wrong(
    "takes the mean of the sizes",
    hint="Squares, not absolute values: large numbers count for more.",
    see="block#rms-norm",
)
def mean_abs(x, weight, eps=1e-5):
    z = x.double()
    mean_square = z.abs().mean(-1, keepdim=True) ** 2
    y = z / torch.sqrt(mean_square + eps)
    return (weight * y).to(x.dtype)


@exercise.wrong(
    "normalises along the first dimension",
    hint="The numbers of one vector lie along the last dimension.",
    see="block#rms-norm",
)
def first_dim(x, weight, eps=1e-5):
    z = x.double()
    mean_square = (z * z).mean(0, keepdim=True)
    y = z / torch.sqrt(mean_square + eps)
    return (weight * y).to(x.dtype)


@exercise.wrong(
    "normalises the whole tensor at once",
    hint="Every position has a root mean square of its own.",
    see="block#rms-norm",
)
def everything(x, weight, eps=1e-5):
    z = x.double()
    mean_square = (z * z).mean()
    y = z / torch.sqrt(mean_square + eps)
    return (weight * y).to(x.dtype)


@exercise.wrong(
    "leaves out the gain",
    hint="After the division every number is multiplied by its own gamma.",
    see="block#rms-norm",
)
def no_gain(x, weight, eps=1e-5):
    z = x.double()
    mean_square = (z * z).mean(-1, keepdim=True)
    y = z / torch.sqrt(mean_square + eps)
    return (y).to(x.dtype)


@exercise.wrong(
    "counts the gain from 0",
    hint="The gain multiplies as it is. Some models store it minus 1; this one does not.",
    see="block#rms-norm",
)
def plus_one(x, weight, eps=1e-5):
    z = x.double()
    mean_square = (z * z).mean(-1, keepdim=True)
    y = z / torch.sqrt(mean_square + eps)
    return ((1 + weight) * y).to(x.dtype)


@exercise.wrong(
    "squares in 16 bits",
    hint="600 squared is more than float16 can hold. In which dtype does the mean have "
    "to be taken?",
    see="block#rms-norm",
)
def sixteen_bits(x, weight, eps=1e-5):
    z = x
    mean_square = (z * z).mean(-1, keepdim=True)
    y = z / torch.sqrt(mean_square + eps)
    return (weight * y).to(x.dtype)


@exercise.wrong(
    "returns float32 whatever it is given",
    hint="Compute in 32 bits, but give back what you were given.",
    see="block#rms-norm",
)
def to_float32(x, weight, eps=1e-5):
    z = x.double()
    mean_square = (z * z).mean(-1, keepdim=True)
    y = z / torch.sqrt(mean_square + eps)
    return weight.float() * y.float()


@exercise.wrong(
    "cuts the gradient off at the root",
    hint="The root depends on x, so x moves the result through it too. What does `detach` hide?",
    see="block#rms-norm",
)
def detached(x, weight, eps=1e-5):
    z = x.double()
    mean_square = (z * z).mean(-1, keepdim=True).detach()
    y = z / torch.sqrt(mean_square + eps)
    return (weight * y).to(x.dtype)


@exercise.right("the formula, line by line")
def by_formula(x, weight, eps=1e-5):
    z = x.double()
    mean_square = (z * z).mean(-1, keepdim=True)
    y = z / torch.sqrt(mean_square + eps)
    return (weight * y).to(x.dtype)


@exercise.right("a product with the reciprocal root")
def by_rsqrt(x, weight, eps=1e-5):
    z = x if x.dtype == torch.float64 else x.float()
    scale = z.square().mean(dim=-1, keepdim=True).add(eps).rsqrt()
    return (z * scale * weight).type_as(x)


@exercise.right("the length of the vector over the root of d")
def by_length(x, weight, eps=1e-5):
    z = x.double()
    d = z.shape[-1]
    squares = torch.einsum("...i,...i->...", z, z).unsqueeze(-1)
    y = z * (d / (squares + d * eps)) ** 0.5
    return (weight * y).to(x.dtype)


@exercise.shortcut("torch's own function")
def functional(x, weight, eps=1e-5):
    return F.rms_norm(x, x.shape[-1:], weight, eps)
