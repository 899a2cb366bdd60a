"""Exercise: position interpolation, which squeezes a longer sequence into the trained positions."""

import torch
from torch import Tensor

from llmr_ref import rope
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(
    positions: Tensor, d: int, trained_length: int, length: int, base: float = 10_000.0
) -> Tensor:
    """Angles at the frequencies of `rope.RopeScaling("linear", ...)`; a short sequence stays."""
    factor = max(1.0, length / trained_length)
    scaling = rope.RopeScaling("linear", factor=factor, original_length=trained_length)
    return positions.to(torch.float64)[..., None] * rope.scaled_frequencies(d, base, scaling)


exercise = Exercise(
    "interpolated_angles",
    points=2,
    difficulty=2,
    minutes=15,
    reference=reference,
    chapter="longer-contexts#position-interpolation",
)


def angles(*args, note="", **kwargs):
    return Case(args, kwargs, note=note, any_float=True, tolerance=1e-5)


@exercise.property(
    "in a longer sequence every angle shrinks by trained length over length", weight=2
)
def longer(draw: Draw):
    yield angles(torch.tensor([0, 4, 8]), 4, 4, 8, note="twice the length")
    yield angles(torch.arange(6), 2, 2, 6, note="three times the length and a single pair")
    n = draw.integer(20, 30)
    yield angles(draw.integers(0, n - 1, 5), 8, 16, n)
    yield angles(draw.integers(0, 4095, 4), 6, 1024, 4096, note="four times a length of 1024")


@exercise.property("a sequence that fits keeps its angles")
def fits(draw: Draw):
    yield angles(torch.arange(4), 4, 16, 8, note="half the trained length")
    n = draw.integer(10, 20)
    yield angles(draw.integers(0, n - 1, 4), 6, n, n, note="exactly the trained length")
    yield angles(torch.arange(5), 4, 64, 5, note="a short sequence")


@exercise.property("positions are any numbers in any order", weight=0.5)
def positions(draw: Draw):
    yield angles(draw.permutation(6) + 5, 4, 8, 20, note="positions out of order")
    yield angles(torch.tensor([0.5, 7.25]), 4, 4, 10, note="positions between whole numbers")
    yield angles(draw.integers(0, 30, 2, 3), 4, 16, 32, note="positions of a batch")


@exercise.property("the base is an argument", weight=0.5)
def bases(draw: Draw):
    yield angles(torch.tensor([1, 9]), 4, 5, 10, 100.0, note="base=100.0")
    base = float(draw.integer(300, 900))
    yield angles(draw.integers(1, 20, 3), 6, 10, 25, base=base, note="another base")


@exercise.wrong(
    "stretches the positions instead of squeezing them",
    hint="A sequence of twice the trained length should end at the last trained position. "
    "Is your factor above 1 or below it there?",
    see="longer-contexts#position-interpolation",
)
def stretches(positions, d, trained_length, length, base=10000.0):
    squeeze = max(1.0, length / trained_length)
    k = torch.arange(d // 2, dtype=torch.float64)
    return positions.unsqueeze(-1) * squeeze / base ** (2 * k / d)


@exercise.wrong(
    "interpolates a sequence that fits as well",
    hint="A short sequence stretched over all trained positions has angles that the model "
    "never saw between neighbours. When the length is below the trained one, what "
    "should the factor be?",
    see="longer-contexts#position-interpolation",
)
def always(positions, d, trained_length, length, base=10000.0):
    squeeze = trained_length / length
    k = torch.arange(d // 2, dtype=torch.float64)
    return positions.unsqueeze(-1) * squeeze / base ** (2 * k / d)


@exercise.wrong(
    "does not interpolate",
    hint="Your angles at the last positions are larger than any the model was trained on. "
    "Where does `length` enter?",
    see="longer-contexts#position-interpolation",
)
def no_interpolation(positions, d, trained_length, length, base=10000.0):
    squeeze = 1.0
    k = torch.arange(d // 2, dtype=torch.float64)
    return positions.unsqueeze(-1) * squeeze / base ** (2 * k / d)


@exercise.wrong(
    "interpolates only up to the trained length",
    hint="Both neighbours of a position shrink alike: the whole sequence is squeezed, not "
    "only what lies beyond the trained length.",
    see="longer-contexts#position-interpolation",
)
def beyond_only(positions, d, trained_length, length, base=10000.0):
    squeeze = min(1.0, trained_length / length)
    k = torch.arange(d // 2, dtype=torch.float64)
    return torch.where(positions < trained_length, positions, positions * squeeze).unsqueeze(
        -1
    ) / base ** (2 * k / d)


@exercise.wrong(
    "rounds the squeezed positions to whole numbers",
    hint="Rounding gives two neighbours one angle, so their order is lost. Angles exist "
    "between whole positions: where does your code round?",
    see="longer-contexts#position-interpolation",
)
def whole_positions(positions, d, trained_length, length, base=10000.0):
    squeeze = min(1.0, trained_length / length)
    k = torch.arange(d // 2, dtype=torch.float64)
    return (positions * squeeze).floor().unsqueeze(-1) / base ** (2 * k / d)


@exercise.wrong(
    "starts again at 0 after the trained length",
    hint="With a remainder the position after the last one looks like the first. Squeezing "
    "keeps all of them apart.",
    see="longer-contexts#position-interpolation",
)
def wraps(positions, d, trained_length, length, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    return (positions % trained_length).unsqueeze(-1) / base ** (2 * k / d)


@exercise.wrong(
    "stops at the last trained position",
    hint="All positions beyond the trained length get one angle, so the model cannot tell "
    "them apart. Squeezing keeps their order.",
    see="longer-contexts#position-interpolation",
)
def stops(positions, d, trained_length, length, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    return positions.clamp(max=trained_length - 1).unsqueeze(-1) / base ** (2 * k / d)


@exercise.wrong(
    "maps last position to last position",
    hint="The formula squeezes by the ratio of the lengths. Yours uses the ratio of the "
    "last positions, which are one smaller.",
    see="longer-contexts#position-interpolation",
)
def last_to_last(positions, d, trained_length, length, base=10000.0):
    squeeze = min(1.0, (trained_length - 1) / (length - 1))
    k = torch.arange(d // 2, dtype=torch.float64)
    return positions.unsqueeze(-1) * squeeze / base ** (2 * k / d)


@exercise.wrong(
    "changes the base instead of the positions",
    hint="Dividing inside the power slows the pairs unequally, the first not at all. "
    "Interpolation slows all of them alike.",
    see="longer-contexts#a-larger-base",
)
def changes_base(positions, d, trained_length, length, base=10000.0):
    squeeze = min(1.0, trained_length / length)
    k = torch.arange(d // 2, dtype=torch.float64)
    return positions.unsqueeze(-1) / (base / squeeze) ** (2 * k / d)


@exercise.wrong(
    "squeezes by the largest position instead of the length",
    hint="The length of the sequence is an argument. During generation the largest "
    "position so far is smaller, and angles that were used before would change.",
    see="longer-contexts#position-interpolation",
)
def largest_position(positions, d, trained_length, length, base=10000.0):
    squeeze = min(1.0, trained_length / (float(positions.max()) + 1))
    k = torch.arange(d // 2, dtype=torch.float64)
    return positions.unsqueeze(-1) * squeeze / base ** (2 * k / d)


@exercise.wrong(
    "squeezes by whole factors only",
    hint="Twice the length and one and a half times are different squeezes. Where do you "
    "divide with `//` or round?",
    see="longer-contexts#position-interpolation",
)
def whole_factors(positions, d, trained_length, length, base=10000.0):
    squeeze = 1.0 / max(1, length // trained_length)
    k = torch.arange(d // 2, dtype=torch.float64)
    return positions.unsqueeze(-1) * squeeze / base ** (2 * k / d)


@exercise.wrong(
    "squeezes twice",
    hint="Positions shrink or frequencies shrink; both together give the square of the "
    "factor. Which line can go?",
    see="longer-contexts#position-interpolation",
)
def twice(positions, d, trained_length, length, base=10000.0):
    squeeze = min(1.0, trained_length / length)
    k = torch.arange(d // 2, dtype=torch.float64)
    return positions.unsqueeze(-1) * squeeze**2 / base ** (2 * k / d)


@exercise.wrong(
    "ignores the base",
    hint="Interpolation leaves the base as it is given. Try base=100.0: does your result change?",
    see="longer-contexts#position-interpolation",
)
def ignores_base(positions, d, trained_length, length, base=10000.0):
    squeeze = min(1.0, trained_length / length)
    k = torch.arange(d // 2, dtype=torch.float64)
    return positions.unsqueeze(-1) * squeeze / 10000.0 ** (2 * k / d)


@exercise.right("positions times the ratio")
def squeezed(positions, d, trained_length, length, base=10000.0):
    squeeze = min(1.0, trained_length / length)
    k = torch.arange(d // 2, dtype=torch.float64)
    return positions.unsqueeze(-1) * squeeze / base ** (2 * k / d)


@exercise.right("slower frequencies")
def slower(positions, d, trained_length, length, base=10000.0):
    frequencies = base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    if length > trained_length:
        frequencies = frequencies / (length / trained_length)
    return torch.einsum("...t,k->...tk", positions.double(), frequencies)


@exercise.right("longer wavelengths")
def wavelengths(positions, d, trained_length, length, base=10000.0):
    factor = max(length, trained_length) / trained_length
    out = torch.zeros(*positions.shape, d // 2, dtype=torch.float64)
    for k in range(d // 2):
        out[..., k] = positions / (factor * base ** (2 * k / d))
    return out


exercise.equivalent(
    "torch.arange(d // 2, dtype=torch.float64) -> torch.arange(d // 2)",
    because="2 * k / d is floating point either way, and float32 is as good within the tolerance",
)
