"""Policy gradients: raise the reward of what the policy itself samples.

pi is the policy, old the policy that sampled, ref the model that training began with, rho = pi / old;
r a reward, A an advantage, V(s) a critic's estimate of the reward to come. Shapes: T positions, of which
a mask says which belong to the answer; G answers to one prompt; leading dimensions (...) are free.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from llmr_ref.posttraining import at_least_32_bits, require_alike, require_range

KLEstimator = Literal["k1", "k2", "k3"]
Baseline = Literal["mean", "leave one out"]
Average = Literal["tokens", "sequences", "positions"]

# --- how far from the reference -----------------------------------------------------------------


def kl_divergence(
    p_logits: Float[Tensor, "... V"], q_logits: Float[Tensor, "... V"]
) -> Float[Tensor, "..."]:
    """KL(p || q) = sum_v p(v) (log p(v) - log q(v)) in nats, exact; at least float32.

    Raises: ValueError for shapes that differ; TypeError for logits that are not floating point.
    """
    require_alike(p_logits=p_logits, q_logits=q_logits)
    log_p, log_q = (at_least_32_bits(x).log_softmax(-1) for x in (p_logits, q_logits))
    # A token that p rules out adds nothing, and -inf times zero would be nan.
    return (log_p.exp() * (log_p - log_q)).masked_fill(log_p.isneginf(), 0.0).sum(-1)


def kl_estimates(
    log_p: Float[Tensor, "..."], log_q: Float[Tensor, "..."], kind: KLEstimator = "k3"
) -> Float[Tensor, "..."]:
    """One sample's estimate of KL(p || q), for a sample drawn from p, from its log-probabilities.

    With rho = q / p: k1 = -log rho (unbiased, may be negative), k2 = (log rho)^2 / 2 (biased, low
    variance), k3 = rho - 1 - log rho (unbiased, never negative).
    Raises: ValueError for shapes that differ or an unknown kind; TypeError for other than floats.
    Source: Schulman 2020, "Approximating KL divergence"; k3: Shao et al. 2024, equation 4.
    """
    require_alike(log_p=log_p, log_q=log_q)
    log_rho = at_least_32_bits(log_q) - at_least_32_bits(log_p)
    if kind == "k1":
        estimate = -log_rho
    elif kind == "k2":
        estimate = log_rho.square() / 2
    elif kind == "k3":
        estimate = log_rho.expm1() - log_rho  # expm1 keeps the digits of a rho close to 1
    else:
        raise ValueError(f"kind is {kind!r}; choose one of {', '.join(get_args(KLEstimator))}")
    return estimate.to(log_p.dtype)


# --- policy gradients ---------------------------------------------------------------------------


def expected_reward_gradient(
    logits: Float[Tensor, "... V"], rewards: Float[Tensor, "... V"]
) -> Float[Tensor, "... V"]:
    """d E_{a ~ pi}[r(a)] / d z_a = pi(a) (r(a) - E[r]) for pi = softmax(z), one action long.

    Raises: ValueError for shapes that differ; TypeError for other than floats.
    Source: L5 "RL for Reasoning" (the objective); Sutton and Barto 2018, section 2.8.
    """
    require_alike(logits=logits, rewards=rewards)
    pi, r = at_least_32_bits(logits).softmax(-1), at_least_32_bits(rewards)
    return (pi * (r - (pi * r).sum(-1, keepdim=True))).to(logits.dtype)


def reinforce_loss(
    log_probabilities: Float[Tensor, "..."], advantages: Float[Tensor, "..."]
) -> Float[Tensor, ""]:
    """-mean A log pi(y | x) over sampled answers: its gradient is an estimate of -dE[r]/dtheta.

    Unbiased for A = r - b and any b that does not depend on y. With A = r in {0, 1} it is the
    fine-tuning loss on the successes, times their share. No gradient passes through A.
    Raises: ValueError for shapes that differ; TypeError for other than floats.
    Source: L5 "Reinforce: SFT policy on successful solutions"; Williams 1992, section 4.
    """
    require_alike(log_probabilities=log_probabilities, advantages=advantages)
    return -(at_least_32_bits(advantages).detach() * at_least_32_bits(log_probabilities)).mean()


def group_advantages(
    rewards: Float[Tensor, "... G"],
    *,
    baseline: Baseline = "mean",
    standardize: bool = True,
    eps: float = 1e-6,
) -> Float[Tensor, "... G"]:
    """A_i = (r_i - b) / (s + eps) among the G answers to one prompt, s their sample deviation.

    GRPO: "mean" and standardize. Dr. GRPO: "mean", not standardized. RLOO: "leave one out", not
    standardized: b is the mean of the other G - 1, so that A_i r_i has no bias.
    Raises: ValueError for G below 2, eps below 0 or an unknown baseline; TypeError for other than floats.
    Source: Shao et al. 2024 (DeepSeekMath), section 4.1.2; Liu et al. 2025 (Dr. GRPO), section 3;
    Kool et al. 2019; Ahmadian et al. 2024 (RLOO), section 3.
    """
    require_alike(rewards=rewards)
    G = rewards.shape[-1] if rewards.dim() else 0
    if G < 2:
        raise ValueError(
            f"a group baseline needs G >= 2 answers, got rewards {tuple(rewards.shape)}"
        )
    require_range(eps >= 0, "eps", eps, "at least 0")
    r = at_least_32_bits(rewards)
    if baseline == "mean":
        b = r.mean(-1, keepdim=True)
    elif baseline == "leave one out":
        b = (r.sum(-1, keepdim=True) - r) / (G - 1)
    else:
        raise ValueError(f"baseline is {baseline!r}; choose one of {', '.join(get_args(Baseline))}")
    scale = r.std(-1, keepdim=True) + eps if standardize else 1.0
    return ((r - b) / scale).to(rewards.dtype)


def clipped_objective(
    log_probabilities: Float[Tensor, "... T"],
    old_log_probabilities: Float[Tensor, "... T"],
    advantages: Float[Tensor, "... T"],
    *,
    clip_low: float = 0.2,
    clip_high: float | None = None,
) -> Float[Tensor, "... T"]:
    """min(rho A, clip(rho, 1 - low, 1 + high) A) with rho = pi / pi_old, to be made large; one a token.

    clip_high as clip_low if None (PPO, GRPO); 0.28 beside 0.2 is DAPO's. `advantages` (..., 1) is one
    for the whole answer. No gradient passes through pi_old or A.
    Raises: ValueError for shapes that do not fit, clip_low outside [0, 1] or clip_high below 0;
    TypeError for other than floats.
    Source: Schulman et al. 2017 (PPO), equation 7; Yu et al. 2025 (DAPO), section 3.1.
    """
    clip_high = clip_low if clip_high is None else clip_high
    require_range(0 <= clip_low <= 1, "clip_low", clip_low, "in [0, 1]")
    require_range(clip_high >= 0, "clip_high", clip_high, "at least 0")
    new, old = log_probabilities, old_log_probabilities
    require_alike(log_probabilities=new, old_log_probabilities=old)
    whole_answer = advantages.shape == (*new.shape[:-1], 1)
    require_alike(advantages=advantages, tokens=new[..., :1] if whole_answer else new)
    rho = (at_least_32_bits(new) - at_least_32_bits(old).detach()).exp()
    A = at_least_32_bits(advantages).detach()
    clipped = rho.clamp(1 - clip_low, 1 + clip_high)
    return torch.minimum(rho * A, clipped * A).to(new.dtype)


def masked_mean(
    x: Float[Tensor, "... T"], mask: Bool[Tensor, "... T"], over: Average = "tokens"
) -> Float[Tensor, ""]:
    """The mean of x where the mask is True, at least float32; zero where it nowhere is.

    "tokens": all count alike (PPO, DAPO). "sequences": the mean of each sequence's mean, so that a
    token of a long answer counts less (GRPO). "positions": the sum over all B T positions, masked ones
    included in the count, a divisor that no answer's length changes (Dr. GRPO).
    Raises: ValueError for shapes that differ or an unknown choice; TypeError for a mask that is not
    boolean, or x that is not floating point.
    Source: Shao et al. 2024, equation 3; Liu et al. 2025, section 3; Yu et al. 2025, section 3.3.
    """
    require_alike(mask, x=x)
    kept = at_least_32_bits(x).masked_fill(~mask, 0.0)
    if over == "tokens":
        return kept.sum() / mask.sum().clamp(min=1)
    if over == "sequences":
        return (kept.sum(-1) / mask.sum(-1).clamp(min=1)).mean()
    if over == "positions":
        return kept.mean()
    raise ValueError(f"over is {over!r}; choose one of {', '.join(get_args(Average))}")


def grpo_loss(
    log_probabilities: Float[Tensor, "... T"],
    old_log_probabilities: Float[Tensor, "... T"],
    ref_log_probabilities: Float[Tensor, "... T"],
    advantages: Float[Tensor, "..."],
    mask: Bool[Tensor, "... T"],
    *,
    clip_low: float = 0.2,
    clip_high: float | None = None,
    beta: float = 0.04,
    over: Average = "sequences",
) -> Float[Tensor, ""]:
    """-mean over tokens of (clipped objective - beta k3(pi, ref)); `advantages` one an answer.

    Raises: ValueError for beta below 0; as `clipped_objective` and `masked_mean`.
    Source: Shao et al. 2024 (DeepSeekMath), equations 3 and 4.
    """
    require_range(beta >= 0, "beta", beta, "at least 0")
    objective = clipped_objective(
        log_probabilities,
        old_log_probabilities,
        advantages.unsqueeze(-1),
        clip_low=clip_low,
        clip_high=clip_high,
    )
    kl = kl_estimates(log_probabilities, ref_log_probabilities.detach(), "k3")
    return -masked_mean(objective - beta * kl, mask, over)


# --- PPO: rewards and advantages a token ---------------------------------------------------------


def rewards_with_kl(
    scores: Float[Tensor, "..."],
    log_probabilities: Float[Tensor, "... T"],
    ref_log_probabilities: Float[Tensor, "... T"],
    mask: Bool[Tensor, "... T"],
    *,
    beta: float,
) -> Float[Tensor, "... T"]:
    """r_t = -beta (log pi - log ref) at every token of the answer, plus the score at its last.

    Summed: r(x, y) - beta log(pi(y|x) / ref(y|x)). Zero outside answers, and no gradient.
    Raises: ValueError for shapes that do not fit or beta below 0; TypeError for other than floats, or
    a mask that is not boolean.
    Source: L4 "Optimize a policy against the reward model"; Ziegler et al. 2019, equation 2; Ouyang et
    al. 2022, equation 2.
    """
    require_range(beta >= 0, "beta", beta, "at least 0")
    new, ref = log_probabilities.detach(), ref_log_probabilities.detach()
    require_alike(mask, log_probabilities=new, ref_log_probabilities=ref)
    require_alike(scores=scores, answers=new.sum(-1))
    left = mask.flip(-1).cumsum(-1).flip(-1)  # tokens of the answer from here on
    is_last = mask & (left == 1)
    penalty = -beta * (at_least_32_bits(new) - at_least_32_bits(ref)).masked_fill(~mask, 0.0)
    return (penalty + is_last * at_least_32_bits(scores.detach()).unsqueeze(-1)).to(new.dtype)


def generalized_advantages(
    rewards: Float[Tensor, "... T"],
    values: Float[Tensor, "... T"],
    mask: Bool[Tensor, "... T"],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[Float[Tensor, "... T"], Float[Tensor, "... T"]]:
    """A_t = sum_l (gamma lambda)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t; and A_t + V_t.

    values[t] is V(s_t), before the action of position t; after the answer's last token it is zero. The
    second result is what the critic is to predict. Both are zero outside the mask, and no gradient.
    Raises: ValueError for shapes that differ, or gamma or lambda outside [0, 1]; TypeError for other
    than floats, or a mask that is not boolean.
    Source: Schulman et al. 2016 (GAE), equation 16; Schulman et al. 2017 (PPO), equation 11.
    """
    require_range(0 <= gamma <= 1, "gamma", gamma, "in [0, 1]")
    require_range(0 <= lam <= 1, "lam", lam, "in [0, 1]")
    require_alike(mask, rewards=rewards, values=values)
    r, V = (at_least_32_bits(x.detach()).masked_fill(~mask, 0.0) for x in (rewards, values))
    delta = r + gamma * F.pad(V[..., 1:], (0, 1)) - V
    A = torch.zeros_like(delta)
    following = torch.zeros_like(delta[..., 0])
    for t in reversed(range(delta.shape[-1])):
        following = (delta[..., t] + gamma * lam * following).masked_fill(~mask[..., t], 0.0)
        A[..., t] = following
    return A.to(rewards.dtype), (A + V).to(values.dtype)


def value_loss(
    values: Float[Tensor, "... T"],
    returns: Float[Tensor, "... T"],
    mask: Bool[Tensor, "... T"],
) -> Float[Tensor, ""]:
    """mean of (V_t - return_t)^2 / 2 over the tokens of answers, at least float32.

    Raises: ValueError for shapes that differ; TypeError for other than floats, or a mask not boolean.
    Source: Schulman et al. 2017 (PPO), equation 9.
    """
    require_alike(values=values, returns=returns)
    error = at_least_32_bits(values) - at_least_32_bits(returns).detach()
    return masked_mean(error.square() / 2, mask)
