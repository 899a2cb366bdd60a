"""Exercise: weights as integers of 8 bits, a scale for every output."""

import torch
from torch import Tensor

from llmr_ref import quantization
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(W: Tensor) -> tuple[Tensor, Tensor]:
    q = quantization.quantize(W, bits=8, granularity="channel")
    return q.codes, torch.where(q.codes.abs().amax(-1, keepdim=True) > 0, q.scale, 1.0)


exercise = Exercise(
    "quantize_absmax",
    points=3,
    difficulty=2,
    minutes=20,
    reference=reference,
    chapter="quantization#absmax",
)


def rows(draw: Draw, *shape: int, dtype=torch.float32) -> Tensor:
    """Rows of different size; each code lies well away from the middle of two whole numbers."""
    size = (draw.integers(1, 8, *shape[:-1], 1) / 4).double()
    codes = draw.integers(-120, 120, *shape).double() + 0.6 * draw.booleans(*shape) - 0.3
    largest = torch.where(draw.booleans(*shape[:-1]), 127.0, -127.0)
    codes[..., 0] = largest
    order = draw.permutation(shape[-1])
    return (codes * size / 127)[..., order].to(dtype)


@exercise.property("each row is its largest magnitude in 127 steps on either side", weight=2)
def plain(draw: Draw):
    yield Case((torch.tensor([[1.0, -0.6, 0.3]]),), note="one row")
    yield Case((rows(draw, 2, 4),), note="two rows")
    yield Case((rows(draw, 3, 3),), note="as many rows as columns")
    yield Case((rows(draw, draw.integer(4, 6), 8),))
    yield Case((-rows(draw, 1, 4).abs(),), note="negative weights only")


@exercise.property("rows of different size have scales of their own")
def sizes(draw: Draw):
    W = rows(draw, 3, 5) * torch.tensor([[1.0], [100.0], [0.01]])
    yield Case((W,), note="a row a hundred times larger")
    yield Case((rows(draw, 2, 3, 4),), note="a leading dimension")


@exercise.property("a row of zeros has the codes 0 and the scale 1")
def zeros(draw: Draw):
    yield Case((torch.zeros(1, 3),), note="nothing but zeros")
    yield Case((rows(draw, 3, 4) * torch.tensor([[1.0], [0.0], [1.0]]),), note="a row of zeros")


@exercise.property("codes are int8, scales float32, also for 16-bit weights")
def dtypes(draw: Draw):
    W = torch.tensor([[0.75, -1.0, 0.25, 0.125], [3.0, 1.25, -0.75, 0.0]])
    yield Case((W.bfloat16(),), note="bfloat16 weights", tolerance=1e-6)


@exercise.wrong(
    "uses one scale for the whole matrix",
    hint="A row of small weights then has few codes left. Over which dimension is the largest "
    "magnitude taken?",
    see="quantization#per-channel",
)
def one_scale(W):
    W = W.float()
    largest = W.abs().amax().expand(*W.shape[:-1], 1)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (W / scale).round().to(torch.int8), scale


@exercise.wrong(
    "gives every column a scale",
    hint="W is (out, in), and an output's weights are a row. Which dimension disappears?",
    see="quantization#per-channel",
)
def columns(W):
    W = W.float()
    largest = W.abs().amax(-2, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (W / scale).round().to(torch.int8), scale


@exercise.wrong(
    "divides the range into 128 steps",
    hint="int8 ends at 127. Where does the largest weight go with 128 steps?",
    see="quantization#absmax",
)
def steps_128(W):
    W = W.float()
    largest = W.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest / 128, 1.0)
    return (W / scale).round().clamp(-128, 127).to(torch.int8), scale


@exercise.wrong(
    "uses all 255 steps on one side",
    hint="The codes reach from -127 to 127, so the largest magnitude is 127 steps from 0. What"
    " happens to codes beyond?",
    see="quantization#absmax",
)
def steps_255(W):
    W = W.float()
    largest = W.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest / 255, 1.0)
    return (W / scale).round().clamp(-128, 127).to(torch.int8), scale


@exercise.wrong(
    "takes the largest weight instead of the largest magnitude",
    hint="In a row of negative weights the largest one is the smallest in size. Which function"
    " comes first?",
    see="quantization#absmax",
)
def no_abs(W):
    W = W.float()
    largest = W.amax(-1, keepdim=True)
    scale = torch.where(largest != 0, largest / 127, 1.0)
    return (W / scale).round().clamp(-128, 127).to(torch.int8), scale


@exercise.wrong(
    "cuts the decimals off instead of rounding",
    hint="A conversion to integers drops what follows the point. The error can then be a whole"
    " step instead of half of one.",
    see="quantization#rounding",
)
def truncates(W):
    W = W.float()
    largest = W.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (W / scale).to(torch.int8), scale


@exercise.wrong(
    "rounds down",
    hint="`floor` is off by up to a whole step, always to the same side. Which whole number is"
    " nearest?",
    see="quantization#rounding",
)
def floors(W):
    W = W.float()
    largest = W.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (W / scale).floor().to(torch.int8), scale


@exercise.wrong(
    "returns the inverse of the scale",
    hint="The weight is code times scale. Is your scale the size of a step, or the number of "
    "steps in 1?",
    see="quantization#absmax",
)
def inverse(W):
    W = W.float()
    largest = W.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (W / scale).round().to(torch.int8), 1 / scale


@exercise.wrong(
    "returns the largest magnitude as the scale",
    hint="The scale is one step. How many steps are there up to the largest magnitude?",
    see="quantization#absmax",
)
def largest_as_scale(W):
    W = W.float()
    largest = W.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (W / scale).round().to(torch.int8), torch.where(largest > 0, largest, 1.0)


@exercise.wrong(
    "divides by zero in a row of zeros",
    hint="0 divided by 0 is nan, and nan has no code. What scale does a row of zeros get?",
    see="quantization#absmax",
)
def zero_row(W):
    W = W.float()
    largest = W.abs().amax(-1, keepdim=True)
    scale = largest / 127
    return (W / scale).round().to(torch.int8), scale


@exercise.wrong(
    "keeps the codes as floats",
    hint="The saving is in the dtype: one byte instead of four. Convert after rounding.",
    see="quantization#absmax",
)
def floats(W):
    W = W.float()
    largest = W.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (W / scale).round(), scale


@exercise.wrong(
    "returns scales without the last dimension",
    hint="A scale (out,) lines up with the columns when it is multiplied with the codes. Keep "
    "the dimension.",
    see="quantization#per-channel",
)
def flat_scale(W):
    W = W.float()
    largest = W.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (W / scale).round().to(torch.int8), scale.squeeze(-1)


@exercise.wrong(
    "computes the scale in 16 bits",
    hint="A scale with two digits spoils every weight of its row. Convert before you divide.",
    see="quantization#absmax",
)
def sixteen_bits(W):
    largest = W.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (W / scale).round().to(torch.int8), scale.to(W.dtype)


@exercise.wrong(
    "stores the codes without a sign",
    hint="uint8 has no negative numbers: -1 becomes 255. Which dtype has both signs?",
    see="quantization#absmax",
)
def unsigned(W):
    W = W.float()
    largest = W.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (W / scale).round().to(torch.int16).to(torch.uint8), scale


@exercise.right("the largest magnitude of each row")
def largest_of_row(W):
    W = W.float()
    largest = W.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (W / scale).round().to(torch.int8), scale


@exercise.right("row by row")
def row_by_row(W):
    codes = torch.zeros(W.shape, dtype=torch.int8)
    scales = torch.ones(*W.shape[:-1], 1)
    flat_codes, flat_scales = codes.view(-1, W.shape[-1]), scales.view(-1, 1)
    for i, row in enumerate(W.reshape(-1, W.shape[-1]).float()):
        s = max(row.max().item(), -row.min().item()) / 127
        if s:
            flat_scales[i] = s
            flat_codes[i] = torch.round(row.double() / s).to(torch.int8)
    return codes, scales


@exercise.right("the infinity norm, and a multiplication")
def infinity_norm(W):
    norm = torch.linalg.vector_norm(W.float(), ord=float("inf"), dim=-1, keepdim=True)
    scale = norm / 127
    scale[norm == 0] = 1
    codes = torch.round(W.float() * scale.reciprocal()).clamp(-127, 127)
    return codes.char(), scale
