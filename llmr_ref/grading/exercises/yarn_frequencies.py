"""Exercise: YaRN keeps the pairs that turn fast and interpolates those that turn slowly."""

import math

import torch
from torch import Tensor

from llmr_ref import rope
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(
    d: int,
    factor: float,
    trained_length: int,
    base: float = 10_000.0,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
) -> Tensor:
    """The ramp of the paper, linear in turns: `rope.RopeScaling("llama3", ...)` computes the same."""
    scaling = rope.RopeScaling(
        "llama3",
        factor=factor,
        original_length=trained_length,
        beta_fast=beta_fast,
        beta_slow=beta_slow,
    )
    return rope.scaled_frequencies(d, base, scaling)


exercise = Exercise(
    "yarn_frequencies",
    points=5,
    difficulty=4,
    minutes=35,
    reference=reference,
    chapter="longer-contexts#yarn-the-ramp",
)


def frequencies(*args, note="", **kwargs):
    return Case(args, kwargs, note=note, any_float=True, tolerance=3e-6)


@exercise.property(
    "fast pairs stay, slow pairs turn `factor` times slower, a ramp joins them", weight=2
)
def ramp(draw: Draw):
    yield frequencies(8, 4.0, 128, 50.0, note="all three kinds of pairs")
    yield frequencies(16, 2.0, 256, 100.0, note="eight pairs")
    yield frequencies(2 * draw.integer(8, 12), 4.0, 400, 200.0)
    yield frequencies(12, float(draw.integer(3, 8)), draw.integer(150, 500), 100.0)


@exercise.property("at the ends nothing is mixed")
def ends(draw: Draw):
    yield frequencies(8, 4.0, 100_000, 20.0, note="a length in which every pair turns often")
    yield frequencies(8, 4.0, 5, 100.0, note="a length in which no pair turns once")
    yield frequencies(2 * draw.integer(4, 8), 1.0, 128, 50.0, note="a factor of 1")


@exercise.property("both ends of the ramp are arguments")
def betas(draw: Draw):
    yield frequencies(8, 4.0, 64, 30.0, beta_fast=8.0, note="beta_fast=8.0")
    yield frequencies(8, 4.0, 64, 60.0, beta_slow=3.0, note="beta_slow=3.0")
    slow = float(draw.integer(2, 4))
    both = {"beta_fast": slow + draw.integer(3, 9), "beta_slow": slow}
    yield frequencies(16, 2.0, 100, 40.0, **both, note="both ends moved")


@exercise.property("the base is an argument", weight=0.5)
def bases(draw: Draw):
    yield frequencies(8, 4.0, 256, note="the usual base")
    yield frequencies(12, 2.0, 200, float(draw.integer(60, 300)), note="another base")


@exercise.wrong(
    "interpolates the fast pairs and keeps the slow ones",
    hint="Pairs that turn often within the trained length have shown every angle and need "
    "no help. Those that never finished a turn do. The lecture's brackets have small "
    "and large k the wrong way round.",
    see="longer-contexts#yarn-the-ramp",
)
def swapped_ends(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = trained_length * theta / (2 * math.pi)
    keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1)
    return (1 - keep) * theta + keep * theta / factor


@exercise.wrong(
    "jumps where there should be a ramp",
    hint="Between the two ends a pair is partly kept and partly interpolated. In your "
    "result every pair is either one or the other.",
    see="longer-contexts#yarn-the-ramp",
)
def no_ramp(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = trained_length * theta / (2 * math.pi)
    keep = (turns > beta_slow).double()
    return keep * theta + (1 - keep) * theta / factor


@exercise.wrong(
    "lets the ramp run past its ends",
    hint="Outside the two ends the share to keep is 0 or 1. Yours becomes negative for the "
    "slowest pairs, or larger than 1 for the fastest.",
    see="longer-contexts#yarn-the-ramp",
)
def not_clamped(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = trained_length * theta / (2 * math.pi)
    keep = (turns - beta_slow) / (beta_fast - beta_slow)
    return keep * theta + (1 - keep) * theta / factor


@exercise.wrong(
    "clamps the ramp at one end only",
    hint="A share lies between 0 and 1. One of these two ends is missing in your clamp: "
    "look at the slowest pairs.",
    see="longer-contexts#yarn-the-ramp",
)
def clamped_above_only(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = trained_length * theta / (2 * math.pi)
    keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(max=1)
    return keep * theta + (1 - keep) * theta / factor


@exercise.wrong(
    "forgets that a full turn is two pi",
    hint="An angle in radians is about six times the number of turns. Your ramp therefore "
    "keeps pairs that turn too seldom.",
    see="longer-contexts#wavelengths",
)
def radians(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = trained_length * theta
    keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1)
    return keep * theta + (1 - keep) * theta / factor


@exercise.wrong(
    "draws the ramp over pairs instead of turns",
    hint="The paper's share is linear in the number of turns. Yours is linear in k, as in "
    "the authors' own code, which gives other numbers between the ends.",
    see="longer-contexts#yarn-the-ramp",
)
def linear_in_k(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    k = torch.arange(d // 2, dtype=torch.float64)
    theta = base ** (-2 * k / d)

    def pair_that_turns(times):
        return d * math.log(trained_length / (times * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_that_turns(beta_fast), pair_that_turns(beta_slow)
    keep = ((high - k) / (high - low)).clamp(0, 1)
    return keep * theta + (1 - keep) * theta / factor


@exercise.wrong(
    "draws the ramp over wavelengths instead of turns",
    hint="Wavelength and turns are each other's inverse, so a straight line in one is a "
    "curve in the other. Which of the two has 1 and 32 as its ends?",
    see="longer-contexts#yarn-the-ramp",
)
def linear_in_wavelength(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = trained_length * theta / (2 * math.pi)
    wavelength = 1 / turns
    keep = (1 / beta_slow - wavelength) / (1 / beta_slow - 1 / beta_fast)
    keep = keep.clamp(0, 1)
    return keep * theta + (1 - keep) * theta / factor


@exercise.wrong(
    "mixes wavelengths instead of frequencies",
    hint="The two frequencies are mixed in proportion to the share. You mixed their "
    "inverses, which agrees at both ends and nowhere between.",
    see="longer-contexts#yarn-the-ramp",
)
def mixes_wavelengths(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = trained_length * theta / (2 * math.pi)
    keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1)
    return 1 / (keep / theta + (1 - keep) * factor / theta)


@exercise.wrong(
    "counts the turns in the stretched length",
    hint="What matters is what the model saw in training. Which length decides how often a "
    "pair turned there?",
    see="longer-contexts#yarn-the-ramp",
)
def stretched_length(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = factor * trained_length * theta / (2 * math.pi)
    keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1)
    return keep * theta + (1 - keep) * theta / factor


@exercise.wrong(
    "interpolates every pair",
    hint="That is position interpolation. YaRN keeps the pairs that turn often, so that "
    "neighbours stay as far apart as they were.",
    see="longer-contexts#position-interpolation",
)
def all_interpolated(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    return theta / factor


@exercise.wrong(
    "makes slow pairs faster",
    hint="In a longer sequence slow pairs should turn less per position, not more. Do you "
    "multiply by the factor or divide by it?",
    see="longer-contexts#yarn-the-ramp",
)
def multiplies(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = trained_length * theta / (2 * math.pi)
    keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1)
    return keep * theta + (1 - keep) * theta * factor


@exercise.wrong(
    "writes 1 and 32 instead of the arguments",
    hint="Your ramp has the usual ends whatever is asked for. Try beta_fast=8.0.",
    see="longer-contexts#yarn-the-ramp",
)
def fixed_ends(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = trained_length * theta / (2 * math.pi)
    keep = ((turns - 1) / 31).clamp(0, 1)
    return keep * theta + (1 - keep) * theta / factor


@exercise.wrong(
    "starts the ramp at 0 instead of beta_slow",
    hint="A pair that turns beta_slow times is interpolated in full, so its share is 0. "
    "What does yours give there?",
    see="longer-contexts#yarn-the-ramp",
)
def from_zero(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = trained_length * theta / (2 * math.pi)
    keep = (turns / beta_fast).clamp(0, 1)
    return keep * theta + (1 - keep) * theta / factor


@exercise.wrong(
    "ignores the base",
    hint="All frequencies follow from the base that is given. Try base=100.0: does your "
    "result change?",
    see="longer-contexts#yarn-the-ramp",
)
def ignores_base(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = 10000.0 ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = trained_length * theta / (2 * math.pi)
    keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1)
    return keep * theta + (1 - keep) * theta / factor


@exercise.right("a share of both frequencies")
def shares(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    theta = base ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turns = trained_length * theta / (2 * math.pi)
    keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1)
    return keep * theta + (1 - keep) * theta / factor


@exercise.right("the interpolated part as one factor")
def one_factor(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    wavelengths = 2 * math.pi * base ** (torch.arange(0, d, 2).double() / d)
    move = (beta_fast - trained_length / wavelengths) / (beta_fast - beta_slow)
    slowed = torch.lerp(
        torch.tensor(1.0).double(), torch.tensor(1 / factor).double(), move.clip(0, 1)
    )
    return math.tau / wavelengths * slowed


@exercise.right("three cases, pair by pair")
def three_cases(d, factor, trained_length, base=10000.0, beta_fast=32.0, beta_slow=1.0):
    found = []
    for k in range(d // 2):
        theta = base ** (-2 * k / d)
        turns = trained_length * theta / (2 * math.pi)
        if turns >= beta_fast:
            found.append(theta)
        elif turns <= beta_slow:
            found.append(theta / factor)
        else:
            keep = (turns - beta_slow) / (beta_fast - beta_slow)
            found.append(keep * theta + (1 - keep) * theta / factor)
    return torch.tensor(found)


exercise.equivalent(
    "torch.arange(d // 2, dtype=torch.float64) -> torch.arange(d // 2)",
    because="the exponent is floating point either way, and float32 is as good within the tolerance",
)
