"""Exercise: the best size under a budget, from runs of several sizes that cost the same."""

import math

import torch
from torch import Tensor

from llmr_ref import scaling
from llmr_ref.grading.exercise import Case, Draw, Exercise


def isoflop_minimum(sizes: Tensor, losses: Tensor) -> tuple[float, float]:
    log_N, low, _ = scaling._parabola(sizes.double().log().numpy(), losses.double().numpy(), 1.0)
    return math.exp(log_N), low


exercise = Exercise(
    "isoflop_minimum",
    points=3,
    difficulty=3,
    minutes=20,
    reference=isoflop_minimum,
    chapter="scaling#isoflop",
)

CLOSE = 1e-5
LAW = scaling.PUBLISHED["chinchilla"].law


def valley(draw: Draw, n: int, low: float, high: float, at: float, note: str) -> Case:
    """Losses on a parabola in log10 N, lowest at 10^at, at sizes from 10^low to 10^high."""
    log_N = torch.linspace(low, high, n, dtype=torch.float64)
    bottom, width = 2 + draw.integer(0, 90) / 100, draw.integer(20, 60) / 100
    return Case((10**log_N, bottom + width * (log_N - at) ** 2), note=note, tolerance=CLOSE)


def profile(draw: Draw, C: float, n: int, noise: float, note: str) -> Case:
    """Losses of the Chinchilla law at N from a fifth to five times the best, 6 N D = C."""
    assert isinstance(LAW, scaling.ChinchillaLaw)
    best, _ = LAW.optimal(C)
    N = best * 10 ** torch.linspace(-0.7, 0.6, n, dtype=torch.float64)
    losses = LAW(N, C / (6 * N)) + noise * draw.normal(n).double()
    return Case((N, losses), note=note, tolerance=CLOSE)


@exercise.property("the lowest point of the parabola through the points, in log N", weight=2)
def exact(draw: Draw):
    yield valley(draw, 5, 7.0, 9.0, 8.0, "five sizes, the middle one best")
    yield valley(draw, 5, 7.0, 9.0, 8.2, "a minimum between two sizes")
    at = 7.5 + draw.integer(1, 9) / 10
    yield valley(draw, 7, 7.0, 9.0, at, "seven sizes")


@exercise.property("points beside the parabola are fitted by least squares", weight=1.5)
def least_squares(draw: Draw):
    yield profile(draw, 1e19, 7, 0.0, "the Chinchilla law at C = 1e19")
    yield profile(draw, draw.integer(2, 9) * 1e20, 9, 0.004, "measured losses")


@exercise.property("sizes may come in any order and of any magnitude")
def any_order(draw: Draw):
    case = valley(draw, 6, 10.0, 12.0, 11.2, "unsorted sizes")
    order = draw.permutation(6)
    yield Case(tuple(x[order] for x in case.args), note=case.note, tolerance=CLOSE)
    yield valley(draw, 6, 1.0, 3.0, 2.1, "small sizes")


@exercise.wrong(
    "takes the best of the runs",
    hint="The minimum may lie between two sizes. The parabola knows where.",
    see="scaling#isoflop",
)
def smallest_measured(sizes, losses):
    best = losses.argmin()
    return sizes[best].double().item(), losses[best].double().item()


@exercise.wrong(
    "fits the parabola in N instead of log N",
    hint="The sizes are spaced evenly in log N, and in N the valley is not symmetric. What do"
    " you put on the x axis?",
    see="scaling#isoflop",
)
def in_N(sizes, losses):
    x = sizes.double()
    middle = x.mean()
    x = (x - middle) / middle
    powers = torch.stack([x**2, x, torch.ones_like(x)])
    a, b, c = torch.linalg.solve(powers @ powers.T, powers @ losses)
    at = -b / (2 * a)
    return (at * middle + middle).item(), (c - b**2 / (4 * a)).item()


@exercise.wrong(
    "returns log N",
    hint="The parabola lives in log N; the result is a number of parameters.",
    see="scaling#isoflop",
)
def log_of_N(sizes, losses):
    x = sizes.log()
    middle = x.mean()
    x = x - middle
    powers = torch.stack([x**2, x, torch.ones_like(x)])
    a, b, c = torch.linalg.solve(powers @ powers.T, powers @ losses)
    at = -b / (2 * a)
    return (at + middle).item(), (c - b**2 / (4 * a)).item()


@exercise.wrong(
    "forgets the 2 in the place of the minimum",
    hint="Set the derivative 2 a x + b to 0.",
    see="scaling#isoflop",
)
def no_half(sizes, losses):
    x = sizes.log()
    middle = x.mean()
    x = x - middle
    powers = torch.stack([x**2, x, torch.ones_like(x)])
    a, b, c = torch.linalg.solve(powers @ powers.T, powers @ losses)
    at = -b / a
    return (at + middle).exp().item(), (c - b**2 / (4 * a)).item()


@exercise.wrong(
    "takes the wrong sign for the place of the minimum",
    hint="Where is 2 a x + b = 0? Check with a parabola whose minimum you know.",
    see="scaling#isoflop",
)
def wrong_sign(sizes, losses):
    x = sizes.log()
    middle = x.mean()
    x = x - middle
    powers = torch.stack([x**2, x, torch.ones_like(x)])
    a, b, c = torch.linalg.solve(powers @ powers.T, powers @ losses)
    at = b / (2 * a)
    return (at + middle).exp().item(), (c - b**2 / (4 * a)).item()


@exercise.wrong(
    "returns the constant of the parabola as its lowest value",
    hint="c is the value at x = 0. Put the place of the minimum in.",
    see="scaling#isoflop",
)
def constant(sizes, losses):
    x = sizes.log()
    middle = x.mean()
    x = x - middle
    powers = torch.stack([x**2, x, torch.ones_like(x)])
    a, b, c = torch.linalg.solve(powers @ powers.T, powers @ losses)
    at = -b / (2 * a)
    return (at + middle).exp().item(), c.item()


@exercise.wrong(
    "returns the lowest measured loss",
    hint="The place is that of the parabola, and so should be the value.",
    see="scaling#isoflop",
)
def measured_loss(sizes, losses):
    x = sizes.log()
    middle = x.mean()
    x = x - middle
    powers = torch.stack([x**2, x, torch.ones_like(x)])
    a, b, _ = torch.linalg.solve(powers @ powers.T, powers @ losses)
    at = -b / (2 * a)
    return (at + middle).exp().item(), losses.min().item()


@exercise.wrong(
    "fits the logarithm of the loss",
    hint="The parabola is in log N alone; the loss stays as it is.",
    see="scaling#isoflop",
)
def log_loss(sizes, losses):
    x = sizes.log()
    middle = x.mean()
    x = x - middle
    powers = torch.stack([x**2, x, torch.ones_like(x)])
    a, b, c = torch.linalg.solve(powers @ powers.T, powers @ losses.log())
    at = -b / (2 * a)
    return (at + middle).exp().item(), (c - b**2 / (4 * a)).exp().item()


@exercise.wrong(
    "takes logarithms to base 10 and powers of e",
    hint="Undo a logarithm with a power of the same base.",
    see="scaling#isoflop",
)
def mixed_bases(sizes, losses):
    x = sizes.log10()
    middle = x.mean()
    x = x - middle
    powers = torch.stack([x**2, x, torch.ones_like(x)])
    a, b, c = torch.linalg.solve(powers @ powers.T, powers @ losses)
    at = -b / (2 * a)
    return (at + middle).exp().item(), (c - b**2 / (4 * a)).item()


@exercise.wrong(
    "draws the parabola through the best run and its neighbours",
    hint="With noise three points are few. Least squares uses all of them.",
    see="scaling#isoflop",
)
def three_points(sizes, losses):
    order = sizes.argsort()
    best = losses[order].argmin().clamp(1, len(order) - 2)
    keep = order[best - 1 : best + 2]
    sizes, losses = sizes[keep], losses[keep]
    x = sizes.log()
    middle = x.mean()
    x = x - middle
    powers = torch.stack([x**2, x, torch.ones_like(x)])
    a, b, c = torch.linalg.solve(powers @ powers.T, powers @ losses)
    at = -b / (2 * a)
    return (at + middle).exp().item(), (c - b**2 / (4 * a)).item()


@exercise.wrong(
    "draws the parabola through the smallest, the middle and the largest size",
    hint="Three points make a parabola, but every run says something. Use all of them.",
    see="scaling#isoflop",
)
def edges(sizes, losses):
    order = sizes.argsort()
    keep = order[[0, len(order) // 2, -1]]
    sizes, losses = sizes[keep], losses[keep]
    x = sizes.log()
    middle = x.mean()
    x = x - middle
    powers = torch.stack([x**2, x, torch.ones_like(x)])
    a, b, c = torch.linalg.solve(powers @ powers.T, powers @ losses)
    at = -b / (2 * a)
    return (at + middle).exp().item(), (c - b**2 / (4 * a)).item()


@exercise.wrong(
    "forgets to undo the shift of log N",
    hint="You moved log N to its mean to compute with small numbers. Where is the minimum before"
    " the shift?",
    see="scaling#isoflop",
)
def not_shifted_back(sizes, losses):
    x = sizes.log()
    middle = x.mean()
    x = x - middle
    powers = torch.stack([x**2, x, torch.ones_like(x)])
    a, b, c = torch.linalg.solve(powers @ powers.T, powers @ losses)
    at = -b / (2 * a)
    return at.exp().item(), (c - b**2 / (4 * a)).item()


@exercise.right("normal equations, centred")
def centred(sizes, losses):
    x = sizes.log()
    middle = x.mean()
    x = x - middle
    powers = torch.stack([x**2, x, torch.ones_like(x)])
    a, b, c = torch.linalg.solve(powers @ powers.T, powers @ losses)
    at = -b / (2 * a)
    return (at + middle).exp().item(), (c - b**2 / (4 * a)).item()


@exercise.right("normal equations in units of the spread")
def in_units(sizes, losses):
    x = sizes.double().log10()
    m, s = x.mean(), x.std()
    z = (x - m) / s
    X = torch.stack([torch.ones_like(z), z, z * z])
    c, b, a = torch.linalg.solve(X @ X.T, X @ losses.double())
    z_min = -0.5 * b / a
    return float(10 ** (m + s * z_min)), float(a * z_min**2 + b * z_min + c)


@exercise.right("polyfit of numpy")
def with_polyfit(sizes, losses):
    import numpy as np

    x = np.log(sizes.double().numpy())
    center = x.mean()
    a, b, c = np.polyfit(x - center, losses.double().numpy(), 2)
    lowest = -b / (2 * a)
    return float(np.exp(lowest + center)), float(np.polyval([a, b, c], lowest))
