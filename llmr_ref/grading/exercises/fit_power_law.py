"""Exercise: a power law with a floor, fitted to points."""

import math

import torch
from torch import Tensor

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.scaling import PowerLaw


def fit_power_law(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """For every exponent E and A are a straight line's; the exponent is found on ever finer grids."""
    x, y = x.double(), y.double()
    middle = x.log().mean().exp()
    low, high = 0.01, 2.0
    for _ in range(5):
        alpha = torch.linspace(low, high, 201, dtype=torch.float64)
        u = (x / middle) ** -alpha[:, None]
        centred = u - u.mean(-1, keepdim=True)
        A = (centred * y).sum(-1) / centred.square().sum(-1)
        E = y.mean() - A * u.mean(-1)
        best = (E[:, None] + A[:, None] * u - y).square().sum(-1).argmin()
        step = (high - low) / 200
        low, high = max(alpha[best].item() - step, 1e-3), alpha[best].item() + step
    exponent = alpha[best].item()
    return E[best].item(), A[best].item() * middle.item() ** exponent, exponent


exercise = Exercise(
    "fit_power_law",
    points=4,
    difficulty=4,
    minutes=35,
    reference=fit_power_law,
    chapter="scaling#fitting",
)


def points(draw: Draw, n: int, E: float, note: str, noise: float = 0.0, low: float = 6.0) -> Case:
    """n sizes over three powers of ten; the power is about 1 in their middle."""
    alpha = draw.integer(25, 45) / 100
    x = 10 ** torch.linspace(low, low + 3, n, dtype=torch.float64)
    law = PowerLaw(10 ** ((low + 1.5) * alpha) * draw.integer(8, 15) / 10, -alpha, E)
    y = law(x) + noise * draw.normal(n).double()
    return Case((x, y), note=note, tolerance=0.02)  # A moves by 17 times as much as alpha


@exercise.property("points that lie on a law give the law", weight=3)
def exact(draw: Draw):
    yield points(draw, 6, draw.integer(12, 16) / 10, "six points on a law")
    yield points(draw, 9, draw.integer(17, 22) / 10, "nine points on a law")
    yield points(draw, 7, draw.integer(3, 6) / 10, "a small E")


@exercise.property("a law without a floor is found as well")
def no_floor(draw: Draw):
    yield points(draw, 8, 0.0, "E = 0")


@exercise.property("x may be of any size")
def scales(draw: Draw):
    yield points(draw, 7, 1.7, "sizes from 1 to 1000", low=0.0)
    yield points(draw, 7, 1.3, "sizes up to 10^22", low=19.0)


@exercise.property("with noise the curve is as near to the points as it can be", weight=1.5)
def noisy(draw: Draw):
    yield points(draw, 9, 1.7, "points with noise", noise=0.01)
    yield points(draw, 12, 1.4, "points with noise", noise=0.02)


@exercise.wrong(
    "fits a straight line to the logarithms and leaves E out",
    hint="In a log-log plot these points bend and flatten out. Which number do they come down to?",
    see="scaling#fitting",
)
def straight_line(x, y):
    a, b = x.double().log(), y.double().log()
    slope = ((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum()
    level = (b.mean() - slope * a.mean()).exp()
    return 0.0, level.item(), -slope.item()


@exercise.wrong(
    "takes the smallest y for E",
    hint="The last point is not the floor: a larger model would be lower still. E has to be"
    " fitted with the rest.",
    see="scaling#the-irreducible-loss",
)
def smallest_loss(x, y):
    x, y = x.double(), y.double()
    E = y.min().item()
    keep = y > E
    a, b = x[keep].log(), (y[keep] - E).log()
    slope = ((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum()
    level = (b.mean() - slope * a.mean()).exp()
    return E, level.item(), -slope.item()


@exercise.wrong(
    "takes a little less than the smallest y for E",
    hint="Any E below the points gives some line. Which one gives the straightest?",
    see="scaling#the-irreducible-loss",
)
def a_bit_below(x, y):
    x, y = x.double(), y.double()
    E = 0.95 * y.min().item()
    a, b = x.log(), (y - E).log()
    slope = ((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum()
    level = (b.mean() - slope * a.mean()).exp()
    return E, level.item(), -slope.item()


@exercise.wrong(
    "takes E = 1.69 from a paper",
    hint="That is the floor of another text under another tokenizer. The points have one of"
    " their own.",
    see="scaling#the-irreducible-loss",
)
def published_floor(x, y):
    x, y = x.double(), y.double()
    E = 1.69
    a, b = x.log(), (y - E).clamp(min=1e-3).log()
    slope = ((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum()
    level = (b.mean() - slope * a.mean()).exp()
    return E, level.item(), -slope.item()


@exercise.wrong(
    "returns the slope, which is negative, as alpha",
    hint="The law is written with x to the power of minus alpha. Which sign has alpha then?",
    see="scaling#fitting",
)
def negative_exponent(x, y):
    alphas = torch.arange(0.05, 1.0, 0.0002, dtype=torch.float64)
    u = (x / x[0]) ** -alphas[:, None]
    centred = u - u.mean(1, keepdim=True)
    A = (centred * y).sum(1) / centred.square().sum(1)
    E = y.mean() - A * u.mean(1)
    misses = E[:, None] + A[:, None] * u - y
    best = misses.square().sum(1).argmin()
    alpha = alphas[best].item()
    return E[best].item(), A[best].item() * x[0].item() ** alpha, -alpha


@exercise.wrong(
    "returns the logarithm of A",
    hint="A straight line in logarithms has its height as a logarithm too.",
    see="scaling#fitting",
)
def log_of_A(x, y):
    alphas = torch.arange(0.05, 1.0, 0.0002, dtype=torch.float64)
    u = (x / x[0]) ** -alphas[:, None]
    centred = u - u.mean(1, keepdim=True)
    A = (centred * y).sum(1) / centred.square().sum(1)
    E = y.mean() - A * u.mean(1)
    misses = E[:, None] + A[:, None] * u - y
    best = misses.square().sum(1).argmin()
    alpha = alphas[best].item()
    return E[best].item(), A[best].log().item() + alpha * x[0].log().item(), alpha


@exercise.wrong(
    "returns A for x in other units",
    hint="You divided x by a typical size to compute with small numbers. What does that do to A?",
    see="scaling#fitting",
)
def not_scaled_back(x, y):
    alphas = torch.arange(0.05, 1.0, 0.0002, dtype=torch.float64)
    u = (x / x[0]) ** -alphas[:, None]
    centred = u - u.mean(1, keepdim=True)
    A = (centred * y).sum(1) / centred.square().sum(1)
    E = y.mean() - A * u.mean(1)
    misses = E[:, None] + A[:, None] * u - y
    best = misses.square().sum(1).argmin()
    alpha = alphas[best].item()
    return E[best].item(), A[best].item(), alpha


@exercise.wrong(
    "returns alpha before A",
    hint="The result is (E, A, alpha), in this order.",
    see="scaling#fitting",
)
def order(x, y):
    alphas = torch.arange(0.05, 1.0, 0.0002, dtype=torch.float64)
    u = (x / x[0]) ** -alphas[:, None]
    centred = u - u.mean(1, keepdim=True)
    A = (centred * y).sum(1) / centred.square().sum(1)
    E = y.mean() - A * u.mean(1)
    misses = E[:, None] + A[:, None] * u - y
    best = misses.square().sum(1).argmin()
    alpha = alphas[best].item()
    return E[best].item(), alpha, A[best].item() * x[0].item() ** alpha


@exercise.wrong(
    "takes 1/2 for alpha",
    hint="For one exponent you find the best E and A. Do so for many exponents, and take the"
    " best of all.",
    see="scaling#fitting",
)
def square_root(x, y):
    alphas = torch.tensor([0.5], dtype=torch.float64)
    u = (x / x[0]) ** -alphas[:, None]
    centred = u - u.mean(1, keepdim=True)
    A = (centred * y).sum(1) / centred.square().sum(1)
    E = y.mean() - A * u.mean(1)
    misses = E[:, None] + A[:, None] * u - y
    best = misses.square().sum(1).argmin()
    alpha = alphas[best].item()
    return E[best].item(), A[best].item() * x[0].item() ** alpha, alpha


@exercise.wrong(
    "tries a few exponents only",
    hint="Your best exponent is the best of a few. Look again between its neighbours.",
    see="scaling#fitting",
)
def coarse(x, y):
    alphas = torch.arange(0.05, 1.0, 0.23, dtype=torch.float64)
    u = (x / x[0]) ** -alphas[:, None]
    centred = u - u.mean(1, keepdim=True)
    A = (centred * y).sum(1) / centred.square().sum(1)
    E = y.mean() - A * u.mean(1)
    misses = E[:, None] + A[:, None] * u - y
    best = misses.square().sum(1).argmin()
    alpha = alphas[best].item()
    return E[best].item(), A[best].item() * x[0].item() ** alpha, alpha


@exercise.wrong(
    "fits an exponential of x instead of a power",
    hint="Plot y - E against x on logarithmic axes: a power law is straight with both axes"
    " logarithmic.",
    see="scaling#power-laws",
)
def exponential(x, y):
    alphas = torch.arange(0.05, 1.0, 0.0002, dtype=torch.float64)
    u = torch.exp(-alphas[:, None] * (x / x[0]))
    centred = u - u.mean(1, keepdim=True)
    A = (centred * y).sum(1) / centred.square().sum(1)
    E = y.mean() - A * u.mean(1)
    misses = E[:, None] + A[:, None] * u - y
    best = misses.square().sum(1).argmin()
    alpha = alphas[best].item()
    return E[best].item(), A[best].item() * 1.0, alpha


@exercise.wrong(
    "fits a straight line in log x",
    hint="That line goes below every floor, and below 0 in the end. A power law flattens out.",
    see="scaling#power-laws",
)
def logarithm(x, y):
    a, y = x.double().log(), y.double()
    slope = ((a - a.mean()) * (y - y.mean())).sum() / (a - a.mean()).square().sum()
    return (y.mean() - slope * a.mean()).item(), 1e-9, -slope.item()


@exercise.right("a straight line for each of many exponents")
def many_exponents(x, y):
    alphas = torch.arange(0.05, 1.0, 0.0002, dtype=torch.float64)
    u = (x / x[0]) ** -alphas[:, None]
    centred = u - u.mean(1, keepdim=True)
    A = (centred * y).sum(1) / centred.square().sum(1)
    E = y.mean() - A * u.mean(1)
    misses = E[:, None] + A[:, None] * u - y
    best = misses.square().sum(1).argmin()
    alpha = alphas[best].item()
    return E[best].item(), A[best].item() * x[0].item() ** alpha, alpha


@exercise.right("a search for E, a line through the logarithms, polished by Gauss and Newton")
def search_for_E(x, y):
    x, y = x.double(), y.double()
    z = x.log() - x.log().mean()

    def line(E):
        b = (y - E).log()
        slope = (z * b).sum() / (z * z).sum()
        level = b.mean()
        error = (E + (level + slope * z).exp() - y).square().sum().item()
        return error, E, level.exp().item(), -slope.item()

    candidates = torch.linspace(-0.3, y.min().item() - 1e-3, 400).tolist()
    _, E, A, alpha = min(line(E) for E in candidates)
    theta = torch.tensor([E, A, alpha], dtype=torch.float64)
    for _ in range(60):
        E, A, alpha = theta
        u = (-alpha * z).exp()
        J = torch.stack([torch.ones_like(u), u, -A * z * u], dim=1)
        residual = y - (E + A * u)
        theta = theta + torch.linalg.lstsq(J, residual[:, None]).solution[:, 0]
    E, A, alpha = theta.tolist()
    return E, A * math.exp(alpha * x.log().mean().item()), alpha


@exercise.right("golden section over alpha, least squares inside")
def golden_section(x, y):
    log_x, y = x.double().log(), y.double()
    shift = log_x.mean()

    def inner(alpha):
        u = torch.exp(-alpha * (log_x - shift))
        M = torch.stack([torch.ones_like(u), u], 1)
        E, A = torch.linalg.lstsq(M, y).solution
        return ((M @ torch.stack([E, A]) - y) ** 2).sum().item(), E.item(), A.item()

    a, b, r = 0.01, 1.5, (5**0.5 - 1) / 2
    for _ in range(60):
        c, d = b - r * (b - a), a + r * (b - a)
        if inner(c)[0] < inner(d)[0]:
            b = d
        else:
            a = c
    alpha = (a + b) / 2
    _, E, A = inner(alpha)
    return E, float(A * torch.exp(alpha * shift)), alpha


exercise.equivalent(
    "torch.arange(0.05, 1.0, 0.0002, dtype=torch.float64)"
    " -> torch.arange(0.1, 1.0, 0.0002, dtype=torch.float64)",
    "torch.arange(0.05, 1.0, 0.0002, dtype=torch.float64)"
    " -> torch.arange(0.05, 2.0, 0.0002, dtype=torch.float64)",
    "torch.arange(0.05, 1.0, 0.0002, dtype=torch.float64)"
    " -> torch.arange(0.05, 1.0, 0.0004, dtype=torch.float64)",
    because="the exponents that are promised lie in either range, and the steps are fine enough",
)
exercise.equivalent(
    "E[:, None] + A[:, None] * u - y -> y - (E[:, None] + A[:, None] * u)",
    because="a square has no sign",
)
exercise.equivalent(
    "misses.square().sum(1) -> misses.square().mean(1)",
    because="the mean is lowest where the sum is",
)
