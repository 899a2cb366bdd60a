"""Scaling laws against scipy's optimisers, against their own closed forms, and on known truth."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special
from torch.testing import assert_close

from llmr_ref.scaling import (
    PUBLISHED,
    ChinchillaLaw,
    KaplanLaw,
    PowerLaw,
    Run,
    fit_chinchilla,
    fit_isoflop,
    fit_kaplan,
    fit_power_law,
    load_runs,
    synthetic_runs,
)

TRUTH = ChinchillaLaw(E=1.7, A=350.0, B=900.0, alpha=0.33, beta=0.31)
KAPLAN = PUBLISHED["kaplan"].law
EXPONENTS = st.floats(0.1, 0.9)
COMPUTE = st.floats(1e15, 1e25)
CHINCHILLAS = st.builds(
    ChinchillaLaw,
    E=st.floats(0, 3),
    A=st.floats(10, 2000),
    B=st.floats(10, 2000),
    alpha=EXPONENTS,
    beta=EXPONENTS,
)


def around_the_optimum(law, budgets=(1e18, 1e19, 1e20, 1e21), factors=9, spread=8.0):
    """(N, D) for every budget, N from `spread` times below the best to as much above it."""
    steps = np.geomspace(1 / spread, spread, factors)
    return [
        (float(f * law.optimal(C)[0]), float(C / 6 / (f * law.optimal(C)[0])))
        for C in budgets
        for f in steps
    ]


# --- the laws -----------------------------------------------------------------------------------


@given(CHINCHILLAS, st.floats(1e5, 1e12), st.floats(1e6, 1e13))
def test_chinchilla_is_the_sum_of_its_terms(law, N, D):
    expected = law.E + law.A / math.pow(N, law.alpha) + law.B / math.pow(D, law.beta)
    assert_close(law(N, D), expected, rtol=1e-12, atol=0)


@given(st.floats(1e5, 1e12), st.floats(1e6, 1e13))
def test_kaplan_is_equation_1_5(N, D):
    inner = (KAPLAN.N_c / N) ** (KAPLAN.alpha_N / KAPLAN.alpha_D) + KAPLAN.D_c / D
    assert_close(KAPLAN(N, D), inner**KAPLAN.alpha_D, rtol=1e-12, atol=0)


def test_kaplan_without_a_bottleneck_is_a_power_law_of_the_other():
    assert_close(KAPLAN(1e9, 1e40), PowerLaw.kaplan(6.4e13, 0.076)(1e9), rtol=1e-6, atol=0)
    assert_close(KAPLAN(1e40, 1e10), PowerLaw.kaplan(1.8e13, 0.103)(1e10), rtol=1e-6, atol=0)


@given(st.floats(1e3, 1e15), st.floats(0.02, 1), st.floats(1, 1e20))
def test_kaplans_power_law_is_one_at_x_c_and_falls_as_alpha(x_c, alpha, x):
    law = PowerLaw.kaplan(x_c, alpha)
    assert_close(law(x), (x_c / x) ** alpha, rtol=1e-9, atol=0)
    assert_close(law.x_c, x_c, rtol=1e-9, atol=0)
    assert_close(law(2 * x) / law(x), 2**-alpha, rtol=1e-9, atol=0)


def test_a_floor_is_added():
    assert PowerLaw(3.0, -0.5, floor=1.25)(4.0) == 2.75


@pytest.mark.parametrize("law", [TRUTH, KAPLAN], ids=["chinchilla", "kaplan"])
def test_laws_take_numbers_arrays_and_tensors_and_keep_their_type(law):
    N, D = [1e7, 3e8], [4e9, 1e10]
    expected = [law(n, d) for n, d in zip(N, D, strict=True)]
    assert isinstance(expected[0], float)
    assert_close(law(np.array(N), np.array(D)), np.array(expected))
    for dtype in (torch.float32, torch.float64):
        n, d = torch.tensor(N, dtype=dtype), torch.tensor(D, dtype=dtype)
        out = law(n, d)
        assert out.dtype == dtype
        assert_close(out, torch.tensor(expected, dtype=dtype))
        assert n.tolist() == torch.tensor(N, dtype=dtype).tolist()
    grid = law(torch.tensor(N)[:, None], torch.tensor(D))
    assert grid.shape == (2, 2)
    assert_close(grid.diagonal(), torch.tensor(expected))


# --- the best use of a budget -------------------------------------------------------------------


def lowest(law, C):
    """log N of least loss on 6 N D = C, by scipy."""
    found = optimize.minimize_scalar(
        lambda log_N: law(math.exp(log_N), C / 6 / math.exp(log_N)),
        bounds=(-30, 120),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return found.x


@given(CHINCHILLAS, COMPUTE)
def test_the_closed_form_is_where_scipy_finds_the_minimum(law, C):
    N, D = law.optimal(C)
    assert_close(6 * N * D, C, rtol=1e-9, atol=0)
    # The loss is flat at its minimum: scipy knows log N to the root of 1e-16 over the curvature.
    assert_close(math.log(N), lowest(law, C), rtol=0, atol=1e-3)


@given(COMPUTE)
def test_kaplans_closed_form_is_where_scipy_finds_the_minimum(C):
    N, D = KAPLAN.optimal(C)
    assert_close(6 * N * D, C, rtol=1e-9, atol=0)
    assert_close(math.log(N), lowest(KAPLAN, C), rtol=0, atol=1e-3)


@pytest.mark.parametrize("law", [TRUTH, KAPLAN], ids=["chinchilla", "kaplan"])
def test_the_optimum_grows_as_a_and_b_which_add_to_one(law):
    (N, D), (more_N, more_D) = law.optimal(1e20), law.optimal(1e22)
    assert_close(math.log(more_N / N) / math.log(100), law.a)
    assert_close(math.log(more_D / D) / math.log(100), law.b)
    assert_close(law.a + law.b, 1.0)


def test_the_optimum_of_many_budgets_at_once():
    N, D = TRUTH.optimal(torch.tensor([1e18, 1e20], dtype=torch.float64))
    assert_close(N[1].item(), TRUTH.optimal(1e20)[0])
    assert_close(D[0].item(), TRUTH.optimal(1e18)[1])


@pytest.mark.parametrize("law", [TRUTH, KAPLAN], ids=["chinchilla", "kaplan"])
def test_larger_models_need_fewer_tokens_for_the_same_loss(law):
    loss = law(1e9, 1e10)
    needed = [law.tokens_to_reach(loss, N) for N in (1e9, 2e9, 1e10, 1e11)]
    assert_close(needed[0], 1e10, rtol=1e-6, atol=0)
    assert needed == sorted(needed, reverse=True)
    for N, D in zip((2e9, 1e10), needed[1:], strict=False):
        assert_close(law(N, D), loss, rtol=1e-9, atol=0)
    small = 1e5
    assert law.tokens_to_reach(law(small, 1e30) * 0.9, small) == math.inf


# --- what was published -------------------------------------------------------------------------


def test_chinchillas_exponents_are_the_papers():
    # Hoffmann et al. 2022, table 2: a = 0.46, b = 0.54 by approach 3, from the unrounded fit.
    law = PUBLISHED["chinchilla-unrounded"].law
    assert round(law.a, 2) == 0.46
    assert round(law.b, 2) == 0.54
    # As printed, alpha and beta give 0.45: their rounding is visible.
    assert round(PUBLISHED["chinchilla"].law.a, 2) == 0.45
    # Besiroglu et al. 2024, section 4: 0.513.
    assert round(PUBLISHED["chinchilla-refit"].law.a, 3) == 0.513


def test_the_refit_wants_about_20_tokens_a_parameter_and_the_original_many_more():
    C = 5.76e23  # Gopher's budget, Chinchilla's too
    ratios = {}
    for name in ("chinchilla", "chinchilla-refit"):
        N, D = PUBLISHED[name].law.optimal(C)
        ratios[name] = D / N
    assert 15 < ratios["chinchilla-refit"] < 25
    assert ratios["chinchilla"] > 50


def test_kaplans_loss_of_gpt3_is_near_the_measured_one():
    # Brown et al. 2020, figure 3.1: L = 2.57 C^-0.048 in PF-days; GPT-3 used 3640 of them.
    predicted = PUBLISHED["kaplan-C-min"].law(3640.0)
    assert_close(predicted, 2.57 * 3640**-0.048, rtol=0.05, atol=0)
    # And the single-factor laws agree with the joint one where the other factor is plenty.
    assert_close(PUBLISHED["kaplan-N"].law(1e9), KAPLAN(1e9, 1e30), rtol=0.03, atol=0)
    assert_close(PUBLISHED["kaplan-D"].law(1e10), KAPLAN(1e40, 1e10), rtol=0.06, atol=0)
    # The best size for GPT-3's compute, in the paper's own fit, is some 500 thousand million.
    assert 4e11 < PUBLISHED["kaplan-N-of-C-min"].law(3640.0) < 6e11
    assert PUBLISHED["kaplan-C"].law(1.6e7) == pytest.approx(1)
    assert -PUBLISHED["kaplan-C"].law.exponent == pytest.approx(0.057)


def test_every_published_law_says_where_it_is_from_and_can_be_json():
    for entry in PUBLISHED.values():
        assert "et al. 20" in entry.source
        assert entry.inputs.startswith(("N:", "D:", "C:"))
        assert json.loads(json.dumps(dataclasses.asdict(entry)))["source"] == entry.source


# --- runs ---------------------------------------------------------------------------------------


def test_a_runs_compute_is_counted_or_six_n_d():
    assert Run(1e6, 2e7, 3.0).compute == 6 * 1e6 * 2e7
    assert Run(1e6, 2e7, 3.0, flops=1e14).compute == 1e14


def test_runs_come_back_from_json_lines(tmp_path):
    runs = [Run(1e6, 2e7, 3.5), Run(2e6, 1e7, 3.25, flops=1.5e14)]
    path = tmp_path / "runs.jsonl"
    lines = [json.dumps({**dataclasses.asdict(run), "seed": 1}) for run in runs]
    path.write_text("\n".join([lines[0], "", lines[1]]) + "\n", encoding="utf-8")
    assert load_runs(path) == runs
    assert load_runs(str(path)) == runs


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ("[1, 2]", "line 2"),
        ('{"n_parameters": 1, "loss": 2}', "line 2.*n_tokens"),
        ('{"n_parameters": "many", "n_tokens": 1, "loss": 2}', "line 2.*many"),
        (
            '{"n_parameters": 1, "n_tokens": 0, "loss": 2}',
            r"line 2.*n_tokens must be positive.*got 0\.0",
        ),
        (
            '{"n_parameters": 1, "n_tokens": 1, "loss": NaN}',
            "line 2.*loss must be positive.*got nan",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"n_parameters": 1, "n_tokens": 1, "loss": 2}\n' + line, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"runs\.jsonl {message}"):
        load_runs(path)


def test_a_missing_file_is_an_error_of_its_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_runs(tmp_path / "absent.jsonl")


def test_synthetic_runs_scatter_about_the_law_as_asked():
    sizes = [(1e6, 1e8)] * 2000
    exact = synthetic_runs(TRUTH, sizes[:1], noise=0.0, seed=0)
    assert exact == [Run(1e6, 1e8, TRUTH(1e6, 1e8))]
    noisy = synthetic_runs(TRUTH, sizes, noise=0.05, seed=0)
    logs = np.log([run.loss / TRUTH(1e6, 1e8) for run in noisy])
    # The standard error of a spread over 2000 draws is 1.6 %, of their mean 0.05 / 45.
    assert_close(logs.std(), 0.05, rtol=0.06, atol=0)
    assert abs(logs.mean()) < 0.005
    assert noisy == synthetic_runs(TRUTH, sizes, noise=0.05, seed=0)
    assert noisy != synthetic_runs(TRUTH, sizes, noise=0.05, seed=1)


# --- fits of a power law ------------------------------------------------------------------------

X = [float(x) for x in np.geomspace(1e3, 1e8, 12)]


def power_data(seed=0, noise=0.02, floor=0.0):
    z = np.random.default_rng(seed).standard_normal(len(X))
    return [floor + 40 * x**-0.12 * math.exp(noise * float(e)) for x, e in zip(X, z, strict=True)]


def test_an_exact_power_law_is_recovered_exactly():
    fit = fit_power_law(X, power_data(noise=0.0, floor=1.5), floor=1.5, resamples=5)
    assert_close(fit.law.coefficient, 40.0, rtol=1e-6, atol=0)
    assert_close(fit.law.exponent, -0.12, rtol=1e-6, atol=0)
    assert fit.law.floor == 1.5
    low, high = fit.interval("exponent")
    assert high - low < 1e-6


def test_with_a_large_delta_it_is_scipys_curve_fit_of_the_logs():
    y = power_data()
    fit = fit_power_law(X, y, delta=1e3, resamples=0)
    (level, slope), _ = optimize.curve_fit(lambda x, a, b: a + b * x, np.log(X), np.log(y))
    assert_close(fit.law.exponent, float(slope), rtol=1e-6, atol=0)
    assert_close(fit.law.coefficient, math.exp(level), rtol=1e-5, atol=0)


def test_with_the_papers_delta_it_is_scipys_huber_fit():
    y = power_data()
    y[4] *= 1.5  # an outlier
    peer = optimize.least_squares(
        lambda t: t[0] + t[1] * (np.log(X) - 12) - np.log(y),
        [0.0, 0.0],
        loss="huber",
        f_scale=1e-3,
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    fit = fit_power_law(X, y, resamples=0)
    assert fit.objective <= peer.cost * (1 + 1e-6)
    assert_close(fit.objective, peer.cost, rtol=1e-2, atol=0)
    assert abs(fit.law.exponent + 0.12) < 0.01  # the outlier is passed over


# --- fits of L(N, D) ----------------------------------------------------------------------------


def test_exact_chinchilla_runs_give_back_the_law():
    runs = synthetic_runs(TRUTH, around_the_optimum(TRUTH, factors=5), noise=0.0, seed=0)
    fit = fit_chinchilla(runs, resamples=0)
    for name, value in dataclasses.asdict(TRUTH).items():
        assert_close(getattr(fit.law, name), value, rtol=1e-5, atol=0)
    assert fit.objective < 1e-15


def test_exact_kaplan_runs_give_back_the_law():
    sizes = [(10.0**i, 10.0**j) for i in (6, 7, 8, 9) for j in (8, 9, 10)]
    fit = fit_kaplan(synthetic_runs(KAPLAN, sizes, noise=0.0, seed=0), resamples=0)
    for name, value in dataclasses.asdict(KAPLAN).items():
        # N_c and D_c are read off far outside the data: their logs are what is known well.
        assert_close(math.log(getattr(fit.law, name)), math.log(value), rtol=1e-4, atol=0)
    assert fit.objective < 1e-12


NOISY = synthetic_runs(TRUTH, around_the_optimum(TRUTH), noise=0.01, seed=3)


@pytest.mark.parametrize("delta", [1e-3, 0.1])
def test_the_chinchilla_fit_is_as_low_as_scipy_goes(delta):
    N, D, L = (np.log([getattr(r, k) for r in NOISY]) for k in ("n_parameters", "n_tokens", "loss"))

    def objective(theta):  # Hoffmann et al. 2022, equation 3
        e, a, b, alpha, beta = theta
        terms = [np.full_like(N, e), a - alpha * N, b - beta * D]
        return special.huber(delta, L - special.logsumexp(terms, axis=0)).sum()

    fit = fit_chinchilla(NOISY, delta=delta, resamples=0)
    law = fit.law
    ours = [math.log(law.E), math.log(law.A), math.log(law.B), law.alpha, law.beta]
    assert_close(float(objective(ours)), fit.objective, rtol=1e-9, atol=0)
    options = {"maxiter": 6000, "maxfev": 6000, "xatol": 1e-9, "fatol": 1e-16}
    truth = [math.log(TRUTH.E), math.log(TRUTH.A), math.log(TRUTH.B), TRUTH.alpha, TRUTH.beta]
    for start in (ours, truth):
        peer = optimize.minimize(objective, start, method="Nelder-Mead", options=options)
        assert fit.objective <= peer.fun * (1 + 1e-6)


def test_kaplans_fit_is_as_low_as_scipy_goes():
    sizes = [(10.0**i, 10.0**j) for i in (6, 7, 8, 9) for j in (8, 9, 10)]
    runs = synthetic_runs(KAPLAN, sizes, noise=0.01, seed=0)
    log_L = np.log([r.loss for r in runs])

    def residuals(theta):
        law = KaplanLaw(math.exp(theta[0]), math.exp(theta[1]), theta[2], theta[3])
        return np.log([law(N, D) for N, D in sizes]) - log_L

    fit = fit_kaplan(runs, delta=1e3, resamples=0)
    truth = [math.log(KAPLAN.N_c), math.log(KAPLAN.D_c), KAPLAN.alpha_N, KAPLAN.alpha_D]
    peer = optimize.least_squares(residuals, truth, x_scale=truth, xtol=1e-14, ftol=1e-14)
    assert fit.objective <= float(peer.cost) * (1 + 1e-9)
    assert_close(fit.objective, float(peer.cost), rtol=1e-3, atol=0)
    assert_close(fit.law.alpha_N, float(peer.x[2]), rtol=1e-3, atol=0)
    assert_close(fit.law.alpha_D, float(peer.x[3]), rtol=1e-3, atol=0)


def test_intervals_hold_the_true_exponents_about_as_often_as_they_say():
    hits = dict.fromkeys(("alpha", "beta", "a"), 0)
    sizes = around_the_optimum(TRUTH, factors=6)
    for seed in range(8):
        runs = synthetic_runs(TRUTH, sizes, noise=0.005, seed=seed)
        fit = fit_chinchilla(runs, delta=0.1, resamples=60, seed=seed)
        for name in hits:
            low, high = fit.interval(name, 0.8)
            assert low < high
            hits[name] += low <= getattr(TRUTH, name) <= high
    # 8 draws at a rate of 0.8 are 6.4, with a standard deviation of 1.1; and intervals that never
    # miss would be too wide.
    assert all(count >= 4 for count in hits.values())
    assert sum(hits.values()) < 24


def test_an_interval_of_the_best_size_follows_from_the_resamples():
    fit = fit_chinchilla(NOISY, delta=0.1, resamples=60)
    low, high = fit.interval(lambda law: law.optimal(1e22)[0], 0.95)
    assert low < fit.law.optimal(1e22)[0] < high
    assert high / low < 10
    assert json.dumps(dataclasses.asdict(fit))


# --- IsoFLOP profiles ---------------------------------------------------------------------------


def test_isoflop_minima_and_exponents_are_the_laws():
    narrow = around_the_optimum(TRUTH, spread=1.6)  # a parabola, as near as can be
    law = fit_isoflop(synthetic_runs(TRUTH, narrow, noise=0.0, seed=0), resamples=0).law
    for minimum, C in zip(law.minima, (1e18, 1e19, 1e20, 1e21), strict=True):
        N, D = TRUTH.optimal(C)
        assert_close(minimum.C, C, rtol=1e-9, atol=0)
        assert_close(minimum.N, N, rtol=0.01, atol=0)
        assert_close(minimum.D, D, rtol=0.01, atol=0)
        assert_close(minimum.loss, TRUTH(N, D), rtol=1e-4, atol=0)
        # The second derivative of the loss in log N along 6 N D = C, halved.
        bend = TRUTH.alpha**2 * TRUTH.A * N**-TRUTH.alpha + TRUTH.beta**2 * TRUTH.B * D**-TRUTH.beta
        assert_close(minimum.curvature, bend / 2, rtol=0.02, atol=0)
    assert_close(law.a, TRUTH.a, rtol=0, atol=1e-3)
    assert_close(law.b, TRUTH.b, rtol=0, atol=1e-3)
    assert_close(law.N(1e20), TRUTH.optimal(1e20)[0], rtol=0.01, atol=0)
    assert_close(law.D(1e20), TRUTH.optimal(1e20)[1], rtol=0.01, atol=0)


def test_isoflop_parabolas_are_scipys():
    runs = synthetic_runs(TRUTH, around_the_optimum(TRUTH), noise=0.003, seed=0)
    fit = fit_isoflop(runs, resamples=0)
    cost = 0.0
    optima = []
    for n, C in enumerate((1e18, 1e19, 1e20, 1e21)):
        group = runs[9 * n : 9 * n + 9]
        log_N = np.log([r.n_parameters for r in group])
        losses = np.array([r.loss for r in group])
        (best, low, bend), _ = optimize.curve_fit(
            lambda x, best, low, bend: low + bend * (x - best) ** 2,
            log_N,
            losses,
            p0=[log_N.mean(), losses.min(), 0.1],
        )
        minimum = fit.law.minima[n]
        assert_close(math.log(minimum.N), float(best), rtol=1e-6, atol=0)
        assert_close(minimum.loss, float(low), rtol=1e-6, atol=0)
        assert_close(minimum.curvature, float(bend), rtol=1e-4, atol=0)
        assert_close(minimum.N * minimum.D * 6, C, rtol=1e-6, atol=0)
        cost += ((low + bend * (log_N - best) ** 2 - losses) ** 2).sum() / 2
        optima.append((math.log(C), best))
    assert_close(fit.objective, float(cost), rtol=1e-6, atol=0)
    (slope, level), _ = optimize.curve_fit(lambda x, m, c: m * x + c, *np.array(optima).T)
    assert_close(fit.law.a, float(slope), rtol=1e-6, atol=0)
    assert_close(math.log(fit.law.N.coefficient), float(level), rtol=1e-5, atol=0)


def test_isoflop_intervals_hold_the_true_exponent_about_as_often_as_they_say():
    sizes = around_the_optimum(TRUTH, spread=3)
    hits = 0
    for seed in range(40):
        runs = synthetic_runs(TRUTH, sizes, noise=0.002, seed=seed)
        low, high = fit_isoflop(runs, resamples=60, seed=seed).interval("a", 0.8)
        assert low < high
        hits += low <= TRUTH.a <= high
    # 40 draws at a rate of 0.8 are 32 with a standard deviation of 2.5.
    assert 25 <= hits <= 39


def test_a_resample_repeats_with_its_seed():
    fits = [fit_isoflop(NOISY, resamples=5, seed=seed) for seed in (1, 1, 2)]
    assert fits[0] == fits[1]
    assert fits[0].resampled != fits[2].resampled


def test_budgets_are_told_apart_by_the_tolerance():
    sizes = around_the_optimum(TRUTH, budgets=(1e18, 1e20))
    runs = [
        dataclasses.replace(run, flops=run.compute * (1 + 0.01 * (n % 4)))
        for n, run in enumerate(synthetic_runs(TRUTH, sizes, noise=0.0, seed=0))
    ]
    law = fit_isoflop(list(reversed(runs)), resamples=0).law
    assert len(law.minima) == 2
    assert_close(law.minima[0].C, 1e18 * 1.015, rtol=0.005, atol=0)
    with pytest.raises(ValueError, match="need 4 or more different values of N at C"):
        fit_isoflop(runs, tolerance=0.005)


def test_a_resample_without_a_minimum_is_left_out():
    # Flat profiles under much noise: some resamples bend the wrong way.
    runs = synthetic_runs(TRUTH, around_the_optimum(TRUTH, spread=2), noise=0.01, seed=3)
    fit = fit_isoflop(runs, resamples=50)
    assert 0 < len(fit.resampled) < 50


def test_a_steep_law_overflows_to_infinity_not_to_an_error():
    x = [1e30, 2e30, 3e30]
    fit = fit_power_law(x, [(v / 1e30) ** -12 for v in x])
    assert_close(fit.law.exponent, -12.0, rtol=1e-6, atol=0)
    assert fit.law.coefficient == math.inf


# --- errors name the value ----------------------------------------------------------------------

FEW = NOISY[:4]
ONE_SIZE = [Run(1e6, 10.0**k, 3.0) for k in range(6, 12)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TRUTH(0.0, 1e9), r"N must be positive and finite, got 0\.0"),
        (lambda: TRUTH(1e9, -1.0), r"D must be positive and finite, got -1\.0"),
        (lambda: TRUTH(torch.tensor([1.0, -2.0]), 1e9), "N must be positive"),
        (lambda: KAPLAN(math.inf, 1e9), "N must be positive and finite, got inf"),
        (lambda: KAPLAN(1e9, math.nan), "D must be positive and finite, got nan"),
        (lambda: KAPLAN.optimal(-1.0), "C must be positive"),
        (lambda: TRUTH.optimal(0.0), "C must be positive"),
        (lambda: TRUTH.tokens_to_reach(0.0, 1e9), "loss must be positive"),
        (lambda: KAPLAN.tokens_to_reach(-1.0, 1e9), "loss must be positive"),
        (lambda: TRUTH.tokens_to_reach(3.0, 0.0), "N must be positive"),
        (lambda: PowerLaw(1.0, -0.5)(0.0), "x must be positive"),
        (lambda: PowerLaw.kaplan(-1.0, 0.5), "x_c must be positive"),
        (lambda: Run(0.0, 1.0, 1.0), "n_parameters must be positive"),
        (lambda: Run(1.0, -1.0, 1.0), "n_tokens must be positive"),
        (lambda: Run(1.0, 1.0, math.nan), "loss must be positive"),
        (lambda: Run(1.0, 1.0, 1.0, flops=0.0), "flops must be positive"),
        (lambda: synthetic_runs(TRUTH, [], noise=-0.1, seed=0), r"got -0\.1"),
        (lambda: fit_power_law([1.0, 2.0], [1.0, 2.0]), "got 2 and 2"),
        (lambda: fit_power_law([1.0, 2.0, 3.0], [1.0, 2.0]), "got 3 and 2"),
        (lambda: fit_power_law(X, X, floor=1e3), r"above the floor 1000\.0, got 1000\.0"),
        (lambda: fit_power_law([0.0, 1.0, 2.0], [1.0] * 3), "x must be positive"),
        (lambda: fit_power_law([2.0] * 3, [1.0] * 3), r"different values of x, got \[2\.0\]"),
        (lambda: fit_power_law(X, X, delta=-1.0), r"delta must be positive and finite, got -1\.0"),
        (lambda: fit_power_law(X, X, resamples=-2), "got -2"),
        (lambda: fit_chinchilla(FEW), "need 6 or more runs for this law, got 4"),
        (lambda: fit_chinchilla(ONE_SIZE), r"need 3 or more different values of N"),
        (lambda: fit_kaplan(FEW), "need 5 or more runs for this law, got 4"),
        (lambda: fit_kaplan(ONE_SIZE), r"need 2 or more different values of N"),
        (lambda: fit_isoflop(NOISY[:9]), "two or more budgets C, got 1"),
        (lambda: fit_isoflop(NOISY, resamples=-2), "got -2"),
        (
            lambda: fit_isoflop(
                [Run(n, 1e3 * c / n, 9.0 - n) for c in (1, 9) for n in (1, 2, 3, 4, 5)]
            ),
            r"budget C = 6e\+03 have no minimum",
        ),
        (  # a minimum there is, but none that was seen
            lambda: fit_isoflop(
                [
                    Run(n, 1e3 * c / n, 9 + math.log(n / 9) ** 2)
                    for c in (1, 9)
                    for n in (1, 2, 3, 4, 5)
                ]
            ),
            r"budget C = 6e\+03 have no minimum",
        ),
    ],
)
def test_an_error_names_the_offending_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
