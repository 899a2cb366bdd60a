"""Sampling against `transformers`, exact arithmetic on small vocabularies, and scipy."""

import itertools
import math

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llmr_ref.sampling import (
    WORTH_THREADS,
    distribution,
    divide_by_temperature,
    entropy,
    greedy,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    sample,
)

BOTH = pytest.mark.parametrize("implementation", ["fused", "explicit"])
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
WEIGHTS = st.lists(st.integers(1, 6), min_size=1, max_size=9)  # small: many are equal
SEEDS = st.integers(0, 2**31)


def randn(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def kept(logits):
    """Ids of a row that are not ruled out."""
    return logits.isfinite().nonzero().flatten().tolist()


def log(weights, dtype=torch.float32):
    return torch.tensor(weights, dtype=torch.float64).log().to(dtype)


def by_probability(weights):
    """Ids from most to least probable, of equal ones the lower first."""
    return sorted(range(len(weights)), key=lambda i: (-weights[i], i))


# --- greedy, temperature, entropy ---------------------------------------------------------------


@given(weights=st.lists(WEIGHTS, min_size=1, max_size=3))
def test_greedy_takes_the_lowest_id_of_the_most_probable(weights):
    for row in weights:
        assert greedy(log(row)).item() == row.index(max(row))


def test_greedy_takes_one_token_a_row():
    logits = randn(2, 3, 7, seed=0)
    assert greedy(logits).shape == (2, 3)
    assert torch.equal(greedy(logits), logits.max(dim=-1).indices)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_is_the_die_of_the_lecture(temperature):
    # L3: the weights on the die are proportional to exp(score / T).
    scores = randn(3, 6, seed=0)
    weights = (scores / temperature).exp()
    probabilities = divide_by_temperature(scores, temperature).softmax(-1)
    assert_close(probabilities, weights / weights.sum(-1, keepdim=True))
    assert torch.equal(
        divide_by_temperature(scores, temperature),
        TemperatureLogitsWarper(temperature)(None, scores),
    )


def test_a_lower_temperature_has_a_lower_entropy():
    logits = randn(5, 11, seed=0)
    entropies = torch.stack(
        [entropy(divide_by_temperature(logits, T)) for T in (0.1, 0.5, 1, 2, 50)]
    )
    assert (entropies.diff(dim=0) > 0).all()
    assert (entropies[0] >= 0).all() and (entropies[-1] <= math.log(11)).all()


def test_entropy_is_scipys():
    logits = randn(2, 3, 9, seed=0)
    logits[0, 0, 2] = -math.inf
    expected = scipy.stats.entropy(logits.exp().numpy(), axis=-1)
    assert_close(entropy(logits), torch.from_numpy(expected))
    assert entropy(torch.tensor([0.0, -math.inf, -math.inf])) == 0
    assert entropy(torch.zeros(8)).item() == pytest.approx(math.log(8))


# --- top-k --------------------------------------------------------------------------------------


@given(weights=WEIGHTS, data=st.data())
def test_top_k_keeps_exactly_the_k_most_probable(weights, data):
    k = data.draw(st.integers(1, len(weights)))
    logits = log(weights)
    out = keep_top_k(logits, k)
    assert kept(out) == sorted(by_probability(weights)[:k])
    assert torch.equal(out[out.isfinite()], logits[out.isfinite()])
    assert (out[~out.isfinite()] == -math.inf).all()


@pytest.mark.parametrize("k", [1, 5, 99, 100])
def test_top_k_is_that_of_transformers(k):
    logits = randn(4, 100, seed=0)
    assert torch.equal(keep_top_k(logits, k), TopKLogitsWarper(k)(None, logits))


def test_equals_at_the_cut_are_counted_row_by_row():
    logits = log([[3, 1, 3, 2, 3], [5, 4, 3, 2, 1], [1, 1, 1, 1, 1]])
    assert [kept(row) for row in keep_top_k(logits, 2)] == [[0, 2], [0, 1], [0, 1]]
    assert [kept(row) for row in keep_top_k(logits, 4)] == [
        [0, 2, 3, 4],
        [0, 1, 2, 3],
        [0, 1, 2, 3],
    ]


def test_top_k_of_fewer_than_k_possible_tokens_keeps_them():
    assert kept(keep_top_k(torch.tensor([0.0, -math.inf, 1.0, -math.inf]), 3)) == [0, 2]


# --- top-p --------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(weights=WEIGHTS, data=st.data())
def test_the_nucleus_is_the_smallest_set_that_reaches_p(implementation, dtype, weights, data):
    """Weights are whole numbers, so which sets reach p is exact; p is often the mass of one."""
    total = sum(weights)
    target = data.draw(st.integers(1, 2 * total)) / 2
    order = by_probability(weights)
    masses = itertools.accumulate(weights[i] for i in order)
    n = next(n for n, mass in enumerate(masses, 1) if mass >= target)
    logits = log(weights, dtype)
    out = keep_top_p(logits, target / total, implementation=implementation)
    assert kept(out) == (sorted(order[:n]) if target < total else list(range(len(weights))))
    assert torch.equal(out[out.isfinite()], logits[out.isfinite()])


@BOTH
@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9, 0.99, 1 - 1e-9])
@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0, 30.0])
def test_the_nucleus_is_that_of_transformers(implementation, p, scale):
    logits = randn(4, 1000, seed=0) * scale
    expected = TopPLogitsWarper(p)(None, logits)
    assert torch.equal(keep_top_p(logits, p, implementation=implementation), expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("p", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 4.0])
def test_fused_equals_explicit(dtype, p, scale):
    # 16-bit logits have many equals: which of them are kept must agree as well.
    logits = randn(2, 3, 5000, seed=0, dtype=dtype) * scale
    out = keep_top_p(logits, p)
    assert out.dtype == dtype
    assert torch.equal(out, keep_top_p(logits, p, implementation="explicit"))
    assert torch.equal(out, keep_top_p(logits, p, implementation="fused"))
    probabilities = logits.to(torch.promote_types(dtype, torch.float32)).double().softmax(-1)
    inside = probabilities.where(out.isfinite(), 0)
    smallest = probabilities.where(out.isfinite(), 1).amin(-1)
    assert (inside.sum(-1) >= p - 1e-5).all()
    assert (inside.sum(-1) - smallest < p + 1e-5).all()


def test_only_the_explicit_nucleus_sorts_everything(monkeypatch):
    def refuse(*_):
        raise AssertionError("not this way")

    monkeypatch.setattr("llmr_ref.sampling._outside_nucleus", refuse)
    assert kept(keep_top_p(log([1, 2, 6]), 0.6, implementation="explicit")) == [2]
    for fused in (lambda x: keep_top_p(x, 0.6), lambda x: distribution(x, top_p=0.6)):
        with pytest.raises(AssertionError, match="not this way"):
            fused(log([1, 2, 6]))


@BOTH
@pytest.mark.parametrize("dtype", FLOATS)
def test_all_of_p_1_is_kept(implementation, dtype):
    logits = torch.tensor([0.0, -200.0, 3.0], dtype=dtype)  # float32 has no exp(-203)
    out = keep_top_p(logits, 1.0, implementation=implementation)
    assert torch.equal(out, logits)
    assert out.data_ptr() != logits.data_ptr()


@BOTH
def test_a_p_just_below_1_needs_no_token_of_probability_0(implementation):
    logits = torch.tensor([0.0, -200.0, -1.0, -math.inf])
    assert kept(keep_top_p(logits, 1 - 2**-24, implementation=implementation)) == [0, 2]


@BOTH
def test_a_row_of_equals_keeps_the_lowest_ids(implementation):
    out = keep_top_p(torch.zeros(2, 5000), 0.3, implementation=implementation)
    for row in out:
        assert kept(row) == list(range(1500))


def test_the_lectures_nucleus():
    # L4: p = 0.8. 0.5 + 0.3 reach it, whatever float32 makes of the logarithms.
    assert kept(keep_top_p(log([0.15, 0.5, 0.05, 0.3]), 0.8)) == [1, 3]
    assert kept(keep_top_p(log([0.15, 0.5, 0.05, 0.3]), 0.81)) == [0, 1, 3]


# --- min-p --------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.01, 0.2, 1.0])
def test_min_p_is_that_of_transformers(p):
    logits = randn(4, 100, seed=0) * 2
    assert torch.equal(keep_min_p(logits, p), MinPLogitsWarper(p)(None, logits))


@given(weights=WEIGHTS, p=st.sampled_from([0.26, 0.45, 0.7, 0.99]))
def test_min_p_keeps_what_has_a_share_of_the_largest(weights, p):
    expected = [i for i, w in enumerate(weights) if w >= p * max(weights)]
    assert kept(keep_min_p(log(weights), p)) == expected


def test_min_p_1_keeps_all_that_are_most_probable():
    assert kept(keep_min_p(log([2, 5, 5, 4, 5]), 1.0)) == [1, 2, 4]


# --- repetition ---------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3])
def test_the_repetition_penalty_is_that_of_transformers(penalty):
    logits = randn(3, 11, seed=0)
    previous = torch.tensor([[3, 3, 0, 10], [1, 2, 1, 4], [7, 7, 7, 7]])
    expected = RepetitionPenaltyLogitsProcessor(penalty)(previous, logits)
    assert_close(penalize_repetition(logits, previous, penalty), expected)


@given(
    logits=st.lists(st.floats(-9, 9), min_size=3, max_size=6),
    previous=st.lists(st.integers(-2, 2), max_size=5),
    penalty=st.sampled_from([0.5, 2.0]),
)
def test_seen_tokens_are_penalized_once_and_padding_not_at_all(logits, previous, penalty):
    expected = [
        (x / penalty if x > 0 else x * penalty) if i in previous else x
        for i, x in enumerate(logits)
    ]
    out = penalize_repetition(
        torch.tensor(logits, dtype=torch.float64), torch.tensor(previous, dtype=torch.long), penalty
    )
    assert out.tolist() == expected


def test_a_token_that_is_ruled_out_stays_so():
    logits = torch.tensor([1.0, -math.inf, 2.0])
    out = penalize_repetition(logits, torch.tensor([1, 2]), 2.0)
    assert out.tolist() == [1.0, -math.inf, 1.0]


# --- all steps in order -------------------------------------------------------------------------

STEPS = dict(temperature=0.7, top_k=30, top_p=0.8, min_p=0.05, repetition_penalty=1.4)


def test_the_order_is_that_of_transformers_generate():
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    processors = LlamaForCausalLM(config)._get_logits_processor(
        generation_config=GenerationConfig(do_sample=True, **STEPS), input_ids_seq_length=4
    )
    assert len(processors) == len(STEPS)
    logits = randn(5, 60, seed=0)
    previous = randn(5, 8, seed=1).argsort(-1)
    expected = processors(previous, logits).softmax(-1)
    out = distribution(logits, previous=previous, **STEPS)
    assert_close(out, expected)
    assert ((out > 0).sum(-1) > 1).all()


def test_each_step_sees_what_the_one_before_leaves():
    logits = log([4, 3, 2, 1])
    # Of the top three, 4/9 + 3/9 reach 0.75; of all four, 4/10 + 3/10 do not.
    assert kept(distribution(logits, top_k=3, top_p=0.75).log()) == [0, 1]
    assert kept(distribution(logits, top_p=0.75).log()) == [0, 1, 2]
    # At T = 1/2 the weights are 16, 9, 4, 1: two of them reach 0.8, and at T = 1 it takes three.
    assert kept(distribution(logits, temperature=0.5, top_p=0.8).log()) == [0, 1]
    assert kept(distribution(logits, top_p=0.8).log()) == [0, 1, 2]
    # 3/4 of the largest at T = 1, (3/4)^2 at T = 1/2.
    assert kept(distribution(logits, temperature=0.5, min_p=0.6).log()) == [0]
    assert kept(distribution(logits, min_p=0.6).log()) == [0, 1]
    # Penalized first, token 0 is no longer among the top two.
    previous = torch.tensor([0])
    out = distribution(logits, top_k=2, repetition_penalty=3.0, previous=previous)
    assert kept(out.log()) == [1, 2]


def test_a_step_that_is_left_out_changes_nothing():
    logits = randn(3, 20, seed=0)
    assert_close(distribution(logits), logits.softmax(-1))
    previous = torch.zeros(3, 1, dtype=torch.long)
    off = dict(temperature=1.0, top_k=20, top_p=1.0, min_p=1e-30, repetition_penalty=1.0)
    assert_close(distribution(logits, previous=previous, **off), logits.softmax(-1))


@pytest.mark.parametrize("step", STEPS)
def test_every_step_acts_by_itself(step):
    logits = randn(3, 60, seed=0)
    previous = logits.argmax(-1, keepdim=True)
    out = distribution(logits, previous=previous, **{step: STEPS[step]})
    alone = {
        "temperature": lambda: divide_by_temperature(logits, 0.7),
        "top_k": lambda: keep_top_k(logits, 30),
        "top_p": lambda: keep_top_p(logits, 0.8),
        "min_p": lambda: keep_min_p(logits, 0.05),
        "repetition_penalty": lambda: penalize_repetition(logits, previous, 1.4),
    }
    assert_close(out, alone[step]().softmax(-1))
    assert not torch.allclose(out, logits.softmax(-1))


def test_temperature_0_gives_all_to_the_greedy_token():
    logits = log([[2, 5, 5, 1], [3, 1, 1, 1]])
    expected = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0]])
    for cuts in ({}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.5}):
        assert torch.equal(distribution(logits, temperature=0, **cuts), expected)
    penalized = distribution(
        logits, temperature=0, repetition_penalty=9.0, previous=torch.tensor([[1], [0]])
    )
    assert torch.equal(penalized, torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 0]]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_temperatures_near_0_make_no_nan(dtype):
    logits = torch.tensor([[60_000.0, -60_000.0, 59_000.0]]).to(dtype)
    out = distribution(logits, temperature=1e-40)
    assert out.tolist() == [[1, 0, 0]]


def test_cuts_leave_ratios_alone_and_sum_to_1():
    logits = randn(4, 50, seed=0)
    plain = logits.softmax(-1)
    out = distribution(logits, top_k=10, top_p=0.7)
    assert_close(out.sum(-1), torch.ones(4, dtype=torch.float64))
    for row, before in zip(out, plain, strict=True):
        ratio = row[row > 0] / before[row > 0]
        assert_close(ratio, ratio[:1].expand_as(ratio))


# --- drawing ------------------------------------------------------------------------------------


def test_samples_follow_the_distribution():
    logits = log([5, 1, 3, 8, 2, 1])
    options = dict(temperature=1.5, top_k=5)
    expected = distribution(logits, **options).double()
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    ids = sample(logits.expand(n, -1), generator=generator, **options)
    counts = torch.bincount(ids, minlength=6)
    assert counts[5] == 0  # of the two least probable ones the higher id is cut
    possible = expected > 0
    test = scipy.stats.chisquare(
        counts[possible], (expected[possible] / expected.sum() * n).numpy()
    )
    assert test.pvalue > 0.001


def test_a_seed_repeats_its_samples_and_leaves_the_global_ones_alone():
    logits = randn(2, 3, 40, seed=0)

    def draw(seed):
        return sample(logits, generator=torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    assert draw(1).shape == (2, 3)
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_generator_torchs_own_seed_counts():
    logits = torch.zeros(30, 1000)
    torch.manual_seed(5)
    first = sample(logits)
    torch.manual_seed(5)
    assert torch.equal(sample(logits), first)


def test_every_option_reaches_the_distribution():
    logits = log([1, 2, 3, 4, 5]).expand(200, 5)
    previous = torch.full((200, 1), 4)
    torch.manual_seed(0)
    for options, possible in [
        (dict(top_k=2), {3, 4}),
        (dict(top_p=0.3), {4}),
        (dict(min_p=0.7), {3, 4}),
        (dict(temperature=0.01), {4}),
        (dict(temperature=0), {4}),
        (dict(repetition_penalty=50.0, previous=previous, temperature=0.01), {3}),
    ]:
        assert set(sample(logits, **options).tolist()) == possible


def test_a_single_row_gives_a_single_id():
    assert sample(log([1, 0, 0])).shape == ()
    assert sample(log([0, 0, 1])).item() == 2
    assert sample(torch.zeros(0, 4)).shape == (0,)


# --- shapes, dtypes, inputs ---------------------------------------------------------------------

PREVIOUS = torch.tensor([[[3, 0], [1, 1], [2, -1]], [[9, 9], [4, 0], [0, 1]]])
MAPS = {
    "temperature": lambda x, _: divide_by_temperature(x, 0.5),
    "top-k": lambda x, _: keep_top_k(x, 3),
    "top-p": lambda x, _: keep_top_p(x, 0.7),
    "top-p, explicit": lambda x, _: keep_top_p(x, 0.7, implementation="explicit"),
    "min-p": lambda x, _: keep_min_p(x, 0.3),
    "repetition": lambda x, previous: penalize_repetition(x, previous, 1.5),
    "distribution": lambda x, previous: distribution(
        x, temperature=0.5, top_k=5, top_p=0.7, repetition_penalty=1.5, previous=previous
    ),
    "greedy": lambda x, _: greedy(x),
    "entropy": lambda x, _: entropy(x),
}
each_map = pytest.mark.parametrize("name", MAPS)


@each_map
def test_leading_dimensions_are_free(name):
    x = randn(2, 3, 10, seed=0)
    together = MAPS[name](x, PREVIOUS)
    assert together.shape[:2] == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        assert_close(together[i, j], MAPS[name](x[i, j], PREVIOUS[i, j]))
    assert MAPS[name](x[:0], PREVIOUS[:0]).shape[:2] == (0, 3)


@each_map
def test_non_contiguous_logits_give_the_same(name):
    x = randn(2, 3, 10, seed=0)
    strided = x.transpose(0, 2).contiguous().transpose(0, 2)
    assert not strided.is_contiguous()
    assert_close(MAPS[name](strided, PREVIOUS), MAPS[name](x, PREVIOUS))


@each_map
def test_no_input_is_changed(name):
    x, previous = randn(2, 3, 10, seed=0, dtype=torch.float32), PREVIOUS.clone()
    before = x.clone()
    MAPS[name](x, previous)
    sample(x, top_p=0.5, repetition_penalty=2.0, previous=previous)
    assert torch.equal(x, before)
    assert torch.equal(previous, PREVIOUS)


@each_map
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_dtype_stays_but_for_probabilities_and_ids(name, dtype):
    out = MAPS[name](randn(2, 3, 10, seed=0, dtype=dtype), PREVIOUS)
    if name == "distribution":
        assert out.dtype == torch.promote_types(dtype, torch.float32)  # 16 bits do not sum to 1
    else:
        assert out.dtype == (torch.int64 if name == "greedy" else dtype)


@pytest.mark.parametrize("name", ["top-k", "top-p", "top-p, explicit", "min-p"])
def test_gradients_reach_what_is_kept(name):
    x = randn(2, 3, 10, seed=0).requires_grad_()
    out = MAPS[name](x, PREVIOUS)
    out[out.isfinite()].sum().backward()
    assert torch.equal(x.grad, out.isfinite().double())


@pytest.mark.parametrize("name", ["temperature", "repetition", "distribution", "entropy"])
def test_what_scales_passes_gradcheck(name):
    x = randn(2, 3, 10, seed=0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: MAPS[name](x, PREVIOUS), x)


# --- errors name the value ----------------------------------------------------------------------

X, AGO = torch.zeros(2, 5), torch.zeros(2, 3, dtype=torch.long)


@each_map
@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ([0.0, math.nan, 1.0], "nan"),
        ([0.0, math.inf, 1.0], "inf"),
        ([-math.inf] * 3, "-inf"),
    ],
)
def test_logits_without_a_distribution_are_refused(name, bad, named):
    logits = torch.tensor([[0.0, 1.0, 2.0], bad])
    previous = torch.zeros(2, 1, dtype=torch.long)
    with pytest.raises(ValueError, match=f"a row's maximum is {named}$"):
        MAPS[name](logits, previous)


@each_map
def test_logits_are_floating_point_with_a_vocabulary(name):
    with pytest.raises(TypeError, match=r"logits must be floating point, got torch\.int64"):
        MAPS[name](X.long(), AGO)
    with pytest.raises(ValueError, match=r"last dimension of V tokens, got \(\)"):
        MAPS[name](torch.tensor(1.0), AGO)
    with pytest.raises(ValueError, match=r"last dimension of V tokens, got \(2, 0\)"):
        MAPS[name](X[:, :0], AGO)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: divide_by_temperature(X, 0), ValueError, "got 0; for the limit 0 use greedy"),
        (lambda: divide_by_temperature(X, -1.0), ValueError, r"got -1\.0"),
        (lambda: divide_by_temperature(X, math.inf), ValueError, "got inf"),
        (lambda: divide_by_temperature(X, math.nan), ValueError, "got nan"),
        (lambda: keep_top_k(X, 0), ValueError, r"top_k must lie in 1\.\.V = 5, got 0"),
        (lambda: keep_top_k(X, 6), ValueError, "got 6"),
        (lambda: keep_top_p(X, 0.0), ValueError, r"top_p must lie in \(0, 1\], got 0\.0"),
        (lambda: keep_top_p(X, 1.01), ValueError, r"got 1\.01"),
        (lambda: keep_top_p(X, math.nan), ValueError, "got nan"),
        (lambda: keep_top_p(X, 0.5, implementation="sort"), ValueError, "implementation is 'sort'"),
        (lambda: keep_min_p(X, 0.0), ValueError, r"min_p must lie in \(0, 1\], got 0\.0"),
        (lambda: keep_min_p(X, 1.5), ValueError, r"got 1\.5"),
        (lambda: penalize_repetition(X, AGO, 0.0), ValueError, r"positive, .* got 0\.0"),
        (lambda: penalize_repetition(X, AGO, math.inf), ValueError, "got inf"),
        (lambda: penalize_repetition(X, AGO + 5, 2.0), ValueError, "token id 5 .* V = 5"),
        (lambda: penalize_repetition(X, AGO[0], 2.0), ValueError, r"\(2, 5\), got \(3,\)"),
        (lambda: penalize_repetition(X, AGO / 2, 2.0), TypeError, r"integers, got torch\.float32"),
        (lambda: penalize_repetition(X, AGO > 1, 2.0), TypeError, r"integers, got torch\.bool"),
        (lambda: distribution(X, temperature=-0.5), ValueError, r"got -0\.5"),
        (lambda: distribution(X, top_k=9), ValueError, "got 9"),
        (lambda: distribution(X, top_p=2.0), ValueError, r"got 2\.0"),
        (lambda: distribution(X, min_p=-1.0), ValueError, r"got -1\.0"),
        (
            lambda: distribution(X, repetition_penalty=1.2),
            ValueError,
            r"repetition_penalty = 1\.2 needs previous",
        ),
        (lambda: sample(X, top_k=0), ValueError, "got 0"),
        (
            lambda: sample(X.to("meta"), generator=torch.Generator()),
            ValueError,
            r"generator is on cpu, logits on meta; make it with torch\.Generator",
        ),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the same on CUDA ---------------------------------------------------------------------------


@pytest.mark.gpu
@each_map
@pytest.mark.parametrize("dtype", FLOATS)
def test_cuda_gives_what_the_cpu_gives(name, dtype):
    x = randn(2, 3, 10, seed=0, dtype=dtype)
    out = MAPS[name](x.cuda(), PREVIOUS.cuda())
    assert out.is_cuda
    assert_close(out.cpu(), MAPS[name](x, PREVIOUS))


@pytest.mark.gpu
def test_a_cuda_generator_repeats_its_samples():
    logits = randn(50, 40, seed=0).cuda()
    first, second = (
        sample(logits, top_p=0.9, generator=torch.Generator("cuda").manual_seed(3))
        for _ in range(2)
    )
    assert first.is_cuda
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="generator is on cpu, logits on cuda"):
        sample(logits, generator=torch.Generator())


@pytest.mark.parametrize("n_threads", [1, 2])
def test_many_rows_are_cut_as_one_by_one_whatever_the_threads(n_threads):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(7, 50_257, generator=generator).mul(4).round() / 4  # with many ties
    assert logits.numel() > WORTH_THREADS
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        together = keep_top_p(logits, 0.9)
    finally:
        torch.set_num_threads(before)
    for row, expected in zip(logits, together, strict=True):
        torch.testing.assert_close(keep_top_p(row, 0.9), expected, rtol=0, atol=0)
        explicit = keep_top_p(row, 0.9, implementation="explicit")
        torch.testing.assert_close(explicit, expected, rtol=0, atol=0)
