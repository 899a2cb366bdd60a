"""The mask editor's toy model: an attention head that looks one word ahead, and the trust it earns.

Every position must predict the word that follows it. The head's query at position t points at position
t + 1, where the answer stands; its values are the words themselves. So the head copies the answer
wherever the mask lets it. The model learns one number per position, its *trust* c_t in that head:

    A = masked softmax(Q K^T / sqrt(2));    p(w | t) = softmax over w of  c_t * sum of A_ti with x_i = w

Trust lies between 0 (a blind guess: every word of the sentence is equally likely) and `MOST_TRUST`.
Training with a mask means: take the c_t with the lowest loss. The loss is convex in c_t, so there is one.

It knows no language. That is its use: if the words are all different, nothing in the past helps it,
and a training loss below the blind guess has been read off the future.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llmr_ref.attention import attention_weights, dot_scores

MOST_TRUST = 6.0
SCORE_GAP = 1.0  # how far the best key's score stands above its neighbours'


class LeakLosses(NamedTuple):
    """The best trust of every position, and mean losses in nats over the scored ones.

    `training` uses the mask as it is; `writing` takes the same trust when the future is not there yet;
    `honest` is the model trained and used with the causal mask; `blind` is ln of the number of words.
    """

    trust: list[float]
    training: float
    writing: float
    honest: float
    blind: float


def look_ahead_vectors(n: int) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    """Q and K on a circle: k_i at angle i pi/n, q_t at the angle of k_{t+1}. Their scores then fall
    with the distance from t + 1."""
    step = math.pi / n
    length = math.sqrt(math.sqrt(2) * SCORE_GAP / (1 - math.cos(step)))
    angle = torch.arange(n + 1, dtype=torch.float64) * step
    circle = length * torch.stack((angle.cos(), angle.sin()), dim=-1)
    return circle[1:], circle[:-1]


def look_ahead_scores(n: int) -> Float[Tensor, "n n"]:
    """Q K^T / sqrt(d_k) with d_k = 2: row t peaks at key t + 1."""
    Q, K = look_ahead_vectors(n)
    return dot_scores(Q, K) / math.sqrt(2)


def look_ahead_weights(mask: Bool[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Softmax of the scores over the keys that the mask allows; an empty row weighs nothing."""
    Q, K = look_ahead_vectors(mask.shape[-1])
    return attention_weights(Q, K, mask)


def leak_losses(
    tokens: list[str], mask: Bool[Tensor, "n n"], scored: Bool[Tensor, " n"] | None = None
) -> LeakLosses:
    """What the mask does to the toy model's loss.

    `scored` marks the positions whose prediction counts (default: all but the last, which has no next
    word here). Without a scored position every loss is 0.
    Raises: ValueError if mask or scored do not fit the tokens.
    """
    n = len(tokens)
    if mask.shape != (n, n):
        raise ValueError(f"mask must be {n} x {n} for {n} tokens, got {tuple(mask.shape)}")
    if scored is None:
        scored = torch.arange(n) < n - 1
    if scored.shape != (n,) or bool(scored[-1]):
        raise ValueError("scored marks one position per token, and the last has no next word")
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    words = sorted(set(tokens))
    trust = best_trust(tokens, mask, scored)
    return LeakLosses(
        trust=trust.tolist(),
        training=_loss(tokens, mask, scored, trust),
        writing=_loss(tokens, mask & causal, scored, trust),
        honest=_loss(tokens, causal, scored, best_trust(tokens, causal, scored)),
        blind=math.log(len(words)) if bool(scored.any()) else 0.0,
    )


def word_probabilities(
    tokens: list[str], mask: Bool[Tensor, "n n"], trust: Float[Tensor, " n"]
) -> tuple[Float[Tensor, "n words"], list[str]]:
    """p(w | t) for every position t, and the words in the order of the columns."""
    evidence, words = _evidence(tokens, mask)
    return torch.softmax(trust[:, None] * evidence, dim=-1), words


def best_trust(
    tokens: list[str], mask: Bool[Tensor, "n n"], scored: Bool[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The c_t in 0..MOST_TRUST with the lowest loss: where the slope changes its sign, by bisection.
    Positions that are not scored learn nothing and keep 0."""
    evidence, words = _evidence(tokens, mask)
    trust = torch.zeros(len(tokens), dtype=torch.float64)
    for t in scored.nonzero()[:, 0].tolist():
        trust[t] = _best_trust_of_row(evidence[t], words.index(tokens[t + 1]))
    return trust


def _best_trust_of_row(evidence: Float[Tensor, " words"], answer: int) -> float:
    def slope(c: float) -> float:
        return float(torch.softmax(c * evidence, dim=-1) @ evidence - evidence[answer])

    if slope(0.0) >= -1e-12:
        return 0.0
    if slope(MOST_TRUST) <= 0:
        return MOST_TRUST
    low, high = 0.0, MOST_TRUST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2


def _evidence(
    tokens: list[str], mask: Bool[Tensor, "n n"]
) -> tuple[Float[Tensor, "n words"], list[str]]:
    """How much attention each position gives each word: A times the one-hot words."""
    words = sorted(set(tokens))
    values = torch.zeros(len(tokens), len(words), dtype=torch.float64)
    for i, token in enumerate(tokens):
        values[i, words.index(token)] = 1.0
    return look_ahead_weights(mask) @ values, words


def _loss(
    tokens: list[str],
    mask: Bool[Tensor, "n n"],
    scored: Bool[Tensor, " n"],
    trust: Float[Tensor, " n"],
) -> float:
    if not bool(scored.any()):
        return 0.0
    p, words = word_probabilities(tokens, mask, trust)
    losses = [
        -math.log(p[t, words.index(tokens[t + 1])]) for t in range(len(tokens) - 1) if scored[t]
    ]
    return sum(losses) / len(losses)
