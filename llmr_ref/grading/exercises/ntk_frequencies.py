"""Exercise: the larger base that stretches the slowest pair and leaves the fastest alone."""

import math

import torch
from torch import Tensor

from llmr_ref import rope
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(d: int, factor: float, base: float = 10_000.0) -> Tensor:
    """`rope.RopeScaling("ntk", ...)`, which needs no length."""
    scaling = rope.RopeScaling("ntk", factor=factor, original_length=1)
    return rope.scaled_frequencies(d, base, scaling)


exercise = Exercise(
    "ntk_frequencies",
    points=3,
    difficulty=3,
    minutes=20,
    reference=reference,
    chapter="longer-contexts#a-larger-base",
)


def frequencies(*args, note="", **kwargs):
    return Case(args, kwargs, note=note, any_float=True, tolerance=1e-5)


def ratios(d, factor, note="", **kwargs):
    """Slow pairs are far below the largest entry, which sets the tolerance: so ask for more."""
    return Case((d, factor), kwargs, note=note, any_float=True, tolerance=3e-6)


@exercise.property("the last pair turns `factor` times slower, the first as before", weight=2)
def ends(draw: Draw):
    yield frequencies(4, 4.0, note="two pairs and a factor of 4")
    yield ratios(6, 2.0, note="three pairs and a factor of 2", base=100.0)
    yield ratios(8, float(draw.integer(3, 9)), base=50.0)
    yield ratios(2 * draw.integer(5, 9), 2.5, note="a factor of 2.5", base=200.0)


@exercise.property("a factor of 1 changes nothing", weight=0.5)
def one(draw: Draw):
    yield frequencies(4, 1.0, note="a factor of 1")
    yield ratios(2 * draw.integer(3, 6), 1.0, note="a factor of 1", base=100.0)


@exercise.property("the base is an argument")
def bases(draw: Draw):
    yield ratios(4, 3.0, note="base=100.0", base=100.0)
    yield ratios(6, 8.0, note="another base", base=float(draw.integer(300, 900)))
    yield frequencies(8, 2.0, note="the usual base")


@exercise.wrong(
    "multiplies the base by the factor itself",
    hint="The power of the last pair is (d - 2)/d, a little below 1, so it slows by a "
    "little less than the factor. Which power of the factor makes up for it?",
    see="longer-contexts#a-larger-base",
)
def factor_itself(d, factor, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    grown = base * factor
    return grown ** (-2 * k / d)


@exercise.wrong(
    "turns the exponent of the factor round",
    hint="The last pair's exponent is (d - 2)/d. Multiplied by yours it should give 1, so "
    "that the factor itself remains. Does it?",
    see="longer-contexts#a-larger-base",
)
def exponent_inverted(d, factor, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    grown = base * factor ** ((d - 2) / d)
    return grown ** (-2 * k / d)


@exercise.wrong(
    "divides every frequency by the factor",
    hint="That is position interpolation, which slows the fastest pair too. Here "
    "neighbours should stay as far apart as they were.",
    see="longer-contexts#position-interpolation",
)
def interpolates(d, factor, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    return base ** (-2 * k / d) / factor


@exercise.wrong(
    "makes the base smaller",
    hint="A smaller base turns the slow pairs faster, so the longer context is left even "
    "sooner. In which direction should the base move?",
    see="longer-contexts#a-larger-base",
)
def smaller_base(d, factor, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    grown = base / factor ** (d / (d - 2))
    return grown ** (-2 * k / d)


@exercise.wrong(
    "lets later pairs turn faster",
    hint="The first pair turns by one radian per position and all others by less. Which "
    "sign does the exponent of a frequency have?",
    see="longer-contexts#a-larger-base",
)
def wrong_sign(d, factor, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    grown = base * factor ** (d / (d - 2))
    return grown ** (2 * k / d)


@exercise.wrong(
    "returns the grown base",
    hint="The statement asks for the d/2 frequencies that follow from the base. One more "
    "power is missing.",
    see="longer-contexts#a-larger-base",
)
def base_only(d, factor, base=10000.0):
    grown = base * factor ** (d / (d - 2))
    return torch.tensor(grown)


@exercise.wrong(
    "grows the base by the square of the factor",
    hint="You have the exponent of a model with two pairs: d/(d - 2) is 2 for d = 4 only. "
    "For wide heads it is close to 1.",
    see="longer-contexts#a-larger-base",
)
def square(d, factor, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    grown = base * factor**2
    return grown ** (-2 * k / d)


@exercise.wrong(
    "uses d/2 in the exponent where d belongs",
    hint="There are d/2 pairs, and yet the exponent is d/(d - 2): it is the inverse of "
    "2k/d at the last k. Which k is the last?",
    see="longer-contexts#a-larger-base",
)
def half_width(d, factor, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    grown = base * factor ** ((d // 2) / (d // 2 - 2))
    return grown ** (-2 * k / d)


@exercise.wrong(
    "ignores the factor",
    hint="Your frequencies are those of the model as it was trained. Where does `factor` enter?",
    see="longer-contexts#a-larger-base",
)
def ignores_factor(d, factor, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    grown = base
    return grown ** (-2 * k / d)


@exercise.wrong(
    "ignores the base",
    hint="What grows is the base that is given, not 10 000. Try base=100.0.",
    see="longer-contexts#a-larger-base",
)
def ignores_base(d, factor, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    grown = 10000.0 * factor ** (d / (d - 2))
    return grown ** (-2 * k / d)


@exercise.wrong(
    "counts the pairs from 1 in a formula that counts from 0",
    hint="The first pair should turn by one radian per position whatever the factor. What "
    "does your first entry hold?",
    see="longer-contexts#a-larger-base",
)
def counts_from_one(d, factor, base=10000.0):
    k = torch.arange(1, d // 2 + 1, dtype=torch.float64)
    grown = base * factor ** (d / (d - 2))
    return grown ** (-2 * k / d)


@exercise.wrong(
    "halves the exponent of the frequencies: k/d instead of 2k/d",
    hint="The base is right, and the exponents run over half of their range. Up to which "
    "number does 2k/d go at the last pair?",
    see="longer-contexts#a-larger-base",
)
def half_exponent(d, factor, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    grown = base * factor ** (d / (d - 2))
    return grown ** (-k / d)


@exercise.wrong(
    "adds the factor's power to the base",
    hint="The ratio of new to old frequencies should not depend on the base, and yours "
    "does. Growing by a factor is a product.",
    see="longer-contexts#a-larger-base",
)
def adds(d, factor, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    grown = base + factor ** (d / (d - 2))
    return grown ** (-2 * k / d)


@exercise.right("the grown base, then the usual power")
def grown_base(d, factor, base=10000.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    grown = base * factor ** (d / (d - 2))
    return grown ** (-2 * k / d)


@exercise.right("each pair slowed by its own share of the factor")
def own_share(d, factor, base=10000.0):
    pairs = d // 2
    share = torch.linspace(0, 1, pairs, dtype=torch.float64)
    return base ** (-2 * torch.arange(pairs).double() / d) * factor**-share


@exercise.right("through logarithms")
def logarithms(d, factor, base=10000.0):
    step = 2 / d * math.log(base) + 2 / (d - 2) * math.log(factor)
    return torch.exp(-step * torch.arange(d // 2, dtype=torch.float64))


exercise.equivalent(
    "torch.arange(d // 2, dtype=torch.float64) -> torch.arange(d // 2)",
    because="2 * k / d is floating point either way, and float32 is as good within the tolerance",
)
