"""Robust regression with intervals: Huber's loss, L-BFGS from many starts, a residual bootstrap."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Law = TypeVar("Law")


@dataclass(frozen=True)
class Fit(Generic[Law]):
    """The best law, and the laws that fit the same runs with their residuals drawn anew."""

    law: Law
    objective: float  # sum of Huber losses of the log residuals
    residuals: tuple[float, ...] = field(repr=False)  # log of measured over fitted
    resampled: tuple[Law, ...] = field(repr=False)

    def interval(
        self, quantity: str | Callable[[Law], float], level: float = 0.95
    ) -> tuple[float, float]:
        """Percentile interval of a field of the law, or of any number computed from the law.

        Raises: ValueError for a level outside (0, 1) or a fit without resamples; AttributeError for
        a field that the law does not have.
        Source: Efron & Tibshirani 1993, chapters 9 (residuals) and 13 (percentiles).
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}")
        if not self.resampled:
            raise ValueError("this fit has no resamples to take an interval from: refit with some")
        of = (lambda law: getattr(law, quantity)) if isinstance(quantity, str) else quantity
        values = np.array([float(of(law)) for law in self.resampled])
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def huber(residual: Float[Tensor, "..."], delta: float) -> Float[Tensor, "..."]:
    """r^2 / 2 up to |r| = delta, and delta (|r| - delta / 2) beyond. Source: Huber 1964."""
    inside = residual.abs().clamp(max=delta)
    return inside * (residual.abs() - inside / 2)


def robust_fit(
    log_law: Callable[[Tensor], Tensor],
    law: Callable[[list[float]], Law],
    log_y: Float[Tensor, " n"],
    starts: Float[Tensor, "s p"],
    *,
    delta: float,
    resamples: int,
    seed: int,
) -> Fit[Law]:
    """L-BFGS from the 32 best starts, then from the best fit for every resample of its residuals.

    Shapes: log_law maps parameters (..., p) to log y (..., n); law makes the result of one (p,).
    Raises: ValueError for a delta that is not positive or a negative number of resamples.
    Source: Hoffmann et al. 2022, appendix D.3; Efron & Tibshirani 1993, section 9.4.
    """
    require_positive(delta=delta)
    require_count(resamples)

    def objective(theta: Tensor, target: Tensor = log_y) -> Tensor:
        return huber(target - log_law(theta), delta).sum(-1)

    scores = objective(starts)
    ends = lbfgs(objective, starts[scores.argsort()[:32]])
    best = ends[objective(ends).argmin()]
    residuals = log_y - log_law(best)
    n, p = len(log_y), len(best)
    generator = torch.Generator().manual_seed(seed)
    drawn = residuals[torch.randint(n, (resamples, n), generator=generator)]
    # The p parameters have bent towards the noise: residuals are smaller than what made them.
    targets = log_law(best) + drawn * math.sqrt(n / (n - p))
    again = lbfgs(lambda theta: objective(theta, targets), best.expand(resamples, p))
    return Fit(
        law(best.tolist()),
        objective(best).item(),
        tuple(residuals.tolist()),
        tuple(law(theta) for theta in again.tolist()),
    )


def lbfgs(
    objective: Callable[[Float[Tensor, "b p"]], Float[Tensor, " b"]],
    start: Float[Tensor, "b p"],
    *,
    max_iterations: int = 1000,
    history: int = 10,
    tolerance: float = 1e-9,
    patience: int = 5,
) -> Float[Tensor, "b p"]:
    """End points of b minimisations in p variables, run together, each with its own step.

    A problem is finished when `patience` steps running lower it by less than `tolerance` of its
    value, or by nothing to speak of beside the value at its start.
    Source: Nocedal & Wright 2006, algorithms 3.1 (backtracking), 7.4 and 7.5.
    """
    x = start
    value, gradient = _value_and_gradient(objective, x)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    nothing = 1e-20 * value.abs()  # a minimum of zero is never near enough in relative terms
    small_steps = torch.zeros_like(value)
    for _ in range(max_iterations):
        direction = -_inverse_hessian_times(gradient, steps, changes)
        slope = (direction * gradient).sum(-1)
        t = torch.where(small_steps < patience, 1.0, 0.0)
        if not steps:  # nothing is known about the scale yet
            t = t / gradient.norm(dim=-1).clamp(min=1)
        for _ in range(40):
            trial = x + t[:, None] * direction
            new_value, new_gradient = _value_and_gradient(objective, trial)
            accepted = new_value <= value + 1e-4 * t * slope  # Armijo's condition; false for nan
            if accepted.all():
                break
            t = torch.where(accepted, t, t / 2)
        trial = torch.where(accepted[:, None], trial, x)
        new_value = torch.where(accepted, new_value, value)
        new_gradient = torch.where(accepted[:, None], new_gradient, gradient)
        is_small = value - new_value <= (tolerance * value.abs()).maximum(nothing)
        small_steps = torch.where(is_small, small_steps + 1, 0.0)
        steps = [*steps, trial - x][-history:]
        changes = [*changes, new_gradient - gradient][-history:]
        x, value, gradient = trial, new_value, new_gradient
        if (small_steps >= patience).all():
            break
    return x


def _value_and_gradient(objective: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = objective(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def _inverse_hessian_times(gradient: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """The two loops of L-BFGS over s (steps) and y (changes of the gradient).

    A step along which the slope did not rise says nothing of a minimum: its weight is zero.
    """
    q = gradient
    pairs = []
    scale = torch.ones_like(gradient[:, :1])
    for s, y in zip(steps, changes, strict=True):
        sy = (s * y).sum(-1, keepdim=True)
        pairs.append((s, y, torch.where(sy > 0, 1 / sy, 0.0)))
        scale = torch.where(sy > 0, sy / y.square().sum(-1, keepdim=True), scale)
    weights = []
    for s, y, rho in reversed(pairs):
        weight = rho * (s * q).sum(-1, keepdim=True)
        q = q - weight * y
        weights.append(weight)
    q = q * scale
    for (s, y, rho), weight in zip(pairs, reversed(weights), strict=True):
        q = q + (weight - rho * (y * q).sum(-1, keepdim=True)) * s
    return q


def exp(x: float) -> float:
    """e^x, inf where that is too large: a resample may want a coefficient past 1e308."""
    return math.exp(x) if x < 709 else math.inf


def require_count(resamples: int) -> None:
    """Raise ValueError for a negative number of resamples."""
    if resamples < 0:
        raise ValueError(f"resamples counts refits, at least 0, got {resamples}")


def require_distinct(at_least: int, **columns: Sequence[float]) -> None:
    """Raise ValueError, naming the column, where fewer values differ than a fit needs."""
    for name, values in columns.items():
        if len(set(values)) < at_least:
            raise ValueError(
                f"need {at_least} or more different values of {name}, got {sorted(set(values))}"
            )


def require_positive(**numbers: float | np.ndarray | Tensor) -> None:
    """Raise ValueError, naming it, for a number that is not positive and finite."""
    for name, number in numbers.items():
        # Straight to float64: 1e40 parameters are a fair question, and inf in float32.
        if not isinstance(number, Tensor):
            number = torch.as_tensor(number, dtype=torch.float64)
        if not bool(((number > 0) & number.isfinite()).all()):
            raise ValueError(f"{name} must be positive and finite, got {number.tolist()}")
