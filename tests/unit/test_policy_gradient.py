"""Policy gradients against exact enumeration, explicit sums, torch and scipy."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy
from torch.testing import assert_close

from llmr_ref.config import TransformerConfig
from llmr_ref.data import IGNORE
from llmr_ref.policy_gradient import (
    clipped_objective,
    expected_reward_gradient,
    generalized_advantages,
    group_advantages,
    grpo_loss,
    kl_divergence,
    kl_estimates,
    masked_mean,
    reinforce_loss,
    rewards_with_kl,
    value_loss,
)
from llmr_ref.posttraining import sequence_log_probabilities
from llmr_ref.training import next_token_loss
from llmr_ref.transformer import Transformer

SEEDS = st.integers(0, 2**32 - 1)
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def randn(*shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_mask(*shape, seed):
    return randn(*shape, seed=seed) > -0.3


# --- the KL divergence --------------------------------------------------------------------------


@given(seed=SEEDS, scale=st.sampled_from([0.01, 1.0, 6.0]))
def test_the_exact_kl_is_scipys(seed, scale):
    p, q = (randn(2, 3, 5, seed=seed + i) * scale for i in range(2))
    expected = entropy(p.softmax(-1).numpy(), q.softmax(-1).numpy(), axis=-1)
    assert_close(kl_divergence(p, q), torch.from_numpy(expected), atol=1e-14, rtol=1e-7)


def test_a_token_that_p_rules_out_adds_nothing_and_one_that_q_rules_out_everything():
    p = torch.tensor([0.0, 1.0, -math.inf])
    q = torch.tensor([0.5, 0.0, 2.0])
    a, b = p[:2].log_softmax(-1), q.log_softmax(-1)[:2]
    assert_close(kl_divergence(p, q), (a.exp() * (a - b)).sum())
    assert kl_divergence(q, p) == math.inf
    assert kl_divergence(p, p) == 0


P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()
Q = torch.tensor([0.2, 0.4, 0.1, 0.3], dtype=torch.float64).log()


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_k1_and_k3_average_to_the_exact_kl(kind):
    expectation = (P.exp() * kl_estimates(P, Q, kind)).sum()
    assert_close(expectation, kl_divergence(P, Q))


def test_k2_is_biased_and_close_only_where_the_two_are():
    far = (P.exp() * kl_estimates(P, Q, "k2")).sum() - kl_divergence(P, Q)
    assert far.abs() > 0.05 * kl_divergence(P, Q)
    near = (P + 1e-3 * Q).log_softmax(-1)
    bias = (P.exp() * kl_estimates(P, near, "k2")).sum() / kl_divergence(P, near) - 1
    assert bias.abs() < 1e-3


@given(p=st.floats(-20, 0), q=st.floats(-20, 0))
def test_estimates_are_their_formulas(p, q):
    log_p, log_q = (torch.tensor([x], dtype=torch.float64) for x in (p, q))
    rho = math.exp(q - p)
    assert_close(kl_estimates(log_p, log_q, "k1").item(), p - q)
    assert_close(kl_estimates(log_p, log_q, "k2").item(), 0.5 * (p - q) ** 2)
    assert_close(kl_estimates(log_p, log_q, "k3").item(), rho - 1 - (q - p), atol=1e-12, rtol=1e-9)
    assert kl_estimates(log_p, log_q, "k3") >= 0
    assert torch.equal(kl_estimates(log_p, log_q), kl_estimates(log_p, log_q, "k3"))


def test_k3_varies_less_than_k1():
    def variance(kind):
        estimate = kl_estimates(P, Q, kind)
        return (P.exp() * (estimate - kl_divergence(P, Q)).square()).sum()

    assert variance("k3") < variance("k1")


def test_k3_keeps_its_digits_near_zero():
    log_p = torch.tensor([-1.0])
    log_q = log_p + 2.0**-10
    exact = (log_q - log_p).double().square() / 2  # to third order
    assert_close(kl_estimates(log_p, log_q).double(), exact, rtol=2e-3, atol=0)


# --- policy gradients, proved by enumeration ----------------------------------------------------


@given(seed=SEEDS, V=st.integers(1, 5))
def test_the_gradient_of_one_action_is_autograds(seed, V):
    logits, rewards = randn(2, V, seed=seed).requires_grad_(), randn(2, V, seed=seed + 1)
    expected_reward = (logits.softmax(-1) * rewards).sum()
    (expected,) = torch.autograd.grad(expected_reward, logits)
    assert_close(expected_reward_gradient(logits, rewards), expected)


def tiny_policy(V=3):
    config = TransformerConfig(
        vocab_size=V, d_model=8, n_layers=1, n_heads=2, d_ff=12, max_length=8
    )
    torch.manual_seed(0)
    policy = Transformer(config, dtype=torch.float64)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.randn_like(p) * 0.4)
    return policy


class Sequences:
    """All answers of n tokens to one prompt, with a reward each; "2" ends an answer."""

    def __init__(self, V=3, n=3):
        self.prompt = torch.tensor([1, 0])
        every = itertools.product(range(V), repeat=n)
        answers = {a[: a.index(2) + 1] if 2 in a else a for a in every}
        self.answers = sorted(answers)
        self.rewards = randn(len(self.answers), seed=5) * 2 + 1

    def log_probabilities(self, policy):
        return torch.stack([self.log_probability(policy, a) for a in self.answers])

    def log_probability(self, policy, answer):
        tokens = torch.tensor([*self.prompt, *answer])
        targets = tokens[1:].clone()
        targets[: len(self.prompt) - 1] = IGNORE
        return sequence_log_probabilities(policy(tokens[:-1]), targets)


def gradients(loss, policy):
    return torch.autograd.grad(loss, list(policy.parameters()), retain_graph=True)


def assert_all_close(ours, theirs, scale=1.0):
    assert any(g.abs().max() > 1e-3 for g in theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, scale * b)


@pytest.mark.parametrize("baseline", [0.0, 1.0, -3.7])
def test_reinforce_is_unbiased_with_any_baseline(baseline):
    """The expectation over all answers of the estimator is the gradient of the expected reward."""
    policy, space = tiny_policy(), Sequences()
    log_p = space.log_probabilities(policy)
    assert_close(log_p.exp().sum().item(), 1.0)
    assert len(space.answers) == 1 + 2 + 4 * 3
    true = gradients((log_p.exp() * space.rewards).sum(), policy)

    mean = [torch.zeros_like(p) for p in policy.parameters()]
    for i, probability in enumerate(log_p.exp().detach()):
        estimate = gradients(
            -reinforce_loss(log_p[i : i + 1], space.rewards[i : i + 1] - baseline), policy
        )
        mean = [m + probability * g for m, g in zip(mean, estimate, strict=True)]
    assert_all_close(mean, true)


def test_a_good_baseline_lowers_the_variance():
    logits = randn(4, seed=0).requires_grad_()
    log_p = logits.log_softmax(-1)
    rewards = randn(4, seed=1) + 10

    def variance(baseline):
        total = torch.zeros((), dtype=torch.float64)
        for a in range(4):
            loss = reinforce_loss(log_p[a], rewards[a] - baseline)
            (g,) = torch.autograd.grad(loss, logits, retain_graph=True)
            total = total + log_p[a].exp().detach() * g.square().sum()
        return total

    expected_reward = (log_p.exp() * rewards).sum().detach()
    assert variance(expected_reward) < variance(0.0) / 10


@pytest.mark.parametrize(
    ("baseline", "scale"), [("leave one out", 1.0), ("mean", 2 / 3)], ids=["RLOO", "mean"]
)
def test_leave_one_out_is_unbiased_and_the_group_mean_shrinks_by_one_in_G(baseline, scale):
    """Over all groups of G = 3 answers from three actions: the mean counts the answer itself."""
    logits, rewards = randn(3, seed=0).requires_grad_(), randn(3, seed=1)
    log_p = logits.log_softmax(-1)
    mean = torch.zeros(3, dtype=torch.float64)
    for group in itertools.product(range(3), repeat=3):
        group = torch.tensor(group)
        A = group_advantages(rewards[group], baseline=baseline, standardize=False)
        (g,) = torch.autograd.grad(-reinforce_loss(log_p[group], A), logits, retain_graph=True)
        mean += log_p[group].sum().exp().detach() * g
    true = expected_reward_gradient(logits, rewards).detach()
    assert true.abs().max() > 0.05
    assert_close(mean, scale * true)


def test_reinforce_with_rewards_of_zero_and_one_is_fine_tuning_on_the_successes():
    policy, space = tiny_policy(), Sequences()
    samples = [0, 3, 3, 7, 10, 14, 2]
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    log_p = space.log_probabilities(policy)[samples]
    ours = gradients(reinforce_loss(log_p, rewards), policy)

    successes = [space.answers[i] for i, r in zip(samples, rewards, strict=True) if r == 1]
    logits, targets = [], []
    for answer in successes:
        tokens = torch.tensor([*space.prompt, *answer])
        logits.append(policy(tokens[:-1])[1:])
        targets.append(tokens[2:])
    n_tokens = sum(len(answer) for answer in successes)
    fine_tuning = next_token_loss(torch.cat(logits), torch.cat(targets)) * n_tokens
    fine_tuning = gradients(fine_tuning / len(successes), policy)
    assert_all_close(ours, fine_tuning, scale=4 / 7)


def test_no_gradient_passes_through_the_advantages():
    log_p, A = randn(4, seed=0).requires_grad_(), randn(4, seed=1).requires_grad_()
    loss = reinforce_loss(log_p, A)
    assert_close(loss.item(), -float(np.mean((log_p * A).tolist())))
    loss.backward()
    assert_close(log_p.grad, -A.detach() / 4)
    assert A.grad is None


# --- groups -------------------------------------------------------------------------------------


@given(seed=SEEDS, G=st.integers(2, 6))
def test_group_advantages_are_their_formulas(seed, G):
    r = randn(2, 3, G, seed=seed)
    x = r.numpy()
    centred = x - x.mean(-1, keepdims=True)
    others = (x.sum(-1, keepdims=True) - x) / (G - 1)
    std = x.std(-1, ddof=1, keepdims=True)

    def check(ours, expected):
        assert_close(ours, torch.from_numpy(expected))

    check(group_advantages(r), centred / (std + 1e-6))
    check(group_advantages(r, eps=0.5), centred / (std + 0.5))
    check(group_advantages(r, standardize=False), centred)
    loo = group_advantages(r, baseline="leave one out", standardize=False)
    check(loo, x - others)
    check(loo, centred * G / (G - 1))
    check(group_advantages(r, baseline="leave one out"), (x - others) / (std + 1e-6))


@pytest.mark.parametrize("baseline", ["mean", "leave one out"])
def test_a_group_that_agrees_teaches_nothing(baseline):
    r = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert torch.equal(group_advantages(r, baseline=baseline), torch.zeros(2, 3))


def test_standardised_advantages_weigh_rare_successes_more():
    r = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    grpo, dr_grpo = group_advantages(r)[:, 0], group_advantages(r, standardize=False)[:, 0]
    assert_close(grpo, torch.tensor([1.5, math.sqrt(3) / 2]), rtol=1e-5, atol=0)
    assert_close(dr_grpo, torch.tensor([0.75, 0.5]))


# --- clipping -----------------------------------------------------------------------------------

RATIOS = torch.tensor([0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 1.27, 1.3, 3.0], dtype=torch.float64)


@pytest.mark.parametrize(("low", "high"), [(0.2, None), (0.2, 0.28), (0.5, 0.0), (1.0, 2.5)])
@pytest.mark.parametrize("A", [2.0, -0.7])
def test_clipping_is_its_formula_and_stops_the_gradient_where_it_binds(low, high, A):
    ratios = RATIOS
    old = torch.full_like(ratios, -1.5)
    new = (old + ratios.log()).requires_grad_()
    advantages = torch.full_like(ratios, A)
    out = clipped_objective(new, old, advantages, clip_low=low, clip_high=high)
    top = 1 + (low if high is None else high)
    expected = [min(rho * A, min(max(rho, 1 - low), top) * A) for rho in ratios.tolist()]
    assert_close(out.tolist(), expected)
    out.sum().backward()
    binds = (ratios > top) if A > 0 else (ratios < 1 - low)
    # d rho / d log pi = rho; at a ratio of exactly 1 or at a bound both branches agree.
    away = (ratios != top) & (ratios != 1 - low)
    assert_close(new.grad[away], torch.where(binds, 0.0, ratios * A)[away])


def test_clipping_by_default_is_ppos():
    old, new, A = (randn(3, 5, seed=i) for i in range(3))
    ours = clipped_objective(new, old, A)
    assert torch.equal(ours, clipped_objective(new, old, A, clip_low=0.2, clip_high=0.2))


def test_on_the_policy_that_sampled_the_gradient_is_reinforces():
    log_p, A = randn(2, 3, 4, seed=0).requires_grad_(), randn(2, 3, 4, seed=1)
    (clipped,) = torch.autograd.grad(clipped_objective(log_p, log_p, A).mean(), log_p)
    (reinforce,) = torch.autograd.grad(-reinforce_loss(log_p, A), log_p)
    assert_close(clipped, reinforce)


def test_one_advantage_serves_a_whole_answer_and_takes_no_gradient():
    new, old = randn(2, 3, 4, seed=0), randn(2, 3, 4, seed=1).requires_grad_()
    A = randn(2, 3, 1, seed=2).requires_grad_()
    new.requires_grad_()
    out = clipped_objective(new, old, A)
    assert_close(out, clipped_objective(new, old, A.expand(2, 3, 4)))
    out.sum().backward()
    assert new.grad is not None
    assert old.grad is None
    assert A.grad is None


# --- averages over tokens -----------------------------------------------------------------------


@given(seed=SEEDS)
def test_the_three_averages_are_their_sums(seed):
    x, mask = randn(2, 3, 5, seed=seed), random_mask(2, 3, 5, seed=seed + 1)
    rows = [
        [v for v, m in zip(xs, ms, strict=True) if m]
        for xs, ms in zip(x.flatten(0, 1).tolist(), mask.flatten(0, 1).tolist(), strict=True)
    ]
    tokens = [v for row in rows for v in row]
    by_tokens = sum(tokens) / max(1, len(tokens))
    by_sequences = sum(sum(row) / max(1, len(row)) for row in rows) / 6
    assert_close(masked_mean(x, mask).item(), by_tokens)
    assert_close(masked_mean(x, mask, "tokens").item(), by_tokens)
    assert_close(masked_mean(x, mask, "sequences").item(), by_sequences)
    assert_close(masked_mean(x, mask, "positions").item(), sum(tokens) / 30)


@pytest.mark.parametrize("over", ["tokens", "sequences", "positions"])
def test_what_is_masked_counts_for_nothing_not_even_as_nan(over):
    x = torch.tensor([[1.0, math.nan, 3.0], [math.inf, 0.5, math.nan]])
    mask = torch.tensor([[True, False, True], [False, True, False]])
    zeros = torch.tensor([[1.0, 0.0, 3.0], [0.0, 0.5, 0.0]])
    assert torch.equal(masked_mean(x, mask, over), masked_mean(zeros, mask, over))
    assert masked_mean(x, torch.zeros_like(mask), over) == 0


def test_a_long_answers_tokens_weigh_less_only_over_sequences():
    x = torch.zeros(2, 4, requires_grad=True)
    mask = torch.tensor([[True, True, True, True], [True, False, False, False]])
    weights = {
        over: torch.autograd.grad(masked_mean(x, mask, over), x)[0][:, 0].tolist()
        for over in ("tokens", "sequences", "positions")
    }
    assert weights == {
        "tokens": pytest.approx([1 / 5, 1 / 5]),
        "sequences": pytest.approx([1 / 8, 1 / 2]),
        "positions": pytest.approx([1 / 8, 1 / 8]),
    }


@given(seed=SEEDS, beta=st.sampled_from([0.0, 0.04, 1.5]))
def test_grpo_is_its_formula(seed, beta):
    new, old, ref = (randn(3, 4, seed=seed + i) / 3 - 1 for i in range(3))
    A, mask = randn(3, seed=seed + 3), random_mask(3, 4, seed=seed + 4)
    mask[:, 0] = True
    sequences = []
    for i in range(3):
        terms = []
        for t in range(4):
            if mask[i, t]:
                rho = math.exp(new[i, t] - old[i, t])
                to_ref = math.exp(ref[i, t] - new[i, t])
                a = A[i].item()
                objective = min(rho * a, min(max(rho, 0.8), 1.28) * a)
                terms.append(objective - beta * (to_ref - math.log(to_ref) - 1))
        sequences.append(sum(terms) / len(terms))
    ours = grpo_loss(new, old, ref, A, mask, clip_high=0.28, beta=beta)
    assert_close(ours.item(), -sum(sequences) / 3)


def test_grpo_takes_its_settings_and_gives_the_reference_no_gradient():
    new, old, ref = (randn(3, 4, seed=i).requires_grad_() for i in range(3))
    A, mask = randn(3, seed=3), random_mask(3, 4, seed=4)
    default = grpo_loss(new, old, ref, A, mask)
    same = grpo_loss(
        new, old, ref, A, mask, clip_low=0.2, clip_high=0.2, beta=0.04, over="sequences"
    )
    assert torch.equal(default, same)
    for changed in ({"clip_low": 0.5}, {"beta": 0.5}, {"over": "tokens"}, {"clip_high": 3.0}):
        assert not torch.isclose(grpo_loss(new, old, ref, A, mask, **changed), default)
    default.backward()
    assert new.grad is not None
    assert old.grad is None
    assert ref.grad is None


# --- PPO ----------------------------------------------------------------------------------------


@given(seed=SEEDS, beta=st.sampled_from([0.0, 0.1, 2.0]))
def test_token_rewards_sum_to_the_score_minus_the_kl_estimate(seed, beta):
    new, ref = (randn(2, 3, 5, seed=seed + i) for i in range(2))
    scores = randn(2, 3, seed=seed + 2)
    start, length = 1, torch.tensor([[1, 4, 2], [3, 3, 1]])
    at = torch.arange(5)
    mask = (at >= start) & (at < start + length[..., None])
    r = rewards_with_kl(scores, new, ref, mask, beta=beta)
    assert (r[~mask] == 0).all()
    kl = (kl_estimates(new, ref, "k1") * mask).sum(-1)
    assert_close(r.sum(-1), scores - beta * kl)
    last = (start + length - 1)[..., None]
    without = rewards_with_kl(torch.zeros(2, 3).double(), new, ref, mask, beta=beta)
    assert_close((r - without).gather(-1, last)[..., 0], scores)
    assert_close(without, -beta * (new - ref) * mask)


def brute_force(rewards, values, mask, gamma, lam):
    """Equation 16's double sum, one answer at a time."""
    A = torch.zeros_like(rewards)
    for i in range(len(rewards)):
        at = mask[i].nonzero().flatten().tolist()
        r, V = rewards[i, at].tolist(), [*values[i, at].tolist(), 0.0]
        delta = [r[t] + gamma * V[t + 1] - V[t] for t in range(len(at))]
        for n, t in enumerate(at):
            terms = ((gamma * lam) ** k * delta[n + k] for k in range(len(at) - n))
            A[i, t] = sum(terms)
    return A


@given(
    seed=SEEDS,
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    lam=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
)
def test_generalized_advantages_are_the_explicit_double_sum(seed, gamma, lam):
    r, V = randn(4, 6, seed=seed), randn(4, 6, seed=seed + 1)
    start, end = torch.tensor([[0], [2], [1], [3]]), torch.tensor([[6], [5], [2], [3]])
    at = torch.arange(6)
    mask = (at >= start) & (at < end)  # a whole row, an answer, one token, none
    A, returns = generalized_advantages(r, V, mask, gamma=gamma, lam=lam)
    assert_close(A, brute_force(r, V, mask, gamma, lam))
    assert_close(returns, (A + V) * mask)
    # What stands outside the answers is never read.
    noise = torch.full_like(r, math.nan)
    again = generalized_advantages(
        torch.where(mask, r, noise), torch.where(mask, V, noise), mask, gamma=gamma, lam=lam
    )
    assert_close(again, (A, returns))


def test_lambda_0_looks_one_step_ahead_and_lambda_1_to_the_end():
    r, V, gamma = randn(2, 3, 5, seed=0), randn(2, 3, 5, seed=1), 0.9
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    following = torch.cat([V[..., 1:], torch.zeros(2, 3, 1)], dim=-1)
    one_step, _ = generalized_advantages(r, V, mask, gamma=gamma, lam=0.0)
    assert_close(one_step, r + gamma * following - V)
    to_the_end, returns = generalized_advantages(r, V, mask, gamma=gamma, lam=1.0)
    discounted = torch.stack(
        [sum(gamma**k * r[..., t + k] for k in range(5 - t)) for t in range(5)], dim=-1
    )
    assert_close(to_the_end, discounted - V)
    assert_close(returns, discounted)


def test_generalized_advantages_by_default_do_not_discount():
    r, V = randn(2, 5, seed=0).requires_grad_(), randn(2, 5, seed=1).requires_grad_()
    mask = torch.ones(2, 5, dtype=torch.bool)
    ours = generalized_advantages(r, V, mask)
    assert_close(ours, generalized_advantages(r, V, mask, gamma=1.0, lam=0.95))
    assert not any(x.requires_grad for x in ours)


def test_the_true_value_leaves_advantages_without_bias():
    """With V = E[reward to come] every expected advantage is zero, whatever lambda."""
    logits = randn(3, seed=0)
    pi, r = logits.softmax(-1), randn(3, 3, seed=1)  # reward of the first and the second action
    V0 = (pi[:, None] * pi[None] * r).sum()
    V1 = (pi[None] * r).sum(-1)  # after the first action
    mask = torch.ones(1, 2, dtype=torch.bool)
    for lam in (0.0, 0.6, 1.0):
        mean = torch.zeros(2, dtype=torch.float64)
        for a, b in itertools.product(range(3), repeat=2):
            rewards = torch.tensor([[0.0, r[a, b]]], dtype=torch.float64)
            values = torch.stack([V0, V1[a]])[None]
            mean += pi[a] * pi[b] * generalized_advantages(rewards, values, mask, lam=lam)[0][0]
        assert_close(mean, torch.zeros(2, dtype=torch.float64), atol=1e-14, rtol=0)


def test_the_value_loss_is_half_the_mean_square_over_answers():
    V, R = randn(2, 5, seed=0).requires_grad_(), randn(2, 5, seed=1).requires_grad_()
    mask = torch.tensor([[True, False, True, True, False]] * 2)
    loss = value_loss(V, R, mask)
    errors = [v - r for v, r in zip(V[mask].tolist(), R[mask].tolist(), strict=True)]
    expected = np.mean(np.square(errors)) / 2
    assert_close(loss.item(), float(expected))
    loss.backward()
    assert_close(V.grad, torch.where(mask, (V - R).detach() / 6, 0.0))
    assert R.grad is None


# --- dtypes, inputs and devices -----------------------------------------------------------------

MASK = torch.tensor([[True, True, False, False], [False, True, True, True]])


def every_result(a, b, c, mask):
    """Name -> result of everything that takes tensors (B, T)."""
    A, returns = generalized_advantages(a, b, mask, gamma=0.9)
    return {
        "kl_divergence": kl_divergence(a, b),
        "reinforce_loss": reinforce_loss(a, b),
        "masked_mean": masked_mean(a, mask),
        "grpo_loss": grpo_loss(a, b, c, a[:, 0], mask),
        "value_loss": value_loss(a, b, mask),
        "kl_estimates": kl_estimates(a, b),
        "expected_reward_gradient": expected_reward_gradient(a, b),
        "group_advantages": group_advantages(a),
        "clipped_objective": clipped_objective(a, b, c),
        "rewards_with_kl": rewards_with_kl(a[:, 0], b, c, mask, beta=0.3),
        "advantages": A,
        "returns": returns,
    }


WIDE = {"kl_divergence", "reinforce_loss", "masked_mean", "grpo_loss", "value_loss"}


@pytest.mark.parametrize("dtype", FLOATS)
def test_losses_are_in_32_bits_at_least_and_the_rest_keeps_its_dtype(dtype):
    inputs = [(randn(2, 4, seed=i) / 2 - 1).to(dtype) for i in range(3)]
    results = every_result(*inputs, MASK)
    exact = every_result(*(x.double() for x in inputs), MASK)
    wide = torch.promote_types(dtype, torch.float32)
    for name, result in results.items():
        assert result.dtype == (wide if name in WIDE else dtype), name
        # Rounded to dtype once or (grpo_loss and returns sum rounded parts) a few times.
        eps = torch.finfo(dtype).eps
        assert_close(result.double(), exact[name], rtol=4 * eps, atol=4 * eps)


def test_inputs_are_only_read():
    inputs = [randn(2, 4, seed=i) for i in range(3)]
    before = [x.clone() for x in inputs]
    every_result(*inputs, MASK)
    for x, kept in zip(inputs, before, strict=True):
        assert torch.equal(x, kept)
    assert MASK.tolist() == [[True, True, False, False], [False, True, True, True]]


def test_non_contiguous_inputs_give_the_same_result():
    inputs = [randn(4, 2, seed=i).mT for i in range(3)]
    mask = MASK.T.contiguous().T
    assert not any(x.is_contiguous() for x in (*inputs, mask))
    expected = every_result(*(x.contiguous() for x in inputs), MASK)
    for name, result in every_result(*inputs, mask).items():
        assert_close(result, expected[name])


def test_everything_stays_on_its_device():
    inputs = [torch.zeros(2, 4, device="meta")] * 3
    results = every_result(*inputs, torch.zeros(2, 4, dtype=torch.bool, device="meta"))
    assert all(x.is_meta for x in results.values())


# --- errors name the value ----------------------------------------------------------------------

X = torch.zeros(2, 3)
WHOLE = torch.zeros(2, 3, dtype=torch.int64)
M = X == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kl_divergence(X, X[:1]), ValueError, r"p_logits \(2, 3\), q_logits \(1, 3\)"),
        (lambda: kl_divergence(X, WHOLE), TypeError, r"q_logits .*torch\.int64"),
        (lambda: kl_estimates(X, X, "k4"), ValueError, "kind is 'k4'; choose one of k1, k2, k3"),
        (lambda: kl_estimates(X, X[0]), ValueError, "log_q"),
        (lambda: expected_reward_gradient(X, X[0]), ValueError, "rewards"),
        (lambda: expected_reward_gradient(WHOLE, X), TypeError, "logits"),
        (lambda: reinforce_loss(X, X[:1]), ValueError, r"advantages \(1, 3\)"),
        (lambda: reinforce_loss(X, WHOLE), TypeError, "advantages"),
        (lambda: group_advantages(X[:, :1]), ValueError, r"G >= 2 answers, got rewards \(2, 1\)"),
        (lambda: group_advantages(X.sum()), ValueError, r"got rewards \(\)"),
        (lambda: group_advantages(WHOLE), TypeError, "rewards"),
        (lambda: group_advantages(X, eps=-1.0), ValueError, r"eps must be at least 0, got -1\.0"),
        (lambda: group_advantages(X, baseline="median"), ValueError, "baseline is 'median'"),
        (lambda: clipped_objective(X, X[:1], X), ValueError, "old_log_probabilities"),
        (lambda: clipped_objective(X, X, X[:, :2]), ValueError, r"advantages \(2, 2\)"),
        (lambda: clipped_objective(X, X, WHOLE), TypeError, "advantages"),
        (lambda: clipped_objective(X, X, X, clip_low=1.1), ValueError, r"clip_low .*got 1\.1"),
        (lambda: clipped_objective(X, X, X, clip_low=-0.1), ValueError, r"clip_low .*got -0\.1"),
        (lambda: clipped_objective(X, X, X, clip_high=-0.1), ValueError, r"clip_high .*got -0\.1"),
        (lambda: masked_mean(X, WHOLE), TypeError, "boolean"),
        (lambda: masked_mean(WHOLE, M), TypeError, "x must be floating"),
        (lambda: masked_mean(X, M[:1]), ValueError, r"mask \(1, 3\)"),
        (lambda: masked_mean(X, M, "answers"), ValueError, "over is 'answers'"),
        (lambda: grpo_loss(X, X, X, X[:, 0], M, beta=-1.0), ValueError, r"beta .*got -1\.0"),
        (lambda: grpo_loss(X, X, X, X[0], M), ValueError, "advantages"),
        (lambda: grpo_loss(X, X, X[:1], X[:, 0], M), ValueError, "shapes must agree"),
        (lambda: rewards_with_kl(X[0], X, X, M, beta=0.1), ValueError, r"scores \(3,\)"),
        (lambda: rewards_with_kl(X[:, 0], X, X, M, beta=-0.1), ValueError, r"beta .*got -0\.1"),
        (lambda: rewards_with_kl(X[:, 0], X, X, WHOLE, beta=0.1), TypeError, "boolean"),
        (lambda: rewards_with_kl(WHOLE[:, 0], X, X, M, beta=0.1), TypeError, "scores"),
        (lambda: generalized_advantages(X, X[:1], M), ValueError, r"values \(1, 3\)"),
        (lambda: generalized_advantages(X, X, M[:1]), ValueError, r"mask \(1, 3\)"),
        (lambda: generalized_advantages(X, X, M, gamma=1.1), ValueError, r"gamma .*got 1\.1"),
        (lambda: generalized_advantages(X, X, M, gamma=-0.1), ValueError, r"gamma .*got -0\.1"),
        (lambda: generalized_advantages(X, X, M, lam=1.1), ValueError, r"lam .*got 1\.1"),
        (lambda: generalized_advantages(X, X, M, lam=-0.1), ValueError, r"lam .*got -0\.1"),
        (lambda: value_loss(X, X[:1], M), ValueError, "returns"),
        (lambda: value_loss(X, X, WHOLE), TypeError, "boolean"),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the same on CUDA ---------------------------------------------------------------------------


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives():
    inputs = [randn(2, 4, seed=i) for i in range(3)]
    expected = every_result(*inputs, MASK)
    for name, result in every_result(*(x.cuda() for x in inputs), MASK.cuda()).items():
        assert result.is_cuda
        assert_close(result.cpu(), expected[name])
