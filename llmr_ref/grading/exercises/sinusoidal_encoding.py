"""Exercise: sines and cosines of many frequencies, one vector per position."""

import math

import torch

from llmr_ref import positions as reference
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "sinusoidal_encoding",
    points=3,
    difficulty=2,
    minutes=15,
    reference=reference.sinusoidal_encoding,
    chapter="positions#sinusoidal-encodings",
)

# An angle below 100 is known to about 1e-5 in float32, one of 2000 to about 1e-3.
NEAR, FAR = 1e-4, 2e-3


def encoding(*args, note="", tolerance=NEAR, **kwargs):
    return Case(args, kwargs, note=note, any_float=True, tolerance=tolerance)


@exercise.property("sine and cosine of every frequency stand side by side", weight=2)
def columns(draw: Draw):
    yield encoding(torch.tensor([0, 1, 2]), 4, note="three positions and two frequencies")
    yield encoding(torch.tensor([0, 1]), 2, note="a single frequency")
    yield encoding(torch.arange(draw.integer(4, 7)), 6)
    yield encoding(torch.arange(5), 2 * draw.integer(5, 8))


@exercise.property("positions are any numbers in any order")
def positions(draw: Draw):
    yield encoding(torch.tensor([3]), 4, note="one position that is not the first")
    yield encoding(draw.permutation(6) + 40, 6, note="positions out of order")
    yield encoding(torch.tensor([0.5, 2.25]), 4, note="positions between whole numbers")
    yield encoding(draw.integers(500, 2000, 3), 8, note="positions far out", tolerance=FAR)


@exercise.property("the base is an argument", weight=0.5)
def bases(draw: Draw):
    yield encoding(torch.tensor([1, 2]), 4, 100.0, note="base=100.0")
    yield encoding(
        draw.integers(1, 20, 3), 6, base=float(draw.integer(300, 900)), note="another base"
    )


@exercise.property("leading dimensions are free", weight=0.5)
def leading(draw: Draw):
    yield encoding(draw.integers(0, 30, 2, 3), 4, note="positions of a batch")
    yield encoding(draw.integers(0, 30, 2, 1, 5), 8, note="positions with a dimension of size 1")


@exercise.wrong(
    "puts all sines before all cosines",
    hint="Your numbers are right and their order is another one. Column 0 is a sine, "
    "column 1 the cosine of the same angle. What do `cat` and `stack` each do with "
    "two tensors?",
    see="positions#sinusoidal-encodings",
)
def halves(positions, d, base=10000.0):
    i = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) / base ** (2 * i / d)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


@exercise.wrong(
    "starts with the cosine",
    hint="At position 0 every angle is 0. Which of the two functions is 0 there, and what "
    "does your first column hold?",
    see="positions#sinusoidal-encodings",
)
def cosine_first(positions, d, base=10000.0):
    i = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) / base ** (2 * i / d)
    return torch.stack((angles.cos(), angles.sin()), dim=-1).flatten(-2)


@exercise.wrong(
    "uses the sine in every column",
    hint="A sine alone cannot tell an angle from its mirror image. Read both lines of the "
    "definition again: the odd columns hold another function.",
    see="positions#sinusoidal-encodings",
)
def sines_only(positions, d, base=10000.0):
    i = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) / base ** (2 * i / d)
    return torch.stack((angles.sin(), angles.sin()), dim=-1).flatten(-2)


@exercise.wrong(
    "takes the column's number for the frequency's number",
    hint="Columns 2i and 2i+1 share one frequency, so there are d/2 of them. Yours changes "
    "from every column to the next. How far should the index run?",
    see="positions#sinusoidal-encodings",
)
def one_frequency_per_column(positions, d, base=10000.0):
    column = torch.arange(d, dtype=torch.float64)
    angles = positions.unsqueeze(-1) / base ** (2 * column / d)
    return torch.where(column % 2 == 0, angles.sin(), angles.cos())


@exercise.wrong(
    "gives neighbours two frequencies: the exponent is the column over d",
    hint="Your sine and cosine of a pair belong to two angles. In the definition both "
    "exponents are 2i/d: the odd column uses the number of the even one.",
    see="positions#sinusoidal-encodings",
)
def exponent_of_column(positions, d, base=10000.0):
    column = torch.arange(d, dtype=torch.float64)
    angles = positions.unsqueeze(-1) / base ** (column / d)
    return torch.where(column % 2 == 0, angles.sin(), angles.cos())


@exercise.wrong(
    "halves the exponent: i/d instead of 2i/d",
    hint="The exponent should run from 0 almost to 1 over the d/2 frequencies. Up to which "
    "number does yours run?",
    see="positions#sinusoidal-encodings",
)
def half_exponent(positions, d, base=10000.0):
    i = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) / base ** (i / d)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


@exercise.wrong(
    "counts the frequencies from 1",
    hint="The first pair of columns is the sine and cosine of the position itself. Which "
    "exponent gives that?",
    see="positions#sinusoidal-encodings",
)
def counts_from_one(positions, d, base=10000.0):
    i = torch.arange(1, d // 2 + 1, dtype=torch.float64)
    angles = positions.unsqueeze(-1) / base ** (2 * i / d)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


@exercise.wrong(
    "lets later columns turn faster instead of slower",
    hint="The first frequency is the fastest. Does your power of the base divide the "
    "position or multiply it?",
    see="positions#sinusoidal-encodings",
)
def wrong_sign(positions, d, base=10000.0):
    i = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (2 * i / d)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


@exercise.wrong(
    "numbers the positions itself instead of using those it is given",
    hint="Positions do not always run from 0: a cache starts later, a packed document "
    "starts again. Does your code use the values of `positions`, or only how many "
    "there are?",
    see="positions#positions-are-given",
)
def own_positions(positions, d, base=10000.0):
    i = torch.arange(d // 2, dtype=torch.float64)
    angles = torch.arange(positions.shape[-1]).expand(positions.shape).unsqueeze(-1) / base ** (
        2 * i / d
    )
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


@exercise.wrong(
    "counts positions from 1",
    hint="At position 0 every angle is 0, so its row is 0, 1, 0, 1. What does your first row hold?",
    see="positions#positions-are-given",
)
def positions_from_one(positions, d, base=10000.0):
    i = torch.arange(d // 2, dtype=torch.float64)
    angles = (positions + 1).unsqueeze(-1) / base ** (2 * i / d)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


@exercise.wrong(
    "rounds positions to whole numbers",
    hint="Interpolation asks for positions between whole numbers. Where does your code "
    "convert positions to an integer type?",
    see="positions#positions-are-given",
)
def whole_positions(positions, d, base=10000.0):
    i = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.long().unsqueeze(-1) / base ** (2 * i / d)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


@exercise.wrong(
    "ignores the base",
    hint="The base decides how slow the last pair of columns is. Try base=100.0: does your "
    "result change?",
    see="positions#sinusoidal-encodings",
)
def ignores_base(positions, d, base=10000.0):
    i = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) / 10000.0 ** (2 * i / d)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


@exercise.wrong(
    "takes a single row of positions only",
    hint="`torch.outer` wants two vectors. In a batch every sequence may have positions of "
    "its own. Which operation broadcasts instead?",
    see="positions#positions-are-given",
)
def one_row(positions, d, base=10000.0):
    i = torch.arange(d // 2, dtype=torch.float64)
    angles = torch.outer(positions.double(), base ** (-2 * i / d))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


@exercise.wrong(
    "takes the angle for degrees",
    hint="The sine and cosine of torch take radians, and so does the definition: position "
    "1 has the sine 0.84 in its first column.",
    see="positions#sinusoidal-encodings",
)
def degrees(positions, d, base=10000.0):
    i = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) / base ** (2 * i / d)
    return torch.stack((torch.deg2rad(angles).sin(), torch.deg2rad(angles).cos()), dim=-1).flatten(
        -2
    )


@exercise.right("sine and cosine stacked")
def stacked(positions, d, base=10000.0):
    i = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) / base ** (2 * i / d)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


@exercise.right("written into every second column")
def columns_filled(positions, d, base=10000.0):
    frequencies = torch.exp(torch.arange(0, d, 2) * (-math.log(base) / d))
    out = torch.empty(*positions.shape, d)
    out[..., 0::2] = torch.sin(positions[..., None] * frequencies)
    out[..., 1::2] = torch.cos(positions[..., None] * frequencies)
    return out


@exercise.right("a cosine is a sine a quarter turn ahead")
def shifted_sines(positions, d, base=10000.0):
    column = torch.arange(d)
    exponent = (column - column % 2).double() / d
    return torch.sin(positions[..., None] * base**-exponent + (column % 2) * (math.pi / 2))


@exercise.right("two loops over columns")
def loops(positions, d, base=10000.0):
    columns = []
    for i in range(d // 2):
        angle = positions.double() / base ** (2 * i / d)
        columns += [angle.sin(), angle.cos()]
    return torch.stack(columns, dim=-1)


exercise.equivalent(
    "torch.arange(d // 2, dtype=torch.float64) -> torch.arange(d // 2)",
    because="2 * i / d is floating point either way, and float32 is as good within the tolerance",
)
