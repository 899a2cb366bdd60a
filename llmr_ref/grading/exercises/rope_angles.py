"""Exercise: the angle by which RoPE turns every pair of dimensions at every position."""

import math

import torch

from llmr_ref import rope
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "rope_angles",
    points=3,
    difficulty=2,
    minutes=15,
    reference=rope.rope_angles,
    chapter="rope#the-angle-of-a-position",
)

# Of the largest angle: float32 keeps it with room to spare, 16-bit floats do not.
TOLERANCE = 1e-5


def angles(*args, note="", **kwargs):
    return Case(args, kwargs, note=note, any_float=True, tolerance=TOLERANCE)


@exercise.property("position i turns pair k by i times base to the power of -2k/d", weight=2)
def counted(draw: Draw):
    yield angles(torch.tensor([0, 1, 2]), 4, note="three positions and two pairs")
    yield angles(torch.tensor([0, 1]), 2, note="a single pair")
    yield angles(torch.arange(draw.integer(4, 7)), 6)
    yield angles(torch.arange(5), 2 * draw.integer(5, 8))


@exercise.property("positions are any numbers in any order", weight=1.5)
def positions(draw: Draw):
    yield angles(torch.tensor([3]), 4, note="one position that is not the first")
    yield angles(draw.integers(2, 90, 5), 4, note="positions that do not start at 0")
    yield angles(draw.permutation(6) + 40, 6, note="positions out of order")
    yield angles(torch.tensor([0.5, 2.25]), 4, note="positions between whole numbers")
    yield angles(draw.integers(500, 2000, 3), 8, note="positions far out")


@exercise.property("the base is an argument")
def bases(draw: Draw):
    yield angles(torch.tensor([1, 2]), 4, 100.0, note="base=100.0")
    yield angles(
        draw.integers(1, 20, 3), 6, base=float(draw.integer(300, 900)), note="another base"
    )


@exercise.property("leading dimensions are free", weight=0.5)
def leading(draw: Draw):
    yield angles(draw.integers(0, 30, 2, 3), 4, note="positions of a batch")
    yield angles(draw.integers(0, 30, 2, 1, 5), 8, note="positions with a dimension of size 1")


@exercise.wrong(
    "halves the exponent: k/d instead of 2k/d",
    hint="With d/2 pairs the exponent should run over the whole range from 0 almost to 1. Up to "
    "which number does yours run?",
    see="rope#the-angle-of-a-position",
)
def half_exponent(positions, d, base=10000.0):
    frequencies = base ** (-torch.arange(d // 2, dtype=torch.float32) / d)
    return positions.unsqueeze(-1) * frequencies


@exercise.wrong(
    "counts the pairs from 1 in a formula that counts from 0",
    hint="Your first pair does not turn by one radian per position, and your last is one step too "
    "slow. Which exponent belongs to the first pair?",
    see="rope#the-angle-of-a-position",
)
def counts_from_one(positions, d, base=10000.0):
    k = torch.arange(1, d // 2 + 1, dtype=torch.float32)
    return positions.unsqueeze(-1) / base ** (2 * k / d)


@exercise.wrong(
    "counts the pairs from 0 in the lecture's formula, which counts from 1",
    hint="L1 writes (2k-2)/d because its first pair is number 1. `torch.arange` starts at 0. What "
    "does the exponent of your first pair come out as?",
    see="rope#the-angle-of-a-position",
)
def lecture_from_zero(positions, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float32)
    return positions.unsqueeze(-1) / base ** ((2 * k - 2) / d)


@exercise.wrong(
    "lets later pairs turn faster instead of slower",
    hint="The first pair is the fastest. Does your power of the base multiply the position or "
    "divide it?",
    see="rope#what-the-base-does",
)
def wrong_sign(positions, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float32)
    return positions.unsqueeze(-1) * base ** (2 * k / d)


@exercise.wrong(
    "turns every pair at the same speed",
    hint="All columns of your result are equal. What is the exponent when a whole number is "
    "divided by a larger one with `//`?",
    see="rope#what-the-base-does",
)
def same_speed(positions, d, base=10000.0):
    k = torch.arange(d // 2)
    return positions.unsqueeze(-1) * base ** -(2 * k // d).float()


@exercise.wrong(
    "numbers the positions itself instead of using those it is given",
    hint="Positions do not always run from 0: a cache starts later, a packed document starts "
    "again. Does your code use the values of `positions`, or only their number?",
    see="rope#positions-are-not-always-0-to-t",
)
def own_positions(positions, d, base=10000.0):
    places = torch.arange(positions.shape[-1]).expand(positions.shape)
    k = torch.arange(d // 2, dtype=torch.float32)
    return places.unsqueeze(-1) / base ** (2 * k / d)


@exercise.wrong(
    "counts positions from 1",
    hint="The vector at position 0 is not turned at all: every angle in its row is 0. What does "
    "your first row hold?",
    see="rope#positions-are-not-always-0-to-t",
)
def positions_from_one(positions, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float32)
    return (positions + 1).unsqueeze(-1) / base ** (2 * k / d)


@exercise.wrong(
    "rounds positions to whole numbers",
    hint="Position interpolation asks for angles between whole positions. Where does your code "
    "convert positions to an integer type?",
    see="rope#positions-are-not-always-0-to-t",
)
def whole_positions(positions, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float32)
    return positions.long().unsqueeze(-1) / base ** (2 * k / d)


@exercise.wrong(
    "ignores the base",
    hint="The base decides how slow the last pair is. Try base=100.0: does your result change?",
    see="rope#what-the-base-does",
)
def ignores_base(positions, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float32)
    return positions.unsqueeze(-1) / 10000.0 ** (2 * k / d)


@exercise.wrong(
    "returns degrees",
    hint="Sine and cosine of torch take radians. By how much should the first pair turn from one "
    "position to the next?",
    see="rope#the-angle-of-a-position",
)
def degrees(positions, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    return torch.rad2deg(positions.unsqueeze(-1) / base ** (2 * k / d))


@exercise.wrong(
    "puts the pairs in the rows and the positions in the columns",
    hint="Read the shape of your result next to the one in the statement. Positions come first, "
    "pairs last.",
    see="rope#the-angle-of-a-position",
)
def swapped(positions, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float32)
    return positions.unsqueeze(-2) / base ** (2 * k / d).unsqueeze(-1)


@exercise.wrong(
    "returns every angle twice, side by side",
    hint="There is one angle per pair, so d/2 of them. Repeating them for both members of a pair "
    "can be part of the rotation; it is not part of the angles.",
    see="rope#pairs-of-dimensions",
)
def repeated(positions, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float32)
    return (positions.unsqueeze(-1) / base ** (2 * k / d)).repeat_interleave(2, dim=-1)


@exercise.wrong(
    "returns all angles and then all of them again",
    hint="There is one angle per pair, so d/2 of them. Other code concatenates two copies for its "
    "half-split layout; here the pairs are counted once.",
    see="rope#two-layouts",
)
def concatenated(positions, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float32)
    angles = positions.unsqueeze(-1) / base ** (2 * k / d)
    return torch.cat((angles, angles), dim=-1)


@exercise.wrong(
    "takes a single row of positions only",
    hint="`torch.outer` wants two vectors. In a batch every sequence may have positions of its "
    "own. Which operation broadcasts instead?",
    see="rope#positions-are-not-always-0-to-t",
)
def one_row(positions, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float32)
    return torch.outer(positions.float(), base ** (-2 * k / d))


@exercise.wrong(
    "computes the angles in 16 bits",
    hint="A float16 keeps three decimal digits. At position 1000 the error can be half a radian. "
    "In which dtype do your positions meet the frequencies?",
    see="rope#precision",
)
def sixteen_bits(positions, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float32)
    return positions.half().unsqueeze(-1) * (base ** (-2 * k / d)).half()


@exercise.right("positions times frequencies, broadcast")
def broadcast(positions, d, base=10000.0):
    frequencies = 1.0 / base ** (torch.arange(0, d, 2).float() / d)
    return positions[..., None] * frequencies


@exercise.right("frequencies as the exponential of a logarithm")
def through_logarithm(positions, d, base=10000.0):
    steps = torch.linspace(0, -math.log(base) * (d - 2) / d, d // 2, dtype=torch.float64)
    return torch.einsum("...t,k->...tk", positions.double(), steps.exp())


@exercise.right("each pair from the one before it")
def geometric(positions, d, base=10000.0):
    ratio = base ** (-2 / d)
    columns = [positions.to(torch.float64)]
    for _ in range(d // 2 - 1):
        columns.append(columns[-1] * ratio)
    return torch.stack(columns, dim=-1)


@exercise.right("the lecture's formula, pairs from 1")
def from_one(positions, d, base=10000.0):
    out = torch.empty(*positions.shape, d // 2)
    for k in range(1, d // 2 + 1):
        out[..., k - 1] = positions / base ** ((2 * k - 2) / d)
    return out


exercise.equivalent(
    "torch.arange(0, d, 2).float() -> torch.arange(0, d, 2)",
    because="dividing whole numbers gives floating point by itself",
)
