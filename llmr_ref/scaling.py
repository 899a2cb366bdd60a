"""Scaling laws: loss as a power of parameters N, tokens D and compute C, and how to fit them.

Letters follow the papers: N parameters, D training tokens, C = 6 N D training FLOPs, L loss in nats
per token. Laws are fitted by Huber loss on log loss, IsoFLOP profiles by least squares; intervals
are percentiles of a residual bootstrap, see `fitting.Fit.interval`.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from llmr_ref.fitting import Fit, exp, require_count, require_distinct, require_positive, robust_fit

FLOPS_PER_PARAMETER_AND_TOKEN = 6  # Kaplan et al. 2020, section 2.1: 2 forward and 4 backward

Number = TypeVar("Number", float, np.ndarray, Tensor)


# --- the laws -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PowerLaw:
    """y(x) = floor + coefficient x^exponent."""

    coefficient: float
    exponent: float
    floor: float = 0.0

    @classmethod
    def kaplan(cls, x_c: float, alpha: float) -> "PowerLaw":
        """L(x) = (x_c / x)^alpha. Source: Kaplan et al. 2020, equations 1.1 to 1.3."""
        require_positive(x_c=x_c)
        return cls(x_c**alpha, -alpha)

    @property
    def x_c(self) -> float:
        """Where the power is 1: Kaplan's N_c, D_c or C_c."""
        return math.exp(-math.log(self.coefficient) / self.exponent)

    def __call__(self, x: Number) -> Number:
        """Raises: ValueError for an x that is not positive."""
        require_positive(x=x)
        return self.floor + self.coefficient * x**self.exponent


@dataclass(frozen=True)
class ChinchillaLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta.

    Source: Hoffmann et al. 2022, equation 2.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    @property
    def a(self) -> float:
        """N_opt grows as C^a."""
        return self.beta / (self.alpha + self.beta)

    @property
    def b(self) -> float:
        """D_opt grows as C^b; a + b = 1."""
        return self.alpha / (self.alpha + self.beta)

    def __call__(self, N: Number, D: Number) -> Number:
        """Raises: ValueError for an N or D that is not positive."""
        require_positive(N=N, D=D)
        return self.E + self.A * N**-self.alpha + self.B * D**-self.beta

    def optimal(self, C: Number) -> tuple[Number, Number]:
        """The N and D of lowest loss among all with 6 N D = C.

        Raises: ValueError for a C that is not positive.
        Source: Hoffmann et al. 2022, equation 4.
        """
        require_positive(C=C)
        ratio = self.alpha * self.A / (self.beta * self.B)
        G = ratio ** (1 / (self.alpha + self.beta))
        pairs = C / FLOPS_PER_PARAMETER_AND_TOKEN
        return G * pairs**self.a, pairs**self.b / G

    def tokens_to_reach(self, loss: float, N: float) -> float:
        """D at which a model of N parameters has this loss, inf where no D suffices.

        Raises: ValueError for a loss or N that is not positive.
        Source: L4 "Larger models require fewer samples to reach the same performance".
        """
        require_positive(loss=loss, N=N)
        left = loss - self.E - self.A * N**-self.alpha
        return (self.B / left) ** (1 / self.beta) if left > 0 else math.inf


@dataclass(frozen=True)
class KaplanLaw:
    """L(N, D) = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D.

    Source: Kaplan et al. 2020, equation 1.5. N counts no embeddings there.
    """

    N_c: float
    D_c: float
    alpha_N: float
    alpha_D: float

    @property
    def inner(self) -> ChinchillaLaw:
        """What is raised to alpha_D; it has its minimum where the loss has."""
        r = self.alpha_N / self.alpha_D
        return ChinchillaLaw(0.0, self.N_c**r, self.D_c, r, 1.0)

    @property
    def a(self) -> float:
        """N_opt grows as C^a under C = 6 N D."""
        return self.inner.a

    @property
    def b(self) -> float:
        """D_opt grows as C^b; a + b = 1."""
        return self.inner.b

    def __call__(self, N: Number, D: Number) -> Number:
        """Raises: ValueError for an N or D that is not positive."""
        require_positive(N=N, D=D)
        r = self.alpha_N / self.alpha_D
        return ((self.N_c / N) ** r + self.D_c / D) ** self.alpha_D

    def optimal(self, C: Number) -> tuple[Number, Number]:
        """The N and D of lowest loss among all with 6 N D = C.

        Raises: ValueError for a C that is not positive.
        """
        return self.inner.optimal(C)

    def tokens_to_reach(self, loss: float, N: float) -> float:
        """D at which a model of N parameters has this loss, inf where no D suffices.

        Raises: ValueError for a loss or N that is not positive.
        """
        require_positive(loss=loss)
        return self.inner.tokens_to_reach(loss ** (1 / self.alpha_D), N)


@dataclass(frozen=True)
class Published:
    """A law as its authors printed it."""

    law: PowerLaw | ChinchillaLaw | KaplanLaw
    inputs: str
    source: str


_NON_EMBEDDING = "N: parameters without embeddings"
_TOKENS = "D: training tokens"
_PF_DAYS = "C: PF-days, 8.64e19 FLOPs each"
PUBLISHED = {
    "kaplan-N": Published(
        PowerLaw.kaplan(8.8e13, 0.076), _NON_EMBEDDING, "Kaplan et al. 2020, equation 1.1"
    ),
    "kaplan-D": Published(
        PowerLaw.kaplan(5.4e13, 0.095), _TOKENS, "Kaplan et al. 2020, equation 1.2"
    ),
    "kaplan-C": Published(
        PowerLaw.kaplan(1.6e7, 0.057), _PF_DAYS, "Kaplan et al. 2020, appendix A"
    ),
    "kaplan-C-min": Published(
        PowerLaw.kaplan(3.1e8, 0.050),
        _PF_DAYS + ", at the best batch size",
        "Kaplan et al. 2020, equation 1.3",
    ),
    "kaplan-N-of-C-min": Published(
        PowerLaw(1.3e9, 0.73),
        _PF_DAYS + ", at the best batch size; gives the best N",
        "Kaplan et al. 2020, appendix A",
    ),
    "kaplan": Published(
        KaplanLaw(6.4e13, 1.8e13, 0.076, 0.103),
        _NON_EMBEDDING + "; " + _TOKENS,
        "Kaplan et al. 2020, table 2",
    ),
    "chinchilla": Published(
        ChinchillaLaw(1.69, 406.4, 410.7, 0.34, 0.28),
        "N: parameters; " + _TOKENS,
        "Hoffmann et al. 2022, equation 10, rounded as printed",
    ),
    "chinchilla-unrounded": Published(
        ChinchillaLaw(1.6934, 406.4, 410.7, 0.3392, 0.2849),
        "N: parameters; " + _TOKENS,
        "Hoffmann et al. 2022, TeX source, as reported by Besiroglu et al. 2024",
    ),
    "chinchilla-refit": Published(
        ChinchillaLaw(1.8172, 482.01, 2085.43, 0.3478, 0.3658),
        "N: parameters; " + _TOKENS,
        "Besiroglu et al. 2024, equation 4: standard errors 0.03, 124.58, 1293.23, 0.02, 0.02",
    ),
}


# --- runs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One finished training run: parameters, tokens seen, final loss in nats, FLOPs if counted.

    Raises: ValueError for a number that is not positive and finite.
    """

    n_parameters: float
    n_tokens: float
    loss: float
    flops: float | None = None

    def __post_init__(self) -> None:
        require_positive(n_parameters=self.n_parameters, n_tokens=self.n_tokens, loss=self.loss)
        if self.flops is not None:
            require_positive(flops=self.flops)

    @property
    def compute(self) -> float:
        """The FLOPs counted, or else 6 N D."""
        if self.flops is not None:
            return self.flops
        return FLOPS_PER_PARAMETER_AND_TOKEN * self.n_parameters * self.n_tokens


def load_runs(path: str | Path) -> list[Run]:
    """Runs from JSON lines with n_parameters, n_tokens, loss and perhaps flops; more is ignored.

    Raises: FileNotFoundError without the file; ValueError, with the line's number, for a line that
    is no such object.
    """
    runs = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            runs.append(
                Run(
                    float(record["n_parameters"]),
                    float(record["n_tokens"]),
                    float(record["loss"]),
                    None if record.get("flops") is None else float(record["flops"]),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} line {number} must be a JSON object with the numbers n_parameters, "
                f"n_tokens and loss: {type(error).__name__} {error}"
            ) from error
    return runs


def synthetic_runs(
    law: ChinchillaLaw | KaplanLaw,
    sizes: Iterable[tuple[float, float]],
    *,
    noise: float,
    seed: int,
) -> list[Run]:
    """A run for each (N, D) with the law's loss times e^(noise z), z standard normal.

    Raises: ValueError for a negative noise.
    """
    if not noise >= 0:
        raise ValueError(f"noise is the spread of log loss, at least 0, got {noise}")
    generator = torch.Generator().manual_seed(seed)
    return [Run(N, D, law(N, D) * math.exp(noise * _normal(generator))) for N, D in sizes]


def _normal(generator: torch.Generator) -> float:
    return torch.randn((), generator=generator, dtype=torch.float64).item()


# --- fits ---------------------------------------------------------------------------------------


def fit_power_law(
    x: Sequence[float],
    y: Sequence[float],
    *,
    floor: float = 0.0,
    delta: float = 1e-3,
    resamples: int = 200,
    seed: int = 0,
) -> Fit[PowerLaw]:
    """y = floor + coefficient x^exponent for a known floor, such as the text's entropy.

    Raises: ValueError for different lengths, fewer than three points, a single x, an x that is not
    positive or a y that is not above the floor.
    """
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"need three or more pairs of x and y, got {len(x)} and {len(y)}")
    if any(not value > floor for value in y):
        raise ValueError(f"every y must lie above the floor {floor}, got {min(y)}")
    for value in x:
        require_positive(x=value)
    require_distinct(2, x=x)
    log_x = torch.tensor(x, dtype=torch.float64).log()
    center = log_x.mean().item()  # there, level and slope do not depend on each other
    log_x -= center

    def log_law(theta: Tensor) -> Tensor:
        level, exponent = theta[..., :1], theta[..., 1:]
        return level + exponent * log_x

    def law(theta: list[float]) -> PowerLaw:
        level, exponent = theta
        return PowerLaw(exp(level - exponent * center), exponent, floor)

    log_y = torch.tensor([math.log(value - floor) for value in y], dtype=torch.float64)
    least_squares = torch.stack((log_y.mean(), (log_x * log_y).sum() / log_x.square().sum()))
    return robust_fit(
        log_law, law, log_y, least_squares[None], delta=delta, resamples=resamples, seed=seed
    )


def fit_chinchilla(
    runs: Sequence[Run], *, delta: float = 1e-3, resamples: int = 200, seed: int = 0
) -> Fit[ChinchillaLaw]:
    """E, A, B, alpha and beta of least Huber loss of log L, from a grid of starts.

    Raises: ValueError for fewer than six runs, or fewer than three sizes N or three lengths D.
    Source: Hoffmann et al. 2022, section 3.3, equation 3 and appendix D.3.
    """
    log_N, log_D, log_L = _logs(runs, at_least=6, distinct=3)
    n, d = log_N.mean(), log_D.mean()

    def log_law(theta: Tensor) -> Tensor:
        e, a, b, alpha, beta = theta[..., None].unbind(-2)
        terms = torch.broadcast_tensors(e, a - alpha * (log_N - n), b - beta * (log_D - d))
        return torch.stack(terms).logsumexp(0)

    def law(theta: list[float]) -> ChinchillaLaw:
        e, a, b, alpha, beta = theta
        A, B = exp(a + alpha * n.item()), exp(b + beta * d.item())
        return ChinchillaLaw(exp(e), A, B, alpha, beta)

    # Hoffmann's grid, in his a = log A and b = log B; ours are the terms' logs at the data's centre.
    powers = torch.arange(0, 2.01, 0.5, dtype=torch.float64)
    logs = torch.arange(0, 25.01, 5, dtype=torch.float64)
    e = torch.arange(-1, 1.01, 0.5, dtype=torch.float64)
    start = torch.cartesian_prod(e, logs, logs, powers, powers)
    shift = torch.stack((start[:, 3] * n, start[:, 4] * d), dim=1)
    start[:, 1:3] -= shift
    return robust_fit(log_law, law, log_L, start, delta=delta, resamples=resamples, seed=seed)


def fit_kaplan(
    runs: Sequence[Run], *, delta: float = 1e-3, resamples: int = 200, seed: int = 0
) -> Fit[KaplanLaw]:
    """N_c, D_c, alpha_N and alpha_D of least Huber loss of log L, from a grid of starts.

    Raises: ValueError for fewer than five runs, or a single N or D.
    """
    log_N, log_D, log_L = _logs(runs, at_least=5, distinct=2)
    n, d = log_N.mean(), log_D.mean()

    def log_law(theta: Tensor) -> Tensor:
        a, b, alpha_N, alpha_D = theta[..., None].unbind(-2)
        terms = torch.stack((a - alpha_N * (log_N - n), b - alpha_D * (log_D - d)))
        return alpha_D * (terms / alpha_D).logsumexp(0)

    def law(theta: list[float]) -> KaplanLaw:
        a, b, alpha_N, alpha_D = theta
        N_c, D_c = exp(a / alpha_N + n.item()), exp(b / alpha_D + d.item())
        return KaplanLaw(N_c, D_c, alpha_N, alpha_D)

    powers = torch.tensor([0.05, 0.1, 0.2, 0.4, 0.8], dtype=torch.float64)
    logs = log_L.mean() + torch.tensor([-2.0, -1.0, 0.0], dtype=torch.float64)
    start = torch.cartesian_prod(logs, logs, powers, powers)
    return robust_fit(log_law, law, log_L, start, delta=delta, resamples=resamples, seed=seed)


@dataclass(frozen=True)
class IsoFLOP:
    """The lowest point of the parabola through the runs of one budget.

    loss = curvature (log N - log N_opt)^2 + its minimum, and likewise in log D for D_opt.
    """

    C: float
    N: float
    D: float
    loss: float
    curvature: float


@dataclass(frozen=True)
class IsoFLOPLaw:
    """The minima of all budgets, and the power laws N_opt(C) and D_opt(C) through them."""

    minima: tuple[IsoFLOP, ...]
    N: PowerLaw
    D: PowerLaw

    @property
    def a(self) -> float:
        """N_opt grows as C^a."""
        return self.N.exponent

    @property
    def b(self) -> float:
        """D_opt grows as C^b."""
        return self.D.exponent


def fit_isoflop(
    runs: Sequence[Run], *, tolerance: float = 0.05, resamples: int = 200, seed: int = 0
) -> Fit[IsoFLOPLaw]:
    """A parabola in log N, and one in log D, per budget; straight lines through their minima.

    Runs whose C differ by less than `tolerance`, relative, share a budget. Plain least squares. A
    resample without a minimum among the sizes tried is left out.
    Raises: ValueError for fewer than two budgets, a budget with fewer than four sizes, or one whose
    losses have no minimum among them.
    Source: Hoffmann et al. 2022, section 3.2.
    """
    require_count(resamples)
    budgets = _budgets(runs, tolerance)
    if len(budgets) < 2:
        raise ValueError(f"need runs of two or more budgets C, got {len(budgets)}")
    for budget in budgets:
        require_distinct(
            4, **{f"N at C = {budget[0].compute:.3g}": [r.n_parameters for r in budget]}
        )
    log_N = [np.log([r.n_parameters for r in budget]) for budget in budgets]
    log_D = [np.log([r.n_tokens for r in budget]) for budget in budgets]
    C = [exp(float(np.mean(np.log([r.compute for r in budget])))) for budget in budgets]
    losses = [np.array([r.loss for r in budget]) for budget in budgets]

    def law(losses: Sequence[np.ndarray]) -> IsoFLOPLaw:
        minima = []
        for c, n, d, loss in zip(C, log_N, log_D, losses, strict=True):
            (N, low, curvature), (D, _, _) = _parabola(n, loss, c), _parabola(d, loss, c)
            minima.append(IsoFLOP(c, exp(N), exp(D), low, curvature))
        return IsoFLOPLaw(
            tuple(minima),
            _line_through(C, [m.N for m in minima]),
            _line_through(C, [m.D for m in minima]),
        )

    fitted = [np.polyval(np.polyfit(n, loss, 2), n) for n, loss in zip(log_N, losses, strict=True)]
    residuals = [loss - curve for loss, curve in zip(losses, fitted, strict=True)]
    # A parabola takes three of a budget's n degrees of freedom: its residuals are that much small.
    pool = np.concatenate([r * math.sqrt(len(r) / (len(r) - 3)) for r in residuals])
    generator = np.random.default_rng(seed)
    resampled = []
    for _ in range(resamples):
        drawn = [curve + generator.choice(pool, len(curve)) for curve in fitted]
        try:
            resampled.append(law(drawn))
        except ValueError:
            continue
    every = np.concatenate(residuals)
    return Fit(law(losses), float(every @ every / 2), tuple(every.tolist()), tuple(resampled))


def _budgets(runs: Sequence[Run], tolerance: float) -> list[list[Run]]:
    budgets: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: run.compute):
        if budgets and run.compute <= budgets[-1][0].compute * (1 + tolerance):
            budgets[-1].append(run)
        else:
            budgets.append([run])
    return budgets


def _parabola(x: np.ndarray, y: np.ndarray, C: float) -> tuple[float, float, float]:
    """Where the least-squares parabola is lowest, its value there, and its curvature."""
    center = float(x.mean())  # log N is near 20: powers of the raw numbers would cancel
    c2, c1, c0 = (float(c) for c in np.polyfit(x - center, y, 2))
    if not (c2 > 0 and x.min() <= center - c1 / (2 * c2) <= x.max()):
        raise ValueError(
            f"the losses of the budget C = {C:.3g} have no minimum between its smallest and largest "
            "model: train smaller or larger ones"
        )
    return center - c1 / (2 * c2), c0 - c1**2 / (4 * c2), c2


def _line_through(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    slope, level = np.polyfit(np.log(x), np.log(y), 1)
    return PowerLaw(exp(level), float(slope))


def _logs(runs: Sequence[Run], *, at_least: int, distinct: int) -> tuple[Tensor, Tensor, Tensor]:
    """log N, log D and log L, checked to be enough for the law."""
    if len(runs) < at_least:
        raise ValueError(f"need {at_least} or more runs for this law, got {len(runs)}")
    N, D = [run.n_parameters for run in runs], [run.n_tokens for run in runs]
    require_distinct(distinct, N=N, D=D)
    columns = torch.tensor([N, D, [run.loss for run in runs]], dtype=torch.float64).log()
    return columns[0], columns[1], columns[2]
