"""Huber's loss, L-BFGS and the residual bootstrap against torch, scipy and exact distributions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch.testing import assert_close

from llmr_ref.fitting import (
    Fit,
    exp,
    huber,
    lbfgs,
    require_distinct,
    require_positive,
    robust_fit,
)

DELTAS = st.sampled_from([1e-3, 0.1, 1.0, 7.0])


# --- Huber's loss -------------------------------------------------------------------------------


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8), DELTAS)
def test_huber_is_torchs(residuals, delta):
    r = torch.tensor(residuals, dtype=torch.float64)
    expected = torch.nn.functional.huber_loss(r, torch.zeros_like(r), reduction="none", delta=delta)
    assert_close(huber(r, delta), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_huber_keeps_dtype_shape_and_input(dtype):
    r = torch.tensor([[-2.0, 0.5, 0.0]], dtype=dtype)
    out = huber(r, 1.0)
    assert out.dtype == dtype
    assert_close(out, torch.tensor([[1.5, 0.125, 0.0]], dtype=dtype))
    assert r.tolist() == [[-2.0, 0.5, 0.0]]


# --- L-BFGS -------------------------------------------------------------------------------------


def quadratic(seed, b=4, p=5, spread=100.0):
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(b, p, p, generator=generator, dtype=torch.float64))
    eigenvalues = torch.logspace(0, math.log10(spread), p, dtype=torch.float64)
    H = (Q * eigenvalues) @ Q.mT
    target = torch.randn(b, p, generator=generator, dtype=torch.float64)

    def objective(x):
        d = x - target
        return torch.einsum("bi,bij,bj->b", d, H, d) / 2

    return objective, target


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_every_problem_of_a_batch_ends_in_its_own_minimum(seed):
    objective, target = quadratic(seed)
    start = torch.zeros_like(target)
    end = lbfgs(objective, start, tolerance=1e-14)
    # The value is flat to 1e-14, so the place is known to its root, over the least curvature 1.
    assert_close(end, target, rtol=0, atol=1e-6)
    assert not start.any()


def rosenbrock(x):
    return ((1 - x[..., :-1]) ** 2 + 100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2).sum(-1)


def test_the_valley_of_rosenbrock_is_followed_to_its_end():
    start = torch.tensor([[-1.2, 1.0], [2.0, -3.0], [0.0, 0.0]], dtype=torch.float64)
    end = lbfgs(rosenbrock, start, tolerance=1e-12)
    assert_close(end, torch.ones_like(end), rtol=0, atol=1e-5)
    for row in start:
        peer = optimize.minimize(
            lambda v: rosenbrock(torch.tensor(v)).item(), row, method="L-BFGS-B", tol=1e-14
        )
        assert_close(torch.tensor(peer.x), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-4)


def test_a_problem_alone_and_in_a_batch_end_in_the_same_place():
    start = torch.tensor([[-1.2, 1.0], [2.0, -3.0]], dtype=torch.float64)
    together = lbfgs(rosenbrock, start, tolerance=1e-12)
    for n in range(2):
        alone = lbfgs(rosenbrock, start[n : n + 1], tolerance=1e-12)
        assert_close(together[n : n + 1], alone, rtol=0, atol=1e-5)


def test_curvature_of_past_steps_saves_iterations():
    objective, target = quadratic(3, spread=1e4)
    calls = []

    def counted(x):
        calls.append(1)
        return objective(x)

    counts = {}
    for history in (1, 10):
        calls.clear()
        end = lbfgs(counted, torch.zeros_like(target), history=history, tolerance=1e-14)
        assert_close(end, target, rtol=0, atol=1e-5)
        counts[history] = len(calls)
    assert counts[10] < counts[1] / 2
    # Five variables have five curvatures to learn; each step costs one evaluation or a few.
    assert counts[10] < 100


def test_a_limit_on_iterations_is_kept():
    objective, target = quadratic(3)
    first = lbfgs(objective, torch.zeros_like(target), max_iterations=1)
    # Down the gradient, by at most a length of one.
    assert (objective(first) < objective(torch.zeros_like(target))).all()
    assert (first.norm(dim=-1) <= 1 + 1e-12).all()
    assert torch.equal(lbfgs(objective, target, max_iterations=0), target)


def test_a_step_into_nan_is_taken_back():
    start = torch.tensor([[1.0]], dtype=torch.float64)
    end = lbfgs(lambda x: (x - 1e-3 * x.log()).sum(-1), start)  # undefined for x <= 0
    assert_close(end.item(), 1e-3, rtol=1e-3, atol=0)


def test_a_problem_that_cannot_go_down_ends_where_it_began():
    # The gradient points the wrong way: no step is ever accepted.
    class Liar(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.square().sum(-1)

        @staticmethod
        def backward(ctx, grad):
            return torch.full((1, 2), -1.0, dtype=torch.float64)

    start = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert torch.equal(lbfgs(Liar.apply, start), start)


def test_a_start_at_the_minimum_stays_there():
    objective, target = quadratic(5)
    assert torch.equal(lbfgs(objective, target), target)


# --- fits of a line, whose distribution is known --------------------------------------------------

X = torch.linspace(-1, 1, 25, dtype=torch.float64)


def line(theta):
    return theta[..., :1] + theta[..., 1:] * X


def noisy_line(seed, noise=0.1, level=1.5, slope=-0.7):
    generator = torch.Generator().manual_seed(seed)
    return level + slope * X + noise * torch.randn(25, generator=generator, dtype=torch.float64)


def fit_line(y, **changes):
    settings = {"delta": 1e3, "resamples": 200, "seed": 0, **changes}
    return robust_fit(line, tuple, y, torch.zeros(1, 2, dtype=torch.float64), **settings)


def test_with_a_large_delta_the_fit_is_least_squares():
    y = noisy_line(0)
    fit = fit_line(y)
    reference = stats.linregress(X, y)
    assert_close(fit.law[0], float(reference.intercept), rtol=1e-6, atol=0)
    assert_close(fit.law[1], float(reference.slope), rtol=1e-6, atol=0)
    residuals = y - reference.intercept - reference.slope * X
    assert_close(torch.tensor(fit.residuals, dtype=torch.float64), residuals, rtol=0, atol=1e-6)
    assert_close(fit.objective, (residuals.square().sum() / 2).item(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("delta", [1e-3, 0.05, 1.0])
def test_the_fit_is_scipys_for_every_delta(delta):
    y = noisy_line(1)
    y[3] += 5.0  # an outlier, for the delta to matter
    peer = optimize.least_squares(
        lambda theta: theta[0] + theta[1] * X.numpy() - y.numpy(),
        [0.0, 0.0],
        loss="huber",
        f_scale=delta,
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
        max_nfev=10_000,
    )
    fit = fit_line(y, delta=delta, resamples=0)
    assert fit.objective <= peer.cost * (1 + 1e-6)
    if delta > 0.01:  # below, the loss is nearly flat near its minimum
        assert_close(fit.law, tuple(peer.x.tolist()), rtol=1e-4, atol=0)


def test_a_small_delta_forgives_an_outlier():
    y = noisy_line(2, noise=0.01)
    y[20] += 50.0
    assert abs(fit_line(y, delta=1e-3, resamples=0).law[1] + 0.7) < 0.05
    assert abs(fit_line(y, delta=1e3, resamples=0).law[1] + 0.7) > 1


def test_the_bootstraps_spread_is_the_standard_error():
    y = noisy_line(3)
    fit = fit_line(y, resamples=2000)
    slopes = torch.tensor([law[1] for law in fit.resampled])
    # The spread of 2000 resamples is itself known to 1 / sqrt(4000); three of those, and a margin
    # for sqrt(n / (n - p)) being right for the variance, which is what linregress estimates too.
    assert_close(slopes.std().item(), float(stats.linregress(X, y).stderr), rtol=0.06, atol=0)
    assert abs(slopes.mean().item() - fit.law[1]) < 0.01


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    hits = 0
    for seed in range(40):
        fit = fit_line(noisy_line(seed), seed=seed, resamples=100)
        low, high = fit.interval(lambda law: law[1], 0.9)
        hits += low <= -0.7 <= high
    # 40 draws at a rate of 0.9 are 36 with a standard deviation of 1.9.
    assert 31 <= hits <= 39


def test_the_same_seed_gives_the_same_resamples_and_another_gives_others():
    y = noisy_line(4)
    assert fit_line(y, seed=7) == fit_line(y, seed=7)
    assert fit_line(y, seed=7).resampled != fit_line(y, seed=8).resampled
    assert len(fit_line(y, resamples=3).resampled) == 3


def test_the_best_of_many_starts_wins():
    # Two valleys: the bottom is 0 at theta = 3 and 0.04 near theta = -1.
    def bumpy(theta):
        return ((theta - 3) * ((theta + 1) ** 2 + 0.05)).expand(*theta.shape[:-1], 3)

    y = torch.zeros(3, dtype=torch.float64)
    starts = torch.tensor([[-1.5], [2.0], [-0.9]], dtype=torch.float64)
    fit = robust_fit(bumpy, tuple, y, starts, delta=1e3, resamples=0, seed=0)
    assert_close(fit.law[0], 3.0, rtol=1e-4, atol=0)


def test_nothing_that_was_given_is_changed():
    y, starts = noisy_line(0), torch.zeros(1, 2, dtype=torch.float64)
    before = y.clone()
    robust_fit(line, tuple, y, starts, delta=0.1, resamples=5, seed=0)
    assert torch.equal(y, before)
    assert not starts.any()


# --- checks -------------------------------------------------------------------------------------


def test_exp_ends_in_infinity_where_math_would_raise():
    assert exp(1.5) == math.exp(1.5)
    assert exp(708.9) == math.exp(708.9)
    assert exp(709.0) == exp(1e5) == math.inf


def test_positive_numbers_of_every_kind_pass():
    require_positive(a=1, b=1e300, c=np.float64(2), d=np.array([1, 2]), e=torch.tensor([1e-30]))
    require_distinct(2, x=[1.0, 2.0, 2.0])


@pytest.mark.parametrize("bad", [0, -1.0, math.inf, math.nan, np.array([1.0, 0.0]), torch.zeros(2)])
def test_other_numbers_do_not(bad):
    with pytest.raises(ValueError, match="count must be positive and finite, got"):
        require_positive(fine=1.0, count=bad)


def test_too_few_different_values_are_named():
    with pytest.raises(ValueError, match=r"3 or more different values of y, got \[1\.0, 2\.0\]"):
        require_distinct(3, x=[1.0, 2.0, 3.0], y=[2.0, 1.0, 2.0])


# --- intervals ----------------------------------------------------------------------------------


def test_an_interval_holds_its_share_of_the_resamples():
    values = np.arange(101.0)
    fit = Fit(0.0, 0.0, (), tuple(values.tolist()))
    assert fit.interval(lambda law: law) == pytest.approx((2.5, 97.5))
    assert fit.interval(lambda law: 2 * law, level=0.8) == pytest.approx((20.0, 180.0))


def test_an_interval_of_a_field_is_named_by_it():
    fit = Fit(1j, 0.0, (), (1j, 3j, 2j))
    assert fit.interval("imag", 0.5) == (1.5, 2.5)


def test_the_many_resamples_are_not_printed():
    assert repr(Fit(1.0, 0.5, (0.25,), (2.0,))) == "Fit(law=1.0, objective=0.5)"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Fit(1.0, 0.0, (), (1.0,)).interval("real", 1.0), ValueError, r"got 1\.0"),
        (lambda: Fit(1.0, 0.0, (), (1.0,)).interval("real", 0.0), ValueError, r"got 0\.0"),
        (lambda: Fit(1.0, 0.0, (), ()).interval("real"), ValueError, "no resamples"),
        (lambda: Fit(1.0, 0.0, (), (1.0,)).interval("gamma"), AttributeError, "gamma"),
        (lambda: fit_line(noisy_line(0), resamples=-1), ValueError, "got -1"),
        (lambda: fit_line(noisy_line(0), delta=0.0), ValueError, r"delta .* got 0\.0"),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()
