"""Exercise: the slope of every head of ALiBi."""

import math

import torch

from llmr_ref import positions
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "alibi_slopes",
    points=2,
    difficulty=2,
    minutes=15,
    reference=positions.alibi_slopes,
    chapter="relative-positions#a-slope-for-every-head",
)


def slopes(n_heads: int, note: str = "") -> Case:
    return Case((n_heads,), note=note or f"{n_heads} heads", any_float=True, tolerance=1e-6)


@exercise.property(
    "for a power of two the slopes halve evenly down to 2 to the power of -8", weight=2
)
def powers(draw: Draw):
    yield slopes(8)
    yield slopes(2)
    yield slopes(2 ** draw.integer(4, 5))
    yield slopes(4)


@exercise.property("a single head has the last slope", weight=0.5)
def single(draw: Draw):
    yield slopes(1, "a single head")


@exercise.property("another number takes every second slope of the next power for what is missing")
def others(draw: Draw):
    yield slopes(3)
    yield slopes(6)
    yield slopes(12)
    yield slopes(draw.integer(9, 15))
    yield slopes(draw.integer(17, 31))


@exercise.wrong(
    "begins with a slope of 1",
    hint="The last of n slopes is always 2 to the power of -8, and the first is one step "
    "below 1. From which number does your exponent count?",
    see="relative-positions#a-slope-for-every-head",
)
def from_zero(n_heads):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / power) for i in range(power)]
    between = [2 ** (-8 * i / (2 * power)) for i in range(1, 2 * power, 2)]
    return torch.tensor(slopes + between[: n_heads - power])


@exercise.wrong(
    "halves from head to head whatever their number",
    hint="Halving is right for 8 heads. With 16 the slopes should lie closer, so that the "
    "last is still 2 to the power of -8. What does the step depend on?",
    see="relative-positions#a-slope-for-every-head",
)
def always_halves(n_heads):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2.0**-i for i in range(1, power + 1)]
    between = [2.0 ** -(i / 2) for i in range(1, 2 * power, 2)]
    return torch.tensor(slopes + between[: n_heads - power])


@exercise.wrong(
    "spaces the slopes evenly instead of their exponents",
    hint="Your slopes form a straight line. Each should be a fixed fraction of the one before it.",
    see="relative-positions#a-slope-for-every-head",
)
def even_steps(n_heads):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [1 - (1 - 2**-8) * i / power for i in range(1, power + 1)]
    between = [2 ** (-8 * i / (2 * power)) for i in range(1, 2 * power, 2)]
    return torch.tensor(slopes + between[: n_heads - power])


@exercise.wrong(
    "uses the formula for powers of two for every number",
    hint="For 12 heads the slopes are those of 8 heads and four more that lie between "
    "them. What does your formula do when the number of heads is no power of two?",
    see="relative-positions#a-slope-for-every-head",
)
def no_power(n_heads):
    return torch.tensor([2 ** (-8 * i / n_heads) for i in range(1, n_heads + 1)])


@exercise.wrong(
    "takes the first slopes of the power of two above",
    hint="With 6 heads you read the first six slopes of eight. Start from the power of two "
    "below, which is complete, and then fill in.",
    see="relative-positions#a-slope-for-every-head",
)
def power_above(n_heads):
    power = 1 << (n_heads - 1).bit_length()
    return torch.tensor([2 ** (-8 * i / power) for i in range(1, n_heads + 1)])


@exercise.wrong(
    "fills in slopes that are there already",
    hint="The slopes of the next power at even places are those you have. Which places lie "
    "between them?",
    see="relative-positions#a-slope-for-every-head",
)
def repeats(n_heads):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-8 * i / (2 * power)) for i in range(2, 2 * power + 1, 2)]
    return torch.tensor(slopes + between[: n_heads - power])


@exercise.wrong(
    "fills in the next power's slopes one after another",
    hint="What is missing comes from every second slope of the next power. Yours takes "
    "neighbours, and some of them are there already.",
    see="relative-positions#a-slope-for-every-head",
)
def every_one(n_heads):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-8 * i / (2 * power)) for i in range(1, 2 * power)]
    return torch.tensor(slopes + between[: n_heads - power])


@exercise.wrong(
    "puts the filled-in slopes first",
    hint="The heads of the power of two come first, what is filled in comes after them. "
    "Weights are loaded by the number of the head, so the order matters.",
    see="relative-positions#a-slope-for-every-head",
)
def extras_first(n_heads):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-8 * i / (2 * power)) for i in range(1, 2 * power, 2)]
    return torch.tensor(between[: n_heads - power] + slopes)


@exercise.wrong(
    "sorts the slopes",
    hint="The heads of the power of two come first, what is filled in comes after them. "
    "Sorting gives the same numbers to other heads.",
    see="relative-positions#a-slope-for-every-head",
)
def sorts(n_heads):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-8 * i / (2 * power)) for i in range(1, 2 * power, 2)]
    return torch.tensor(sorted(slopes + between[: n_heads - power], reverse=True))


@exercise.wrong(
    "counts the heads from the gentlest slope",
    hint="The first head has the steepest slope and looks at the nearest keys. Which of "
    "your heads does?",
    see="relative-positions#a-slope-for-every-head",
)
def reversed_order(n_heads):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-8 * i / (2 * power)) for i in range(1, 2 * power, 2)]
    return torch.tensor(slopes[::-1] + between[: n_heads - power])


@exercise.wrong(
    "returns negative slopes",
    hint="The slope itself is positive; the minus sign belongs to the bias, which takes it "
    "times the distance. With both, far keys would be favoured.",
    see="relative-positions#a-slope-for-every-head",
)
def negative(n_heads):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-8 * i / (2 * power)) for i in range(1, 2 * power, 2)]
    return -torch.tensor(slopes + between[: n_heads - power])


@exercise.wrong(
    "returns the exponents instead of the powers",
    hint="Your numbers are the exponents, evenly spaced and above 1. Which power of 2 is "
    "still to be taken?",
    see="relative-positions#a-slope-for-every-head",
)
def exponents(n_heads):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [8 * i / power for i in range(1, power + 1)]
    between = [8 * i / (2 * power) for i in range(1, 2 * power, 2)]
    return torch.tensor(slopes + between[: n_heads - power])


@exercise.wrong(
    "leaves out the heads beyond the power of two",
    hint="Count your slopes: there should be one for each head. What becomes of those that "
    "are left when the power of two is full?",
    see="relative-positions#a-slope-for-every-head",
)
def drops_rest(n_heads):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    return torch.tensor(slopes)


@exercise.right("two lists of powers")
def two_lists(n_heads):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-8 * i / (2 * power)) for i in range(1, 2 * power, 2)]
    return torch.tensor(slopes + between[: n_heads - power])


@exercise.right("tensors of exponents")
def exponent_tensors(n_heads):
    n = 2 ** math.floor(math.log2(n_heads))
    exponents = torch.arange(1, n + 1) * (8 / n)
    halfway = exponents - 4 / n
    return torch.exp2(-torch.cat((exponents, halfway))[:n_heads])


@exercise.right("as a geometric sequence, and itself for the next power")
def recursive(n_heads):
    def of_power(n):
        first = 2 ** (-8 / n)
        return [first**i for i in range(1, n + 1)]

    n = 1
    while 2 * n <= n_heads:
        n *= 2
    return torch.tensor(of_power(n) + of_power(2 * n)[0::2][: n_heads - n], dtype=torch.float64)


exercise.equivalent(
    "range(1, 2 * power, 2) -> range(1, 3 * power, 2)",
    because="only the first of them are taken, fewer than there are heads in the power of two",
)
