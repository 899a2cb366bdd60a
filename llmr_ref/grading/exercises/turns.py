"""Exercise: how often every pair of RoPE turns within a given length."""

import math

import torch
from torch import Tensor

from llmr_ref import rope
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(length: int, d: int, base: float = 10_000.0) -> Tensor:
    """length / lambda_k, with the wavelengths of `rope.rope_wavelengths`."""
    return length / rope.rope_wavelengths(d, base)


exercise = Exercise(
    "turns",
    points=2,
    difficulty=1,
    minutes=10,
    reference=reference,
    chapter="longer-contexts#wavelengths",
)


def counted(*args, note="", **kwargs):
    return Case(args, kwargs, note=note, any_float=True, tolerance=1e-5)


@exercise.property("a pair turns as often as its wavelength fits into the length", weight=2)
def lengths(draw: Draw):
    yield counted(10, 2, note="a single pair")
    yield counted(100, 4, note="two pairs")
    yield counted(draw.integer(20, 60), 6)
    yield counted(draw.integer(1000, 5000), 2 * draw.integer(4, 8))
    yield counted(1, 4, note="a length of 1")


@exercise.property("the base is an argument")
def bases(draw: Draw):
    yield counted(100, 4, 100.0, note="base=100.0")
    yield counted(draw.integer(50, 90), 6, base=float(draw.integer(300, 900)), note="another base")


@exercise.property("a slow pair turns less than once")
def slow(draw: Draw):
    yield counted(8, 2 * draw.integer(4, 6), note="a short length")
    yield counted(draw.integer(10, 30), 16, base=500000.0, note="a large base")


@exercise.wrong(
    "forgets that a full turn is two pi",
    hint="The angle after `length` positions is in radians, and you return it as it is. "
    "How many radians are one turn?",
    see="longer-contexts#wavelengths",
)
def radians(length, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    wavelengths = base ** (2 * k / d)
    return length / wavelengths


@exercise.wrong(
    "takes half a turn for a whole one",
    hint="A pair is back where it was after a full circle. Which angle brings (1, 0) back "
    "to (1, 0)?",
    see="longer-contexts#wavelengths",
)
def half_turns(length, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    wavelengths = math.pi * base ** (2 * k / d)
    return length / wavelengths


@exercise.wrong(
    "returns the wavelengths",
    hint="Your numbers say how many positions one turn takes and do not depend on the "
    "length. How often does one wavelength fit into it?",
    see="longer-contexts#wavelengths",
)
def wavelengths_only(length, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    wavelengths = 2 * math.pi * base ** (2 * k / d)
    return wavelengths


@exercise.wrong(
    "divides the wavelength by the length",
    hint="A pair with a long wavelength turns less often, not more. Which of the two "
    "numbers is divided by which?",
    see="longer-contexts#wavelengths",
)
def inverted(length, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    wavelengths = 2 * math.pi * base ** (2 * k / d)
    return wavelengths / length


@exercise.wrong(
    "multiplies the length by the wavelength",
    hint="Each position turns a pair by a part of a circle, so a wavelength divides. What "
    "does one pair do in a length of exactly one wavelength?",
    see="longer-contexts#wavelengths",
)
def multiplies(length, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    wavelengths = 2 * math.pi * base ** (2 * k / d)
    return length * wavelengths


@exercise.wrong(
    "lets later pairs turn faster instead of slower",
    hint="The first pair has the shortest wavelength. In which direction does yours change with k?",
    see="longer-contexts#wavelengths",
)
def wrong_sign(length, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    wavelengths = 2 * math.pi * base ** (-2 * k / d)
    return length / wavelengths


@exercise.wrong(
    "halves the exponent: k/d instead of 2k/d",
    hint="With d/2 pairs the exponent should run from 0 almost to 1. Up to which number "
    "does yours run?",
    see="longer-contexts#wavelengths",
)
def half_exponent(length, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    wavelengths = 2 * math.pi * base ** (k / d)
    return length / wavelengths


@exercise.wrong(
    "counts the pairs from 1 in a formula that counts from 0",
    hint="The first pair turns by one radian per position, so its wavelength is two pi. "
    "Which exponent gives that?",
    see="longer-contexts#wavelengths",
)
def counts_from_one(length, d, base=10000.0):
    k = torch.arange(1, d // 2 + 1, dtype=torch.float64)
    wavelengths = 2 * math.pi * base ** (2 * k / d)
    return length / wavelengths


@exercise.wrong(
    "ignores the base",
    hint="A larger base slows every pair but the first. Try base=100.0: does your result change?",
    see="longer-contexts#wavelengths",
)
def ignores_base(length, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    wavelengths = 2 * math.pi * 10000.0 ** (2 * k / d)
    return length / wavelengths


@exercise.wrong(
    "counts whole turns only",
    hint="A pair that turns 0.4 times is not one that stands still. Where does your code "
    "round, or divide with `//`?",
    see="longer-contexts#wavelengths",
)
def whole_turns(length, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    wavelengths = 2 * math.pi * base ** (2 * k / d)
    return (length / wavelengths).floor()


@exercise.wrong(
    "counts the steps between positions",
    hint="The statement asks how often the wavelength fits into the length itself. You "
    "used one step less.",
    see="longer-contexts#wavelengths",
)
def one_less(length, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    wavelengths = 2 * math.pi * base ** (2 * k / d)
    return (length - 1) / wavelengths


@exercise.wrong(
    "counts degrees",
    hint="Frequencies are in radians per position. A circle has 360 degrees: what is it in "
    "radians?",
    see="longer-contexts#wavelengths",
)
def degrees(length, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    wavelengths = 360 * base ** (2 * k / d)
    return length / wavelengths


@exercise.wrong(
    "gives every dimension its own wavelength",
    hint="Two dimensions form a pair and turn together, so there are d/2 results. Yours has d.",
    see="longer-contexts#wavelengths",
)
def every_dimension(length, d, base=10000.0):
    k = torch.arange(d, dtype=torch.float64)
    wavelengths = 2 * math.pi * base ** (2 * k / d)
    return length / wavelengths


@exercise.right("length over wavelength")
def over_wavelength(length, d, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    wavelengths = 2 * math.pi * base ** (2 * k / d)
    return length / wavelengths


@exercise.right("angle of the last position over a full circle")
def angle(length, d, base=10000.0):
    frequencies = base ** (-torch.arange(0, d, 2).float() / d)
    return length * frequencies / math.tau


@exercise.right("each pair from the one before")
def geometric(length, d, base=10000.0):
    counts = [length / (2 * math.pi)]
    for _ in range(d // 2 - 1):
        counts.append(counts[-1] / base ** (2 / d))
    return torch.tensor(counts)


exercise.equivalent(
    "torch.arange(d // 2, dtype=torch.float64) -> torch.arange(d // 2)",
    because="2 * k / d is floating point either way, and float32 is as good within the tolerance",
)
