"""Exercise: two signed numbers of 4 bits in a byte."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref import quantization
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(codes: Tensor) -> Tensor:
    return quantization.pack((codes + 8).to(torch.uint8))


exercise = Exercise(
    "pack_int4",
    points=2,
    difficulty=2,
    minutes=15,
    reference=reference,
    chapter="quantization#four-bits",
)


def codes(draw: Draw, *shape: int) -> Tensor:
    return draw.integers(-8, 7, *shape).to(torch.int8)


@exercise.property("neighbours share a byte, the first one in the low half", weight=2)
def pairs(draw: Draw):
    yield Case((torch.tensor([1, 2], dtype=torch.int8),), note="one pair")
    yield Case((torch.tensor([-8, 7, 0, -1], dtype=torch.int8),), note="the ends of the range")
    yield Case((codes(draw, 2 * draw.integer(3, 5)),))
    yield Case((codes(draw, 12),), note="six pairs")


@exercise.property("every row is packed by itself")
def rows(draw: Draw):
    yield Case((codes(draw, 2, 4),), note="two rows")
    yield Case((codes(draw, 4, 4),), note="as many rows as columns")
    yield Case((codes(draw, 2, 3, 6),), note="two leading dimensions")


@exercise.property("the odd one out shares its byte with a zero in the high half")
def odd(draw: Draw):
    yield Case((torch.tensor([3], dtype=torch.int8),), note="a single code")
    yield Case((codes(draw, 5),), note="five codes")
    yield Case((codes(draw, 3, 3),), note="three rows of three")
    yield Case((codes(draw, 2, 5),), note="two rows of five")


@exercise.wrong(
    "puts the first code into the high half",
    hint="Both orders are in use. This one has the first of the two in the low four bits.",
    see="quantization#four-bits",
)
def high_first(codes):
    u = (codes + 8).to(torch.uint8)
    u = F.pad(u, (0, u.shape[-1] % 2))
    return u[..., 0::2] << 4 | u[..., 1::2]


@exercise.wrong(
    "forgets the offset of 8",
    hint="Four bits hold 0 to 15. What becomes of -8 to 7 so that nothing is negative?",
    see="quantization#offset",
)
def no_offset(codes):
    u = (codes.to(torch.int16) & 15).to(torch.uint8)
    u = F.pad(u, (0, u.shape[-1] % 2))
    return u[..., 0::2] | u[..., 1::2] << 4


@exercise.wrong(
    "lets negative codes spill into the other half",
    hint="In a byte -1 is eight ones. Four of them land on the neighbour. Make the codes non-"
    "negative first.",
    see="quantization#offset",
)
def spills(codes):
    u = codes.view(torch.uint8)
    u = F.pad(u, (0, u.shape[-1] % 2))
    return u[..., 0::2] | u[..., 1::2] << 4


@exercise.wrong(
    "uses an offset of 7",
    hint="The smallest code is -8. Where does it go when 7 is added?",
    see="quantization#offset",
)
def offset_7(codes):
    u = (codes + 7).to(torch.uint8)
    u = F.pad(u, (0, u.shape[-1] % 2))
    return u[..., 0::2] | u[..., 1::2] << 4


@exercise.wrong(
    "packs the first half of a row with the second",
    hint="Neighbours share a byte: code 0 with code 1. Look at which positions your two slices"
    " take.",
    see="quantization#four-bits",
)
def halves(codes):
    u = (codes + 8).to(torch.uint8)
    u = F.pad(u, (0, u.shape[-1] % 2))
    return u[..., : u.shape[-1] // 2] | u[..., u.shape[-1] // 2 :] << 4


@exercise.wrong(
    "shifts by 8 bits",
    hint="A shift by 8 pushes a byte out of itself. Half of a byte is how many bits?",
    see="quantization#four-bits",
)
def shift_8(codes):
    u = (codes + 8).to(torch.uint8)
    u = F.pad(u, (0, u.shape[-1] % 2))
    return u[..., 0::2] | (u[..., 1::2].int() << 8).to(torch.uint8)


@exercise.wrong(
    "shifts by 3 bits",
    hint="The two halves overlap. How many bits does a number up to 15 take?",
    see="quantization#four-bits",
)
def shift_3(codes):
    u = (codes + 8).to(torch.uint8)
    u = F.pad(u, (0, u.shape[-1] % 2))
    return u[..., 0::2] | u[..., 1::2] << 3


@exercise.wrong(
    "combines the halves with and",
    hint="Bits of the two halves never stand in the same place, so `&` leaves nothing. Which "
    "operation keeps what is set in either?",
    see="quantization#four-bits",
)
def and_(codes):
    u = (codes + 8).to(torch.uint8)
    u = F.pad(u, (0, u.shape[-1] % 2))
    return u[..., 0::2] & (u[..., 1::2] << 4)


@exercise.wrong(
    "drops the odd one out",
    hint="A row of five codes takes three bytes. Where is the last code of yours?",
    see="quantization#odd-lengths",
)
def drops_odd(codes):
    u = (codes + 8).to(torch.uint8)
    u = u[..., : u.shape[-1] // 2 * 2]
    return u[..., 0::2] | u[..., 1::2] << 4


@exercise.wrong(
    "fills up with the code 0 instead of the bits 0",
    hint="After the offset the code 0 is the number 8. The high half of the last byte should "
    "be empty: pad after adding 8.",
    see="quantization#odd-lengths",
)
def pads_first(codes):
    u = (F.pad(codes, (0, codes.shape[-1] % 2)) + 8).to(torch.uint8)
    return u[..., 0::2] | u[..., 1::2] << 4


@exercise.wrong(
    "pads in front",
    hint="The first code belongs into the low half of the first byte. At which end does the "
    "empty place go?",
    see="quantization#odd-lengths",
)
def pads_in_front(codes):
    u = (codes + 8).to(torch.uint8)
    u = F.pad(u, (u.shape[-1] % 2, 0))
    return u[..., 0::2] | u[..., 1::2] << 4


@exercise.wrong(
    "packs across the ends of rows",
    hint="Rows are packed by themselves, along the last dimension. What does flattening do to "
    "rows of odd length, and to the shape?",
    see="quantization#four-bits",
)
def flattened(codes):
    u = (codes + 8).to(torch.uint8).flatten()
    u = F.pad(u, (0, u.shape[-1] % 2))
    return u[..., 0::2] | u[..., 1::2] << 4


@exercise.wrong(
    "returns int8",
    hint="The bytes are bits, not numbers with a sign. Which dtype does the caller expect?",
    see="quantization#four-bits",
)
def signed(codes):
    u = (codes + 8).to(torch.uint8)
    u = F.pad(u, (0, u.shape[-1] % 2))
    return (u[..., 0::2] | u[..., 1::2] << 4).view(torch.int8)


@exercise.right("two slices, a shift and an or")
def slices(codes):
    u = (codes + 8).to(torch.uint8)
    u = F.pad(u, (0, u.shape[-1] % 2))
    return u[..., 0::2] | u[..., 1::2] << 4


@exercise.right("arithmetic: low + 16 high")
def arithmetic(codes):
    numbers = codes.int() + 8
    low, high = numbers[..., ::2], numbers[..., 1::2]
    packed = low.clone()
    packed[..., : high.shape[-1]] += 16 * high
    return packed.byte()


@exercise.right("pairs as a dimension, weighted and summed")
def weighted(codes):
    n = codes.shape[-1]
    numbers = torch.zeros(*codes.shape[:-1], n + n % 2, dtype=torch.int64)
    numbers[..., :n] = codes.long() + 8
    pairs = numbers.reshape(*codes.shape[:-1], -1, 2)
    return (pairs * torch.tensor([1, 16])).sum(-1).to(torch.uint8)
