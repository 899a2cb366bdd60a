"""Exercise: a linear layer whose weights are 4-bit codes with scales."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref import quantization
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    codes = quantization.unpack(packed, x.shape[-1]).float() - 8
    return F.linear(x, (codes * scale).to(x.dtype))


exercise = Exercise(
    "quantized_linear",
    points=3,
    difficulty=3,
    minutes=20,
    reference=reference,
    chapter="quantization#a-linear-layer-of-codes",
)


def layer(
    draw: Draw, *lead: int, n_in: int, n_out: int, dtype=torch.float32, note="", **about
) -> Case:
    x = draw.normal(*lead, n_in, dtype=dtype)
    codes = draw.integers(-7, 7, n_out, n_in)
    scale = draw.integers(5, 30, n_out, 1) / 100
    return Case((x, quantization.pack((codes + 8).to(torch.uint8)), scale), note=note, **about)


@exercise.property("the weights are what the codes and scales stand for", weight=2)
def rows(draw: Draw):
    yield Case((torch.tensor([[1.0, 10.0]]), torch.tensor([[0x9A]], dtype=torch.uint8),
                torch.tensor([[0.5]])), note="one byte")  # fmt: skip
    yield layer(draw, 1, n_in=4, n_out=2, note="one row")
    yield layer(draw, 3, n_in=6, n_out=4, note="three rows")
    yield layer(draw, 4, n_in=4, n_out=4, note="one size for all")
    yield layer(draw, 2, n_in=2 * draw.integer(3, 6), n_out=3)


@exercise.property("the width may be odd")
def odd(draw: Draw):
    yield layer(draw, 2, n_in=3, n_out=2, note="three inputs")
    yield layer(draw, 3, n_in=7, n_out=7, note="seven inputs and outputs")
    yield layer(draw, 2, n_in=1, n_out=3, note="a single input")


@exercise.property("leading dimensions are free")
def leading(draw: Draw):
    yield layer(draw, n_in=4, n_out=3, note="a single vector")
    yield layer(draw, 2, 3, n_in=4, n_out=5, note="a batch of sequences")


@exercise.property("the result has the dtype of x", weight=0.5)
def dtypes(draw: Draw):
    yield layer(
        draw, 2, n_in=4, n_out=3, dtype=torch.float64, note="float64 inputs", tolerance=1e-6
    )
    yield layer(draw, 2, n_in=4, n_out=3, dtype=torch.bfloat16, note="bfloat16 inputs")


@exercise.property("gradients flow back to x", weight=0.5)
def gradients(draw: Draw):
    x, packed, scale = layer(draw, 3, n_in=4, n_out=2).args
    yield Case((x, packed), {"scale": scale}, gradients=True)


@exercise.wrong(
    "reads the high half first",
    hint="The first of two neighbours lies in the low four bits. Unpack one byte by hand.",
    see="quantization#four-bits",
)
def high_first(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((high, low), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = (u.float() - 8) * scale
    return x @ W.to(x.dtype).T


@exercise.wrong(
    "forgets to take the offset away",
    hint="The bits hold 0 to 15, the codes -8 to 7. Your weights are all positive.",
    see="quantization#offset",
)
def no_offset(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = u.float() * scale
    return x @ W.to(x.dtype).T


@exercise.wrong(
    "takes the offset away from bytes without a sign",
    hint="uint8 has no negative numbers: 3 - 8 becomes 251. Convert first.",
    see="quantization#offset",
)
def wraps(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = (u - 8) * scale
    return x @ W.to(x.dtype).T


@exercise.wrong(
    "takes away 7 instead of 8",
    hint="Which number stands for the code 0?",
    see="quantization#offset",
)
def offset_7(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = (u.float() - 7) * scale
    return x @ W.to(x.dtype).T


@exercise.wrong(
    "concatenates low and high halves",
    hint="Neighbours lie in one byte, so low and high halves alternate. `cat` puts all low "
    "ones first.",
    see="quantization#four-bits",
)
def halves(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.cat((low, high), dim=-1)[..., : x.shape[-1]]
    W = (u.float() - 8) * scale
    return x @ W.to(x.dtype).T


@exercise.wrong(
    "leaves the rest of the byte in the low half",
    hint="Shifting by 4 gives the high half. What is still there when the low one is wanted?",
    see="quantization#four-bits",
)
def no_mask(x, packed, scale):
    low, high = packed, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = (u.float() - 8) * scale
    return x @ W.to(x.dtype).T


@exercise.wrong(
    "divides by the scale",
    hint="The scale is the size of one step. What are three steps of 0.5?",
    see="quantization#absmax",
)
def divides(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = (u.float() - 8) / scale
    return x @ W.to(x.dtype).T


@exercise.wrong(
    "leaves the scale out",
    hint="The codes are whole numbers; the weights are not. Where does your code use `scale`?",
    see="quantization#absmax",
)
def no_scale(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = u.float() - 8
    return x @ W.to(x.dtype).T


@exercise.wrong(
    "takes one scale for all outputs",
    hint="Every output has a scale of its own, a column (out, 1).",
    see="quantization#per-channel",
)
def first_scale(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = (u.float() - 8) * scale[0]
    return x @ W.to(x.dtype).T


@exercise.wrong(
    "scales the inputs instead of the outputs",
    hint="The scales are (out, 1) and belong to the rows of W. A transpose or a squeeze lines "
    "them up with the columns.",
    see="quantization#per-channel",
)
def scales_columns(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = (u.float() - 8) * scale.T
    return x @ W.to(x.dtype).T


@exercise.wrong(
    "multiplies by a weight that is not transposed",
    hint="W is (out, in). Which dimension of it is summed over?",
    see="quantization#a-linear-layer-of-codes",
)
def not_transposed(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = (u.float() - 8) * scale
    return x @ W.to(x.dtype)


@exercise.wrong(
    "keeps the empty place of an odd width",
    hint="Three codes take two bytes, and the last half is empty. How many columns does x need?",
    see="quantization#odd-lengths",
)
def keeps_padding(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)
    W = (u.float() - 8) * scale
    return x @ W.to(x.dtype).T


@exercise.wrong(
    "rounds the activations to whole numbers",
    hint="Only the weights are codes. What happens to an x of 0.4 in an integer product?",
    see="quantization#a-linear-layer-of-codes",
)
def integer_inputs(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = (u.float() - 8) * scale
    return x.round() @ W.to(x.dtype).T


@exercise.wrong(
    "returns float32 whatever it is given",
    hint="The caller expects the dtype of x.",
    see="quantization#a-linear-layer-of-codes",
)
def to_float32(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = (u.float() - 8) * scale
    return x.float() @ W.T


@exercise.wrong(
    "cuts the gradient to x",
    hint="The weights are fixed, but the layers before this one may still learn. Look for "
    "detach, no_grad, .data or .item().",
    see="quantization#a-linear-layer-of-codes",
)
def detached(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = (u.float() - 8) * scale
    return x.detach() @ W.to(x.dtype).T


@exercise.right("unpacked, scaled, multiplied")
def unpacked(x, packed, scale):
    low, high = packed & 15, packed >> 4
    u = torch.stack((low, high), dim=-1).flatten(-2)[..., : x.shape[-1]]
    W = (u.float() - 8) * scale
    return x @ W.to(x.dtype).T


@exercise.right("the scale applied to the outputs")
def scale_last(x, packed, scale):
    n = x.shape[-1]
    codes = torch.zeros(packed.shape[0], 2 * packed.shape[1], dtype=torch.int32)
    codes[:, 0::2] = packed.int() % 16 - 8
    codes[:, 1::2] = packed.int() // 16 - 8
    y = torch.einsum("...i,oi->...o", x.float(), codes[:, :n].float()) * scale.squeeze(-1)
    return y.to(x.dtype)


@exercise.right("low and high halves multiplied on their own")
def two_products(x, packed, scale):
    low = ((packed & 15).to(torch.float64) - 8) * scale
    high = ((packed >> 4).to(torch.float64) - 8) * scale
    even, odd = x[..., 0::2].double(), x[..., 1::2].double()
    y = even @ low.T + odd @ high[:, : odd.shape[-1]].T
    return y.to(x.dtype)
